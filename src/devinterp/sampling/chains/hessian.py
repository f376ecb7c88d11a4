r"""Products of the Hessian of the loss with vectors, from gradients alone.

They are differences of gradients on the same minibatches, :math:`H v \approx (g(w + r v) - g(w - r v)) / 2r`: every way of
computing losses has gradients, few have second ones (fused attention and chunked cross-entropies do not). With r large they are
also what is wanted of a loss that is not quadratic: the second derivative averaged over the way that chains go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.plan import ChainBatch, engines_of
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.spec import RunSpec

#: Minibatches over which a product is averaged.
NUM_BATCHES = 2
#: Gradients of minibatches that a product takes.
GRADIENTS_OF_PRODUCT = 2 * NUM_BATCHES

#: A vector of sampled weights: a tensor for each parameter, in the shape of `SampledWeights.values` of one chain.
Direction: TypeAlias = list[Tensor]


@contextmanager
def one_chain(spec: RunSpec, restriction: str, shared: SharedPrefix) -> Iterator[Engine]:
    """Give an engine of one chain under a restriction; its weights are at w0 afterwards."""
    batches = [ChainBatch((restriction,), (0,), False, "curvature")]
    with closing(engines_of(spec, batches, shared)) as engines:  # type: ignore[type-var]
        engine, _ = next(engines)
        try:
            yield engine
        finally:
            engine.weights.reset()


@final
class HessianProducts:
    """Gradients of fixed minibatches at weights around a point, and their differences.

    Parameters
    ----------
    engine : Engine
        Of one chain.
    centre : sequence of numpy.ndarray, optional
        The point: the sampled elements of each parameter. Default: w0.
    """

    def __init__(self, engine: Engine, centre: Sequence[np.ndarray] | None = None) -> None:
        self._engine, self.weights = engine, engine.weights
        self.rows = engine.spec.schedule.steps(0)
        initial = engine.weights.initial_weights
        self._centre = (
            initial
            if centre is None
            else [
                torch.as_tensor(part).to(each).reshape(each.shape) for part, each in zip(centre, initial, strict=True)
            ]
        )
        self.num_gradients = 0

    def gradient(self, number: int) -> Direction:
        """Return the gradient of the minibatch of a step at the present weights."""
        self.num_gradients += 1
        self._engine.add_gradient([self.rows[number]])
        return self.weights.gradients()

    def product(self, direction: Direction, radius: float) -> Direction:
        """Return the Hessian times a unit vector, averaged over minibatches and over the way of a radius to either side."""
        total = [torch.zeros_like(each) for each in direction]
        num = min(NUM_BATCHES, len(self.rows))
        for sign in (1.0, -1.0):
            self._move(direction, sign * radius)
            for number in range(num):
                for part, gradient in zip(total, self.gradient(number), strict=True):
                    part.add_(gradient, alpha=sign / (2 * radius * num))
        self.weights.reset()
        return total

    @torch.no_grad()
    def _move(self, direction: Direction, length: float) -> None:
        for value, centre, part in zip(self.weights.values, self._centre, direction, strict=True):
            torch.add(centre, part, alpha=length, out=value)
        self.weights.store()

    def small_radius(self) -> float:
        """Return how far to go for a derivative at the point: the square root of the precision of weights."""
        coarsest = max(torch.finfo(each.dtype).eps for each in self.weights.parameters)
        return math.sqrt(coarsest) * max(norm(self.weights.initial_weights), 1.0)

    def random(self, generator: torch.Generator) -> Direction:
        """Return a random unit vector; the generator is of the CPU, so that it is the same on every device."""
        draws = [torch.randn(each.shape, generator=generator).to(each) for each in self.weights.initial_weights]
        size = norm(draws)
        return [each / size for each in draws]


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the dot product of two vectors."""
    return math.fsum(float((a * b).sum()) for a, b in zip(one, other, strict=True))


def norm(one: Sequence[Tensor]) -> float:
    """Return the length of a vector."""
    return math.sqrt(dot(one, one))
