"""A minibatch of token ids that is a tensor and answers ``["input_ids"]``: evaluations are written for either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class TokenBatch(Tensor):
    """Token ids ``(batch, token)``, also by their name, beside their attention mask if they have one."""

    #: Results of operations are plain tensors.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    _mask: Tensor | None

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor | None) -> TokenBatch:
        """Return the batch."""
        batch: TokenBatch = ids.as_subclass(cls)
        batch._mask = mask
        return batch

    def _columns(self) -> dict[str, Tensor]:
        columns = {"input_ids": self.as_subclass(Tensor)}
        return columns if self._mask is None else {**columns, "attention_mask": self._mask}

    def __getitem__(self, item: Any) -> Tensor:
        return self._columns()[item] if isinstance(item, str) else self.as_subclass(Tensor)[item]

    def __contains__(self, item: Any) -> bool:
        return item in self._columns() if isinstance(item, str) else item in self.as_subclass(Tensor)

    def keys(self) -> Iterator[str]:
        """Return the names of the columns."""
        return iter(self._columns())

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Return the columns with their names."""
        return iter(self._columns().items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or the default where there is none."""
        return self._columns().get(name, default)
