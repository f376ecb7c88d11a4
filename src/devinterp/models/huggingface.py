"""HuggingFace models: causal language models, and encoders or encoder-decoders used as such."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

from devinterp.hookspecs import hookimpl
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure import Structure


@final
class HuggingFaceAdapter(ModelAdapter):
    """Adapter of every `transformers.PreTrainedModel`."""

    name: ClassVar[str] = "huggingface"

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a `transformers.PreTrainedModel`; imports nothing."""
        # A model of that class exists only where its module has been imported.
        modeling = sys.modules.get("transformers.modeling_utils")
        return modeling is not None and isinstance(model, modeling.PreTrainedModel)

    def logits(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return next-token logits of shape ``(batch, token, vocabulary)``.

        No key/value cache is built. An encoder-decoder reads the sequence in its decoder; its encoder gets the first
        token only, which every prediction may see, so that no later token leaks into the prediction of itself.
        """
        from devinterp.models.running import accepts, logits_of

        options: dict[str, object] = dict.fromkeys(accepts(model, "use_cache", "use_mems"), False)
        if getattr(model.config, "is_encoder_decoder", False):
            options["decoder_input_ids"] = input_ids
            if attention_mask is not None:
                options["decoder_attention_mask"] = attention_mask
            return logits_of(model(input_ids=input_ids[:, :1], **options), model)
        if attention_mask is not None:
            options["attention_mask"] = attention_mask
        return logits_of(model(input_ids=input_ids, **options), model)

    def vocab_size(self, model: nn.Module) -> int | None:
        """Return the number of rows of the token embedding, or what the configuration says."""
        from devinterp.models.running import find_embedding

        name = find_embedding(model, lambda ids: self.logits(model, ids))
        if name is not None:
            return len(model.get_parameter(f"{name}.weight"))
        size = getattr(model.config, "vocab_size", None)
        return size if isinstance(size, int) else None

    def unembedding(self, model: nn.Module) -> str | None:
        """Return the name of the linear module whose output is the logits, or None where they are scaled or capped."""
        from devinterp.models.running import find_unembedding

        return find_unembedding(model, lambda ids: self.logits(model, ids))

    def structure(self, model: nn.Module) -> Structure:
        """Return where the embeddings, layers, heads, MLPs and norms of `model` are, by probing it."""
        from devinterp.models.detection import detect

        return detect(model, lambda ids: self.logits(model, ids))


@hookimpl
def devinterp_model_adapters() -> Sequence[ModelAdapter]:
    """Return the adapter of HuggingFace models."""
    return [HuggingFaceAdapter()]
