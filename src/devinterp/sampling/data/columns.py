"""Values of rows as columns: numbers become one tensor with the rows along its first dimension, anything else stays a list.

A row may be a number, a tensor, an array, a tuple, a named tuple, a dict, or nested from these; the stacked rows have the same
structure. What holds no numbers (a text, None, an object of the user's) is kept as a list with an entry for each row.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import InvalidInputError

#: Stacked rows: a tensor; a list of objects; a dict, tuple or named tuple of these. What a loss function is given.
Batch: TypeAlias = Tensor | list[Any] | tuple[Any, ...] | dict[Any, Any]


def stacked(values: Any, name: str) -> Batch:
    """Return the values of one part of all rows, stacked.

    Parameters
    ----------
    values : sequence, tensor or array
        One value for each row.
    name : str
        What they are, for messages.

    Raises
    ------
    InvalidInputError
        If rows have different shapes, keys or lengths.
    """
    if isinstance(values, Tensor):
        return _dense(values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        return _tensor(values)
    values = [_plain(value) for value in values]
    first = values[0] if len(values) else None
    if isinstance(first, Mapping) and all(isinstance(value, Mapping) for value in values):
        return _stacked_dicts(values, name)
    if isinstance(first, tuple) and all(isinstance(value, tuple) for value in values):
        return _stacked_tuples(values, name)
    if all(isinstance(value, Tensor) for value in values):
        return _stacked_tensors(values, name)
    if all(isinstance(value, np.ndarray | Tensor | numbers.Number | np.generic) for value in values):
        return _stacked_arrays([np.asarray(value) for value in values], name)
    return list(values)


def _plain(value: Any) -> Any:
    """Return a value with lists of numbers, and what else converts itself to an array (jax, PIL), as arrays."""
    if isinstance(value, Tensor | np.ndarray | numbers.Number | str | bytes | Mapping | tuple | type(None)):
        return value
    if isinstance(value, list):
        return _list_as_array(value)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return np.asarray(value)
    return value


def _list_as_array(value: list[Any]) -> Any:
    """Return a list of numbers, however deep, as an array; a list of other parts as a tuple of them."""
    flat = value
    while flat and all(isinstance(part, list) for part in flat):
        flat = [each for part in flat for each in part]
    if all(isinstance(part, numbers.Number | np.generic) for part in flat):
        try:
            return np.asarray(value)
        except ValueError:  # ragged within one row
            return tuple(value)
    return tuple(value)


def _stacked_dicts(values: Sequence[Mapping[Any, Any]], name: str) -> dict[Any, Any]:
    keys = list(values[0])
    check_keys(values, keys, name)
    return {key: stacked([value[key] for value in values], f"{name}[{key!r}]") for key in keys}


def check_keys(values: Sequence[Mapping[Any, Any]], keys: Sequence[Any], name: str) -> None:
    """Raise unless all rows have these keys, and no others where these are all of the first."""
    whole = set(keys) == set(values[0])
    for value in values:
        if not set(keys) <= set(value) or (whole and set(value) != set(keys)):
            different = sorted(map(repr, set(value) ^ set(keys) if whole else set(keys) - set(value)))
            raise InvalidInputError(
                f"rows of {name} must all have the same keys; some have no {', '.join(different)}: fill these in, or leave "
                "them out."
            )


def _stacked_tuples(values: Sequence[tuple[Any, ...]], name: str) -> tuple[Any, ...]:
    lengths = sorted({len(value) for value in values})
    if len(lengths) > 1:
        raise InvalidInputError(_ragged(name, lengths))
    return rebuilt(
        values[0],
        [stacked([value[n] for value in values], f"{name}[{n}]") for n in range(lengths[0] if lengths else 0)],
    )


def rebuilt(like: tuple[Any, ...], parts: Sequence[Any]) -> tuple[Any, ...]:
    """Return parts as a tuple, or as the named tuple that `like` is."""
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def _stacked_tensors(values: Sequence[Tensor], name: str) -> Tensor:
    if not values:
        return torch.zeros(0)
    if len({value.shape for value in values}) > 1:
        raise InvalidInputError(_ragged(name, _lengths(values)))
    return torch.stack([_dense(value) for value in values])


def _stacked_arrays(values: Sequence[np.ndarray], name: str) -> Batch:
    if len({value.shape for value in values}) > 1:
        raise InvalidInputError(_ragged(name, _lengths(values)))
    return _tensor(np.stack(values))


def _tensor(array: np.ndarray) -> Batch:
    """Return an array as a tensor of its own, or as a list where it holds no numbers."""
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        return list(array.tolist())
    if array.dtype in (np.uint16, np.uint32, np.uint64):  # torch has the types, but few operations on them
        array = array.astype(np.int64)
    return torch.tensor(array)


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without its graph and in plain memory."""
    tensor = tensor.detach()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _lengths(values: Sequence[Any]) -> list[int]:
    return sorted({int(value.shape[0]) if len(value.shape) else 0 for value in values})


