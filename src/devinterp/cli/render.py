"""Results of analyses as tables in a terminal, and as Zarr stores."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from devinterp.cli.result_files import write_csv, write_json
from devinterp.cli.strongest import bif_summary, is_bif, is_susceptibilities, susceptibility_summary
from devinterp.errors import InvalidInputError
from devinterp.schema import DRAW, STEP
from devinterp.token_text import Tokenizer

#: Largest number of values of a variable that is shown; of larger ones only the shape is.
MAX_VALUES = 64
#: Largest number of columns of values.
MAX_COLUMNS = 6
#: Dims along which a chain runs: of what varies along them only the shape is shown, however short the run is.
_TRAJECTORIES = {STEP, DRAW}

Result = xr.Dataset | xr.DataArray | xr.DataTree
_WRITERS = {".csv": write_csv, ".json": write_json}


def print_as(result: Result, form: Literal["csv", "json"], *, name: str) -> None:
    """Print the whole result in a form that programs read.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Anything that an analysis returned.
    form : {"csv", "json"}
        Which form.
    name : str
        Name of the variable when the result is an array without one.
    """
    _WRITERS[f".{form}"](result, sys.stdout, name=name)


def show(
    result: Result,
    *,
    title: str,
    console: Console | None = None,
    tokenizer: Tokenizer | None = None,
    kept: bool = False,
) -> None:
    """Print a result: variables with few values as tables, one for each set of dims, and of larger ones the shape.

    Learning coefficients have a table of their own, `devinterp.cli.llc_summary`; influences and susceptibilities the strongest
    of them, `devinterp.cli.strongest`. Only what is printed is computed.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Anything that an analysis returned.
    title : str
        Name of the analysis.
    console : rich.console.Console, optional
        Where to print; default: the standard output stream.
    tokenizer : Tokenizer, optional
        Decodes token ids.
    kept : bool, default: False
        Whether the whole result is written somewhere, so that nothing need be said of how to keep it.
    """
    console = console or Console()
    summary = None
    if is_bif(result):
        summary = bif_summary(result, tokenizer)
    elif is_susceptibilities(result):
        summary = susceptibility_summary(result, tokenizer)
    if summary is not None:
        console.print(*summary, sep="\n", highlight=False)
        if not kept:
            command = f"devinterp {title.replace('_', '-')} STORE"
            console.print(f"[dim]All of it: `{command} -o FILE.zarr` (or .csv, .json).[/]", highlight=False)
        return
    if title == "llc" and isinstance(result, xr.Dataset) and "llc_mean" in result:
        from devinterp.cli.llc_summary import llc_summary

        console.print(*llc_summary(result), sep="\n", highlight=False)
        return
    for path, dataset in _datasets(result, title):
        console.print(*_rendered(dataset, path or title), sep="\n")


def check_output(path: Path | None) -> None:
    """Raise unless a result can be written there.

    Raises
    ------
    InvalidInputError
        If the name does not end in ``.zarr``, ``.csv`` or ``.json``, or exists.
    """
    if path is None:
        return
    if path.suffix not in (".zarr", *_WRITERS):
        raise InvalidInputError(
            f"`--output` (={str(path)!r}) must end in '.zarr' (results are written as Zarr stores), '.csv' or '.json'."
        )
    if path.exists():
        raise InvalidInputError(f"`--output` (={str(path)!r}) exists: remove it or choose another name.")


def save(result: Result, path: Path, *, name: str) -> Result:
    """Write a result as a Zarr store, chunk by chunk when it is lazy, and return it as read back; or as CSV or JSON.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Anything that an analysis returned.
    path : pathlib.Path
        Path of the new store, or of a file that ends in ``.csv`` or ``.json``.
    name : str
        Name of the variable when the result is an array without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in _WRITERS:
        with path.open("x", encoding="utf-8", newline="") as file:
            _WRITERS[path.suffix](result, file, name=name)
        return result
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata are not yet in the format's specification; every reader falls back.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        if isinstance(result, xr.DataTree):
            result.map_over_datasets(_storable).to_zarr(path, mode="w-")
            return xr.open_datatree(path, engine="zarr", chunks={})
        dataset = (
            result.to_dataset(name=name if result.name is None else result.name)
            if isinstance(result, xr.DataArray)
            else result
        )
        _storable(dataset).to_zarr(path, mode="w-")
        return xr.open_dataset(path, engine="zarr", chunks={})


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """Forget how the inputs were chunked on disk, and turn numpy's fixed-width strings into those that Zarr specifies."""
    dataset = dataset.drop_encoding()
    return dataset.assign({n: v.astype(object) for n, v in dataset.variables.items() if v.dtype.kind == "U"})


def _datasets(result: Result, title: str) -> Iterator[tuple[str, xr.Dataset]]:
    if isinstance(result, xr.DataTree):
        for node in result.subtree:
            if node.has_data:
                yield node.path.strip("/"), node.to_dataset()
    elif isinstance(result, xr.DataArray):
        yield "", result.to_dataset(name=title if result.name is None else result.name)
    else:
        yield "", result


def _rendered(dataset: xr.Dataset, title: str) -> Iterator[Any]:
    small = [name for name, array in dataset.data_vars.items() if _is_shown(array)]
    shown = dataset[small].compute()
    yield f"[bold]{escape(title)}[/]" + "".join(f"  {escape(key)}={escape(str(v))}" for key, v in dataset.attrs.items())
    for dims in dict.fromkeys(shown[name].dims for name in small):
        yield from _tables(shown, dims, [name for name in small if shown[name].dims == dims])
    for name in dataset.data_vars:
        if name not in small:
            array = dataset[name]
            sizes = " × ".join(f"{dim} {length}" for dim, length in array.sizes.items())
            yield f"{escape(str(name))}: {sizes}, {array.dtype}"


def _is_shown(array: xr.DataArray) -> bool:
    return array.size <= MAX_VALUES and array.ndim <= 2 and not _TRAJECTORIES & set(array.dims)


def _tables(dataset: xr.Dataset, dims: tuple[Any, ...], names: list[Any]) -> Iterator[Table]:
    """Yield tables of variables that share their dims: a column for each label where that fits, else a row."""
    # A dim without labels is labelled by its index.
    labels = [[_text(label) for label in dataset[dim].to_numpy()] for dim in dims]
    arrays = {_text(name): dataset[name].to_numpy() for name in names}
    indices = list(np.ndindex(*map(len, labels)))
    joined = [" · ".join(each[i] for each, i in zip(labels, index, strict=True)) for index in indices]
    heading = " · ".join(map(str, dims))
    is_matrix = len(dims) == 2 and len(labels[1]) <= MAX_COLUMNS
    if is_matrix and (len(names) == 1 or len(indices) > MAX_COLUMNS):
        for name, array in arrays.items():
            rows = [[label, *map(_text, values)] for label, values in zip(labels[0], array, strict=True)]
            yield _table([heading, *labels[1]], rows, title=name)
    elif len(indices) <= MAX_COLUMNS:
        rows = [[name, *(_text(array[index]) for index in indices)] for name, array in arrays.items()]
        yield _table([heading, *joined], rows, header=bool(dims))
    else:
        values = [[_text(array[index]) for array in arrays.values()] for index in indices]
        yield _table([heading, *arrays], [[label, *row] for label, row in zip(joined, values, strict=True)])


def _table(columns: list[str], rows: list[list[str]], *, title: str | None = None, header: bool = True) -> Table:
    table = Table(title=title, title_justify="left", show_header=header, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    return table


def _text(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float | np.floating) else escape(str(value))
