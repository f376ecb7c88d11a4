"""Influences between sequences as a heat map, with the observables as blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.common.pictures import colour_limit
from devinterp.analyses.common.run_data import restriction_names, under_restrictions
from devinterp.errors import InvalidInputError
from devinterp_plots.heatmap import heatmap
from devinterp_plots.read import choose, one_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most sequences on a side; more could not be told apart.
MAX_SEQUENCES = 1000


def bif(
    tree: xr.DataTree,
    *,
    restriction: str | None = None,
    loss_keys: Any = None,
    average_tokenwise_bif: bool = False,
    compute_covariance: bool = False,
    centre: Literal["pooled", "chain"] = "pooled",
    limit: float | None = None,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the influences between sequences, a block for each pair of observables.

    An influence is :math:`\mathrm{corr}(\ell_x(w), \ell_y(w))` over the posterior. Lines separate the observables. The
    colours end at the 98th percentile of the sizes off the diagonal, which is one.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run with observables.
    restriction : str, optional
        The weight restriction; may be left out when there is only one.
    loss_keys : str, list of str or dict, optional
        Observables, or sequences of them, that take part, as in ``tree.slt.bif()``; default: all.
    average_tokenwise_bif : bool, default: False
        The mean over all pairs of tokens of two sequences, instead of the influence between mean losses.
    compute_covariance : bool, default: False
        Covariance in place of correlation.
    centre : {"pooled", "chain"}, default: "pooled"
        As in ``tree.slt.bif()``.
    limit : float, optional
        Influence of the darkest red, and minus that of the darkest blue; above 0.
    burnin : int, optional
        As in ``tree.slt.bif()``.
    chains : {"all", "finished"}, default: "all"
        As in ``tree.slt.bif()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, a name is unknown or has to be chosen, or there are more than 1000 sequences.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="bif")
    names = restriction_names(run)
    name = choose("restriction", restriction, names, plot="bif")
    result = compute_bif(
        under_restrictions(run, [name]),
        "token" if average_tokenwise_bif else "sequence",
        average_tokenwise_bif=average_tokenwise_bif,
        compute_covariance=compute_covariance,
        loss_keys=loss_keys,
        centre=centre,
        burnin=burnin,
        chains=chains,
    )
    count = result.sizes["batch_1"]
    if count > MAX_SEQUENCES:
        raise InvalidInputError(
            f"`plot.bif` draws at most {MAX_SEQUENCES} sequences; there are {count}: choose some with `loss_keys`."
        )
    values = result["influences"].transpose("batch_1", "batch_2").compute().to_numpy().astype(float)
    observables, sequences = result["observable_1"].to_numpy(), result["sequence_1"].to_numpy()
    size = 3.0 + min(6.0, 0.16 * count)
    ax = style.axes(ax, size + 1.0, size)
    if limit is None:
        limit = colour_limit(values[~np.eye(count, dtype=bool)])
    labels = [f"{o} {s}" for o, s in zip(observables, sequences, strict=True)]
    heatmap(ax, values, labels, labels, limit=limit, bar="covariance" if compute_covariance else "correlation")
    ax.tick_params(axis="x", rotation=90)
    ax.set_aspect("equal")
    for edge in np.flatnonzero(observables[1:] != observables[:-1]) + 0.5:
        ax.axhline(edge, color=style.INK, linewidth=0.8)
        ax.axvline(edge, color=style.INK, linewidth=0.8)
    of = f", {style.label(name)}" if len(names) > 1 else ""
    ax.set_title(f"influences between sequences{of}", loc="left", fontsize=10, color=style.INK)
    return style.owner(ax)
