r"""R-hat, effective sample size and Monte Carlo standard error of many series at once.

The estimators of Vehtari et al. (2021) [1]_ on split chains, the same as ArviZ's ``ess(method="mean")``,
``mcse(method="mean")`` and ``rhat``, in vectorised form: every leading dimension is another quantity.

References
----------
.. [1] A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner. Rank-normalization, folding, and localization: an
   improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16 (2021). arXiv:1903.08008.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import xarray as xr

from devinterp.schema import CHAIN, DRAW

#: Series with or without coordinates.
Series = TypeVar("Series", xr.DataArray, xr.Variable)
#: Chains with fewer draws have no effective sample size: of so few, Geyer's estimate does not depend on the data.
MIN_DRAWS = 10
#: Series are handled in groups of about this many numbers, so that intermediate results stay in the processor's cache.
_BLOCK = 2**18


def summary(series: Series, *, draw: str = DRAW) -> xr.Dataset:
    """Compute R-hat, effective sample size and Monte Carlo standard error of the mean, lazily if the series are lazy.

    Parameters
    ----------
    series : xarray.DataArray or xarray.Variable
        With dims `chain` and `draw`, and any others.
    draw : str, default: "draw"
        Name of the dimension along which a chain moves. With fewer than 10 draws ``ess`` and ``mcse`` are NaN, with fewer
        than 4 ``rhat`` too.

    Returns
    -------
    xarray.Dataset
        ``rhat``, ``ess`` and ``mcse`` (in the unit of the series) over the other dims, float64. A series with a NaN gives NaN.
    """
    if series.chunks is not None:
        series = series.chunk({CHAIN: -1, draw: -1})
    stacked = xr.apply_ufunc(
        summaries,
        series,
        input_core_dims=[[CHAIN, draw]],
        output_core_dims=[["quantity"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"quantity": 3}},
    )
    return xr.Dataset({name: stacked.isel(quantity=n) for n, name in enumerate(("rhat", "ess", "mcse"))})


def summaries(series: np.ndarray) -> np.ndarray:
    """Return R-hat, effective sample size and Monte Carlo error of series ``(..., chain, draw)``, along a last axis."""
    return in_blocks(_summaries_of_block, series)


def _summaries_of_block(series: np.ndarray) -> np.ndarray:
    size = ess(series)
    return np.stack([rhat(series), size, _std(series) / np.sqrt(size)], axis=-1)


def in_blocks(function: Callable[[np.ndarray], np.ndarray], series: np.ndarray) -> np.ndarray:
    """Return a function of series ``(..., chain, draw)``, called with a few of them at a time, as float64.

    Parameters
    ----------
    function : callable
        Takes series ``(series, chain, draw)`` and returns an array whose first axis is `series`.
    series : numpy.ndarray
        ``(..., chain, draw)``.
    """
    flat = series.reshape(-1, *series.shape[-2:])
    per_block = max(1, _BLOCK // max(1, flat.shape[1] * flat.shape[2]))
    starts = range(0, max(1, len(flat)), per_block)
    blocks = [function(flat[start : start + per_block].astype(np.float64)) for start in starts]
    result = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return result.reshape((*series.shape[:-2], *result.shape[1:]))


def _std(series: np.ndarray) -> np.ndarray:
    count = series.shape[-2] * series.shape[-1]
    return np.asarray(series.std(axis=(-2, -1), ddof=1)) if count > 1 else np.full(series.shape[:-2], np.nan)


def mcse(series: np.ndarray) -> np.ndarray:
    """Return the Monte Carlo standard error of the mean of series ``(..., chain, draw)``: the spread over sqrt(ess)."""
    return np.asarray(_std(series) / np.sqrt(ess(series)))


def ess(series: np.ndarray) -> np.ndarray:
    r"""Return the effective sample size for the mean of series ``(..., chain, draw)``.

    .. math:: S / \tau, \quad \tau = -1 + 2 \sum_k P_k, \quad P_k = \rho_{2k} + \rho_{2k+1}

    with the sum cut at the first pair :math:`P_k < 0` and made monotone (Geyer), and :math:`\rho` from all
    half-chains together. A constant series counts in full.

    Parameters
    ----------
    series : numpy.ndarray
        Float, ``(..., chain, draw)``.

    Returns
    -------
    numpy.ndarray
        ``(...)``, at most S log10(S); NaN where a series holds a NaN or has fewer than 10 draws.
    """
    halves, valid = _split(series)
    num_chains, num_draws = halves.shape[-2:]
    if series.shape[-1] < MIN_DRAWS:
        return np.full(series.shape[:-2], np.nan)
    total = num_chains * num_draws
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = _autocorrelation(halves)
        tau = _geyer(rho)
        result = total / np.maximum(tau, 1 / np.log10(total))
    constant = np.ptp(halves, axis=(-2, -1)) < np.finfo(np.float64).resolution
    return np.where(valid, np.where(constant, float(total), result), np.nan)


def _autocorrelation(halves: np.ndarray) -> np.ndarray:
    """Return the autocorrelation at every lag that all chains together show, ``(..., lag)``."""
    num_chains, num_draws = halves.shape[-2:]
    centred = halves - halves.mean(-1, keepdims=True)
    length = _good_length(2 * num_draws)
    spectrum = np.fft.rfft(centred, length, axis=-1)
    power = (spectrum.real**2 + spectrum.imag**2).mean(-2)  # the mean over chains commutes with the transform
    covariance = np.fft.irfft(power, length, axis=-1)[..., :num_draws] / num_draws
    within = covariance[..., :1] * num_draws / (num_draws - 1)
    pooled = covariance[..., :1] + (halves.mean(-1).var(-1, ddof=1)[..., None] if num_chains > 1 else 0)
    rho = np.asarray(1 - (within - covariance) / pooled)
    rho[..., 0] = 1
    return rho


def _geyer(rho: np.ndarray) -> np.ndarray:
    """Return the autocorrelation time, by Geyer's initial positive and monotone sequence of pairs."""
    # The last lags, where too few products are left to trust, are not used.
    num_pairs = max(1, (rho.shape[-1] - 1) // 2)
    even = rho[..., : 2 * num_pairs : 2]
    pairs = even + rho[..., 1 : 2 * num_pairs : 2]
    positive = np.logical_and.accumulate(pairs > 0, axis=-1)
    exhausted = positive[..., -1].copy()
    kept = np.minimum(positive.sum(-1), num_pairs - 1)
    positive &= np.arange(num_pairs) < kept[..., None]
    # The even lag after the last pair counts once: the sum then ends with half a pair.
    tail = np.take_along_axis(even, kept[..., None], axis=-1)[..., 0]
    tail = np.where(exhausted, tail, np.maximum(tail, 0))
    monotone = np.minimum.accumulate(pairs, axis=-1)
    tau = -1 + 2 * np.where(positive, monotone, 0).sum(-1) + tail
    return np.asarray(tau)


def rhat(series: np.ndarray) -> np.ndarray:
    r"""Return the potential scale reduction of series ``(..., chain, draw)``.

    Rank-normalised and split: the larger of the values for bulk and tail.

    Parameters
    ----------
    series : numpy.ndarray
        Float, ``(..., chain, draw)``.

    Returns
    -------
    numpy.ndarray
        ``(...)``; near 1 when chains agree, infinite when each stays where it is and they differ. NaN where a series is
        constant, holds a NaN or has fewer than 4 draws.
    """
    halves, valid = _split(series)
    if halves.shape[-1] < 2:
        return np.full(series.shape[:-2], np.nan)
    folded = np.abs(halves - np.median(halves, axis=(-2, -1), keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        # Distances from the median may be all the same where the values are not: they then say nothing.
        result = np.fmax(_plain_rhat(_normal_scores(halves)), _plain_rhat(_normal_scores(folded)))
    return np.where(valid, result, np.nan)


def _plain_rhat(halves: np.ndarray) -> np.ndarray:
    num_draws = halves.shape[-1]
    within = halves.var(-1, ddof=1).mean(-1)
    between = halves.mean(-1).var(-1, ddof=1)
    return np.asarray(np.sqrt(between / within + (num_draws - 1) / num_draws))


def _normal_scores(halves: np.ndarray) -> np.ndarray:
    """Return each value's rank among all of its series, equal values sharing theirs, as a quantile of the normal law."""
    flat = halves.reshape(*halves.shape[:-2], -1)
    count = flat.shape[-1]
    order = np.argsort(flat, axis=-1)
    ordered = np.take_along_axis(flat, order, axis=-1)
    index = np.arange(count)
    starts = np.ones(flat.shape, bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = np.maximum.accumulate(np.where(starts, index, 0), axis=-1)
    ends = np.concatenate([starts[..., 1:], np.ones((*flat.shape[:-1], 1), bool)], axis=-1)
    last = np.minimum.accumulate(np.where(ends, index, count - 1)[..., ::-1], axis=-1)[..., ::-1]
    scores = np.empty(flat.shape)
    np.put_along_axis(scores, order, _quantiles(count)[first + last], axis=-1)
    return scores.reshape(halves.shape)


@lru_cache(maxsize=16)
def _quantiles(count: int) -> np.ndarray:
    """Return the normal quantiles of the ranks 1, 1.5, 2, ..., `count`, by Blom's formula."""
    ranks = 1 + np.arange(2 * count - 1) / 2
    return np.array([NormalDist().inv_cdf(p) for p in (ranks - 3 / 8) / (count + 1 / 4)])


def _split(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two halves of each chain as chains of their own, float64, and which series hold numbers only.

    The middle draw of an odd number is left out.
    """
    series = np.asarray(series, np.float64)
    half = series.shape[-1] // 2
    valid = np.asarray(np.isfinite(series).all(axis=(-2, -1)))
    halves = np.concatenate([series[..., :half], series[..., series.shape[-1] - half :]], axis=-2)
    return np.where(valid[..., None, None], halves, 0), valid


def _good_length(minimum: int) -> int:
    """Return the least length with no prime factor above 5 that is not below `minimum`: such transforms are fast."""
    best = 1 << (minimum - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-minimum // three)
            best = min(best, three * (1 << max(0, (rest - 1).bit_length())))
            three *= 3
        five *= 5
    return best
