"""Per-step metrics: how large the parts of a step are, and how they point. The definitions are v2's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import Tensor

from devinterp.schema import STEP_METRICS
from devinterp.types import StepInputs, Transition


@torch.no_grad()
def step_metrics(
    transition: Transition, step: StepInputs, *, scale: float, names: Collection[str] = STEP_METRICS
) -> dict[str, Tensor]:
    r"""Return the metrics of the step a kernel is about to take, each of shape ``(chain,)``.

    Parameters
    ----------
    transition : Transition
        The kernel; its ``terms`` are measured.
    step : StepInputs
        The step, with its noise as a list.
    scale : float
        :math:`(\epsilon/2)\, n\beta`, which turns a gradient into an unpreconditioned drift.
    names : collection of str
        Which of `devinterp.schema.STEP_METRICS` to compute.

    Returns
    -------
    dict of str to Tensor
        By name. Dot products are between the gradient and prior *as descended* and the noise *as added*.
    """
    terms = transition.terms(step)
    empty = [torch.zeros_like(value) for value in step.values]
    gradient, pull = terms.get("gradient", empty), terms.get("localization", empty)
    decay, kick = terms.get("weight_decay", empty), terms.get("noise", empty)
    prior = [a + b for a, b in zip(pull, decay, strict=True)]
    definitions: dict[str, Callable[[], Tensor]] = {
        "distance": lambda: _norm(w - w0 for w, w0 in zip(step.values, step.initial_weights, strict=True)),
        "unscaled_grad": lambda: scale * _norm(step.gradients),
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
