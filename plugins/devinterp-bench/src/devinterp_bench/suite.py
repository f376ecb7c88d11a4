"""All problems of the accuracy suite."""

from __future__ import annotations

from devinterp_bench.problems import Problem, deep_linear, linear_regression, nonlinear_regressions, powers
from devinterp_bench.superposition import polygons


def suite() -> list[Problem]:
    """Return all problems: regular ones, monomials, linear networks of one to six layers, and models of superposition."""
    return [
        linear_regression(1, 1.0),
        linear_regression(4, 5.0),
        linear_regression(24, 10.0),
        *nonlinear_regressions(),
        *(powers(exponents, multiply=False) for exponents in ((2,), (3,), (1, 2), (2, 2, 2, 2, 2))),
        *(powers(exponents, multiply=True) for exponents in ((1, 1), (1, 2), (2, 2), (1, 1, 1))),
        deep_linear((4, 3, 4), 1),  # case 1, even
        deep_linear((4, 4, 4), 1),  # case 1, odd
        deep_linear((2, 2, 6), 1),  # case 2
        deep_linear((9, 2, 2), 1),  # case 3
        deep_linear((3, 9, 3), 1),  # case 4
        deep_linear((8, 8, 8), 0),
        deep_linear((8, 5, 6, 8), 5),
        deep_linear((6, 5, 6, 5), 2),
        deep_linear((3, 4, 5, 3), 0),
        deep_linear((7, 6, 6, 6, 7), 5),
        deep_linear((4, 6, 5, 6, 5, 4), 3),
        deep_linear((6, 7, 6, 7, 6, 7, 6), 6),
        deep_linear((5, 6, 5, 6, 5, 6, 5), 3),
        *polygons(),
    ]
