"""Which analyses and plots are installed and which of them a tree has the data for: the repr of ``tree.slt``."""

from __future__ import annotations

import html as html_text
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from devinterp import plugins, schema
from devinterp.errors import DevinterpError
from devinterp.types import Analysis, Plot

KINDS = ("analyses", "plots")
_PREFIX = {"analyses": "tree.slt.", "plots": "tree.slt.plot."}


@dataclass(frozen=True, slots=True)
class Entry:
    """An installed analysis or plot, seen from one tree.

    Parameters
    ----------
    name, options, summary : str
        Its name, its options as they are written in a call, and the first line of its docstring.
    provider : str
        The distribution it comes from, with the version.
    missing : tuple of str
        Paths that it requires and some run lacks; empty when it can be computed.
    """

    name: str
    options: str
    summary: str
    provider: str
    missing: tuple[str, ...]


def entries(tree: xr.DataTree, kind: str) -> list[Entry]:
    """Return the installed analyses or plots, and what the runs at or below a node lack for each.

    Parameters
    ----------
    tree : xarray.DataTree
        Any node.
    kind : {"analyses", "plots"}
        Which.

    Raises
    ------
    PluginError
        As `devinterp.plugins.analyses`.
    """
    runs = list(schema.runs(tree).values())
    installed: Sequence[Analysis | Plot] = list(
        (plugins.analyses() if kind == "analyses" else plugins.plots()).values()
    )
    return [
        Entry(
            name=each.name,
            options=str(options_of(function_of(each)).replace(return_annotation=inspect.Signature.empty)),
            summary=summary_of(function_of(each)),
            provider=str(plugins.provider(each)),
            missing=_lacking(runs, each.requires),
        )
        for each in installed
    ]


def _lacking(runs: list[xr.DataTree], requires: Sequence[str]) -> tuple[str, ...]:
    lacking = dict.fromkeys(path for run in runs for path in schema.missing(run, requires))
    return tuple(lacking) if runs else ("a sampling run",)


def function_of(spec: Analysis | Plot) -> Callable[..., Any]:
    """Return the author's function."""
    return spec.compute if isinstance(spec, Analysis) else spec.draw


def options_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function of a tree without its first parameter, the tree."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C tell nothing
        return inspect.signature(lambda *args, **options: None)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def summary_of(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring, its reStructuredText roles as plain text."""
    first = docstring_of(function).partition("\n")[0].strip()
    return re.sub(r":\w+:`([^`]*)`", r"\1", first).replace("`", "")


def docstring_of(function: Callable[..., Any]) -> str:
    """Return a function's docstring without citations such as ``[1]_``, for places that have no list of references."""
    return re.sub(r"\s*\[\w+\]_", "", inspect.getdoc(function) or "")


def text(tree: xr.DataTree, kinds: Sequence[str] = KINDS) -> str:
    """Return the text representation of ``tree.slt``."""
    lines = [_heading(tree)]
    for kind, rows in _tables(tree, kinds):
        lines += ["", f"{kind.capitalize()}: {_PREFIX[kind]}<name>()"]
        if isinstance(rows, str):
            lines.append(f"  {rows}")
            continue
        width = max(len(row.name) for row in rows)
        lines += [f"  {'-' if row.missing else '+'} {row.name:<{width}}  {_remark(row)}" for row in rows]
    return "\n".join(lines)


def html(tree: xr.DataTree, kinds: Sequence[str] = KINDS) -> str:
    """Return the notebook representation of ``tree.slt``."""
    parts = [f"<div><strong>{html_text.escape(_heading(tree))}</strong>"]
    for kind, rows in _tables(tree, kinds):
        parts.append(f"<div style='margin-top:0.6em'>{kind.capitalize()}</div>")
        if isinstance(rows, str):
            parts.append(f"<div>{html_text.escape(rows)}</div>")
            continue
        parts.append("<table>")
        for row in rows:
            call, remark, source = map(html_text.escape, (_PREFIX[kind] + row.name, _remark(row), row.provider))
            options = html_text.escape(row.options)
            cells = (f"<code title='{options}'>{call}()</code>", remark, f"<small>{source}</small>")
            faint = " style='opacity:0.55'" if row.missing else ""
            aligned = "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells)
            parts.append(f"<tr{faint}>{aligned}</tr>")
        parts.append("</table>")
    return "".join([*parts, "</div>"])


def _tables(tree: xr.DataTree, kinds: Sequence[str]) -> list[tuple[str, list[Entry] | str]]:
    """Return the rows of each kind, or one sentence where there are none."""
    tables: list[tuple[str, list[Entry] | str]] = []
    for kind in kinds:
        try:
            tables.append((kind, entries(tree, kind) or "none installed"))
        except DevinterpError as error:  # a representation never raises
            tables.append((kind, str(error)))
    return tables


#: What a tree with Dask arrays says: its analyses return arrays that are not computed yet.
_LAZY = "; too large to be read at once: call .compute() on a result for its numbers, or .to_zarr(path) to write it"


def _heading(tree: xr.DataTree) -> str:
    lazy = any(variable.chunks is not None for node in tree.subtree for variable in node.variables.values())
    return _runs_of(tree) + (_LAZY if lazy else "")


def _runs_of(tree: xr.DataTree) -> str:
    runs = schema.runs(tree)
    if list(runs) == ["."]:
        return f"Sampling run at {tree.path!r}"
    shown = ", ".join(map(repr, list(runs)[:8])) + (", ..." if len(runs) > 8 else "")
    return f"{len(runs)} sampling runs below {tree.path!r}" + (f": {shown}" if runs else "")


def _remark(row: Entry) -> str:
    return f"needs {', '.join(row.missing)}" if row.missing else row.summary
