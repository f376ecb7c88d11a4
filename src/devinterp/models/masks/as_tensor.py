"""What makes a mask a boolean tensor wherever torch, numpy or a script expects one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from devinterp.errors import InvalidInputError

#: Operators that change what is left of them, as Python calls them.
_IN_PLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift")}


class LazyBoolTensor(Tensor):
    """A boolean tensor that is built each time torch needs its elements; it cannot be changed in place."""

    @staticmethod
    def __new__(cls, shape: Any, *_: Any) -> Any:
        """Return a tensor that has a shape and no memory."""
        return Tensor._make_wrapper_subclass(cls, tuple(shape), dtype=torch.bool)

    @abstractmethod
    def to_bool(self) -> Tensor:
        """Return a boolean tensor."""

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Always ``torch.bool``."""
        return torch.bool

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Always the CPU."""
        return torch.device("cpu")

    def __setitem__(self, item: Any, value: Any) -> NoReturn:
        refuse_change()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.to_bool().numpy(), dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self.to_bool().__dlpack__(**options)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        changes = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        if changes and args and isinstance(args[0], LazyBoolTensor):
            refuse_change()
        return _with_tensors(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Where torch does not ask `__torch_function__`: a mask as an index, or made into a tensor.
        return _with_tensors(func, args, kwargs)


def refuse_change() -> NoReturn:
    """Raise, because a change of the tensor that stands for a mask would be lost."""
    raise InvalidInputError(
        "a mask cannot be changed in place: take a tensor, `mask = masks[name].clone()`, change that, and put it back, "
        "`masks[name] = mask`."
    )


def _with_tensors(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    args, kwargs = tree_map(lambda x: x.to_bool() if isinstance(x, LazyBoolTensor) else x, (args, kwargs or {}))
    return func(*args, **kwargs)
