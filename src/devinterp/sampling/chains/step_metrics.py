"""Per-step metrics: how large the parts of a step are, and how they point. The definitions are v2's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor

from devinterp.types import Transition

#: Norms of the parts of a step, the dot products between them, and the distance from the start before it.
NAMES = (
    "distance",
    "unscaled_grad",
    "scaled_grad",
    "localization",
    "weight_decay",
    "noise",
    "dot_grad_prior",
    "dot_grad_noise",
    "dot_prior_noise",
)
#: A metric that is recorded only when named, because it costs a second gradient: see `devinterp.sampling.chains.mala`.
MALA = "mala_acceptance"


@torch.no_grad()
def step_metrics(
    transition: Transition,
    values: list[Tensor],
    gradients: list[Tensor],
    origin: list[Tensor],
    state: dict[str, list[Tensor]],
    noise: list[Tensor],
    *,
    scale: float,
    names: Collection[str] = NAMES,
) -> dict[str, Tensor]:
    r"""Return the metrics of the step a kernel is about to take, each of shape ``(chain,)``.

    Parameters
    ----------
    transition : Transition
        The kernel; its ``terms`` are measured.
    values, gradients, origin, state, noise
        As for `Transition.terms`.
    scale : float
        :math:`(\epsilon/2)\, n\beta`, which turns a gradient into an unpreconditioned drift.
    names : collection of str
        Which of `NAMES` to compute.

    Returns
    -------
    dict of str to Tensor
        By name. Dot products are between the gradient and prior *as descended* and the noise *as added*.
    """
    terms = transition.terms(values, gradients, origin, state, noise)
    empty = [torch.zeros_like(value) for value in values]
    gradient, pull = terms.get("gradient", empty), terms.get("localization", empty)
    decay, kick = terms.get("weight_decay", empty), terms.get("noise", empty)
    prior = [a + b for a, b in zip(pull, decay, strict=True)]
    definitions: dict[str, Callable[[], Tensor]] = {
        "distance": lambda: _norm(w - w0 for w, w0 in zip(values, origin, strict=True)),
        "unscaled_grad": lambda: scale * _norm(gradients),
        "scaled_grad": lambda: _norm(gradient),
        "localization": lambda: _norm(pull),
        "weight_decay": lambda: _norm(decay),
        "noise": lambda: _norm(kick),
        "dot_grad_prior": lambda: _dot(gradient, prior),
        "dot_grad_noise": lambda: -_dot(gradient, kick),
        "dot_prior_noise": lambda: -_dot(prior, kick),
    }
    return {name: compute() for name, compute in definitions.items() if name in names}


def _dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Return the dot product over all parameters, chain by chain."""
    return torch.stack([(x * y).reshape(len(x), -1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def _norm(a: Iterable[Tensor]) -> Tensor:
    tensors = list(a)
    return _dot(tensors, tensors).sqrt()
