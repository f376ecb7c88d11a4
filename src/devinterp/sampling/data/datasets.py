"""Rows of a dataset as tensors, whatever the dataset is.

Only the rows a run will use are read: they are known before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from devinterp.errors import InvalidInputError

#: What a loss function is given: token ids, or whatever the dataset's rows are made of, stacked.
Batch: TypeAlias = Tensor | tuple[Any, ...] | dict[str, Any]

INPUT_IDS, ATTENTION_MASK = "input_ids", "attention_mask"

#: Data that are larger stay in the memory of the host, and batches are copied to the device as they are needed.
MAX_DEVICE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Rows:
    """Some rows of a dataset, stacked.

    Parameters
    ----------
    data : Tensor, tuple or dict of tensors
        Each with the rows along its first dimension.
    ids : numpy.ndarray
        Which rows of the dataset they are, increasing, ``(row,)``.
    attention_mask : Tensor or None
        For padded token ids: True where there is text, ``(row, token)``; None where there is no padding.
    device : torch.device or None
        Where batches are copied, of data that stay in the memory of the host; None: batches are where the data are.
    """

    data: Batch
    ids: np.ndarray
    attention_mask: Tensor | None = None
    device: torch.device | None = None

    @property
    def token_ids(self) -> Tensor | None:
        """Return ``(row, token)`` ids, or None for data that are not token ids."""
        return self.data if isinstance(self.data, Tensor) and _is_tokens(self.data) else None

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return where rows of the dataset are in the stacked tensors, ``(row,)``."""
        return np.searchsorted(self.ids, ids)

    def index(self, ids: np.ndarray) -> Tensor:
        """Return `places` as a tensor of the host."""
        return torch.from_numpy(self.places(ids))

    def batch(self, ids: np.ndarray) -> tuple[Batch, Tensor | None]:
        """Return rows of the dataset, in the order of `ids`, and their attention mask.

        Nothing is waited for: what goes to a device is queued there, from pinned memory, while it is busy with earlier steps.
        """
        data, mask = self._take(ids)
        if self.device is None:
            return data, mask
        device = self.device
        return map_tensors(data, lambda t: copied_to(t, device)), None if mask is None else copied_to(mask, device)

    def subset(self, ids: np.ndarray) -> Rows:
        """Return some of the rows, as if they had been read alone: without a mask where there is no padding among them."""
        data, mask = self._take(ids)
        return Rows(data, ids, None if mask is not None and bool(torch.all(mask)) else mask, self.device)

    def to(self, device: torch.device) -> Rows:
        """Return the rows for use on a device: there, or where they are large in the memory of the host."""
        sizes: list[int] = []
        map_tensors(self.data, lambda t: sizes.append(t.nbytes) or t)  # type: ignore[func-returns-value]
        stays = device.type != "cpu" and sum(sizes) > MAX_DEVICE_BYTES
        place = torch.device("cpu") if stays else device
        mask = None if self.attention_mask is None else self.attention_mask.to(place)
        return Rows(map_tensors(self.data, lambda t: t.to(place)), self.ids, mask, device if stays else None)

    def _take(self, ids: np.ndarray) -> tuple[Batch, Tensor | None]:
        index = self.index(ids)
        mask = self.attention_mask
        taken = None if mask is None else mask[copied_to(index, mask.device)]
        return map_tensors(self.data, lambda t: t[copied_to(index, t.device)]), taken


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; neither waits for the other."""
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if can_pin() else tensor).to(device, non_blocking=True)


def can_pin() -> bool:
    """Return whether there is a device for which memory of the host can be pinned."""
    return torch.cuda.is_available()


def num_rows(dataset: Any, *, name: str) -> int:
    """Return the number of rows of a dataset.

    Raises
    ------
    InvalidInputError
        If the dataset does not know its length.
    """
    dataset = _unwrap(dataset, name=name)
    if isinstance(dataset, Tensor | np.ndarray):
        return int(dataset.shape[0]) if dataset.ndim else 0
    if isinstance(dataset, Mapping | tuple):
        return _num_in_columns(dataset, name)
    if isinstance(dataset, str | bytes):
        raise InvalidInputError(f"{name} (={dataset[:80]!r}) is a string: load and tokenize it first.")
    if not isinstance(dataset, Sized):
        raise InvalidInputError(
            f"{name} ({type(dataset).__name__}) has no length: pass a dataset of known length, for example "
            "`datasets.Dataset.from_list(list(stream.take(1000)))`."
        )
    return len(dataset)


def _num_in_columns(columns: Mapping[Any, Any] | tuple[Any, ...], name: str) -> int:
    named = columns if isinstance(columns, Mapping) else dict(enumerate(columns))
    lengths = {key: len(column) if isinstance(column, Sized) else None for key, column in named.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        described = ", ".join(
            f"{key!r} {type(named[key]).__name__} without length" if length is None else f"{key!r} {length}"
            for key, length in lengths.items()
        )
        raise InvalidInputError(f"{name} must hold columns with one entry for each row; lengths are: {described}.")
    return next((length for length in lengths.values() if length is not None), 0)


def read_rows(dataset: Any, ids: np.ndarray, *, name: str) -> Rows:
    """Return rows of a dataset.

    Parameters
    ----------
    dataset : object
        A HuggingFace Dataset in any format, a torch Dataset, IterableDataset of known length or DataLoader (whose dataset
        is read, not its batches), a tensor or array, a tuple or dict of tensors, or a sequence of rows.
    ids : numpy.ndarray
        Rows to read, in any order, with repeats.
    name : str
        What the dataset is, for messages.

    Returns
    -------
    Rows
        The distinct rows. Token ids are a Tensor; other data keep the structure of the dataset's rows.

    Raises
    ------
    InvalidInputError
        If the rows do not stack (ragged sequences) or there is no ``input_ids`` column where one is expected.
    """
    rows = _read(_unwrap(dataset, name=name), np.unique(ids), name)
    # Embeddings and losses take no other whole numbers.
    return rows if rows.token_ids is None else replace(rows, data=rows.token_ids.long())


def _read(dataset: Any, ids: np.ndarray, name: str) -> Rows:
    if isinstance(dataset, Tensor | np.ndarray):
        return Rows(_column(dataset, ids, name), ids)
    if isinstance(dataset, Mapping):
        columns = {key: _column(value, ids, f"{name}[{key!r}]") for key, value in dataset.items()}
        return _with_mask(columns, ids, name) if set(columns) <= {INPUT_IDS, ATTENTION_MASK} else Rows(columns, ids)
    if isinstance(dataset, tuple):
        return Rows(tuple(_column(value, ids, f"{name}[{n}]") for n, value in enumerate(dataset)), ids)
    if _is_table(dataset):
        return _read_table(dataset, ids, name)
    return _read_items(dataset, ids, name)


def _unwrap(dataset: Any, *, name: str) -> Any:
    if isinstance(dataset, DataLoader):
        return _unwrap(dataset.dataset, name=name)
    if isinstance(dataset, IterableDataset) and isinstance(dataset, Sized):
        return list(dataset)
    return dataset


def _is_table(dataset: Any) -> bool:
    """Say whether this is a HuggingFace Dataset, without importing that library."""
    return hasattr(dataset, "column_names") and hasattr(dataset, "with_format")


def _read_table(dataset: Any, ids: np.ndarray, name: str) -> Rows:
    columns = list(dataset.column_names)
    if INPUT_IDS in columns:
        columns = [c for c in columns if c in (INPUT_IDS, ATTENTION_MASK)]
    table = dataset.with_format("numpy", columns=columns)[ids.tolist()]
    arrays = {column: _stack(table[column], f"column {column!r} of {name}") for column in columns}
    return _with_mask(arrays, ids, name) if INPUT_IDS in arrays else Rows(dict(_numeric(arrays, name)), ids)


def _read_items(dataset: Any, ids: np.ndarray, name: str) -> Rows:
    items = [dataset[int(i)] for i in ids]
    if items and isinstance(items[0], Mapping) and INPUT_IDS in items[0]:
        present = [c for c in (INPUT_IDS, ATTENTION_MASK) if c in items[0]]
        return _with_mask({c: _stack([item[c] for item in items], f"{c!r} of {name}") for c in present}, ids, name)
    if items and isinstance(items[0], Sequence) and not isinstance(items[0], tuple | str):
        return Rows(_stack(items, name), ids)
    try:
        collated = default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise InvalidInputError(f"the rows of {name} do not stack into tensors: {error}") from error
    return Rows(tuple(collated) if isinstance(collated, list) else collated, ids)


def _column(values: Any, ids: np.ndarray, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values[torch.from_numpy(ids).to(values.device)]
    if isinstance(values, np.ndarray):  # rows first: a copy of few rows of what may be a file, writable and contiguous
        return _stack(values[ids], name)
    return _stack([values[int(i)] for i in ids], name)


def _stack(values: Iterable[Any], name: str) -> Tensor:
    """Return one tensor of rows that must all have one shape."""
    rows = values if isinstance(values, np.ndarray) and values.dtype != object else [np.asarray(v) for v in values]
    shapes = {np.shape(row) for row in rows} if not isinstance(rows, np.ndarray) else {rows.shape[1:]}
    if len(shapes) > 1:
        lengths = sorted({shape[0] for shape in shapes if shape})
        raise InvalidInputError(
            f"{name} is ragged: rows have lengths {lengths[0]} to {lengths[-1]}. Cut or pack them to one length "
            "(`devinterp.utils.tokenize_and_concatenate`), or pad them and give an `attention_mask`."
        )
    array = rows if isinstance(rows, np.ndarray) else np.stack(rows) if rows else np.zeros((0,))
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(f"{name} must hold numbers; it holds {array.dtype}.")
    if array.dtype in (np.uint16, np.uint32, np.uint64):  # torch has the types, but few operations on them
        array = array.astype(np.int64)
    return torch.tensor(array)


def _with_mask(columns: Mapping[str, Tensor], ids: np.ndarray, name: str) -> Rows:
    mask = columns.get(ATTENTION_MASK)
    tokens = columns.get(INPUT_IDS)
    if tokens is None:
        raise InvalidInputError(f"{name} has an `attention_mask` but no `input_ids`.")
    if mask is not None and mask.shape != tokens.shape:
        raise InvalidInputError(
            f"`attention_mask` of {name} has shape {tuple(mask.shape)}, expected {tuple(tokens.shape)}."
        )
    # A mask without padding says nothing, and leaving it out keeps models on their fast attention path.
    return Rows(tokens, ids, None if mask is None or bool(mask.bool().all()) else mask.bool())


def as_tokens(rows: Rows, *, name: str) -> Rows:
    """Return only the token ids of rows that hold other columns beside them."""
    if not isinstance(rows.data, dict) or INPUT_IDS not in rows.data:
        return rows
    kept = {column: rows.data[column] for column in (INPUT_IDS, ATTENTION_MASK) if column in rows.data}
    tokens = replace(_with_mask(kept, rows.ids, name), device=rows.device)
    return tokens if tokens.token_ids is None else replace(tokens, data=tokens.token_ids.long())


def _numeric(arrays: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    if not arrays:
        raise InvalidInputError(f"{name} has no columns.")
    return arrays


def _is_tokens(data: Tensor) -> bool:
    return data.ndim == 2 and not data.is_floating_point() and data.dtype != torch.bool


def map_tensors(data: Batch, function: Callable[[Tensor], Tensor]) -> Any:
    """Return data of the same structure with a function applied to each tensor."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, dict):
        return {key: map_tensors(value, function) for key, value in data.items()}
    return tuple(map_tensors(value, function) for value in data)


