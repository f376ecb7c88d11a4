r"""Rank correlations of predictions with repeated measurements, their errors, and the largest that the noise allows."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.random import Generator

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp_attribution.labelled import QUERY

#: Fewer units than this give no rank correlation with an error.
LEAST_UNITS = 5


def correlations(
    predicted: np.ndarray, measured: np.ndarray, *, unit: str, name: str, num_resamples: int, seed: int
) -> xr.Dataset:
    r"""Compute for each query the rank correlation over units of a prediction with the mean of its measurements.

    The reliability of a query's measurements is the share of the variance of means over units that is no noise of retraining:
    :math:`1 - \sigma^2 / (R\, v)` with :math:`\sigma^2` the variance over :math:`R` seeds and :math:`v` that of the means. Its
    estimate can be negative, and is left so, because a mean over queries of what was cut off at 0 would be positive where there
    is nothing but noise. The ceiling, the correlation of an exact prediction with the measured means, is the square root of the
    mean reliability, where that is at least twice its error. It is that of the linear correlation, and the mean over queries
    where these differ is lower.

    Parameters
    ----------
    predicted : numpy.ndarray
        ``(query, unit)``.
    measured : numpy.ndarray
        ``(unit, seed, query)``.
    unit : str
        What is counted as one unit, for messages.
    name : str
        Name of the correlation in the result.
    num_resamples : int
        Of units and queries, drawn anew with replacement, for the errors; at least 2.
    seed : int
        Of the resamples.
    """
    num_resamples = arguments.count("num_resamples", num_resamples, least=2)
    generator = np.random.default_rng(arguments.count("seed", seed, least=0))
    num_queries, num_units = predicted.shape
    if num_units < LEAST_UNITS:
        raise InvalidInputError(
            f"A rank correlation needs {LEAST_UNITS} of the dim {unit!r} or more; there are {num_units}."
        )
    measured = np.moveaxis(measured, 2, 0)
    each, shares = _spearman(predicted, measured.mean(-1)), _reliabilities(measured)
    resampled = np.array([_resampled(predicted, measured, generator) for _ in range(num_resamples)])
    error, share_error = resampled.std(0, ddof=1)
    share = float(shares.mean())
    # Of a share that is not told apart from 0, the root would be a positive number made of noise.
    limit = math.sqrt(share) if share > 0 and share >= 2 * share_error else math.nan
    result = xr.Dataset(
        {
            name: ((), _mean_of_known(each)),
            f"{name}_se": ((), error),
            "ceiling": ((), limit),
            "ceiling_se": ((), share_error / (2 * limit)),
            "reliability": ((), share),
            "reliability_se": ((), share_error),
            f"{name}_per_query": (QUERY, each),
            "reliability_per_query": (QUERY, shares),
        }
    )
    if not np.isfinite(each).all():
        result[name].attrs["reason"] = (
            f"{int((~np.isfinite(each)).sum())} of {num_queries} queries are left out: their predictions or losses do not vary"
        )
    if measured.shape[-1] < 2:
        result["ceiling"].attrs["reason"] = (
            "one seed says nothing about the noise of retraining: retrain with two or more seeds"
        )
    elif math.isnan(limit):
        result["ceiling"].attrs["reason"] = (
            "the losses vary over subsets no more than over seeds, within the error: retrain with more seeds"
        )
    return result


def _resampled(predicted: np.ndarray, measured: np.ndarray, generator: Generator) -> tuple[float, float]:
    """Return both means of a sample of queries and units, drawn with replacement."""
    num_queries, num_units = predicted.shape
    queries, units = generator.integers(num_queries, size=num_queries), generator.integers(num_units, size=num_units)
    chosen = measured[queries][:, units]
    each = _spearman(predicted[queries][:, units], chosen.mean(-1))
    return _mean_of_known(each), float(_reliabilities(chosen).mean())


def _mean_of_known(each: np.ndarray) -> float:
    known = each[np.isfinite(each)]
    return float(known.mean()) if len(known) else math.nan


def _spearman(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each row, NaN for rows that do not vary."""
    from scipy.stats import rankdata

    ranks = [rankdata(each, axis=1) for each in (predicted, measured)]
    first, second = (each - each.mean(1, keepdims=True) for each in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1)))


def _reliabilities(measured: np.ndarray) -> np.ndarray:
    """Return the share of the variance of means over seeds that is no noise, for each query; NaN with one seed."""
    num_seeds = measured.shape[-1]
    if num_seeds < 2:
        return np.full(len(measured), np.nan)
    noise = measured.var(-1, ddof=1).mean(1) / num_seeds
    total = measured.mean(-1).var(1, ddof=1)
    return np.asarray(1 - np.divide(noise, total, out=np.ones_like(total), where=total > 0))
