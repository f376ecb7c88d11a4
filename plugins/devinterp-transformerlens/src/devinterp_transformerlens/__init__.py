"""Adapters of TransformerLens models; importing this package does not import TransformerLens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

from devinterp.hookspecs import hookimpl
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure import Structure


def _is_instance(model: object, module: str, name: str) -> bool:
    # An instance of the class exists only in a process that has imported its module.
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(model, kind)


class _TransformerLensAdapter(ModelAdapter):
    def logits(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return next-token logits of shape ``(batch, token, vocabulary)``; no token is prepended.

        TransformerLens counts positions from the attention mask itself: `position_ids` are not handed on.
        """
        from devinterp.models.forward import logits_of

        options = {} if attention_mask is None else {"attention_mask": attention_mask}
        return logits_of(model(input_ids, return_type="logits", **options), model)

    def vocab_size(self, model: nn.Module) -> int | None:
        """Return the size of the vocabulary that the configuration gives."""
        return int(model.cfg.d_vocab)  # type: ignore[union-attr, arg-type]


@final
class HookedTransformerAdapter(_TransformerLensAdapter):
    """Adapter of `transformer_lens.HookedTransformer` (TransformerLens up to 3.x)."""

    name: ClassVar[str] = "hooked_transformer"

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a ``HookedTransformer``."""
        return _is_instance(model, "transformer_lens.HookedTransformer", "HookedTransformer")

    def structure(self, model: nn.Module) -> Structure:
        """Return the structure, taken from the names of the model's parameters."""
        from devinterp_transformerlens.hooked import structure

        return structure(model)


@final
class TransformerBridgeAdapter(_TransformerLensAdapter):
    """Adapter of `transformer_lens.model_bridge.TransformerBridge` (TransformerLens 3.x and 4.x)."""

    name: ClassVar[str] = "transformer_bridge"

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a ``TransformerBridge``."""
        return _is_instance(model, "transformer_lens.model_bridge", "TransformerBridge")

    def structure(self, model: nn.Module) -> Structure:
        """Return the structure of the HuggingFace model that the bridge wraps, under the names of the bridge."""
        from devinterp_transformerlens.bridge import structure

        return structure(model, lambda ids: self.logits(model, ids))


@hookimpl
def devinterp_model_adapters() -> Sequence[ModelAdapter]:
    """Return the adapters of both generations of TransformerLens."""
    return [HookedTransformerAdapter(), TransformerBridgeAdapter()]
