"""Texts that try to become part of a page, a terminal or a file, and a run whose every name and token is one of them."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from devinterp.testing import synthetic_tree

CORPUS = [
    "<script>document.title='run'</script>", "</script><script>document.title='run'</script>", "<!--<script>", "-->", "]]>",
    "<img src=x onerror=\"document.title='run'\">", "\"><svg onload=\"document.title='run'\">", "' onclick='document.title=1",
    "</style><style>*{display:none}</style>", "<base href='http://example.invalid/'>", "<iframe src='javascript:1'></iframe>",
    "javascript:document.title='run'", "{{7*7}}", "{% raw %}", "${7*7}", "&lt;script&gt;", "&#x3c;", "\\u003cscript\\u003e",
    "\\", "<link rel=stylesheet href=//example.invalid>", "<meta http-equiv=refresh content='0;url=//example.invalid'>",
    "a\0b", "\x1b[31mred\x1b[0m", "\u2028", "\u2029", "\u202etxt.exe\u202c", "\ufeff", "\ud800", "\uffff", "\u0085", "\r\n\t",
    "👩‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "שלום עולם", "مرحبا بالعالم", "नमस्ते", "日本語テキスト", "Z̸̢̛̘͔a̶͜l̵g̷o̴", "ﷺ", "e\u0301", "", " ", "x" * 100_000,
]  # fmt: skip


class Hostile:
    """Each id is one text of the corpus."""

    def decode(self, ids):
        return "".join(CORPUS[token % len(CORPUS)] for token in ids)


def hostile_tree() -> xr.DataTree:
    """A run in which whatever may be a text is hostile."""
    names = [CORPUS[n].replace("/", "∕").replace(":", "꞉").strip("\0")[:90] for n in (0, 5)]
    tree = synthetic_tree(
        num_restrictions=len(CORPUS) - 1, num_chains=2, num_draws=10, observables=dict.fromkeys(names, (2, 50))
    )
    # Half a character is no label: no store can hold it.
    labels = np.array([text.replace("\ud800", "half") for text in (*CORPUS[:-2], "x" * 5000)], dtype=object)
    tree.dataset = tree.to_dataset(inherit=False).assign_coords(restriction=labels)
    for each in names:
        ids = tree[f"observables/{each}/token_ids"]
        ids.values[:] = np.arange(ids.size).reshape(ids.shape)
    settings = {**json.loads(tree.attrs["config"]), **{text: text for text in CORPUS}}
    tree.attrs["config"] = json.dumps(settings)
    tree.attrs["provenance"] = json.dumps({text: {"inner": [text]} for text in CORPUS} | {"model": CORPUS[1]})
    return tree
