"""The page itself: template, style and script put into one file that may run nothing else and load nothing at all."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from devinterp_view import palette
from devinterp_view.text import embedded

_FILES = resources.files("devinterp_view") / "page"


def page(values: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return the HTML of a page.

    Everything is escaped where it is written, and the file forbids, by the hashes of its own style and script, that anything
    else runs.

    Parameters
    ----------
    values : mapping
        What the template ``report.html.j2`` shows.
    data : mapping
        What the script reads: numbers, strings and lists.
    """
    style, script = _read("report.css") + palette.style(), _read("report.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_read("report.html.j2"))
    return template.render(
        **values,
        style=style,
        script=script,
        policy=policy(style, script),
        data=embedded(dict(data)),
        num_colours=palette.NUM_COLOURS,
    )


def policy(style: str, script: str) -> str:
    """Return the content security policy: this style and this script, and no connection to anywhere."""
    return f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def packed(array: np.ndarray) -> str:
    """Return an array of float32 or int32 as base64 of little-endian bytes, as the script unpacks it."""
    kind = "<f4" if array.dtype.kind == "f" else "<i4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()
