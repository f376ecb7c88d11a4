"""Which elements of one parameter move, kept as rows and columns as long as possible.

A head is a few rows of one matrix and a few columns of another: held as index sets it costs kilobytes where a boolean
tensor would cost as much memory as a quarter of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from devinterp.errors import InvalidInputError

Index = tuple[Tensor | None, ...]


def _as_index(dim: int, size: int, indices: Iterable[int] | Tensor) -> Tensor | None:
    """Return `indices` sorted and unique, or None when they are all of the dimension."""
    if isinstance(indices, Tensor):
        index = torch.unique(indices.detach().to("cpu", torch.int64))
    else:
        index = torch.as_tensor(sorted(set(indices)), dtype=torch.int64)
    if len(index) and (int(index[0]) < 0 or int(index[-1]) >= size):
        raise InvalidInputError(
            f"indices of dimension {dim} must lie in 0..{size - 1}, got {int(index[0])}..{int(index[-1])}."
        )
    return None if len(index) == size else index


def _is_run(index: Tensor) -> bool:
    return len(index) > 0 and int(index[-1]) - int(index[0]) + 1 == len(index)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def _contains(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether index set `a` contains `b`."""
    return a is None or (b is not None and bool(torch.isin(b, a).all()))


@final
class Mask:
    """Which elements of one parameter move; immutable.

    Made by `whole`, `block` and `from_bool`. A mask behaves like a boolean tensor where one is expected
    (``np.asarray``, torch functions, indexing, ``sum()``), at the cost of building that tensor.

    Attributes
    ----------
    shape : tuple of int
        Shape of the parameter.
    index : tuple of (torch.Tensor or None), or None
        For a product of index sets: sorted int64 indices per dimension, None standing for a whole dimension. None when
        the selection is no such product, and a boolean tensor is kept.
    num_elements : int
        How many elements move.
    """

    __slots__ = ("_dense", "_on_device", "index", "num_elements", "shape")

    shape: tuple[int, ...]
    index: Index | None
    num_elements: int
    _dense: Tensor | None
    _on_device: dict[torch.device, tuple[Tensor | None, ...]]

    def __init__(self, shape: Sequence[int], index: Index | None, dense: Tensor | None) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.index = index
        self._dense = dense
        self._on_device = {}
        if index is not None:
            counts = (size if idx is None else len(idx) for size, idx in zip(self.shape, index, strict=True))
            self.num_elements = math.prod(counts)
        else:
            assert dense is not None
            self.num_elements = int(dense.sum())

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Mask:
        """Return the mask of every element of a parameter of this shape; allocates nothing."""
        return cls(shape, (None,) * len(shape), None)

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Mask:
        """Return the mask of no element."""
        if not len(shape):
            return cls(shape, None, torch.zeros((), dtype=torch.bool))
        return cls(shape, tuple(torch.zeros(0, dtype=torch.int64) if size else None for size in shape), None)

    @classmethod
    def block(cls, shape: Sequence[int], indices: Mapping[int, Iterable[int] | Tensor]) -> Mask:
        """Return the product of index sets.

        Parameters
        ----------
        shape : sequence of int
            Shape of the parameter.
        indices : mapping of int to indices
            Selected indices by dimension (0 to ``len(shape) - 1``); dimensions left out are whole.

        Raises
        ------
        InvalidInputError
            A dimension or an index is out of range.
        """
        if unknown := [dim for dim in indices if not 0 <= dim < len(shape)]:
            raise InvalidInputError(f"dimensions {unknown} do not exist in a parameter of shape {tuple(shape)}.")
        index = tuple(_as_index(d, size, indices[d]) if d in indices else None for d, size in enumerate(shape))
        return cls._canonical(shape, index)

    @classmethod
    def from_bool(cls, mask: Tensor | np.ndarray) -> Mask:
        """Return the mask that a boolean tensor or array spells out, recognising whole parameters and blocks."""
        dense = torch.as_tensor(mask).detach().to("cpu")
        if dense.dtype != torch.bool:
            raise InvalidInputError(f"a mask must be boolean, got {dense.dtype}.")
        if dense.ndim == 0:
            return cls.whole(()) if bool(dense) else cls(dense.shape, None, dense.clone())
        index = []
        for dim, size in enumerate(dense.shape):
            others = tuple(d for d in range(dense.ndim) if d != dim)
            index.append(_as_index(dim, size, (dense.any(dim=others) if others else dense).nonzero()))
        block = cls._canonical(dense.shape, tuple(index))
        return block if block.num_elements == int(dense.sum()) else cls(dense.shape, None, dense.clone())

    @classmethod
    def _canonical(cls, shape: Sequence[int], index: Index) -> Mask:
        mask = cls(shape, index, None)
        return cls.empty(shape) if mask.num_elements == 0 else mask

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether every element moves."""
        return self.num_elements == self.numel()

    @property
    def is_empty(self) -> bool:
        """Whether no element moves."""
        return self.num_elements == 0

    @property
    def is_view(self) -> bool:
        """Whether `take` returns a view: the parameter is whole, or one contiguous block of it moves."""
        return self.index is not None and all(idx is None or _is_run(idx) for idx in self.index)

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of what `take` returns."""
        if self.index is None:
            return (self.num_elements,)
        return tuple(size if idx is None else len(idx) for size, idx in zip(self.shape, self.index, strict=True))

    def numel(self) -> int:
        """Return the number of elements of the parameter, moving or not."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        kind = "whole" if self.is_whole else "dense" if self.index is None else "block"
        return f"Mask({kind}, {self.num_elements:,} of {self.numel():,} elements of shape {self.shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Mask, (self.shape, self.index, self._dense))

    # -- using it -----------------------------------------------------------------------------------------------------

    def _indices(self, device: torch.device) -> tuple[Tensor | None, ...]:
        """Return the indices (or the boolean tensor) on `device`, copied there once."""
        held = self.index if self.index is not None else (self._dense,)
        if device.type in ("cpu", "meta"):
            return held
        if device not in self._on_device:
            self._on_device[device] = tuple(None if idx is None else idx.to(device) for idx in held)
        return self._on_device[device]

    def _narrow(self, tensor: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """Return `tensor` narrowed to the contiguous index sets, and what is left to select: ``(dim, indices)``."""
        assert self.index is not None
        lead = tensor.ndim - len(self.shape)
        left = []
        for dim, (idx, moved) in enumerate(zip(self.index, self._indices(tensor.device), strict=True)):
            if idx is None or moved is None:
                continue
            if _is_run(idx):
                tensor = tensor.narrow(lead + dim, int(idx[0]), len(idx))
            else:
                left.append((lead + dim, moved))
        return tensor, left

    def _check(self, tensor: Tensor) -> None:
        if tensor.shape[max(tensor.ndim - len(self.shape), 0) :] != self.shape:
            raise InvalidInputError(f"a mask of shape {self.shape} cannot select from {tuple(tensor.shape)}.")

    def take(self, tensor: Tensor) -> Tensor:
        """Return the moving values of `tensor`, detached.

        Parameters
        ----------
        tensor : torch.Tensor
            Of shape ``(*lead, *shape)``, any dtype and device; leading dimensions (chains) are kept.

        Returns
        -------
        torch.Tensor
            Of shape ``(*lead, *values_shape)``: a view of `tensor` where `is_view`, else a copy.
        """
        self._check(tensor)
        tensor = tensor.detach()
        if self.index is None:
            return tensor[(..., self._indices(tensor.device)[0])]
        tensor, left = self._narrow(tensor)
        for dim, idx in sorted(left, key=lambda item: len(item[1]) / tensor.shape[item[0]]):
            tensor = tensor.index_select(dim, idx)
        return tensor

    @torch.no_grad()
    def put_(self, tensor: Tensor, values: Tensor) -> None:
        """Write `values`, shaped as `take` returns them, into `tensor` in place, casting to its dtype.

        Costs nothing when `values` is the view that `take` gave.
        """
        self._check(tensor)
        tensor, values = tensor.detach(), values.detach()
        if self.index is None:
            tensor[(..., self._indices(tensor.device)[0])] = values.to(tensor.device, tensor.dtype)
            return
        target, left = self._narrow(tensor)
        if not left:
            same_memory = values.data_ptr() == target.data_ptr() and values.stride() == target.stride()
            if not (same_memory and values.shape == target.shape and values.dtype == target.dtype):
                target.copy_(values)
        elif len(left) == 1:
            target.index_copy_(*left[0], values.to(target.device, target.dtype))
        else:
            # Advanced indices that broadcast against each other address the product of the index sets, in place.
            index: list[Any] = [slice(None)] * target.ndim
            dims = [dim for dim, _ in left]
            for dim in range(dims[0], target.ndim):
                # From the first index set on every dimension is indexed, so that torch keeps their order.
                idx = dict(left).get(dim, torch.arange(target.shape[dim], device=target.device))
                index[dim] = idx.reshape(-1, *[1] * (target.ndim - 1 - dim))
            target[tuple(index)] = values.to(target.device, target.dtype)

    def to_bool(self) -> Tensor:
        """Return the mask as a boolean tensor on the CPU."""
        if self.index is None:
            assert self._dense is not None
            return self._dense.clone()
        dense = torch.zeros(self.shape, dtype=torch.bool)
        self.put_(dense, torch.ones(self.values_shape, dtype=torch.bool))
        return dense

    # -- sets ---------------------------------------------------------------------------------------------------------

    def _other(self, other: object) -> Mask:
        mask = other if isinstance(other, Mask) else Mask.from_bool(torch.as_tensor(other))
        if mask.shape != self.shape:
            raise InvalidInputError(f"masks of shapes {self.shape} and {mask.shape} belong to different parameters.")
        return mask

    def _differing(self, other: Mask, same: Callable[[Tensor | None, Tensor | None], bool]) -> list[int] | None:
        """Return the dimensions in which the index sets are not `same`, or None when one of the masks is no block."""
        if self.index is None or other.index is None:
            return None
        return [d for d, (a, b) in enumerate(zip(self.index, other.index, strict=True)) if not same(a, b)]

    def _with(self, dim: int, index: Tensor) -> Mask:
        assert self.index is not None
        return Mask.block(self.shape, {**{d: i for d, i in enumerate(self.index) if i is not None}, dim: index})

    def _along(self, dim: int) -> Tensor:
        idx = None if self.index is None else self.index[dim]
        return torch.arange(self.shape[dim]) if idx is None else idx

    def __or__(self, other: object) -> Mask:
        b = self._other(other)
        if self.is_empty or self._differing(b, lambda x, y: _contains(y, x)) == []:
            return b
        if b.is_empty or self._differing(b, _contains) == []:
            return self
        differing = self._differing(b, _same)
        if differing is not None and len(differing) == 1:
            return self._with(differing[0], torch.cat([self._along(differing[0]), b._along(differing[0])]))
        return Mask.from_bool(self.to_bool() | b.to_bool())

    __ror__ = __or__

    def __and__(self, other: object) -> Mask:
        b = self._other(other)
        if self.index is None or b.index is None:
            return b if self.is_whole else self if b.is_whole else Mask.from_bool(self.to_bool() & b.to_bool())
        index: Index = tuple(
            y if x is None else x if y is None else x[torch.isin(x, y)]
            for x, y in zip(self.index, b.index, strict=True)
        )
        return Mask._canonical(self.shape, index)

    __rand__ = __and__

    def __sub__(self, other: object) -> Mask:
        b = self._other(other)
        if b.is_empty or (self & b).is_empty:
            return self
        # Inside `other` in all dimensions but one, a block minus a block is a block.
        outside = self._differing(b, lambda x, y: _contains(y, x))
        if outside == []:
            return Mask.empty(self.shape)
        if outside is not None and len(outside) == 1:
            mine = self._along(outside[0])
            return self._with(outside[0], mine[~torch.isin(mine, b._along(outside[0]))])
        return Mask.from_bool(self.to_bool() & ~b.to_bool())

    def __invert__(self) -> Mask:
        return Mask.whole(self.shape) - self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        if self.shape != other.shape or self.num_elements != other.num_elements:
            return False
        # Both forms are canonical: equal selections have the same form.
        if self._dense is not None and other._dense is not None:
            return torch.equal(self._dense, other._dense)
        return self._differing(other, _same) == []

    def __hash__(self) -> int:
        return hash((self.shape, self.num_elements))

    # -- as a boolean tensor, for scripts that treat masks as such ----------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Always ``torch.bool``."""
        return torch.bool

    def sum(self) -> Tensor:
        """Return the number of moving elements as a scalar tensor."""
        return torch.tensor(self.num_elements)

    def any(self) -> Tensor:
        """Return whether some element moves, as a scalar tensor."""
        return torch.tensor(not self.is_empty)

    def all(self) -> Tensor:
        """Return whether every element moves, as a scalar tensor."""
        return torch.tensor(self.is_whole)

    def __getitem__(self, item: Any) -> Tensor:
        return self.to_bool()[item]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_bool().numpy(), dtype=dtype)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map(lambda x: x.to_bool() if isinstance(x, Mask) else x, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __copy__(self) -> Mask:
        return self

    def __deepcopy__(self, memo: object) -> Mask:
        return self
