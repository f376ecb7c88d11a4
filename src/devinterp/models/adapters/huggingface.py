"""HuggingFace models: causal language models, and encoders or encoder-decoders used as such."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

from devinterp.hookspecs import hookimpl
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure.types import Structure


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
        from devinterp.models.forward import logits_of

        options = _no_cache(model)
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
        from devinterp.models.forward import find_embedding

        name = find_embedding(model, lambda ids: self.logits(model, ids))
        if name is not None:
            return len(model.get_parameter(f"{name}.weight"))
        size = getattr(model.config, "vocab_size", None)
        return size if isinstance(size, int) else None

    def unembedding(self, model: nn.Module) -> str | None:
        """Return the name of the linear module whose output is the logits, or None where they are scaled or capped."""
        from devinterp.models.forward import find_unembedding

        return find_unembedding(model, lambda ids: self.logits(model, ids))

    def structure(self, model: nn.Module) -> Structure:
        """Return where the embeddings, layers, heads, MLPs and norms of `model` are, by probing it."""
        from devinterp.models.structure.detect import detect

        return detect(model, _probing_run(self, model))


def _no_cache(model: nn.Module) -> dict[str, Any]:
    from devinterp.models.forward import accepts, accepts_any

    options: dict[str, Any] = dict.fromkeys(accepts(model, "use_cache", "use_mems"), False)
    if accepts_any(model) and hasattr(model.config, "use_cache"):
        options["use_cache"] = False
    return options


def _probing_run(adapter: HuggingFaceAdapter, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return how to run `model` so that all of it runs: an encoder on several tokens, cross-attention on something."""
    import torch

    from devinterp.models.forward import accepts, device_of, evaluating, logits_of

    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return lambda ids: logits_of(model(input_ids=ids[:, :5], decoder_input_ids=ids, **_no_cache(model)), model)
    for name in accepts(model, "encoder_hidden_states", "cross_attention_states"):
        for width in (getattr(config, "cross_attention_hidden_size", None), getattr(config, "hidden_size", None)):
            if not isinstance(width, int):
                continue
            states = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(0))
            extra = {name: states.to(next(model.parameters()))}
            try:
                with torch.no_grad(), evaluating(model):
                    model(input_ids=torch.arange(1, 8, device=device_of(model))[None], **extra, **_no_cache(model))
            except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
                continue  # not a decoder with cross-attention, or one of another width
            return lambda ids, extra=extra: logits_of(  # type: ignore[misc]
                model(input_ids=ids, **extra, **_no_cache(model)), model
            )
    return lambda ids: adapter.logits(model, ids)


@hookimpl
def devinterp_model_adapters() -> Sequence[ModelAdapter]:
    """Return the adapter of HuggingFace models."""
    return [HuggingFaceAdapter()]
