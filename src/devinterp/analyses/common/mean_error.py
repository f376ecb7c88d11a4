r"""The standard error of a mean over chains and draws, from its slowest movements.

The error of a mean is set by what moves slowly: differences between chains, and each chain's slowest half-cosines. With the
orthonormal contrasts

.. math:: y_{c0} = \sqrt{T}\,\bar x_c, \qquad y_{cj} = \sqrt{2/T} \sum_t \cos\!\big(\pi j (t + \tfrac12)/T\big)\, x_{ct}

of a chain of T draws, every :math:`\mathrm{E}\,y_{cj}^2` with small j is the long-run variance [1]_. Their mean is one of
squares of a known number of normal variables, so that Student's t gives intervals, and fast noise cannot hide a slow signal, as
it does where autocorrelation times are estimated. In short chains these cosines are no longer slow: each square is divided by
what an autoregressive process with the chain's own correlation of successive draws, where that is positive, would have lost by
then (prewhitening [2]_).

Chains that see the same minibatches are not independent. Their series are split into the mean over chains at each draw and the
rest. The rest says how far chains differ. What the means over chains vary beyond that is common to all chains, and more chains
do not make it smaller.

References
----------
.. [1] E. Lazarus, D. Lewis, J. Stock, M. Watson. HAR inference: recommendations for practice. Journal of Business & Economic
   Statistics 36 (2018). doi:10.1080/07350015.2018.1506926.
.. [2] D. Andrews, J. Monahan. An improved heteroskedasticity and autocorrelation consistent covariance matrix estimator.
   Econometrica 60 (1992). doi:10.2307/2951574. Here in `devinterp.analyses.common.prewhitening`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr

from devinterp.analyses.common.arrays import apply, is_lazy
from devinterp.analyses.common.convergence import MIN_DRAWS, Series, ess, in_blocks
from devinterp.analyses.common.prewhitening import draw_correlation, kept_power
from devinterp.analyses.common.uncertainty import student_quantile
from devinterp.schema import CHAIN, DRAW

#: Of fewer draws what chains have in common cannot be told from the rest.
_LEAST = 4
#: Cosines are taken in until the error has so many degrees of freedom: a 95 % interval is then 1.2 times the normal one.
_ENOUGH = 7
#: Where the first cosines are stronger than the next ones by this factor, chains are too short for cosines to be trusted.
_SLOW = 2.0
#: A single chain of fewer draws than this over (1 - correlation of successive draws), about four autocorrelation times, does
#: not know that correlation: its cosines are compared without prewhitening then.
_SHORT = 8.0


@dataclass(frozen=True)
class Contrasts:
    """Which contrasts of chains and draws an error is made of.

    Parameters
    ----------
    num_waves : int
        Cosines of each chain beside its mean.
    degrees_of_freedom : int
        Of the error; 0 where there is none.
    num_waves_if_slow : int
        The same where chains move so slowly that most cosines miss it.
    widening : float
        By how much the error is then larger, so that its intervals, too, can be made with `degrees_of_freedom`.
    num_common : int
        Cosines of the mean over chains that tell what all chains have in common.
    """

    num_waves: int
    degrees_of_freedom: int
    num_waves_if_slow: int
    widening: float
    num_common: int


@lru_cache(maxsize=64)
def contrasts(num_chains: int, num_draws: int, shared: bool) -> Contrasts:
    """Return the contrasts for chains of a length, which are or are not driven by the same minibatches."""
    independent = num_chains - 1 if shared and num_chains > 1 else num_chains
    at_most = 0 if num_draws < MIN_DRAWS else min(max(4, min(8, num_draws // 25)), (num_draws - 1) // 3)
    waves = min(at_most, max(0, -(-(_ENOUGH - num_chains + 1) // independent)))
    degrees = num_chains - 1 + independent * waves if num_draws >= _LEAST else 0
    waves_if_slow = min(waves, 1) if num_chains < 3 else 0
    degrees_if_slow = num_chains - 1 + independent * waves_if_slow
    widening = half_width(degrees_if_slow) / half_width(degrees) if waves > waves_if_slow else 1.0
    return Contrasts(waves, degrees, waves_if_slow, widening, min(max(4, min(32, num_draws // 10)), num_draws - 1))


def half_width(degrees_of_freedom: float) -> float:
    """Return how many standard errors a 95 % interval reaches to either side."""
    return student_quantile(0.975, degrees_of_freedom)


def mean_error(
    series: Series, *, shared: bool, draw: str = DRAW, data_share: xr.Variable | float | None = None
) -> Series:
    """Compute the standard error of the mean over chains and draws, lazily if the series are lazy.

    Parameters
    ----------
    series : xarray.DataArray or xarray.Variable
        With dims `chain` and `draw`, and any others.
    shared : bool
        Whether all chains see the same minibatches at each step.
    draw : str, default: "draw"
        Name of the dimension along which a chain moves.
    data_share : xarray.Variable or float, optional
        One number, for losses of minibatches that chains share: how much of their variance the mean over all steps keeps,
        from 0 (whole epochs) to 1 over the number of steps (fresh data at each step). Default: the losses are of the same data
        at every draw.

    Returns
    -------
    xarray.DataArray or xarray.Variable
        Float64 over the other dims, with the attribute ``degrees_of_freedom`` for `confidence_interval`. It is NaN, and the
        attribute ``reason`` says why, with fewer than 4 draws and for a single chain of fewer than 10.
    """
    if is_lazy(series):
        series = series.chunk({CHAIN: -1, draw: -1})
    share = xr.as_variable(np.nan if data_share is None else data_share)
    error: Series = apply(_mean_errors, series, share, core=[[CHAIN, draw], []], shared=shared)
    num_chains, num_draws = series.sizes[CHAIN], series.sizes[draw]
    error.attrs = {"degrees_of_freedom": contrasts(num_chains, num_draws, shared).degrees_of_freedom}
    if not error.attrs["degrees_of_freedom"]:
        error.attrs["reason"] = f"{num_chains} chain(s) of {num_draws} draws are too few for an error"
    return error


def _mean_errors(series: np.ndarray, data_share: np.ndarray | np.floating, *, shared: bool) -> np.ndarray:
    share = None if np.isnan(data_share) else float(data_share)
    return in_blocks(lambda part: np.sqrt(mean_variance(part, shared=shared, data_share=share)), series)


def mean_variance(series: np.ndarray, *, shared: bool, data_share: np.ndarray | float | None = None) -> np.ndarray:
    """Return the variance of the mean of series ``(..., chain, draw)``: see `mean_error`."""
    num_chains, num_draws = series.shape[-2:]
    plan = contrasts(num_chains, num_draws, shared)
    if not plan.degrees_of_freedom:
        return np.full(series.shape[:-2], np.nan)
    means = series.mean(-1, keepdims=True, dtype=np.float64)
    centred = series - means
    levels = np.sqrt(num_draws) * means[..., 0]
    waves = centred @ _cosines(num_draws, max(3 * max(plan.num_waves, 2), plan.num_common))
    shared = shared and num_chains > 1
    own_waves = waves - waves.mean(-2, keepdims=True) if shared else waves
    own_series = centred - centred.mean(-2, keepdims=True) if shared else centred
    correlation = draw_correlation(own_series) if plan.num_waves else 0.0
    own = _long_run_variance(levels, own_waves, correlation, num_draws, plan, shared=shared)
    if not shared:
        return np.asarray(own / (num_chains * num_draws))
    power = (waves.mean(-2) ** 2)[..., : plan.num_common]
    explained = ((own_waves**2).sum(-2) / (num_chains * (num_chains - 1)))[..., : plan.num_common]
    slow = (power - explained).mean(-1)  # long-run variance of what all chains have in common
    white = 0.0 if data_share is None else _own_and_common_variance(centred)[1]
    kept = 0.0 if data_share is None else white * data_share
    return np.asarray(own / (num_chains * num_draws) + kept + np.maximum(slow - white, 0) / num_draws)


def _long_run_variance(
    levels: np.ndarray,
    waves: np.ndarray,
    correlation: np.ndarray | float,
    num_draws: int,
    plan: Contrasts,
    *,
    shared: bool,
) -> np.ndarray:
    """Return the long-run variance of one chain, from the spread of chains and from their cosines."""
    squares = ((levels - levels.mean(-1, keepdims=True)) ** 2).sum(-1)
    num_chains = levels.shape[-1]
    independent = num_chains - 1 if shared else num_chains
    raw = (waves**2).sum(-2)
    power = raw / kept_power(correlation, num_draws, raw.shape[-1])

    def pooled(num: int) -> np.ndarray:
        return np.asarray((squares + power[..., :num].sum(-1)) / (num_chains - 1 + independent * num))

    if plan.num_waves == plan.num_waves_if_slow:
        return pooled(plan.num_waves)
    slow = _falls(power, plan)
    if num_chains == 1:
        slow |= _falls(raw, plan) & (num_draws * (1 - correlation) < _SHORT)
    usual, cautious = pooled(plan.num_waves), plan.widening**2 * pooled(plan.num_waves_if_slow)
    return np.asarray(np.where(slow, cautious, usual))


def _falls(power: np.ndarray, plan: Contrasts) -> np.ndarray:
    """Say whether the first cosines are so much stronger than the next ones that slower movements must be expected."""
    low = max(plan.num_waves, 2)
    return np.asarray(power[..., :low].mean(-1) > _SLOW * power[..., low : 3 * low].mean(-1))


def common_share(series: np.ndarray) -> np.ndarray:
    """Return which share of the variance of the mean of series is noise of minibatches that all chains have in common.

    Parameters
    ----------
    series : numpy.ndarray
        ``(..., chain, draw)``, of two or more chains that see the same minibatches.

    Returns
    -------
    numpy.ndarray
        ``(...)``, from 0 to 1; 0 where chains are no more alike than by chance.
    """
    num_chains, num_draws = series.shape[-2:]
    if num_draws < _LEAST:
        return np.zeros(series.shape[:-2])
    centred = series - series.mean(-1, keepdims=True, dtype=np.float64)
    own, common = _own_and_common_variance(centred)
    effective = ess(series - centred.mean(-2, keepdims=True))
    # Slow chains are alike by chance: they have few effective draws to tell them apart.
    chance = 3 * own / num_chains * np.sqrt(2 * num_chains / effective)
    # What minibatches add is new at each step, and is averaged over draws; the rest over effective draws.
    of_all, of_own = common / num_draws, own / effective
    return np.where(common > chance, of_all / np.where(of_all + of_own > 0, of_all + of_own, 1), 0.0)


def _own_and_common_variance(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance from draw to draw of a chain's own, and of what all have in common (two-way analysis of variance)."""
    num_chains, num_draws = centred.shape[-2:]
    common = centred.mean(-2, keepdims=True)
    own = ((centred - common) ** 2).sum((-1, -2)) / ((num_chains - 1) * (num_draws - 1))
    together = (common[..., 0, :] ** 2).sum(-1) / (num_draws - 1)
    return own, np.asarray(np.maximum(together - own / num_chains, 0))


@lru_cache(maxsize=16)
def _cosines(num_draws: int, num: int) -> np.ndarray:
    """Return the slowest `num` orthonormal cosines ``(draw, cosine)``, without the constant."""
    angles = np.pi * np.arange(1, num + 1) * (np.arange(num_draws)[:, None] + 0.5) / num_draws
    return np.asarray(np.sqrt(2 / num_draws) * np.cos(angles))
