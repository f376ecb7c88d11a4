"""Learning coefficients with their errors, one row for each restriction, observable and chain mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.llc import compute_llc
from devinterp_plots.read import one_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Label of the rows with the minibatch LLC, beside those of observables.
TRACE = "minibatches"


def llc(
    tree: xr.DataTree,
    *,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    """Draw the local learning coefficient of every restriction and observable, with its chains.

    A large dot is the mean over chains, its bar one standard error (Monte Carlo error and, for minibatches, the error
    of the loss at the starting weights), small dots are single chains. Observables give *paired* LLCs: the same sequences
    at the starting weights and at the draws.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
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
        If the tree does not hold exactly one run.
    BrokenChainsError
        If chains diverged or did not finish and `chains` is ``"all"``.
    """
    from devinterp_plots import style

    rows = table(compute_llc(one_run(tree, plot="llc"), burnin=burnin, chains=chains))
    names, kinds = [str(n) for n in rows[schema.RESTRICTION].values], [str(n) for n in rows["observable"].values]
    if ax is None:
        num_rows = len(names) * len(kinds) + 0.5 * len(names)
        figure = style.picture(7.0, 1.3 + num_rows * min(0.34, max(0.1, 24 / num_rows)))
        ax = figure.subplots()
    by_name = len(names) > 1  # one restriction: the observables label the rows, and no legend is needed
    palette = style.colours(len(kinds))
    ticks, labels, top = [], [], 0.0
    for name in names:
        first = top
        for kind, colour in zip(kinds, palette, strict=True):
            row = rows.sel({schema.RESTRICTION: name, "observable": kind})
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
    """Return ``mean``, ``se`` (restriction, observable) and ``per_chain`` (..., chain) of everything in a result.

    Parameters
    ----------
    result : xarray.Dataset
        What `devinterp.analyses.llc.compute_llc` returned.

    Returns
    -------
    xarray.Dataset
        The same numbers, computed, the minibatches being one more entry along ``observable``.
    """
    result = result.compute()
    columns = {"mean": "llc_mean", "se": "llc_se", "per_chain": "llc_per_chain"}
    rows = xr.Dataset({new: result[old] for new, old in columns.items()}).expand_dims(observable=[TRACE])
    if "observable" in result.dims:
        paired = {"mean": "observable_llc_mean", "se": "observable_llc_mcse", "per_chain": "observable_llc_per_chain"}
        rows = xr.concat(
            [rows, xr.Dataset({new: result[old] for new, old in paired.items()})],
            "observable",
            coords="minimal",
            compat="override",
            join="outer",
        )
    return rows if schema.RESTRICTION in rows.dims else rows.expand_dims({schema.RESTRICTION: [""]})
