"""Decide whether a model in train mode computes what it would in eval mode: from what it does, not from the flag.

A model fresh from its configuration or from a training loop is in train mode. With no active dropout and no batch statistics
nothing in it is random, and its first layers are as constant as in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from devinterp.models.forward import evaluating
from devinterp.sampling.engines.equivalence import Computed, differences, tolerance_of

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def why_unlike_eval(model: nn.Module, run: Callable[[], Tensor]) -> str:
    """Return what makes a model in train mode differ from eval mode; empty where nothing does, as in eval mode.

    Call it where buffers and random generators are put back afterwards. Modes are as before.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    run : callable
        Computes losses of a batch with it.

    Returns
    -------
    str
        For people to read, after "in train mode".
    """
    if not any(module.training for module in model.modules()):
        return ""
    active = _active_modules(model)
    if active:
        return active
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    generators = _generator_states()
    first = run()
    if _generator_states() != generators:
        return "it draws random numbers"
    for name, buffer in model.named_buffers():
        if name not in buffers or buffers[name][0] is not buffer or not _same(buffer, buffers[name][1]):
            return f"a forward pass changes its buffer {name!r}"
    tolerance = tolerance_of(model, same_arithmetic=True)
    if not _difference(run(), first) <= tolerance:
        return "the same batch gives other losses the second time"
    with evaluating(model):
        difference = _difference(run(), first)
    return "" if difference <= tolerance else f"losses differ by {difference:.2g} from those in eval mode"


def _active_modules(model: nn.Module) -> str:
    """Return which dropout or batch statistics are active, naming the first; empty where none is."""
    for name, module in model.named_modules():
        if module.training and isinstance(module, _DROPOUT) and module.p > 0:
            return f"dropout is active ({name or type(module).__name__!r} drops {module.p:g} of its input)"
        if module.training and isinstance(module, _BATCH_NORM) and module.track_running_stats:
            return f"batch statistics are used ({name or type(module).__name__!r})"
    return ""


def _generator_states() -> tuple[bytes, ...]:
    """Return the states of torch's global generators, of every device in use."""
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += [generator.get_state() for generator in torch.cuda.default_generators]
    return tuple(state.cpu().numpy().tobytes() for state in states)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _difference(losses: Tensor, expected: Tensor) -> float:
    return differences(Computed([losses]), Computed([expected]))["losses"]
