"""Plain torch modules that map token ids to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure import Structure


@final
class TorchModuleAdapter(ModelAdapter):
    """Adapter of plain modules: ``model(input_ids)`` returns logits, or an object or mapping with ``logits``."""

    name: ClassVar[str] = "torch"
    fallback: ClassVar[bool] = True

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a `torch.nn.Module`."""
        import torch

        return isinstance(model, torch.nn.Module)

    def logits(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return next-token logits of shape ``(batch, token, vocabulary)``.

        Raises
        ------
        InvalidInputError
            The model returns no logits, or tokens are masked and its ``forward`` takes no ``attention_mask``.
        """
        from devinterp.models.forward import accepted_parameters, accepts, logits_of

        if attention_mask is not None and accepted_parameters(model, "attention_mask"):
            told = position_ids is not None and accepts(model, "position_ids")
            options = {"position_ids": position_ids} if told else {}
            return logits_of(model(input_ids, attention_mask=attention_mask, **options), model)
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            raise InvalidInputError(
                f"tokens are masked, but {type(model).__name__}.forward takes no `attention_mask`: add that parameter, or "
                "pass sequences of one length."
            )
        return logits_of(model(input_ids), model)

    def vocab_size(self, model: nn.Module) -> int | None:
        """Return the number of rows of the embedding that looks up the token ids; None where no embedding does."""
        from devinterp.models.forward import find_embedding

        name = find_embedding(model, lambda ids: self.logits(model, ids))
        return None if name is None else len(model.get_parameter(f"{name}.weight"))

    def structure(self, model: nn.Module) -> Structure:
        """Return the masks of the embeddings, layers, heads, MLPs and norms of `model`, found by running it."""
        from devinterp.models.structure import detect

        return detect(model, model)


@hookimpl
def devinterp_model_adapters() -> Sequence[ModelAdapter]:
    """Return the adapter of plain torch modules, used where no other adapter matches."""
    return [TorchModuleAdapter()]
