"""What a data set may be, and its rows as tensors, whatever it is.

Only the rows a run will use are read: they are known before it starts. The table in docs/sampling.md lists the kinds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from devinterp.errors import InvalidInputError, first_line
from devinterp.sampling.data.columns import Batch, check_keys, column, column_lengths, rebuilt, same, stacked
from devinterp.sampling.data.loaders import Collate, check_collation, chosen_rows, collation
from devinterp.sampling.data.rows import ATTENTION_MASK, INPUT_IDS, LABELS, Rows, as_rows

_OF_TOKENS = (INPUT_IDS, ATTENTION_MASK, LABELS)
#: Which columns to read: of those there are, those wanted.
Wanted = Callable[[Sequence[Any]], list[Any]]


@final
@dataclass(frozen=True)
class RowSource:
    """A data set as its rows can be read.

    Parameters
    ----------
    name : str
        What it is, for messages.
    num_rows : int
        Of all of it.
    stack : callable
        ``stack(ids, wanted)`` returns the rows `ids`, stacked, with the columns that ``wanted(columns)`` names.
    """

    name: str
    num_rows: int
    stack: Callable[[np.ndarray, Wanted], Batch]

    def read(self, ids: np.ndarray, *, only_tokens: bool = False) -> Rows:
        """Return rows of the data set.

        Parameters
        ----------
        ids : numpy.ndarray
            Rows to read, in any order, with repeats.
        only_tokens : bool, default: False
            Whether, of rows with ``input_ids``, only these are read, with their mask and labels.

        Returns
        -------
        Rows
            The distinct rows. Token ids that come alone are a tensor; other data keep the structure of the rows.

        Raises
        ------
        InvalidInputError
            If the rows do not stack (ragged sequences).
        """
        distinct = np.unique(ids)
        return as_rows(self.stack(distinct, _tokens_of if only_tokens else list), distinct)


def row_source(dataset: Any, *, name: str) -> RowSource:
    """Return a data set as its rows can be read.

    Parameters
    ----------
    dataset : object
        A HuggingFace Dataset in any format, a torch Dataset, IterableDataset of known length or DataLoader, a tensor or array,
        a tuple or dict of columns, a data frame, or a sequence of rows.
    name : str
        What it is, for messages.

    Raises
    ------
    InvalidInputError
        If it is none of these, or has no length.
    """
    if isinstance(dataset, str | bytes | os.PathLike):
        raise InvalidInputError(f"{name} (={str(dataset)[:80]!r}) is a string: load and tokenize it first.")
    if isinstance(dataset, DataLoader):
        return _of_loader(dataset, name)
    if isinstance(dataset, Tensor | np.ndarray):
        return RowSource(name, int(dataset.shape[0]) if dataset.ndim else 0, lambda ids, _: column(dataset, ids, name))
    if isinstance(dataset, Mapping):
        return _of_columns(dataset, name)
    if isinstance(dataset, tuple):
        return _of_tuple(dataset, name)
    if isinstance(dataset, IterableDataset) and isinstance(dataset, Sized):
        return _of_items(_all_items(dataset, name), name)
    if not isinstance(dataset, Sized) or isinstance(dataset, IterableDataset):
        raise InvalidInputError(
            f"{name} ({type(dataset).__name__}) has no length: pass a dataset of known length, for example "
            "`datasets.Dataset.from_list(list(stream.take(1000)))`."
        )
    if hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):  # without importing that library
        return _of_table(dataset, name)
    if hasattr(dataset, "__dataframe__"):  # pandas, polars, pyarrow: their [0] is a column
        return _of_columns(_columns_of_frame(dataset, name), name)
    if not hasattr(dataset, "__getitem__"):
        raise InvalidInputError(f"rows of {name} ({type(dataset).__name__}) have no number: pass a list of them.")
    return _of_items(dataset, name)


def _tokens_of(columns: Sequence[Any]) -> list[Any]:
    return [key for key in columns if key in _OF_TOKENS] if INPUT_IDS in columns else list(columns)


def _of_columns(columns: Mapping[Any, Any], name: str) -> RowSource:
    splits = [str(key) for key, part in columns.items() if isinstance(part, Dataset) or hasattr(part, "column_names")]
    if splits:
        raise InvalidInputError(
            f"{name} ({type(columns).__name__}) holds the splits {', '.join(map(repr, splits))}: pass one of them, for "
            f"example dataset[{splits[0]!r}]."
        )
    lengths = column_lengths(columns)
    _check_lengths(lengths, columns, name)

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        return _by_column(
            wanted(list(columns)),
            lambda key: column(columns[key], ids, f"{name}[{key!r}]"),
            lambda key: [columns[key][int(i)] for i in ids],
        )

    return RowSource(name, next((length for length in lengths.values() if length is not None), 0), stack)


def _of_tuple(columns: tuple[Any, ...], name: str) -> RowSource:
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


def _columns_of_frame(frame: Any, name: str) -> dict[str, Any]:
    frame = frame if hasattr(frame, "iloc") else frame.to_pandas()
    if not frame.columns.is_unique:
        raise InvalidInputError(f"{name} has columns of the same name: {', '.join(map(repr, frame.columns))}.")
    return {str(key): frame[key].to_numpy() for key in frame.columns}


def _of_table(table: Any, name: str) -> RowSource:
    """Return the rows of a HuggingFace Dataset: the columns of its format, through its transform if it has one."""
    chosen = getattr(table, "format", None) or {}
    columns = list(table.column_names)
    if chosen.get("columns") is not None and not chosen.get("output_all_columns"):
        columns = [key for key in columns if key in chosen["columns"]]

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        if chosen.get("type") == "custom":  # a transform: it decides which columns there are
            read = _read_items(lambda: table[ids.tolist()], ids, name)
            _check_repeatable(
                lambda few: {key: stacked(part, name) for key, part in table[few.tolist()].items()}, ids, name
            )
            keys = wanted(list(read))
        else:
            keys = wanted(columns)
            own = chosen["type"] if chosen.get("type") in ("torch", "numpy") else None
            # In its own format, with dtypes that the user may have asked for.
            options = (chosen.get("format_kwargs") or {}) if own else {}
            read = table.with_format(own or "numpy", columns=keys, **options)[ids.tolist()]
        return _by_column(
            keys, lambda key: stacked(read[key], f"column {key!r} of {name}"), lambda key: list(read[key])
        )

    return RowSource(name, len(table), stack)


def _by_column(
    keys: Sequence[Any], stack: Callable[[Any], Batch], listed: Callable[[Any], list[Any]]
) -> dict[Any, Any]:
    """Return columns, stacked; beside ``input_ids`` one whose rows have different shapes is a list."""
    columns: dict[Any, Any] = {}
    for key in keys:
        try:
            columns[key] = stack(key)
        except InvalidInputError:
            if INPUT_IDS not in keys or key in _OF_TOKENS:
                raise
            columns[key] = listed(key)
    return columns


def _all_items(dataset: Any, name: str) -> list[Any]:
    items = list(islice(iter(dataset), len(dataset)))
    if len(items) != len(dataset):
        raise InvalidInputError(f"{name} says that it has {len(dataset)} rows, and gives {len(items)}.")
    return items


def _of_items(dataset: Any, name: str, collate: Collate | None = None) -> RowSource:
    """Return rows that are read one by one."""

    def items(ids: np.ndarray) -> list[Any]:
        return [dataset[int(i)] for i in ids]

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        rows = _read_items(lambda: items(ids), ids, name)
        if not isinstance(dataset, list):
            _check_repeatable(lambda few: stacked(items(few), name), ids, name)
        if collate is not None:
            check_collation(collate, rows, name=name)
            batch = collate(rows)
            return {key: batch[key] for key in wanted(list(batch))} if isinstance(batch, dict) else batch
        if rows and all(isinstance(row, Mapping) for row in rows):
            keys = wanted(list(rows[0]))
            check_keys(rows, keys, name)
            return _by_column(
                keys,
                lambda key: stacked([row[key] for row in rows], f"{key!r} of {name}"),
                lambda key: [row[key] for row in rows],
            )
        return stacked(rows, name)

    return RowSource(name, len(dataset), stack)


def _read_items(read: Callable[[], Any], ids: np.ndarray, name: str) -> Any:
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInputError(
            f"rows {ids[:3].tolist()} ... of {name} cannot be read by their number: {type(error).__name__}: {first_line(error)}"
        ) from error


def _check_repeatable(read: Callable[[np.ndarray], Batch], ids: np.ndarray, name: str) -> None:
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


def _of_loader(loader: DataLoader[Any], name: str) -> RowSource:
    """Return the rows that a DataLoader's sampler chooses, as its ``collate_fn`` makes them."""
    chosen, collate = chosen_rows(loader, name=name), collation(loader, name=name)
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) and isinstance(dataset, Sized):
        dataset = _all_items(dataset, name)
    inner = row_source(dataset, name=name) if collate is None else _of_items(dataset, name, collate)
    if chosen is None:
        return inner

    def stack(ids: np.ndarray, wanted: Wanted) -> Batch:
        # Numbers of the sampler's rows; the dataset is read in increasing order, each row once.
        rows, places = np.unique(chosen[ids], return_inverse=True)
        read = inner.stack(rows, wanted)
        return _reordered(read, places)

    return RowSource(name, len(chosen), stack)


def _reordered(batch: Batch, places: np.ndarray) -> Batch:
    return Rows(batch, np.arange(int(places.max(initial=-1)) + 1)).batch(places).data
