"""Data sets of columns: dicts and tuples of them, data frames, HuggingFace Datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.columns import Batch, column, column_lengths, rebuilt, stacked
from devinterp.sampling.data.items import by_column, check_repeatable, read_or_refuse
from devinterp.sampling.data.source import RowSource, Wanted


def columns_source(columns: Mapping[Any, Any], name: str) -> RowSource:
    """Return the rows of a dict of columns.

    Raises
    ------
    InvalidInputError
        If columns have different lengths, or are splits of a data set.
    """
    splits = [str(key) for key, part in columns.items() if isinstance(part, Dataset) or hasattr(part, "column_names")]
    if splits:
        raise InvalidInputError(
            f"{name} ({type(columns).__name__}) holds the splits {', '.join(map(repr, splits))}: pass one of them, for "
            f"example dataset[{splits[0]!r}]."
        )
    lengths = column_lengths(columns)
    _check_lengths(lengths, columns, name)

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        return by_column(
            wanted(list(columns)),
            lambda key: column(columns[key], ids, f"{name}[{key!r}]"),
            lambda key: [columns[key][int(i)] for i in ids],
        )

    return RowSource(name, next((length for length in lengths.values() if length is not None), 0), stack)


def tuple_source(columns: tuple[Any, ...], name: str) -> RowSource:
    """Return the rows of a tuple, or named tuple, of columns."""
    named = dict(enumerate(columns))
    lengths = column_lengths(named)
    _check_lengths(lengths, named, name)

    def stack(ids: np.ndarray, _: Wanted) -> Batch:
        return rebuilt(columns, [column(values, ids, f"{name}[{n}]") for n, values in named.items()])

    return RowSource(name, next((length for length in lengths.values() if length is not None), 0), stack)


def _check_lengths(lengths: Mapping[str, int | None], columns: Mapping[Any, Any], name: str) -> None:
    if len(set(lengths.values())) > 1 or None in lengths.values():
        kinds = {repr(key): type(values).__name__ for key, values in columns.items()}
        described = ", ".join(
            f"{key} {kinds.get(key, 'part')} without length" if length is None else f"{key} {length}"
            for key, length in lengths.items()
        )
        raise InvalidInputError(f"{name} must hold columns with one entry for each row; lengths are: {described}.")


def array_source(array: Any, name: str) -> RowSource:
    """Return the rows of an array in a file or store (zarr, say), read one by one."""
    shape = tuple(array.shape)

    def stack(ids: np.ndarray, _: Wanted) -> Batch:
        return stacked([np.asarray(array[int(i)]) for i in ids], name)

    return RowSource(name, int(shape[0]) if shape else 0, stack)


def frame_source(frame: Any, name: str) -> RowSource:
    """Return the rows of a data frame: of pandas, or what converts itself to one (polars, pyarrow)."""
    frame = frame if hasattr(frame, "iloc") else frame.to_pandas()
    if not frame.columns.is_unique:
        raise InvalidInputError(f"{name} has columns of the same name: {', '.join(map(repr, frame.columns))}.")
    return columns_source({str(key): frame[key].to_numpy() for key in frame.columns}, name)


def table_source(table: Any, name: str) -> RowSource:
    """Return the rows of a HuggingFace Dataset: the columns of its format, through its transform if it has one."""
    chosen = getattr(table, "format", None) or {}
    columns = list(table.column_names)
    if chosen.get("columns") is not None and not chosen.get("output_all_columns"):
        columns = [key for key in columns if key in chosen["columns"]]

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        if chosen.get("type") == "custom":  # a transform: it decides which columns there are
            read = read_or_refuse(lambda: table[ids.tolist()], ids, name)
            check_repeatable(
                lambda few: {key: stacked(part, name) for key, part in table[few.tolist()].items()}, ids, name
            )
            keys = wanted(list(read))
        else:
            keys = wanted(columns)
            own = chosen["type"] if chosen.get("type") in ("torch", "numpy") else None
            # In its own format, with dtypes that the user may have asked for.
            options = (chosen.get("format_kwargs") or {}) if own else {}
            read = table.with_format(own or "numpy", columns=keys, **options)[ids.tolist()]
        return by_column(keys, lambda key: stacked(read[key], f"column {key!r} of {name}"), lambda key: list(read[key]))

    return RowSource(name, len(table), stack)
