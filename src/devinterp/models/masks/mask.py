"""Which elements of one parameter are selected, kept as index sets per dimension where that is possible.

A head is a few rows of one matrix and a few columns of another: as index sets it costs kilobytes, as boolean tensors a
quarter of the memory of the float32 weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.models.masks import index_sets
from devinterp.models.masks.as_tensor import LazyBoolTensor
from devinterp.models.masks.index_sets import Index, index_set, is_contiguous


@final
class Mask(LazyBoolTensor):
    """Which elements of one parameter are selected; immutable.

    Made by `whole`, `block` and `from_bool`. A mask behaves like a boolean tensor where one is expected (torch functions,
    ``np.asarray``, methods such as ``sum()``, ``float()`` and ``to(device)``, operators, indexing), at the cost of building
    that tensor. ``a == b`` says element by element where two masks agree, and is true if they do everywhere.

    Attributes
    ----------
    index : tuple of (torch.Tensor or None), or None
        For a product of index sets: sorted int64 indices per dimension, None standing for a whole dimension. None when
        the selection is no such product, and a boolean tensor is kept.
    num_elements : int
        Number of selected elements.
    """

    index: Index | None  # type: ignore[assignment]
    num_elements: int

    def __init__(self, shape: Sequence[int], index: Index | None, dense: Tensor | None) -> None:
        self._shape = torch.Size(shape)
        self.index = index
        self._dense = dense
        self._on_device: dict[torch.device, Index] = {}
        self._truth: bool | None = None
        #: For each dimension the first index, where the selected ones are consecutive; read here, because `take` is called at
        #: every step.
        self._starts = [int(each[0]) if each is not None and is_contiguous(each) else None for each in index or ()]
        if index is not None:
            self.num_elements = math.prod(self.values_shape)
        else:
            assert dense is not None
            self.num_elements = int(dense.sum())

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
        """Return the mask of a product of index sets.

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
        index = tuple(index_set(d, size, indices[d]) if d in indices else None for d, size in enumerate(shape))
        return cls._canonical(shape, index)

    @classmethod
    def from_bool(cls, mask: Tensor | np.ndarray) -> Mask:
        """Return the mask of the true elements of a boolean tensor or array; whole parameters and blocks are recognised."""
        dense = torch.as_tensor(mask).detach().to("cpu")
        if dense.dtype != torch.bool:
            raise InvalidInputError(f"a mask must be boolean, got {dense.dtype}.")
        if dense.ndim == 0:
            return cls.whole(()) if bool(dense) else cls.empty(())
        index = []
        for dim, size in enumerate(dense.shape):
            others = tuple(d for d in range(dense.ndim) if d != dim)
            index.append(index_set(dim, size, (dense.any(dim=others) if others else dense).nonzero()))
        block = cls._canonical(dense.shape, tuple(index))
        return block if block.num_elements == int(dense.sum()) else cls(dense.shape, None, dense.clone())

    @classmethod
    def _canonical(cls, shape: Sequence[int], index: Index) -> Mask:
        mask = cls(shape, index, None)
        return cls.empty(shape) if mask.num_elements == 0 else mask

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of the parameter."""
        return self._shape

    @property
    def is_whole(self) -> bool:
        """Whether every element is selected."""
        return self.num_elements == self.numel()

    @property
    def is_empty(self) -> bool:
        """Whether no element is selected."""
        return self.num_elements == 0

    @property
    def is_view(self) -> bool:
        """Whether `take` returns a view: the parameter is whole, or one contiguous block of it is selected."""
        if self.index is None:
            return False
        pairs = zip(self.index, self._starts, strict=True)
        return all(indices is None or start is not None for indices, start in pairs)

    @property
    def values_shape(self) -> tuple[int, ...]:
        """Shape of what `take` returns."""
        if self.index is None:
            return (self.num_elements,)
        return tuple(size if idx is None else len(idx) for size, idx in zip(self.shape, self.index, strict=True))

    def numel(self) -> int:
        """Return the number of elements of the parameter, selected or not."""
        return math.prod(self.shape)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        kind = "whole" if self.is_whole else "dense" if self.index is None else "block"
        return f"Mask({kind}, {self.num_elements:,} of {self.numel():,} elements of shape {tuple(self.shape)})"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (Mask, (tuple(self.shape), self.index, self._dense))

    def _index_on(self, device: torch.device) -> Index:
        """Return the indices (or the boolean tensor) on `device`, copied there once."""
        on_cpu = self.index if self.index is not None else (self._dense,)
        if device.type in ("cpu", "meta"):
            return on_cpu
        if device not in self._on_device:
            self._on_device[device] = tuple(None if idx is None else idx.to(device) for idx in on_cpu)
        return self._on_device[device]

    def _narrow(self, tensor: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return `tensor` narrowed to the contiguous index sets, and the remaining index sets by its dimensions."""
        assert self.index is not None
        num_leading = tensor.ndim - len(self.shape)
        remaining = {}
        parts = zip(self.index, self._index_on(tensor.device), self._starts, strict=True)
        for dim, (indices, on_device, start) in enumerate(parts, start=num_leading):
            if indices is None or on_device is None:
                continue
            if start is not None:
                tensor = tensor.narrow(dim, start, len(indices))
            else:
                remaining[dim] = on_device
        return tensor, remaining

    def _check(self, tensor: Tensor) -> None:
        if tensor.shape[max(tensor.ndim - len(self.shape), 0) :] != self.shape:
            raise InvalidInputError(f"a mask of shape {tuple(self.shape)} cannot select from {tuple(tensor.shape)}.")

    def take(self, tensor: Tensor) -> Tensor:
        """Return the selected elements of `tensor`, detached.

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
            return tensor[(..., self._index_on(tensor.device)[0])]
        tensor, remaining = self._narrow(tensor)
        # The smallest fraction first, so that later selections copy less.
        for dim, indices in sorted(remaining.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
            tensor = tensor.index_select(dim, indices)
        return tensor

    @torch.no_grad()
    def put_(self, tensor: Tensor, values: Tensor) -> None:  # type: ignore[override]
        """Write `values`, shaped as `take` returns them, into `tensor` in place, casting to its dtype.

        Costs nothing when `values` is the view that `take` gave.
        """
        self._check(tensor)
        tensor, values = tensor.detach(), values.detach()
        if self.index is None:
            tensor[(..., self._index_on(tensor.device)[0])] = values.to(tensor.device, tensor.dtype)
            return
        target, remaining = self._narrow(tensor)
        if not remaining:
            same_memory = values.data_ptr() == target.data_ptr() and values.stride() == target.stride()
            if not (same_memory and values.shape == target.shape and values.dtype == target.dtype):
                target.copy_(values)
            return
        values = values.to(target.device, target.dtype)
        if len(remaining) == 1:
            ((dim, indices),) = remaining.items()
            target.index_copy_(dim, indices, values)
        else:
            target[index_sets.broadcast_indices(target.shape, remaining)] = values

    def to_bool(self) -> Tensor:
        """Return the mask as a boolean tensor on the CPU."""
        if self.index is None:
            assert self._dense is not None
            return self._dense.clone()
        dense = torch.zeros(self.shape, dtype=torch.bool)
        self.put_(dense, torch.ones(self.values_shape, dtype=torch.bool))
        return dense

    def _as_mask(self, other: object) -> Mask | None:
        """Return what another operand selects of this parameter; None where it is no mask of its shape."""
        if not isinstance(other, Mask):
            tensor = torch.as_tensor(other)
            if tensor.dtype != torch.bool or tuple(tensor.shape) != self.shape:
                return None
            return Mask.from_bool(tensor)
        if other.shape != self.shape:
            raise InvalidInputError(
                f"masks of shapes {tuple(self.shape)} and {tuple(other.shape)} belong to different parameters."
            )
        return other

    def __or__(self, other: Any) -> Any:
        b = self._as_mask(other)
        if b is None:
            return self.to_bool() | other
        if self.is_empty or b.is_empty:
            return b if self.is_empty else self
        if self.index is not None and b.index is not None:
            index = index_sets.union(self.shape, self.index, b.index)
            if index is not None:
                return Mask(self.shape, index, None)
        return Mask.from_bool(self.to_bool() | b.to_bool())

    __ror__ = __or__

    def __and__(self, other: Any) -> Any:
        b = self._as_mask(other)
        if b is None:
            return self.to_bool() & other
        if self.index is None or b.index is None:
            return b if self.is_whole else self if b.is_whole else Mask.from_bool(self.to_bool() & b.to_bool())
        return Mask._canonical(self.shape, index_sets.intersection(self.index, b.index))

    __rand__ = __and__

    def __xor__(self, other: Any) -> Any:
        b = self._as_mask(other)
        return self.to_bool() ^ other if b is None else (self - b) | (b - self)

    __rxor__ = __xor__
    # `mask |= other` gives the name another mask.
    __ior__, __iand__, __ixor__ = __or__, __and__, __xor__

    def __sub__(self, other: object) -> Any:
        b = self._as_mask(other)
        if b is None:
            return self.to_bool() & ~torch.as_tensor(other)
        num_shared = (self & b).num_elements
        if num_shared in (0, self.num_elements):
            return self if num_shared == 0 else Mask.empty(self.shape)
        if self.index is not None and b.index is not None:
            index = index_sets.difference(self.shape, self.index, b.index)
            if index is not None:
                return Mask(self.shape, index, None)
        return Mask.from_bool(self.to_bool() & ~b.to_bool())

    def __invert__(self) -> Mask:
        inverse: Mask = Mask.whole(self.shape) - self
        return inverse

    def _selects_same(self, other: Mask) -> bool:
        if self.shape != other.shape or self.num_elements != other.num_elements:
            return False
        # Equal selections are kept in the same form.
        if self._dense is not None and other._dense is not None:
            return torch.equal(self._dense, other._dense)
        if self.index is None or other.index is None:
            return False
        return all(map(index_sets.equal, self.index, other.index))

    def _with_truth(self, truth: bool) -> Mask:
        mask = Mask(self.shape, self.index, self._dense)
        mask._truth = truth
        return mask

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Mask):
            if self.shape != other.shape:
                return False
            return (~(self ^ other))._with_truth(self._selects_same(other))
        if isinstance(other, bool) and self._truth is not None:
            return (self if other else ~self)._with_truth(self._truth == other)
        return self.to_bool() == other

    def __ne__(self, other: object) -> Any:
        if isinstance(other, Mask):
            return self.shape != other.shape or (self ^ other)._with_truth(not self._selects_same(other))
        return self.to_bool() != other

    def __bool__(self) -> bool:
        return bool(self.to_bool()) if self._truth is None else self._truth

    def __hash__(self) -> int:
        return hash((self.shape, self.num_elements))

    def sum(self, *dims: Any, **options: Any) -> Tensor:
        """Return the number of selected elements, as `torch.Tensor.sum` does."""
        return self.to_bool().sum(*dims, **options) if dims or options else torch.tensor(self.num_elements)

    def any(self, *dims: Any, **options: Any) -> Tensor:
        """Return whether some element is selected, as `torch.Tensor.any` does."""
        return self.to_bool().any(*dims, **options) if dims or options else torch.tensor(not self.is_empty)

    def all(self, *dims: Any, **options: Any) -> Tensor:
        """Return whether every element is selected, as `torch.Tensor.all` does."""
        return self.to_bool().all(*dims, **options) if dims or options else torch.tensor(self.is_whole)

    def __copy__(self) -> Mask:
        return self

    def __deepcopy__(self, memo: object) -> Mask:
        return self
