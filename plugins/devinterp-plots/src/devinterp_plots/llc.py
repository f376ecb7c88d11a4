"""Learning coefficients with their errors, one row for each restriction, observable and chain mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.llc import compute_llc, estimates
from devinterp.errors import InvalidInputError
from devinterp.runs import RUN
from devinterp_plots.read import one_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def llc(
    tree: xr.DataTree,
    *,
    x: str | None = None,
    y: str | None = None,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the local learning coefficient of every restriction and observable, or along what varies in a study.

    Of a run a large dot is the mean over chains, its bar one standard error (docs/errors.md), small dots are single chains.
    *Paired* is that of the run, each minibatch compared with itself at :math:`w_0`, where the run stores what that needs;
    *minibatches* is DevInterp 2's, with one value of :math:`L(w_0)`; observables compare the same sequences too.

    Of a study the coefficient of each restriction is a line along `x`, with a band of one standard error on either side; lines
    of one colour differ in what else varies. Where a run's verdict is *reject* or *warning*, its point is marked. With `y` it
    is a heat map over both.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run, or a study.
    x, y : str, optional
        Dimensions of a study, such as ``"checkpoint"``. Default of `x`: its first. The axis is logarithmic where the labels
        are more evenly spaced so.
    burnin : int, optional
        As in `devinterp.analyses.llc.compute_llc`.
    chains : {"all", "finished"}, default: "all"
        As in `devinterp.analyses.llc.compute_llc`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure, as tall as its rows need.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree holds several runs that nothing tells apart, or a dimension is none of them.
    BrokenChainsError
        If chains diverged or did not finish and `chains` is ``"all"``.
    """
    from devinterp_plots import style

    if len(schema.runs(tree)) > 1:
        from devinterp_plots.study import draw_study

        result = tree.slt.llc(burnin=burnin, chains=chains)
        if RUN in result.dims:  # nothing tells the runs apart but their paths
            one_run(tree, plot="llc")
        return draw_study(result, x=x, y=y, ax=ax)
    if x is not None or y is not None:
        raise InvalidInputError(f"`plot.llc` draws along {x or y!r} in a study; this is a single run.")
    rows = table(compute_llc(one_run(tree, plot="llc"), burnin=burnin, chains=chains))
    names, kinds = [str(n) for n in rows[schema.RESTRICTION].values], [str(n) for n in rows["estimate"].values]
    if ax is None:
        num_rows = len(names) * len(kinds) + 0.5 * len(names)
        figure = style.picture(7.0, 1.3 + num_rows * min(0.34, max(0.1, 24 / num_rows)))
        ax = figure.subplots()
    by_name = len(names) > 1  # one restriction: the observables label the rows, and no legend is needed
    palette = style.colours(len(kinds))
    ticks, labels, top = [], [], 0.0
    for name in names:
        first = top
        for number, (kind, colour) in enumerate(zip(kinds, palette, strict=True)):
            # By number: an observable may be called like one of the others.
            row = rows.sel({schema.RESTRICTION: name}).isel(estimate=number)
            _draw(ax, row, top, colour, label=kind if name == names[0] else None)
            if not by_name:
                ticks.append(top)
                labels.append(kind)
            top += 1.0
        if by_name:
            ticks.append((first + top - 1.0) / 2)
            labels.append(name)
            top += 0.6
    ax.set_yticks(ticks, labels)
    ax.set_ylim(top - (1.0 if by_name else 0.4), -0.6)
    style.tidy(ax, xlabel="local learning coefficient\nlarge: mean ± standard error, small: each chain")
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    if by_name and len(kinds) > 1:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize=8.5)
    return style.owner(ax)


def _draw(ax: Axes, row: xr.Dataset, height: float, colour: str, *, label: str | None) -> None:
    """Draw the mean with its standard error, and each chain, at one height."""
    chains = row["per_chain"]
    ax.plot(chains, np.full(chains.size, height), "o", ms=4, color=colour, alpha=0.35, mew=0)
    ax.errorbar(
        row["mean"], height, xerr=row["se"], fmt="o", ms=7, color=colour, capsize=3, elinewidth=1.6, label=label
    )


def table(result: xr.Dataset) -> xr.Dataset:
    """Return ``mean``, ``se`` (restriction, estimate) and ``per_chain`` (..., chain) of all coefficients, the paired one first.

    Parameters
    ----------
    result : xarray.Dataset
        What `devinterp.analyses.llc.compute_llc` returned.

    Returns
    -------
    xarray.Dataset
        The same numbers, computed.
    """
    rows = estimates(result.compute())[["mean", "se", "per_chain"]]
    return rows if schema.RESTRICTION in rows.dims else rows.expand_dims({schema.RESTRICTION: [""]})
