r"""Problems whose learning coefficients are known, each a model, a data set and a loss for `devinterp.slt.sampling.sample`.

All are noiseless: targets are those of the model's own starting weights, and the data set is used whole in every step, so
that the loss is its expectation and least at the start, and what is measured is the sampler and the estimator alone. Models
start at the most singular point of their true set, where the local coefficient is the one of the theorems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.sampling.data.columns import Batch
from devinterp.sampling.losses.loss import LossFunction
from devinterp_bench import theory
from devinterp_bench.theory import Coefficient


@dataclass(frozen=True)
class Problem:
    """A model, a data set and a loss whose learning coefficient is known.

    Parameters
    ----------
    name, family : str
        Name of the problem, and of the kind of problem.
    truth : Coefficient
        The exact learning coefficient.
    model : callable
        Makes the model, at the weights to sample around.
    data : callable
        Makes the data set for a model: a tuple of tensors with the samples along their first dimension.
    loss_fn : callable
        ``loss_fn(model, batch)``, one loss for each sample.
    n_beta, localization : float
        Settings of the posterior.
    stiffness : float
        The largest second derivative of the loss where chains go; step sizes are set by it.
    """

    name: str
    family: str
    truth: Coefficient
    model: Callable[[], nn.Module]
    data: Callable[[nn.Module], tuple[Tensor, Tensor]]
    loss_fn: LossFunction
    n_beta: float
    localization: float
    stiffness: float

    @property
    def num_parameters(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.model().parameters())

    def lr(self, relative: float) -> float:
        r"""Return the step size :math:`\epsilon` for which :math:`\epsilon\, n\beta\, h_{max}` is `relative`."""
        return relative / (self.n_beta * self.stiffness)


class Linear(nn.Module):
    """A linear map without bias, at fixed weights.

    Parameters
    ----------
    weights : Tensor
        ``(output, input)``.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, output)``."""
        return x @ self.weights.mT


class Powers(nn.Module):
    """A product, or the list, of powers of parameters that start at zero.

    Parameters
    ----------
    exponents : sequence of int
        One for each parameter.
    multiply : bool
        Whether the output is the product of the powers, or one output for each.
    """

    def __init__(self, exponents: Sequence[int], *, multiply: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(len(exponents)))
        self.register_buffer("exponents", torch.tensor(exponents, dtype=torch.float32))
        self.exponent_list, self.multiply = tuple(exponents), multiply

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, output)``: the product, or each power, times the inputs ``(batch, 1)``."""
        powers = torch.stack([w**k for w, k in zip(self.weights.unbind(), self.exponent_list, strict=True)])
        return x * (powers.prod(0, keepdim=True) if self.multiply else powers)


class DeepLinear(nn.Module):
    """A linear network whose map is the identity of a given rank, each layer of that rank: the most singular weights.

    Parameters
    ----------
    widths : sequence of int
        Widths of the input, the hidden layers and the output.
    rank : int
        Rank of the map.
    """

    def __init__(self, widths: Sequence[int], rank: int) -> None:
        super().__init__()
        layers = [torch.eye(b, a) for a, b in pairwise(widths)]
        for layer in layers:
            layer[rank:] = 0
        self.layers = nn.ParameterList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, output)``."""
        for layer in self.layers:
            x = x @ layer.mT
        return x


class Tanh(nn.Module):
    """One tanh unit with a weight, a bias and an output weight: regular, because none is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, 1)``."""
        weight, bias, outer = self.weights.unbind()
        return torch.tanh(x * weight + bias) * outer


#: Variance of the Gaussian noise in the likelihood of `squared_error`. Learning coefficients do not depend on it; it keeps
#: gradients small next to the `eps` of RMSprop-SGLD, as those of a network's single weights are.
NOISE_VARIANCE = 10.0


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the squared error of each sample over twice the noise variance."""
    inputs, targets = batch
    errors: Tensor = model(inputs) - targets
    return errors.square().sum(-1) / (2 * NOISE_VARIANCE)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of each sample with a soft target; the least is that target's entropy."""
    inputs, targets = batch
    assert isinstance(targets, Tensor)
    return nn.functional.cross_entropy(model(inputs), targets, reduction="none")


def whitened(num_inputs: int) -> Callable[[nn.Module], tuple[Tensor, Tensor]]:
    """Return a function that makes inputs whose covariance is exactly the identity, with the model's outputs as targets."""
    generator = torch.Generator().manual_seed(num_inputs)
    num = 2 * num_inputs
    basis = torch.linalg.qr(torch.randn(num, num_inputs, generator=generator, dtype=torch.float64)).Q
    return _targets((basis * math.sqrt(num)).float())


def _targets(inputs: Tensor) -> Callable[[nn.Module], tuple[Tensor, Tensor]]:
    @torch.no_grad()
    def make(model: nn.Module) -> tuple[Tensor, Tensor]:
        return inputs, model(inputs)

    return make


