"""The documentation as a site: it builds without a warning, and the reference has all that is public."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import devinterp
from devinterp import plugins

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("generated"))
    built = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"),
            *("-D", "nb_execution_mode=off"),  # notebooks are executed by tests of their own, and by `make site`
            *(folder / "docs", folder / "html"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_every_page_is_on_the_site(site: Path) -> None:
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in sources}
    assert not {page for page in pages if not (site / page).is_file()}
    # The repository's own files stand in the place of their pages, and what they link is on the site.
    readme = (site / "readme.html").read_text()
    assert (ROOT / "README.md").read_text().splitlines()[0].lstrip("# ") in readme
    assert 'href="plugins.html"' in readme
    assert "docs/" not in {part.split('"')[0][:5] for part in readme.split('href="')[1:]}


def test_the_reference_has_all_that_is_public(site: Path) -> None:
    pages = {path.stem for path in (site / "reference" / "generated").glob("*.html")}
    names = {f"devinterp.{name}" for name in devinterp.__all__ if name not in ("__version__", "hookimpl")}
    analyses = {
        f"{analysis.compute.__module__}.{analysis.compute.__name__}"
        for analysis in plugins.analyses().values()
        if analysis.compute.__module__.startswith("devinterp.")
    }
    assert not (names | analyses | {"devinterp.open"}) - pages
    assert (
        "Returns" in (site / "reference" / "generated" / "devinterp.analyses.llc.analysis.compute_llc.html").read_text()
    )


def test_notebooks_can_be_downloaded(site: Path) -> None:
    for notebook in (ROOT / "docs" / "tutorials").glob("*.ipynb"):
        page = (site / "tutorials" / f"{notebook.stem}.html").read_text()
        [target] = set(re.findall(rf'href="\.\./(_downloads/\w+/{notebook.name})"', page))
        assert (site / target).read_text() == notebook.read_text()
