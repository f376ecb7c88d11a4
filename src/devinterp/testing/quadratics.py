"""Many chains of a kernel on a quadratic loss, where the stationary law of most kernels is known exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from devinterp.types import StepInputs, Target, Transition

Tensors = list[Tensor]


@dataclass(frozen=True)
class Quadratic:
    r"""The loss :math:`L(w) = \tfrac12 \sum_i h_i (w_i - m_i)^2` around initial weights that are not its minimum.

    Parameters
    ----------
    initial_weights, minima, curvatures : list of Tensor
        :math:`w_0`, :math:`m` and :math:`h`, one tensor of shape ``(1, *shape)`` for each parameter.
    """

    initial_weights: Tensors
    minima: Tensors
    curvatures: Tensors

    def start(self, num_chains: int) -> Tensors:
        """Return the values of that many chains at the initial weights, ``(chain, *shape)`` each."""
        return [w.expand(num_chains, *w.shape[1:]).clone() for w in self.initial_weights]

    def mean_and_curvature(self, target: Target) -> tuple[Tensor, Tensor]:
        """Return where the potential is least and its second derivatives, ``(coordinate,)`` each, over all parameters."""
        h, minimum, w0 = (flatten(each)[0] for each in (self.curvatures, self.minima, self.initial_weights))
        curvature = target.n_beta * h + target.localization + target.weight_decay
        return (target.n_beta * h * minimum + target.localization * w0) / curvature, curvature

    def steps(
        self,
        transition: Transition,
        values: Tensors,
        state: dict[str, Tensors],
        num_steps: int,
        *,
        seed: int = 0,
        gradient_noise: float = 0.0,
    ) -> Iterator[None]:
        """Move `values` and `state` step by step, in place.

        Parameters
        ----------
        transition : Transition
            The kernel with its settings.
        values : list of Tensor
            Weights, ``(chain, *shape)`` each.
        state : dict of str to list of Tensor
            State of the kernel.
        num_steps : int
            How many steps to take.
        seed : int, default: 0
            Seed of all noise.
        gradient_noise : float, default: 0.0
            Standard deviation of the noise of minibatches: what is added to each gradient of the loss.

        Yields
        ------
        None
            After every step.
        """
        initial_weights = [w.expand_as(value) for w, value in zip(self.initial_weights, values, strict=True)]
        generator = torch.Generator().manual_seed(seed)

        def draw(value: Tensor) -> Tensor:
            return torch.randn(value.shape, generator=generator, dtype=value.dtype)

        for _ in range(num_steps):
            gradients = [h * (w - m) for h, w, m in zip(self.curvatures, values, self.minima, strict=True)]
            if gradient_noise:
                gradients = [gradient.add_(draw(gradient), alpha=gradient_noise) for gradient in gradients]
            noise = (draw(value) for value in values)
            transition.update(StepInputs(values, gradients, initial_weights, state, noise))
            yield


def random_quadratic(shapes: tuple[tuple[int, ...], ...]) -> Quadratic:
    """Return a quadratic of parameters of given shapes, always the same one, with curvatures between 0.5 and 4."""
    generator = torch.Generator().manual_seed(1)
    initial_weights, minima, curvatures = [], [], []
    for shape in shapes:
        initial_weights.append(torch.randn((1, *shape), generator=generator, dtype=torch.float64))
        minima.append(initial_weights[-1] + 0.3 * torch.randn((1, *shape), generator=generator, dtype=torch.float64))
        curvatures.append(0.5 + 3.5 * torch.rand((1, *shape), generator=generator, dtype=torch.float64))
    return Quadratic(initial_weights, minima, curvatures)


def time_averages(
    transition: Transition,
    quadratic: Quadratic,
    target: Target,
    *,
    num_chains: int,
    num_burnin_steps: int,
    num_steps: int,
    seed: int = 0,
    gradient_noise: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return averages over the steps of each chain of the deviation of its weights from their mean, and of its square.

    Chains are independent, so that the spread of these averages between chains gives the Monte Carlo standard error of
    their mean, however slowly a chain moves.

    Parameters
    ----------
    transition : Transition
        The kernel with its settings.
    quadratic : Quadratic
        The loss.
    target : Target
        The posterior the kernel was built for.
    num_chains : int
        Independent chains.
    num_burnin_steps, num_steps : int
        Steps that are left out, and steps that are averaged.
    seed : int, default: 0
        Seed of all noise.
    gradient_noise : float, default: 0.0
        Standard deviation of the noise of minibatches.

    Returns
    -------
    deviations : Tensor
        ``(chain, coordinate)``.
    squares : Tensor
        ``(chain, coordinate)``.
    """
    values = quadratic.start(num_chains)
    state = transition.init(values)
    mean, _ = quadratic.mean_and_curvature(target)
    sums = torch.zeros(2, num_chains, len(mean), dtype=torch.float64)
    steps = quadratic.steps(
        transition, values, state, num_burnin_steps + num_steps, seed=seed, gradient_noise=gradient_noise
    )
    for step, _ in enumerate(steps):
        if step >= num_burnin_steps:
            deviation = flatten(values).sub_(mean)
            sums[0] += deviation
            sums[1].addcmul_(deviation, deviation)
    deviations, squares = sums / num_steps
    return deviations, squares


def flatten(tensors: Tensors) -> Tensor:
    """Return all parameters side by side, ``(chain, coordinate)``."""
    return torch.cat([tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None] for tensor in tensors], dim=1)
