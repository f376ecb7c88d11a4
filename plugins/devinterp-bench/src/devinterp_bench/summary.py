"""What all measurements of a kernel together say, and measurements as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from devinterp_bench.measure import Measurement
from devinterp_bench.order import Order, order_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NAN = float("nan")


def summarise(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return figures of each kernel over all its measurements.

    Returns
    -------
    dict of str to dict
        By kernel: ``median_relative_error`` and ``worst_relative_error`` (absolute values, over problems, of means over
        seeds), the median less what step size adds, that of single seeds, ``pairs``, ``pairs_in_order``, ``close_pairs`` and
        ``close_pairs_in_order`` (`devinterp_bench.order.Order`), ``median_ess_per_gradient``, ``seconds`` in total,
        ``num_problems`` and ``num_diverged``.
    """
    figures = {}
    for kernel in dict.fromkeys(m.kernel for m in measurements):
        mine = [m for m in measurements if m.kernel == kernel]
        by_problem = [[m for m in mine if m.problem == name] for name in dict.fromkeys(m.problem for m in mine)]
        errors = {
            which: [abs(float(np.mean([getattr(m, which) for m in each])) / each[0].truth - 1) for each in by_problem]
            for which in ("estimate", "step_corrected")
        }
        order = _order(by_problem)
        figures[kernel] = {
            "median_relative_error": _median(errors["estimate"]),
            "median_relative_error_step_corrected": _median(errors["step_corrected"]),
            "worst_relative_error": max(errors["estimate"], default=_NAN),
            "median_relative_error_of_a_seed": _median(abs(m.relative_error) for m in mine),
            "pairs": order.pairs,
            "pairs_in_order": order.in_order,
            "close_pairs": order.close,
            "close_pairs_in_order": order.close_in_order,
            "median_ess_per_gradient": _median(m.ess_per_gradient for m in mine),
            "seconds": sum(m.seconds for m in mine),
            "num_problems": len(by_problem),
            "num_diverged": sum(m.num_diverged for m in mine),
        }
    return figures


def mean_over_seeds(measurements: Sequence[Measurement]) -> tuple[float, float]:
    """Return the mean estimate of one problem over its seeds, and its standard error."""
    error = math.sqrt(sum(m.error**2 for m in measurements)) / len(measurements)
    return float(np.mean([m.estimate for m in measurements])), error


def _order(by_problem: Sequence[Sequence[Measurement]]) -> Order:
    estimates = [mean_over_seeds(each) for each in by_problem]
    return order_of([each[0].truth for each in by_problem], *(list(column) for column in zip(*estimates, strict=True)))


def _median(values: Iterable[float]) -> float:
    """Return the median, NaN if any value is: leaving out problems on which chains diverged would flatter a kernel."""
    numbers = list(values)
    return statistics.median(numbers) if numbers and not any(map(math.isnan, numbers)) else _NAN


def to_json(measurements: Sequence[DataclassInstance]) -> list[dict[str, Any]]:
    """Return measurements, or other records of numbers, as JSON-able values: a missing number is None."""
    return [
        {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(m).items()}
        for m in measurements
    ]
