r"""Learning coefficients that are known exactly.

With :math:`L` the loss less its minimum, :math:`\lambda` and its multiplicity :math:`m` are defined by
:math:`\int e^{-nL(w)} \varphi(w)\, dw \sim n^{-\lambda} (\log n)^{m-1}`, so that
:math:`n\beta\, \mathbb{E}[L] \to \lambda - (m - 1) / \log n\beta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from devinterp.errors import InvalidInputError


class Coefficient(NamedTuple):
    r"""A learning coefficient and its multiplicity.

    Parameters
    ----------
    value : fractions.Fraction
        :math:`\lambda`.
    multiplicity : int
        :math:`m`, at least 1.
    """

    value: Fraction
    multiplicity: int


def regular(num_parameters: int) -> Coefficient:
    """Return the coefficient of a regular model, half its number of parameters."""
    return Coefficient(Fraction(num_parameters, 2), 1)


def monomial(exponents: Sequence[int]) -> Coefficient:
    r"""Return the coefficient of :math:`L = \prod_i w_i^{2 k_i}` at the origin: the least :math:`1 / 2 k_i` [1]_.

    Parameters
    ----------
    exponents : sequence of int
        :math:`k_i`, positive.

    Returns
    -------
    Coefficient
        The coefficient; its multiplicity is how many exponents are the largest.

    References
    ----------
    .. [1] S. Watanabe. Algebraic geometry and statistical learning theory. Cambridge University Press 2009.
    """
    largest = max(exponents)
    return Coefficient(Fraction(1, 2 * largest), sum(k == largest for k in exponents))


def separable(exponents: Sequence[int]) -> Coefficient:
    r"""Return the coefficient of :math:`L = \sum_i w_i^{2 k_i}` at the origin: those of independent parameters add."""
    return Coefficient(sum((Fraction(1, 2 * k) for k in exponents), Fraction(0)), 1)


def reduced_rank(num_inputs: int, num_hidden: int, num_outputs: int, rank: int) -> Coefficient:
    """Return the coefficient of reduced-rank regression, a linear network with one hidden layer [1]_.

    Parameters
    ----------
    num_inputs, num_hidden, num_outputs : int
        Widths M, H and N.
    rank : int
        Rank of the true map, at most the least width.

    Returns
    -------
    Coefficient
        By the four cases of the theorem.

    References
    ----------
    .. [1] M. Aoyagi, S. Watanabe. Stochastic complexities of reduced rank regression in Bayesian estimation. Neural Networks
       18 (2005).
    """
    M, H, N, r = num_inputs, num_hidden, num_outputs, rank
    _check_rank((M, H, N), r)
    if N + r > M + H:
        return Coefficient(Fraction(H * M - H * r + N * r, 2), 1)
    if M + r > N + H:
        return Coefficient(Fraction(H * N - H * r + M * r, 2), 1)
    if H + r > M + N:
        return Coefficient(Fraction(M * N, 2), 1)
    eightfold = -((H + r) ** 2) - M**2 - N**2 + 2 * (H + r) * M + 2 * (H + r) * N + 2 * M * N
    odd = (M + H + N + r) % 2
    return Coefficient(Fraction(eightfold + odd, 8), 1 + odd)


def deep_linear(widths: Sequence[int], rank: int) -> Coefficient:
    r"""Return the coefficient of a linear network of any depth [1]_.

    With :math:`\Delta_j` the widths less the rank, and :math:`\Sigma` those :math:`\ell + 1` smallest of them for which
    :math:`\max \Sigma < \min \Sigma^c`, :math:`\sum_\Sigma \Delta \ge \ell \max \Sigma` and
    :math:`\sum_\Sigma \Delta < \ell \min \Sigma^c`,

    .. math::

        \lambda = \frac{r (H_0 + H_L) - r^2}{2} + \frac{a (\ell - a)}{4 \ell}
            - \frac{\ell (\ell - 1)}{4} \Big( \frac{1}{\ell} \sum_\Sigma \Delta \Big)^2
            + \frac12 \sum_{i < j \in \Sigma} \Delta_i \Delta_j, \qquad m = a (\ell - a) + 1,

    :math:`a = \sum_\Sigma \Delta - \ell (\lceil \sum_\Sigma \Delta / \ell \rceil - 1)`.

    Parameters
    ----------
    widths : sequence of int
        Widths of the input, the hidden layers and the output; at least three.
    rank : int
        Rank of the true map, at most the least width.

    Returns
    -------
    Coefficient
        The coefficient.

    References
    ----------
    .. [1] M. Aoyagi. Consideration on the learning efficiency of multiple-layered neural networks with linear units. Neural
       Networks 172 (2024).
    """
    if len(widths) < 3:
        raise InvalidInputError(f"`widths` (={tuple(widths)}) must name at least three: input, hidden, output.")
    _check_rank(widths, rank)
    outer = Fraction(rank * (widths[0] + widths[-1]) - rank**2, 2)
    chosen, num = _smallest(sorted(width - rank for width in widths))
    total = sum(chosen)
    a = total - num * (-(-total // num) - 1)
    pairs = sum(x * y for x, y in combinations(chosen, 2))
    inner = Fraction(a * (num - a), 4 * num) - Fraction((num - 1) * total**2, 4 * num) + Fraction(pairs, 2)
    return Coefficient(outer + inner, a * (num - a) + 1)


def _smallest(excess: Sequence[int]) -> tuple[Sequence[int], int]:
    """Return the set Σ of the theorem, from all differences in increasing order, and its size less one."""
    for size in range(2, len(excess) + 1):
        chosen, rest, num = excess[:size], excess[size:], size - 1
        if sum(chosen) >= num * chosen[-1] and (not rest or (chosen[-1] < rest[0] and sum(chosen) < num * rest[0])):
            return chosen, num
    raise AssertionError(f"no set for {excess}")  # the theorem says that there is one


def _check_rank(widths: Sequence[int], rank: int) -> None:
    if not 0 <= rank <= min(widths):
        raise InvalidInputError(f"`rank` (={rank}) must be from 0 to the least width (={min(widths)}).")
