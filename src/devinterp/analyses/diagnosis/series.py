"""Series of mean losses above those at w0: of the run and of each observable, and what is known of their means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.convergence import ess, summary
from devinterp.analyses.common.mean_error import common_share, mean_error
from devinterp.analyses.common.mean_losses import draw_means, share_minibatches, start_mean, trace_means, trace_start
from devinterp.analyses.common.run_data import draws_after, labels, steps_after
from devinterp.analyses.llc.errors import widened
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, RESTRICTION, STEP, TRACE


@dataclass(frozen=True)
class Series:
    """The rise of a mean loss over that at w0, after burn-in.

    Parameters
    ----------
    observable : str
        Name of the observable; empty for the minibatches of the run.
    rise : xarray.DataArray
        L(w) - L(w0), ``(restriction, chain, draw)``, loaded; along ``draw`` steps or draws.
    is_paired : bool
        Whether both losses are of the same data at each draw, so that the choice of data adds no noise to the mean.
    is_shared : bool
        Whether all chains see the same minibatches.
    """

    observable: str
    rise: xr.DataArray
    is_paired: bool
    is_shared: bool

    @cached_property
    def mean(self) -> xr.DataArray:
        """Return the mean over chains and draws, ``(restriction)``."""
        return self.per_chain.mean(CHAIN)

    @cached_property
    def per_chain(self) -> xr.DataArray:
        """Return the mean over draws, ``(restriction, chain)``."""
        return self.rise.mean(DRAW)

    @cached_property
    def error(self) -> xr.DataArray:
        """Return the standard error of the mean, so that two of them are a 95 % interval, ``(restriction)``."""
        return widened(mean_error(self.rise, shared=self.is_shared))

    @cached_property
    def common_share(self) -> xr.DataArray:
        """Return the share of the squared error that is noise of minibatches all chains have in common, ``(restriction)``."""
        return xr.DataArray(common_share(self.rise.to_numpy()), dims=self.mean.dims)

    @cached_property
    def convergence(self) -> xr.Dataset:
        """Return ``rhat``, ``ess`` and ``mcse``, ``(restriction)`` each."""
        return summary(self.rise)

    @cached_property
    def variance_of_chain_means(self) -> xr.DataArray:
        """Return the variance that the mean of a chain has from its own effective number of draws, ``(restriction)``."""
        alone = self.rise.transpose(..., CHAIN, DRAW)
        sizes = ess(alone.to_numpy()[..., None, :])
        return (alone.var(DRAW, ddof=1) / sizes).mean(CHAIN)

    @property
    def name(self) -> str:
        """Return how messages name it."""
        return f"the loss of {self.observable!r}" if self.observable else "the minibatch loss"


def read_series(run: xr.DataTree, burnin: int) -> list[Series]:
    """Return the series of a run and of its observables whose loss at w0 is stored, reading every loss once.

    Parameters
    ----------
    run : xarray.DataTree
        A run of finished chains.
    burnin : int
        Steps to leave out.
    """
    rows, shared = RowLosses.of(run), share_minibatches(run)
    rise = trace_means(run) - trace_start(run) if rows is None else StepLosses.of(run, rows).rise
    own = _unnumbered(rise.isel({STEP: steps_after(run, burnin)}), run[TRACE], STEP, 0)
    lazy = {"": (own, rows is not None)}
    draws = draws_after(run, burnin)
    for name in schema.observable_names(run):
        group = f"{OBSERVABLES}/{name}"
        if "init_loss" in run[group]:
            each = (draw_means(run, group) - start_mean(run, group)).isel({DRAW: draws})
            lazy[name] = (_unnumbered(each, run[group], DRAW, len(lazy)), True)
    # One computation, so that what several need is read once.
    loaded = xr.Dataset({f"series{n}": each for n, (each, _) in enumerate(lazy.values())}).compute()
    return [
        Series(name, loaded[f"series{n}"].rename({f"{DRAW}{n}": DRAW}), is_paired, shared)
        for n, (name, (_, is_paired)) in enumerate(lazy.items())
    ]


def _unnumbered(series: xr.Variable, node: xr.DataTree | xr.DataArray, dim: str, number: int) -> xr.DataArray:
    """Return a series with labels of restrictions and chains only, along a dimension of its own."""
    return xr.DataArray(series, labels(node, RESTRICTION, CHAIN)).rename({dim: f"{DRAW}{number}"})


def num_steps(run: xr.DataTree) -> int:
    """Return the number of steps of each chain."""
    return int(run[TRACE].sizes[STEP])


def quantile_of_gamma(shape: np.ndarray, deviations: float) -> np.ndarray:
    """Return the quantile of a gamma law at the probability of so many normal deviations (Wilson-Hilferty)."""
    shape = np.maximum(shape, 1e-3)
    root = 1 - 1 / (9 * shape) + deviations / (3 * np.sqrt(shape))
    return np.asarray(shape * np.maximum(root, 0) ** 3)
