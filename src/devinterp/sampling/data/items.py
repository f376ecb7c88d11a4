"""Data sets whose rows are read one by one: torch Datasets, sequences, streams of known length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from devinterp.errors import InvalidInputError, first_line
from devinterp.sampling.data.columns import Batch, check_keys, same, stacked
from devinterp.sampling.data.loaders import Collate, check_collation
from devinterp.sampling.data.rows import INPUT_IDS
from devinterp.sampling.data.source import OF_TOKENS, RowSource, Wanted


def items_source(dataset: Any, name: str, collate: Collate | None = None) -> RowSource:
    """Return rows that are read one by one."""

    def items(ids: np.ndarray) -> list[Any]:
        return [dataset[int(i)] for i in ids]

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        rows = read_or_refuse(lambda: items(ids), ids, name)
        if not isinstance(dataset, list):
            check_repeatable(lambda few: stacked(items(few), name), ids, name)
        if collate is not None:
            check_collation(collate, rows, name=name)
            batch = collate(rows)
            return {key: batch[key] for key in wanted(list(batch))} if isinstance(batch, dict) else batch
        if rows and all(isinstance(row, Mapping) for row in rows):
            keys = wanted(list(rows[0]))
            check_keys(rows, keys, name)
            return by_column(
                keys,
                lambda key: stacked([row[key] for row in rows], f"{key!r} of {name}"),
                lambda key: [row[key] for row in rows],
            )
        return stacked(rows, name)

    return RowSource(name, len(dataset), stack)


def all_items(dataset: Any, name: str) -> list[Any]:
    """Return the rows of a stream, as many as it says that it has."""
    items = list(islice(iter(dataset), len(dataset)))
    if len(items) != len(dataset):
        raise InvalidInputError(f"{name} says that it has {len(dataset)} rows, and gives {len(items)}.")
    return items


def by_column(keys: Sequence[Any], stack: Callable[[Any], Batch], listed: Callable[[Any], list[Any]]) -> dict[Any, Any]:
    """Return columns, stacked; beside ``input_ids`` one whose rows have different shapes is a list."""
    columns: dict[Any, Any] = {}
    for key in keys:
        try:
            columns[key] = stack(key)
        except InvalidInputError:
            if INPUT_IDS not in keys or key in OF_TOKENS:
                raise
            columns[key] = listed(key)
    return columns


def read_or_refuse(read: Callable[[], Any], ids: np.ndarray, name: str) -> Any:
    """Return what a function reads, and name the data set where it fails."""
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"rows {ids[:3].tolist()} ... of {name} cannot be read by their number: {type(error).__name__}: {first_line(error)}"
        ) from error


def check_repeatable(read: Callable[[np.ndarray], Batch], ids: np.ndarray, name: str) -> None:
    """Raise if rows are others each time they are read, as those of random crops are."""
    few = ids[:2]
    try:
        again = read(few), read(few)
    except InvalidInputError:
        return  # they do not stack, which is said elsewhere
    if not same(*again):
        raise InvalidInputError(
            f"{name} gives other rows each time it is read (a random transform?), so that there is no mean loss of its own to "
            "sample. Switch the transform off, or read once: [dataset[i] for i in range(len(dataset))]."
        )
