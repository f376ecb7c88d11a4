"""Comparisons of kernels as rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from devinterp_bench.efficiency import MOST_BIAS, Comparison
from devinterp_bench.tables import number

COMPARISON_COLUMNS = (
    "kernel",
    "best step",
    "bias",
    "draws/gradient",
    "ratio per gradient",
    "ratio per second",
)


def comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return a row for each kernel; one with no step whose bias is small enough says so."""
    rows = []
    for each in comparisons:
        if each.best is None:
            rows.append([each.kernel, f"none within {MOST_BIAS:.0%}", "-", "-", "-", "-"])
            continue
        rows.append(
            [
                each.kernel,
                f"{each.best.step:g}",
                f"{each.bias:+.1%} {f'± {each.bias_error:.1%}' if each.bias_error else '(exact)'}",
                f"{each.best.draws_per_gradient:.4f} ± {each.best.draws_error:.4f}",
                f"{number(each.per_gradient, '.1f')} ± {number(each.per_gradient_error, '.1f')}",
                number(each.per_second, ".1f"),
            ]
        )
    return rows
