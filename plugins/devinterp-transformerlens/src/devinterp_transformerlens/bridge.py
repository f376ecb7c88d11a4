"""The structure of a TransformerBridge, which is that of the HuggingFace model it wraps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from devinterp.models.structure import Structure, detect


def structure(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Structure:
    """Return the structure of the wrapped model, whose parameters have the same names in the bridge.

    Parameters
    ----------
    model : transformer_lens.model_bridge.TransformerBridge
        The bridge.
    run : callable
        ``run(input_ids)`` returns its logits.
    """
    wrapped = model.original_model
    assert isinstance(wrapped, nn.Module)
    return detect(wrapped, run)
