"""Whole results of analyses as JSON and as CSV: every value with the labels of its dims."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError

#: Most values of a result that are written as text.
MAX_VALUES = 50_000_000

Result = xr.Dataset | xr.DataArray | xr.DataTree


def write_json(result: Result, file: Any, *, name: str) -> None:
    """Write a result as JSON: attributes, dims, coordinates and variables, as `xarray.Dataset.to_dict` arranges them.

    A result of several groups is an object with their paths as keys. What is not a finite number is null.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Anything that an analysis returned; computed.
    file : text file
        Where to write.
    name : str
        Name of the variable when the result is an array without one.

    Raises
    ------
    InvalidInputError
        If it has more than fifty million values.
    """
    groups = {path: _plain(dataset.compute().to_dict()) for path, dataset in groups_of(result, name)}
    json.dump(groups[""] if list(groups) == [""] else groups, file, allow_nan=False, ensure_ascii=False)
    file.write("\n")


def write_csv(result: Result, file: Any, *, name: str) -> None:
    """Write a result as CSV with one line for each value.

    The columns are ``group`` (where there are several), a column for each dim with its label, ``variable`` and ``value``; a dim
    that a variable lacks is empty, and so is what is not a number.

    Parameters
    ----------
    result : xarray.Dataset, xarray.DataArray or xarray.DataTree
        Anything that an analysis returned; one variable is computed at a time.
    file : text file
        Where to write.
    name : str
        Name of the variable when the result is an array without one.

    Raises
    ------
    InvalidInputError
        If it has more than fifty million values.
    """
    groups = list(groups_of(result, name))
    dims = list(dict.fromkeys(str(dim) for _, dataset in groups for dim in dataset.dims))
    writer = csv.writer(file, lineterminator="\n")
    has_groups = [path for path, _ in groups] != [""]
    writer.writerow([*(["group"] if has_groups else []), *dims, "variable", "value"])
    for path, dataset in groups:
        for row in _rows(dataset, dims):
            writer.writerow([*([path] if has_groups else []), *row])


def groups_of(result: Result, name: str) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the datasets of a result with their paths; one without groups has the path "".

    Raises
    ------
    InvalidInputError
        If it has more than fifty million values.
    """
    if isinstance(result, xr.DataTree):
        groups = [(node.path.strip("/"), node.to_dataset()) for node in result.subtree if node.has_data]
    elif isinstance(result, xr.DataArray):
        groups = [("", result.to_dataset(name=name if result.name is None else result.name))]
    else:
        groups = [("", result)]
    count = sum(variable.size for _, dataset in groups for variable in dataset.variables.values())
    if count > MAX_VALUES:
        raise InvalidInputError(
            f"this result has {count:,} values, more than are written as text: `--output FILE.zarr` keeps all of it."
        )
    yield from groups


def _rows(dataset: xr.Dataset, dims: list[str]) -> Iterator[list[Any]]:
    """Yield the values of all variables that are no labels, each after its labels."""
    labels = {str(dim): [_scalar(each) for each in dataset[dim].to_numpy().tolist()] for dim in dataset.dims}
    extra = [key for key in dataset.coords if key not in dataset.dims]
    for key in [*extra, *dataset.data_vars]:
        array = dataset[key].compute()
        for index, value in np.ndenumerate(array.to_numpy()):
            place = {str(dim): labels[str(dim)][n] for dim, n in zip(array.dims, index, strict=True)}
            yield [*(place.get(dim, "") for dim in dims), str(key), _text(value)]


def _text(value: Any) -> Any:
    value = _scalar(value)
    return "" if value is None else value


def _plain(value: Any) -> Any:
    """Return what JSON can hold of nested lists and dicts."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return _scalar(value)


def _scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)
