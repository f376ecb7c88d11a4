"""A result of ``devinterp llc`` on one screen: each coefficient with its error, and what else the result holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from rich.markup import escape
from rich.table import Table

from devinterp.analyses.llc import estimates
from devinterp.schema import CHAIN

#: Most rows of the table, so that it fits on a screen of 24 lines.
MAX_ROWS = 12
#: What the table shows of a result, under whatever prefix.
_SHOWN = ("llc_mean", "llc_se", "llc_dof", "llc_per_chain", "rhat", "ess")
_SETTINGS = ("n_beta", "burnin", "noise_level", "chains_used", "chains_left_out")
_MOST_LISTED = 8
_ESTIMATE, _ROW = "estimate", "_row"


def llc_summary(result: xr.Dataset) -> Iterator[Any]:
    """Yield what ``devinterp llc`` prints: a table with a row for each coefficient, the paired one first, then notes.

    Parameters
    ----------
    result : xarray.Dataset
        From `devinterp.analyses.llc.compute_llc`, of one run or of several that were joined.

    Yields
    ------
    str or rich.table.Table
        What rich prints.
    """
    attrs = result.attrs
    settings = "".join(f"  {key}={_setting(attrs[key])}" for key in _SETTINGS if np.size(attrs.get(key, ())))
    yield f"[bold]local learning coefficient[/]{escape(settings)}"
    shown = [name for name in result.data_vars if str(name).endswith(_SHOWN)]
    rows = _rows(estimates(result[shown].compute()))
    printed = rows
    if rows.sizes[_ROW] > MAX_ROWS:  # the most precise coefficient of each run and restriction comes first
        printed = rows.isel({_ROW: np.flatnonzero(rows["variable"] == rows["variable"][0])[:MAX_ROWS]})
    yield _table(printed)
    yield escape(_legend(printed))
    if printed.sizes[_ROW] < rows.sizes[_ROW]:
        yield f"{rows.sizes[_ROW] - printed.sizes[_ROW]} more coefficients are in the whole result."
    if "verdict" in result.data_vars:
        yield from _verdicts(result["verdict"])
    for reason in dict.fromkeys(str(each) for each in rows["reason"].to_numpy() if each):
        yield f"[yellow]no error:[/] {escape(reason)}"
    if "caution" in attrs:
        yield f"[yellow]caution:[/] {escape(str(attrs['caution']))}"
    rest = [str(name) for name in result.data_vars if name not in shown]
    yield f"[dim]Also in the result (`devinterp llc STORE -o FILE.zarr` writes all of it): {escape(', '.join(rest))}[/]"


def _verdicts(verdict: xr.DataArray) -> Iterator[str]:
    """Yield how many of several runs have numbers that must not be used, or may be off."""
    values = verdict.to_numpy().ravel().tolist()
    for word, meaning in (("reject", "must not be used"), ("warning", "may be off")):
        if word in values:
            yield (
                f"[yellow]{word}:[/] the numbers of {values.count(word)} of {len(values)} runs {meaning}; `devinterp diagnose` "
                "says why"
            )


def _rows(table: xr.Dataset) -> xr.Dataset:
    """Return estimates one below the other, with the coordinate ``label`` of runs, restrictions and estimates."""
    dims = [*(dim for dim in table["mean"].dims if dim != _ESTIMATE), _ESTIMATE]
    table = table.broadcast_like(table["mean"], exclude=[CHAIN])
    labels = [tuple(map(str, values)) for values in itertools.product(*(table[dim].to_numpy() for dim in dims))]
    rows = table.reset_coords(drop=True).stack({_ROW: dims}, create_index=False)
    rows = rows.drop_vars([name for name in rows.coords if _ROW in rows[name].dims])
    names = {"label": [" · ".join(label) for label in labels], _ESTIMATE: [label[-1] for label in labels]}
    return rows.assign_coords({name: (_ROW, each) for name, each in names.items()})


def _table(rows: xr.Dataset) -> Table:
    table = Table(header_style="bold")
    for number, column in enumerate(("", "LLC", "± se", "95 % interval", "R-hat", "ESS")):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for index in range(rows.sizes[_ROW]):
        row = rows.isel({_ROW: index})
        has_error = not bool(row["se"].isnull())
        table.add_row(
            escape(str(row["label"].item())),
            _text(row["mean"], ".5g"),
            _text(row["se"], ".2g"),
            f"{float(row['lower']):.4g} to {float(row['upper']):.4g}" if has_error else "-",
            _text(row["rhat"], ".3f"),
            _text(row["ess"], ".0f"),
        )
    return table


def _legend(rows: xr.Dataset) -> str:
    """Return which variables of the result the coefficients are."""
    names: dict[str, list[str]] = {}
    for estimate, variable in zip(rows[_ESTIMATE].to_numpy(), rows["variable"].to_numpy(), strict=True):
        names.setdefault(str(variable), []).append(str(estimate))
    return "; ".join(f"{variable}: {', '.join(dict.fromkeys(labels))}" for variable, labels in names.items())


def _text(value: xr.DataArray, form: str) -> str:
    return "-" if np.isnan(value) else format(float(value), form)


def _setting(value: Any) -> str:
    """Return a setting as text; many chains by the first and the last."""
    numbers = [int(each) for each in np.ravel(value)] if isinstance(value, list | tuple | np.ndarray) else []
    is_range = len(numbers) > _MOST_LISTED and numbers == list(range(numbers[0], numbers[-1] + 1))
    if numbers or isinstance(value, list | tuple):
        return f"{numbers[0]}-{numbers[-1]}" if is_range else str(numbers)
    return f"{value:g}" if isinstance(value, float) else str(value)