def check_tokens(rows: Rows, vocab_size: int | None, *, name: str) -> None:
    """Raise unless rows are token ids that a model accepts.

    Raises
    ------
    InvalidInputError
        Naming the dataset, the offending value and the valid range.
    """
    if isinstance(rows.data, dict):
        raise InvalidInputError(
            f"{name} has no `input_ids` column; it has {', '.join(map(repr, rows.data))}. Tokenize it, for example with "
            "`devinterp.utils.tokenize_and_concatenate`, or pass `loss_fn=` to use these columns."
        )
    if not isinstance(rows.data, Tensor) or not _is_tokens(rows.data):
        shape = tuple(rows.data.shape) if isinstance(rows.data, Tensor) else type(rows.data).__name__
        kind = rows.data.dtype if isinstance(rows.data, Tensor) else "rows of several tensors"
        raise InvalidInputError(
            f"{name} must hold whole-number token ids of shape (sequence, token); got {kind} of shape {shape}. For other data "
            "pass `loss_fn=`."
        )
    if rows.data.shape[1] < 2:
        raise InvalidInputError(
            f"sequences of {name} have length {rows.data.shape[1]}; at least 2 tokens are needed to predict one."
        )
    if not rows.data.numel():
        return
    low, high = int(rows.data.min()), int(rows.data.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        limit = "" if vocab_size is None else f" to {vocab_size - 1}"
        raise InvalidInputError(
            f"{name} holds token id {low if low < 0 else high}, outside the model's vocabulary (0{limit}): was it tokenized "
            "with the model's own tokenizer?"
        )
