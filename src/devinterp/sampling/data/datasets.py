"""What a data set may be, and how the rows of each kind are read.

Only the rows a run will use are read: they are known before it starts. The table in docs/sampling.md lists the kinds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.columns import Batch, column
from devinterp.sampling.data.items import all_items, items_source
from devinterp.sampling.data.loaders import chosen_rows, collation
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.source import RowSource, Wanted
from devinterp.sampling.data.tables import array_source, columns_source, frame_source, table_source, tuple_source


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
        return columns_source(dataset, name)
    if isinstance(dataset, tuple):
        return tuple_source(dataset, name)
    if isinstance(dataset, IterableDataset) and isinstance(dataset, Sized):
        return items_source(all_items(dataset, name), name)
    if not isinstance(dataset, Sized) and hasattr(dataset, "shape") and hasattr(dataset, "__getitem__"):
        return array_source(dataset, name)
    if not isinstance(dataset, Sized) or isinstance(dataset, IterableDataset):
        raise InvalidInputError(
            f"{name} ({type(dataset).__name__}) has no length: pass a dataset of known length, for example "
            "`datasets.Dataset.from_list(list(stream.take(1000)))`."
        )
    if hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):  # without importing that library
        return table_source(dataset, name)
    if hasattr(dataset, "__dataframe__"):  # pandas, polars, pyarrow: their [0] is a column
        return frame_source(dataset, name)
    if not hasattr(dataset, "__getitem__"):
        raise InvalidInputError(f"rows of {name} ({type(dataset).__name__}) have no number: pass a list of them.")
    return items_source(dataset, name)


def _of_loader(loader: DataLoader[Any], name: str) -> RowSource:
    """Return the rows that a DataLoader's sampler chooses, as its ``collate_fn`` makes them."""
    chosen, collate = chosen_rows(loader, name=name), collation(loader, name=name)
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset) and isinstance(dataset, Sized):
        dataset = all_items(dataset, name)
    inner = row_source(dataset, name=name) if collate is None else items_source(dataset, name, collate)
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
