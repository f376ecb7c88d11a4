"""Measure curvature and gradient noise at w0, with gradients alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from devinterp.calibration.measured import Measured
from devinterp.sampling.chains.hessian import Direction, HessianProducts, dot, norm, one_chain
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.spec import RunSpec

_MOST_ITERATIONS, _ITERATIONS_AT_CHAINS, _CONVERGED = 20, 10, 0.02
_THERMAL_ITERATIONS, _DEVIATIONS = 6, 3.0


def curvature_at(spec: RunSpec, weights: Mapping[int, Sequence[Sequence[np.ndarray]]]) -> tuple[dict[str, float], int]:
    """Return the largest second derivative of the loss at some weights, and how many gradients that took.

    Parameters
    ----------
    spec : RunSpec
        As for `measure`.
    weights : mapping of int to sequence of sequence of numpy.ndarray
        By the number of a restriction, several points: the sampled elements of each of its parameters.

    Returns
    -------
    curvatures : dict of str to float
        By restriction, the largest of its points.
    num_gradients : int
        Gradients of minibatches.
    """
    shared, curvatures, num_gradients = SharedPrefix(), {}, 0
    for number, name in enumerate(spec.restrictions):
        with one_chain(spec, name, shared) as engine:
            largest = 0.0
            for point in weights[number]:
                probe = _Probe(engine, seed=spec.settings.init_seed, centre=point)
                largest = max(largest, probe.largest(_ITERATIONS_AT_CHAINS)[0])
                num_gradients += probe.num_gradients
            curvatures[name] = largest
    return curvatures, num_gradients


def measure(spec: RunSpec, n_betas: Sequence[float], *, checkpoint: str = "") -> list[Measured]:
    """Measure every restriction of a run at w0.

    Parameters
    ----------
    spec : RunSpec
        A run with an even number of steps, whose minibatches are used; its model must be at w0, and is afterwards.
    n_betas : sequence of float
        Inverse temperatures for which chains' ways are measured.
    checkpoint : str, optional
        Label of the model.
    """
    shared, results = SharedPrefix(), []
    for name in spec.restrictions:
        with one_chain(spec, name, shared) as engine:
            results.append(_Probe(engine, seed=spec.settings.init_seed).measured(n_betas, checkpoint, name))
    return results


class _Probe:
    """Gradients of fixed minibatches at weights around a point: w0, where no other is given."""

    def __init__(self, engine: Engine, *, seed: int, centre: Sequence[np.ndarray] | None = None) -> None:
        self._products, self._weights = HessianProducts(engine, centre), engine.weights
        self._batch_size = len(self._products.rows[0])
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def num_gradients(self) -> int:
        """Return how many gradients of minibatches were taken."""
        return self._products.num_gradients

    def measured(self, n_betas: Sequence[float], checkpoint: str, restriction: str) -> Measured:
        """Return all measurements."""
        h_max, stiffest = self.largest(_MOST_ITERATIONS)
        curvatures = {float(n_beta): self._thermal(float(n_beta), h_max, stiffest) for n_beta in n_betas}
        noise, noise_along, square = self._noise(stiffest)
        num = sum(each.numel() for each in self._weights.initial_weights)
        return Measured(
            checkpoint, restriction, num, h_max, curvatures, noise / num, noise_along, square, self.num_gradients
        )

    def largest(self, most_iterations: int) -> tuple[float, Direction]:
        """Return the largest second derivative at the point and its direction, by power iteration.

        That finds the eigenvalue of the largest size; where it is below zero, it is subtracted and another one is looked for.
        """
        radius = self._products.small_radius()
        value, direction = self._power(radius, 0.0, most_iterations)
        if value < 0:
            shifted, direction = self._power(radius, -value, most_iterations)
            value += shifted
        return value, direction

    def _power(self, radius: float, shift: float, most_iterations: int) -> tuple[float, Direction]:
        direction, before = self._products.random(self._generator), math.inf
        value = 0.0
        for _ in range(most_iterations):
            product = self._products.product(direction, radius)
            for part, own in zip(product, direction, strict=True):
                part.add_(own, alpha=shift)
            value, size = dot(direction, product), norm(product)
            if not 0 < size < math.inf:
                return value, direction
            direction = [part / size for part in product]
            if abs(value - before) <= _CONVERGED * abs(value - shift):
                break
            before = value
        return value, direction

    def _thermal(self, n_beta: float, h_max: float, direction: Direction) -> float:
        """Return the largest mean second derivative over some standard deviations of the posterior to either side.

        The deviation depends on the curvature: a fixed point of both, found by geometric means because of a loss that grows
        like a power each alone would go to and fro.
        """
        h = max(h_max, dot(direction, self._products.product(direction, self._products.small_radius())), 1e-12)
        if not n_beta:
            return h
        for _ in range(_THERMAL_ITERATIONS - 1):
            product = self._products.product(direction, _DEVIATIONS / math.sqrt(n_beta * h))
            value, size = dot(direction, product), norm(product)
            if not math.isfinite(size):
                h *= 10.0  # the way leads to where the loss is not finite
                continue
            if value <= 0 or not size:
                break
            h = math.sqrt(h * value)
            direction = [part / size for part in product]
        return h

    def _noise(self, stiffest: Direction) -> tuple[float, float, float]:
        """Return the variance of one row's gradient, summed over weights and along a direction, and the squared gradient."""
        total = along = square = 0.0
        for first in range(0, len(self._products.rows) - 1, 2):
            one, other = self._products.gradient(first), self._products.gradient(first + 1)
            difference = [a - b for a, b in zip(one, other, strict=True)]
            total += dot(difference, difference) * self._batch_size / 2
            along += dot(difference, stiffest) ** 2 * self._batch_size / 2
            square += dot(one, other)
        num_pairs = len(self._products.rows) // 2
        return total / num_pairs, along / num_pairs, square / num_pairs
