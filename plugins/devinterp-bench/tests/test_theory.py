"""Formulas for learning coefficients against each other and against integrals that can be done by other means."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.errors import InvalidInputError
from devinterp_bench import theory

WIDTHS = st.integers(1, 9)


@given(WIDTHS, WIDTHS, WIDTHS, st.data())
def test_two_layers_are_reduced_rank_regression(M, H, N, data):
    """Two theorems, proved twenty years apart."""
    rank = data.draw(st.integers(0, min(M, H, N)))
    assert theory.deep_linear((M, H, N), rank) == theory.reduced_rank(M, H, N, rank)


@given(st.lists(WIDTHS, min_size=3, max_size=7), st.data())
def test_the_order_of_inner_widths_does_not_matter(widths, data):
    rank = data.draw(st.integers(0, min(widths)))
    inner = data.draw(st.permutations(widths[1:-1]))
    assert theory.deep_linear([widths[0], *inner, widths[-1]], rank) == theory.deep_linear(widths, rank)


@given(st.lists(WIDTHS, min_size=2, max_size=6))
def test_one_input_is_a_product_of_independent_chi_squares(widths):
    """With one input and Gaussian weights the squared output is a product of independent χ² of H_l degrees of freedom."""
    coefficient = theory.deep_linear([1, *widths], 0)
    assert coefficient == (Fraction(min(widths), 2), widths.count(min(widths)))


@given(WIDTHS, WIDTHS, WIDTHS)
def test_two_layers_of_rank_zero_by_the_law_of_singular_values(M, H, N):
    """Given A, E exp(-n |BA|²) is a product of (1 + n s²)^(-N/2); k small singular values of A cost k (|H - M| + k) / 2."""
    p, q = sorted((H, M))
    exponents = [Fraction(k * (q - p + k) + N * (p - k), 2) for k in range(p + 1)]
    assert theory.reduced_rank(M, H, N, 0).value == min(exponents)


@given(st.lists(WIDTHS, min_size=3, max_size=7), st.data())
def test_singular_models_are_simpler_than_regular_ones(widths, data):
    rank = data.draw(st.integers(0, min(widths)))
    value = theory.deep_linear(widths, rank).value
    num = sum(a * b for a, b in pairwise(widths))
    map_dimension = Fraction(widths[0] * widths[-1], 2)
    assert 0 <= value <= min(Fraction(num, 2), map_dimension)
    assert value >= Fraction(rank * (widths[0] + widths[-1] - rank), 2)


def test_all_four_cases_of_the_theorem():
    assert theory.reduced_rank(4, 3, 4, 1) == (Fraction(-16 - 16 - 16 + 32 + 32 + 32, 8), 1)
    assert theory.reduced_rank(2, 2, 2, 0) == (Fraction(3, 2), 1)
    assert theory.reduced_rank(2, 1, 2, 0) == (Fraction(1), 2)  # |a|² |b|², two of two degrees of freedom
    assert theory.reduced_rank(1, 1, 1, 0) == (Fraction(1, 2), 2)
    assert theory.reduced_rank(2, 2, 9, 1) == (Fraction(4 - 2 + 9, 2), 1)
    assert theory.reduced_rank(9, 2, 2, 1) == (Fraction(4 - 2 + 9, 2), 1)
    assert theory.reduced_rank(2, 9, 2, 1) == (Fraction(4, 2), 1)


@pytest.mark.parametrize("widths", [(2, 2, 2, 2), (2, 3, 2, 3), (3, 2, 2), (1, 2, 3, 2, 1)])
def test_volumes_of_products_of_gaussian_matrices(widths):
    """P(|W_L ... W_1|² < t) falls as t^λ (-log t)^(m-1): measured over a factor of ten in P."""
    generator = np.random.default_rng(0)
    num = 400_000
    squares = []
    for _ in range(5):
        P = generator.standard_normal((num, widths[1], widths[0]))
        for a, b in pairwise(widths[1:]):
            P = np.einsum("nij,njk->nik", generator.standard_normal((num, b, a)), P, optimize=False)
        squares.append((P**2).sum((1, 2)))
    squares = np.sort(np.concatenate(squares))
    value, multiplicity = theory.deep_linear(widths, 0)
    counts = np.array([200, 2000])
    t = squares[counts]
    # d log P / d log t = λ - (m - 1) / |log t| + O(1 / log²), with the scale of t fixed by its typical size.
    scale = np.median(squares)
    slope = np.diff(np.log(counts)) / np.diff(np.log(t))
    correction = (multiplicity - 1) / abs(np.log(np.sqrt(t[0] * t[1]) / scale))
    assert abs(float(slope[0]) - (float(value) - correction)) < 0.25 * float(value)


@pytest.mark.parametrize("exponents", [p for n in (1, 2, 3) for p in product((1, 2, 3), repeat=n)])
def test_monomials_by_their_poles(exponents):
    """The integral of Π w^(2 k z) over the unit cube is Π 1 / (2 k z + 1): its largest pole and the order of that."""
    poles = [Fraction(1, 2 * k) for k in exponents]
    assert theory.monomial(exponents) == (min(poles), poles.count(min(poles)))
    assert theory.separable(exponents) == (sum(poles), 1)


def test_regular_models():
    assert theory.regular(7) == (Fraction(7, 2), 1)
    assert theory.separable([1] * 7) == theory.regular(7)


@pytest.mark.parametrize("rank", [-1, 3])
def test_a_rank_that_cannot_be(rank):
    with pytest.raises(InvalidInputError, match=rf"`rank` \(={rank}\) must be from 0 to the least width \(=2\)"):
        theory.deep_linear((4, 2, 3), rank)


def test_too_few_widths():
    with pytest.raises(InvalidInputError, match=r"`widths` \(=\(2, 3\)\) must name at least three"):
        theory.deep_linear((2, 3), 0)
