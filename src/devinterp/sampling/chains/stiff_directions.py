r"""The directions in which the loss at w0 curves most, along which a run's temperature is recorded.

They are found by orthogonal (block power) iteration [1]_ with products of the Hessian, and turned into its Ritz vectors at the
end. That a temperature along one of them is right does not need a converged one: :math:`\mathrm{E}[(u \cdot (w - w_0))
(u \cdot \nabla U)] = 1` holds for every fixed unit vector u.

References
----------
.. [1] G. H. Golub, C. F. Van Loan. Matrix Computations (2013), section 8.2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.hessian import (
    GRADIENTS_OF_PRODUCT,
    Direction,
    HessianProducts,
    dot,
    norm,
    one_chain,
)
from devinterp.sampling.chains.recordings import undisturbed
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.spec import RunSpec, StiffDirections

_ITERATIONS = 10
#: Relative size of what differences of gradients leave of a product that is zero.
_ROUNDING = 1e-3
#: Gradients of minibatches for each direction of each restriction.
NUM_GRADIENTS = (_ITERATIONS + 1) * GRADIENTS_OF_PRODUCT


def with_stiff_directions(spec: RunSpec, *, iterate: bool = True) -> RunSpec:
    """Return a run that has the directions which it asks for, found where it has none yet.

    Parameters
    ----------
    spec : RunSpec
        The run; its model must be at w0, and is afterwards.
    iterate : bool, default: True
        Whether to look for the stiffest ones; else they are random, where only their sizes are wanted.

    Raises
    ------
    InvalidInputError
        If the gradient near w0 is not finite.
    """
    if spec.directions.keys() == spec.restrictions.keys() or not spec.num_directions:
        return spec
    shared = SharedPrefix()
    with undisturbed(spec.model):
        found = {name: _of_restriction(spec, name, shared, iterate=iterate) for name in spec.restrictions}
    return replace(spec, directions=found)


def _of_restriction(spec: RunSpec, name: str, shared: SharedPrefix, *, iterate: bool) -> StiffDirections:
    wanted = spec.num_directions
    num = min(wanted, spec.restrictions[name].num_elements)
    with one_chain(spec, name, shared) as engine:
        products = HessianProducts(engine)
        generator = torch.Generator().manual_seed(spec.settings.init_seed)
        basis = _orthonormal([products.random(generator) for _ in range(num)])
        curvatures = np.full(num, np.nan)
        if iterate:
            basis, curvatures = _iterated(products, basis, name)
    missing = [(0, wanted - num)]
    vectors = []
    for parts in zip(*basis, strict=True):
        stacked = torch.cat([part.reshape(1, -1) for part in parts]).cpu()
        absent = stacked.new_full((wanted - num, stacked.shape[1]), torch.nan)
        vectors.append(torch.cat([stacked, absent]))
    return StiffDirections(np.pad(curvatures, missing, constant_values=np.nan), tuple(vectors))


def _iterated(products: HessianProducts, basis: list[Direction], name: str) -> tuple[list[Direction], np.ndarray]:
    """Return the Ritz vectors of a basis after some iterations, the stiffest first, and second derivatives along them."""
    radius = products.small_radius()
    for _ in range(_ITERATIONS):
        basis = _orthonormal(_images(products, basis, radius, name), basis)
    images = _images(products, basis, radius, name)
    matrix = np.array([[dot(one, other) for other in images] for one in basis])
    values, turns = np.linalg.eigh((matrix + matrix.T) / 2)
    order = np.argsort(-np.abs(values))
    return [_combined(basis, turns[:, number]) for number in order], values[order]


def _images(products: HessianProducts, basis: Sequence[Direction], radius: float, name: str) -> list[Direction]:
    images = [products.product(vector, radius) for vector in basis]
    if not np.isfinite([norm(image) for image in images]).all():
        raise InvalidInputError(
            f"`curvature_directions`: the gradient of the loss near the starting weights is not finite (restriction {name!r})."
        )
    return images


def _orthonormal(vectors: Sequence[Direction], instead: Sequence[Direction] = ()) -> list[Direction]:
    """Return vectors made orthogonal and of length one; where nothing but rounding is left of one, a part of `instead`."""
    basis: list[Direction] = []
    for vector in vectors:
        scale, rest = norm(vector), _outside(vector, basis)
        if instead and norm(rest) <= _ROUNDING * scale:
            rest = max((_outside(each, basis) for each in instead), key=norm)
        size = norm(rest)
        basis.append([part / size for part in rest])
    return basis


def _outside(vector: Direction, basis: Sequence[Direction]) -> Direction:
    """Return the part of a vector that is orthogonal to a basis."""
    for _ in range(2):  # twice, because rounding leaves something the first time
        for one in basis:
            along = dot(one, vector)
            vector = [part.sub(own, alpha=along) for part, own in zip(vector, one, strict=True)]
    return vector


def _combined(basis: Sequence[Direction], weights: np.ndarray) -> Direction:
    """Return a linear combination of vectors."""
    parts = zip(*basis, strict=True)
    return [sum(float(weight) * part for weight, part in zip(weights, each, strict=True)) for each in parts]
