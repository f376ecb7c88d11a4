"""The structure of a TransformerBridge, found on the HuggingFace model that it has wrapped in place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from devinterp.models.structure import Structure
from devinterp.models.structure.detect import detect


def structure(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Structure:
    """Return the structure of the wrapped model; the bridge gives its parameters the same names.

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
