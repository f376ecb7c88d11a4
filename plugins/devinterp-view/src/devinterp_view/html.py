"""The page itself: template, style and script put into one file that may run nothing else and load nothing at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from devinterp_view import palette
from devinterp_view.text import embedded

#: Scripts of a file that holds all it shows.
REPORT = ("common.js", "embedded.js", "tokens.js", "file.js")
#: Scripts of the same page in a notebook, whose kernel may be asked for more.
NOTEBOOK = ("common.js", "embedded.js", "tokens.js", "kernel.js")
_FILES = resources.files("devinterp_view") / "page"


def page(
    template: str, values: Mapping[str, Any], data: Mapping[str, Any], scripts: Sequence[str], *, connects: bool = False
) -> str:
    """Return the HTML of a page.

    Everything is escaped where it is written, and the file forbids, by the hashes of its own style and script, that anything
    else runs.

    Parameters
    ----------
    template : str
        File of ``page/``.
    values : mapping
        What it shows.
    data : mapping
        What the script reads: numbers, strings and lists.
    scripts : sequence of str
        Files of ``page/`` that together are the script.
    connects : bool, default: False
        Whether the page may ask the server that it came from.
    """
    style, script = _style(), _script(tuple(scripts))
    written = {
        "style": style,
        "script": script,
        "policy": policy(style, script, connects=connects),
        "data": embedded(dict(data)),
    }
    return _environment().get_template(template).render(_defaults() | dict(values) | written)


def section(name: str, values: Mapping[str, Any]) -> str:
    """Return the HTML of one section, escaped as `page` does.

    Parameters
    ----------
    name : str
        Which: ``"summary"``, ``"traces"``, ``"coefficients"``, ``"restrictions"`` ...
    values : mapping
        What it shows.
    """
    return _environment().get_template(f"{name}.html.j2").render(_defaults() | dict(values))


def _defaults() -> dict[str, Any]:
    return {"suffix": "", "num_colours": palette.NUM_COLOURS}


def policy(style: str, script: str, *, connects: bool = False) -> str:
    """Return the content security policy: this style and this script, and no connection to anywhere else."""
    own = "; connect-src 'self'" if connects else ""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'{own}; base-uri 'none'; "
        "form-action 'none'"
    )


def view_policy(scripts: Sequence[str]) -> str:
    """Return the policy of pages with these scripts as a header says it: nobody else may show them in a frame either."""
    return f"{policy(_style(), _script(tuple(scripts)), connects=True)}; frame-ancestors 'none'"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("devinterp_view", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> str:
    return read("report.css") + palette.style()


@cache
def _script(names: tuple[str, ...]) -> str:
    """Return the files as one script, whose names no other script can see."""
    return '"use strict";\n(() => {\n' + "\n".join(map(read, names)) + "\n})();\n"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def read(name: str) -> str:
    """Return a file of ``page/``."""
    return (_FILES / name).read_text(encoding="utf-8")


def packed(array: np.ndarray) -> str:
    """Return an array of float32 or int32 as base64 of little-endian bytes, as the script unpacks it."""
    kind = "<f4" if array.dtype.kind == "f" else "<i4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()
