"""What plots of convergence draw: the loss of each chain after burn-in, less that of the same minibatches at w0 where known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.run_data import restriction_names, under_restrictions
from devinterp.analyses.llc import loss_traces
from devinterp.errors import InvalidInputError
from devinterp_plots.read import array, burnin_of, choose, one_run


@dataclass(frozen=True, slots=True)
class ChainSeries:
    """Losses of the chains of one restriction.

    Parameters
    ----------
    values : numpy.ndarray
        ``(chain, step)`` after burn-in, of the chains that are finite to their end.
    chains : list of str
        Their labels.
    left_out : list of str
        Labels of those that are not.
    is_paired : bool
        Whether the loss of the same minibatches at w0 was subtracted.
    restriction : str
        Name of the restriction; empty if the run has one only.
    """

    values: np.ndarray
    chains: list[str]
    left_out: list[str]
    is_paired: bool
    restriction: str

    @property
    def quantity(self) -> str:
        """Return what the values are: the paired loss is what a minibatch's exceeds that of the same one at w0 by."""
        return "paired loss" if self.is_paired else "minibatch loss"


def chain_series(tree: xr.DataTree, restriction: str | None, burnin: int | None, *, plot: str) -> ChainSeries:
    """Return the series of one restriction of the only run of a tree.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, the restriction is unknown or has to be chosen, `burnin` leaves no step, or
        no chain is finite to its end.
    """
    run = one_run(tree, plot=plot)
    names = restriction_names(run)
    name = choose("restriction", restriction, names, plot=plot)
    burnin = burnin_of(run, burnin)
    traces = loss_traces(under_restrictions(run, [name])).compute().squeeze(schema.RESTRICTION)
    is_paired = "rise" in traces
    values = traces["rise" if is_paired else "loss"].transpose(schema.CHAIN, schema.STEP).values[:, burnin:]
    labels = [str(each) for each in array(run, schema.CHAIN).values]
    is_finite = np.isfinite(values).all(1)
    if not is_finite.any():
        raise InvalidInputError(f"`plot.{plot}`: no chain of restriction {name!r} is finite to its end.")
    return ChainSeries(
        values[is_finite],
        [each for each, kept in zip(labels, is_finite, strict=True) if kept],
        [each for each, kept in zip(labels, is_finite, strict=True) if not kept],
        is_paired,
        name if len(names) > 1 else "",
    )


def title_of(series: ChainSeries, what: str) -> str:
    """Return the title of a plot of a series, with the restriction and the chains that it lacks."""
    of = f", {series.restriction}" if series.restriction else ""
    without = f" (without chains {', '.join(series.left_out)}: not finite)" if series.left_out else ""
    return f"{what}{of}{without}"
