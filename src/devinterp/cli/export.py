"""``devinterp export``: the numbers of a run or a study as a table for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from cyclopts import Parameter
from rich.console import Console

from devinterp import optional
from devinterp.cli.analysis import GROUP, STORE
from devinterp.cli.options import pairs_of, value_of
from devinterp.errors import InvalidInputError

#: Endings of the files that can be written.
FORMATS = (".parquet", ".csv", ".json")
_ESTIMATES = ("mean", "se", "lower", "upper", "rhat", "ess")


def export(
    store: STORE,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="A new file: .parquet, .csv or .json.")],
    group: GROUP = None,
    analysis: Annotated[str, Parameter(help="Whose result to write.")] = "llc",
    option: Annotated[
        tuple[str, ...], Parameter(help="Option of the analysis, as name=value; may be repeated.", show_default=False)
    ] = (),
) -> None:
    """Write the numbers of a run or a study as a table, a row for each label, restriction and estimate.

    Learning coefficients come with their errors, 95 % intervals, R-hat, effective sample size, and the verdict on their run. Of
    another analysis every variable is a column.
    """
    from devinterp.store.reading.open import open as open_store

    if output.suffix not in FORMATS:
        raise InvalidInputError(f"`--output` (={str(output)!r}) must end in one of {', '.join(FORMATS)}.")
    if output.exists():
        raise InvalidInputError(f"`--output`: {output} exists: choose another name, or delete it.")
    tree = open_store(store, group=group)
    options = {name: value_of(text) for name, text in pairs_of(option, "option").items()}
    result = getattr(tree.slt, analysis)(**options)
    table = _llc_table(result) if analysis == "llc" else _table(result, analysis)
    _write(table, output)
    Console().print(f"Wrote {len(table)} rows to {output}.", highlight=False, soft_wrap=True)


def _llc_table(result: xr.Dataset) -> Any:
    """Return the learning coefficients of a result, a row for each."""
    from devinterp.analyses.llc import estimates

    result = result.compute()
    rows = estimates(result)[list(_ESTIMATES)]
    said = {
        name: result[name] if name in result else str(result.attrs.get(name, "")) for name in ("verdict", "findings")
    }
    said = {name: ", ".join(each) if isinstance(each, list) else each for name, each in said.items()}
    further = {name: coord for name, coord in result.coords.items() if set(coord.dims) <= set(rows.dims)}
    return _table(rows.assign_coords(further).assign(said), "llc")


def _table(result: Any, name: str) -> Any:
    if isinstance(result, xr.DataArray):
        result = result.to_dataset(name=result.name or name)
    if not isinstance(result, xr.Dataset):
        raise InvalidInputError(f"the result of `{name}` is a tree of datasets, which is no table: write it as .zarr.")
    # What numpy calls strings of any length pandas does not know.
    plain = {key: variable.astype(object) for key, variable in result.variables.items() if variable.dtype.kind in "TU"}
    frame = result.compute().assign(plain).to_dataframe()
    return frame.reset_index() if result.dims else frame


def _write(table: Any, path: Path) -> None:
    try:
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        elif path.suffix == ".json":
            table.replace([np.inf, -np.inf], np.nan).to_json(path, orient="records", indent=1, double_precision=15)
        else:
            table.to_parquet(path, index=False)
    except ImportError as error:  # pandas asks for one of two packages, in its own words
        raise optional.missing("pyarrow", needed_by=f"writing {path.suffix}") from error
