"""HuggingFace models: causal language models, and encoders or encoder-decoders used as such."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from devinterp.models.structure import Structure


@final
class HuggingFaceAdapter(ModelAdapter):
    """Adapter of every ``transformers.PreTrainedModel``."""

    name: ClassVar[str] = "huggingface"

    def matches(self, model: nn.Module) -> bool:
        """Say whether `model` is a ``transformers.PreTrainedModel``; imports nothing."""
        # An instance of that class exists only in a process that has imported its module.
        modeling = sys.modules.get("transformers.modeling_utils")
        return modeling is not None and isinstance(model, modeling.PreTrainedModel)

    def logits(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Return next-token logits of shape ``(batch, token, vocabulary)``.

        No key/value cache is built. The decoder of an encoder-decoder model gets the whole sequence; the encoder gets the
        first token only: every position attends to the encoder's output, so any other token would leak into the
        prediction of itself.

        Raises
        ------
        InvalidInputError
            The model predicts several streams of tokens at once.
        """
        from devinterp.models.forward import logits_of

        if (streams := _num_streams(model)) > 1:
            raise InvalidInputError(
                f"{type(model).__name__} reads and predicts {streams} codebooks at once, so that one sequence of tokens is no "
                "input for it: pass `loss_fn=`, and rows of shape (codebook, token) as another column than `input_ids`."
            )
        return logits_of(_output(model, input_ids, attention_mask, position_ids), model)

    def vocab_size(self, model: nn.Module) -> int | None:
        """Return the number of rows of the token embedding, else ``config.vocab_size``, else None."""
        from devinterp.models.forward import find_embedding

        name = find_embedding(model, lambda ids: self.logits(model, ids))
        if name is not None:
            return len(model.get_parameter(f"{name}.weight"))
        size = getattr(model.config, "vocab_size", None)
        return size if isinstance(size, int) else None

    def structure(self, model: nn.Module) -> Structure:
        """Return the masks of the embeddings, layers, heads, MLPs and norms of `model`, found by running it."""
        from devinterp.models.structure import detect

        return detect(model, complete_forward(model))


def _output(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Any:
    """Return what a model gives for token ids."""
    from devinterp.models.forward import accepts

    prefix = "decoder_" if getattr(model.config, "is_encoder_decoder", False) else ""
    input_ids = input_ids.repeat_interleave(_num_streams(model), 0)
    options = {"input_ids": input_ids[:, :1], **_no_cache(model), f"{prefix}input_ids": input_ids}
    if attention_mask is not None:
        options[f"{prefix}attention_mask"] = attention_mask.long()  # some models subtract it from one
    if position_ids is not None and accepts(model, f"{prefix}position_ids"):
        options[f"{prefix}position_ids"] = position_ids
    return model(**options)


def _num_streams(model: nn.Module) -> int:
    """Return how many rows of tokens make one sequence: for Musicgen's decoders one for each codebook."""
    named = type(model).__name__.startswith("Musicgen")
    return int(getattr(model.config, "num_codebooks", 1)) if named else 1


def _no_cache(model: nn.Module) -> dict[str, Any]:
    from devinterp.models.forward import accepted_parameters, accepts_any_keyword

    options: dict[str, Any] = dict.fromkeys(accepted_parameters(model, "use_cache", "use_mems"), False)
    if accepts_any_keyword(model) and hasattr(model.config, "use_cache"):
        options["use_cache"] = False
    return options


def complete_forward(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return a function of token ids that runs every module of `model`, for detecting its structure.

    Unlike in `HuggingFaceAdapter.logits`, an encoder gets five tokens, and cross-attention of a model without an encoder
    gets random hidden states.
    """
    import torch

    from devinterp.models.forward import accepted_parameters, device_of, evaluating

    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return lambda ids: model(input_ids=ids[:, :5], decoder_input_ids=ids, **_no_cache(model))
    for name in accepted_parameters(model, "encoder_hidden_states", "cross_attention_states"):
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
            return lambda ids, extra=extra: model(input_ids=ids, **extra, **_no_cache(model))  # type: ignore[misc]
    return lambda ids: _output(model, ids)


@hookimpl
def devinterp_model_adapters() -> Sequence[ModelAdapter]:
    """Return the adapter of HuggingFace models."""
    return [HuggingFaceAdapter()]