def _ragged(name: str, lengths: Sequence[int]) -> str:
    if lengths[0] == lengths[-1]:
        return f"{name} is ragged: rows have different shapes. Crop or resize them to one shape."
    return (
        f"{name} is ragged: rows have lengths {lengths[0]} to {lengths[-1]}. Cut or pack them to one length "
        "(`devinterp.utils.tokenize_and_concatenate`), or pad them and give an `attention_mask`."
    )


def column(values: Any, ids: np.ndarray, name: str) -> Batch:
    """Return rows of one column: of a tensor, an array, a sequence with an entry for each row, or a dict of columns."""
    if isinstance(values, Tensor):
        return _dense(values)[torch.from_numpy(ids).to(values.device)]
    if isinstance(values, np.ndarray):  # rows first: a copy of few rows of what may be a file, writable and contiguous
        return stacked(values[ids], name)
    if isinstance(values, Mapping):
        return {key: column(part, ids, f"{name}[{key!r}]") for key, part in values.items()}
    return stacked([values[int(i)] for i in ids], name)


def column_lengths(columns: Mapping[Any, Any], prefix: str = "") -> dict[str, int | None]:
    """Return the number of rows of each column, None for one without a length."""
    lengths: dict[str, int | None] = {}
    for key, values in columns.items():
        label = f"{prefix}{key!r}"
        if isinstance(values, Mapping):
            lengths |= column_lengths(values, f"{label}.")
        else:
            try:
                lengths[label] = None if isinstance(values, str | bytes) else len(values)
            except TypeError:
                lengths[label] = None
    return lengths


def map_tensors(
    data: Any, function: Callable[[Tensor], Tensor], other: Callable[[list[Any]], Any] | None = None
) -> Any:
    """Return data of the same structure with a function applied to each tensor, and another to each list of objects."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, dict):
        return {key: map_tensors(value, function, other) for key, value in data.items()}
    if isinstance(data, tuple):
        return rebuilt(data, [map_tensors(value, function, other) for value in data])
    return data if other is None else other(data)


def leaves(data: Any, name: str = "") -> list[tuple[str, Tensor | list[Any]]]:
    """Return the tensors and lists of objects in stacked rows, with the path to each."""
    if isinstance(data, Tensor | list):
        return [(name, data)]
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return [leaf for key, value in items for leaf in leaves(value, f"{name}.{key}" if name else str(key))]


def same(a: Any, b: Any) -> bool:
    """Say whether two stacks of rows hold the same numbers and texts; NaN equals NaN, and any object any other."""
    first, second = leaves(a), leaves(b)
    if [name for name, _ in first] != [name for name, _ in second]:
        return False
    return all(_same_leaf(x, y) for (_, x), (_, y) in zip(first, second, strict=True))


def _same_leaf(a: Tensor | list[Any], b: Tensor | list[Any]) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, list) and isinstance(b, list):
        plain = (str, bytes, numbers.Number, type(None))
        return len(a) == len(b) and all(x == y for x, y in zip(a, b, strict=True) if isinstance(x, plain))
    return False
