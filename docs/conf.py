"""Sphinx: the pages of this folder and the reference, as one site (``make site``)."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

project = "devinterp"
version = release = installed_version("devinterp")
author = "the authors of devinterp"
copyright = author  # noqa: A001  # Sphinx's name

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
]
root_doc = "contents"
# autosummary writes its pages with the first suffix of which it does not know that another parser reads it.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb", ".above": "myst-nb"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"devinterp {version}"

# Notebooks are executed whenever the site is built, and an error in one fails the build; tests of pages alone turn it off.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links between pages name headings
autosummary_generate = True
autodoc_typehints = "none"  # the Parameters sections say it in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

#: Pages of the site that are files above this folder; each has a placeholder here.
_ABOVE = {"readme": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}


def _read(app: Any, page: str, source: list[str]) -> None:
    """Put the file in a page's place, and links between pages in that of links between the repository's files."""
    text, root = source[0], "../"
    if page in _ABOVE:
        text, root = (Path(app.srcdir).parent / _ABOVE[page]).read_text(), ""
        text = re.sub(r"\]\(docs/(?=[\w-]+(/|\.md))", "](", text)
    for name, file in _ABOVE.items():
        text = text.replace(f"]({root}{file}", f"]({name}.above")
    # Folders of source code and the licence are no pages: they are named, not linked.
    source[0] = re.sub(
        rf"\[([^\]]+)\]\({re.escape(root)}(?:(?:plugins|src|tests|examples)/[^)]*|LICENSE)\)", r"\1", text
    )


def setup(app: Any) -> None:
    """Have links rewritten as pages are read."""
    app.connect("source-read", _read)