def _soft_targets(inputs: Tensor) -> Callable[[nn.Module], tuple[Tensor, Tensor]]:
    @torch.no_grad()
    def make(model: nn.Module) -> tuple[Tensor, Tensor]:
        return inputs, torch.softmax(model(inputs), -1)

    return make


def deep_linear(widths: Sequence[int], rank: int) -> Problem:
    """Return a linear network; with three widths it is reduced-rank regression.

    Along directions in which the loss is flat, chains drift away from the initial weights to where second derivatives are
    larger. Deeper networks do so more, and get a stronger localization. At rank zero the loss is flat to first order in all
    directions, and chains have to drift.
    """
    two_layers, num_layers = len(widths) == 3, len(widths) - 1
    precision, localization, steepening = _posterior(num_layers, rank)
    truth = (
        theory.reduced_rank(widths[0], widths[1], widths[2], rank) if two_layers else theory.deep_linear(widths, rank)
    )
    return Problem(
        name=f"{'-'.join(map(str, widths))} rank {rank}",
        family="reduced-rank regression" if two_layers else "deep linear network",
        truth=truth,
        model=lambda: DeepLinear(widths, rank),
        data=whitened(widths[0]),
        loss_fn=squared_error,
        n_beta=precision * NOISE_VARIANCE,
        localization=localization,
        # At the start it is the number of layers, unless the rank is zero.
        stiffness=steepening * num_layers / NOISE_VARIANCE,
    )


def _posterior(num_layers: int, rank: int) -> tuple[float, float, float]:
    """Return ``n_beta`` over the noise variance, localization, and the growth of second derivatives where chains go."""
    if num_layers == 2 or not rank:
        return 300.0, 1.0, 1.5
    return (500.0, 2.0, 1.25) if num_layers == 3 else (500.0, 3.0, 2.5)


def powers(exponents: Sequence[int], *, multiply: bool) -> Problem:
    """Return a product or a sum of even powers of parameters."""
    letters = [f"w{n}^{2 * k}" for n, k in enumerate(exponents, 1)]
    # Estimates of products converge slowly in n_beta; with higher exponents chains reach equilibrium at a larger n_beta.
    precision = 10.0 ** (1 + 2 * min(exponents)) if multiply else 10_000.0
    # Where `precision` w^(2k) is one, the second derivative of w^(2k) / 2 is k (2k - 1) precision^(1/k - 1).
    typical = max(k * (2 * k - 1) * precision ** (1 / k - 1) for k in exponents) * (0.5 if multiply else 1.0)
    return Problem(
        name=(" " if multiply else " + ").join(letters),
        family="monomial" if multiply else "separable",
        truth=theory.monomial(exponents) if multiply else theory.separable(exponents),
        model=lambda: Powers(exponents, multiply=multiply),
        data=_targets(torch.ones(2, 1)),
        loss_fn=squared_error,
        n_beta=precision * NOISE_VARIANCE,
        localization=1.0,
        stiffness=typical / NOISE_VARIANCE,
    )


def linear_regression(num_parameters: int, spread: float) -> Problem:
    """Return linear regression on inputs whose largest variance is `spread` times the least."""
    inputs, _ = whitened(num_parameters)(Linear(torch.zeros(1, num_parameters)))
    variances = torch.logspace(0, -math.log10(spread), num_parameters)
    return Problem(
        name=f"linear regression, d={num_parameters}, condition {spread:g}",
        family="regular",
        truth=theory.regular(num_parameters),
        model=lambda: Linear(torch.linspace(-1, 1, num_parameters)[None]),
        data=_targets(inputs * variances.sqrt()),
        loss_fn=squared_error,
        n_beta=10_000.0 * NOISE_VARIANCE,
        localization=1.0,
        stiffness=1.0 / NOISE_VARIANCE,
    )


def nonlinear_regressions() -> list[Problem]:
    """Return regular models whose loss is not quadratic: soft-max regression, and a tanh unit."""
    points = torch.linspace(-2, 2, 16)[:, None]
    inputs = torch.cat([points, points**2 - 2, torch.ones_like(points)], 1)
    common: dict[str, Any] = {"family": "regular", "n_beta": 10_000.0, "localization": 1.0}
    # The logits of the first class are fixed at zero, or adding a number to all would change nothing.
    logistic = Problem(
        name="logistic regression, d=3",
        truth=theory.regular(3),
        model=lambda: TwoClasses(torch.tensor([[1.0, -0.5, 0.3]])),
        data=_soft_targets(inputs),
        loss_fn=cross_entropy,
        stiffness=0.5,
        **common,
    )
    tanh = Problem(
        name="tanh unit, d=3",
        truth=theory.regular(3),
        model=lambda: Tanh(),
        data=_targets(points),
        loss_fn=squared_error,
        stiffness=1.5 / NOISE_VARIANCE,
        **{**common, "n_beta": common["n_beta"] * NOISE_VARIANCE},
    )
    return [logistic, tanh]


class TwoClasses(Linear):
    """Logits of two classes, the first of them zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, 2)``."""
        logit = super().forward(x)
        return torch.cat([torch.zeros_like(logit), logit], -1)
