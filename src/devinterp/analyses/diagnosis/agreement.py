"""Whether chains agree with each other and with themselves: R-hat, the spread of chains, and what chains have in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.convergence import in_blocks
from devinterp.analyses.common.convergence import rhat as rhat_of
from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.run_data import draws_after, losses
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.errors import MissingDataError
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, POSITION, SEQUENCE
from devinterp.types import Check, Finding

_LONGER = "burn in longer, take more draws, or raise `localization`"


def rhat(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each mean loss whose split R-hat is too large."""
    for series in evidence.series:
        message = (
            f"R-hat of {series.name} is {{value}} (limit {{limit}}): chains, or their halves, are in different places"
        )
        values = series.convergence["rhat"]
        yield from evidence.flag(
            values, LIMITS["rhat"], "chains_disagree", message, _LONGER, observable=series.observable
        )


def spread(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each coefficient that differs too much from chain to chain."""
    if evidence.num_chains < 2:
        raise MissingDataError("there is only one chain")
    num = evidence.num_chains
    for series in evidence.series:
        variance = series.per_chain.var(CHAIN, ddof=1)
        own = series.variance_of_chain_means
        is_chance = variance <= (1 + 3 * (2 / (num - 1)) ** 0.5) * own
        share = (variance**0.5 / abs(series.mean).where(series.mean != 0)).where(~is_chance)
        message = "the spread of chains is {value} of the learning coefficient (limit {limit})"
        yield from evidence.flag(
            share, LIMITS["spread"], "chains_disagree", message, _LONGER, observable=series.observable
        )


def shared_noise(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where the noise of minibatches that chains share is much of the error of a mean loss.

    ``llc_se`` counts that noise; effective draws and ``llc_mcse`` count chains as independent.
    """
    if not evidence.is_shared or evidence.num_chains < 2:
        return
    series = evidence.series[0]
    if not series.is_paired:
        yield Finding(
            "shared_noise",
            "note",
            "all chains see the same minibatches, and the losses of their rows at w0 are not stored: more chains do not make "
            "the noise of the data smaller, and `llc_mcse` leaves it out",
            "sample with `paired=True`, or use `llc_se`",
        )
    for one in (each for each in evidence.series if each.is_paired):
        message = (
            f"{{value}} of the squared error of {one.name} is noise that all chains have in common (limit {{limit}}): "
            "more chains do not make it smaller, and `llc_mcse` leaves it out"
        )
        advice = (
            "use `llc_se`; more draws, or own minibatches of each chain: `match_sampling_input_ids_across_chains=False`"
        )
        yield from evidence.flag(
            one.common_share, LIMITS["common"], "shared_noise", message, advice, observable=one.observable
        )


def tokens(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where many tokens of an observable have chains that did not mix."""
    for name in schema.observable_names(evidence.run):
        group = f"{OBSERVABLES}/{name}"
        if "loss" not in evidence.run[group] or POSITION not in evidence.run[f"{group}/loss"].dims:
            continue
        loss = losses(evidence.run, group).isel({DRAW: draws_after(evidence.run, evidence.burnin)})
        values = _rhat(loss)
        over = [SEQUENCE, POSITION]
        bad = xr.Dataset(
            {"bad": (values > LIMITS["rhat"].reject).sum(over), "all": values.notnull().sum(over)}
        ).compute()
        share = bad["bad"] / bad["all"].where(bad["all"] > 0, 1)
        message = (
            f"{{value}} of the token losses of {name!r} have an R-hat above {LIMITS['rhat'].reject} (limit {{limit}})"
        )
        advice = "influences and coefficients of single tokens need more draws"
        yield from evidence.flag(share, LIMITS["tokens"], "tokens_disagree", message, advice, observable=name)


def _rhat(loss: xr.DataArray) -> xr.DataArray:
    """Return R-hat of every series, lazily, without the effective sample sizes that take as long again."""
    if loss.chunks is not None:
        loss = loss.chunk({CHAIN: -1, DRAW: -1})
    values: xr.DataArray = xr.apply_ufunc(
        partial(in_blocks, rhat_of),
        loss,
        input_core_dims=[[CHAIN, DRAW]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return values


CHECKS = [
    Check("rhat", rhat, {"chains_disagree": "chains, or their halves, are in different places"}),
    Check("spread", spread, {"chains_disagree": "the coefficient differs from chain to chain"}),
    Check("shared_noise", shared_noise, {"shared_noise": "chains that see the same minibatches are not independent"}),
    Check(
        "tokens",
        tokens,
        {"tokens_disagree": "many single tokens have not converged"},
        requires=(f"{OBSERVABLES}/*/loss",),
    ),
]
