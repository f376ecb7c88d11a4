"""Numbers that pictures of every kind need: means along a chain, and where a scale of colours ends."""

from __future__ import annotations

import numpy as np


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of all values up to each one, ``(chain, step)``; NaN once a chain diverged."""
    return np.cumsum(values, axis=1, dtype=np.float64) / np.arange(1, values.shape[1] + 1)


def colour_limit(values: np.ndarray) -> float:
    """Return the number of the last colour, and minus that of the first: the 98th percentile of the sizes that are finite.

    1 where that is zero, or where there are none.
    """
    sizes = np.abs(values[np.isfinite(values)]).astype(np.float64)
    return float(np.quantile(sizes, 0.98)) or 1.0 if sizes.size else 1.0
