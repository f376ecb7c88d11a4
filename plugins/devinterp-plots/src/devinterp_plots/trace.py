"""Losses and running LLCs along the chains: whether they levelled off, agree, and stay above the starting weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.pictures import running_mean
from devinterp.analyses.common.run_data import restriction_names, under_restrictions
from devinterp.analyses.llc import compute_llc, loss_traces
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp_plots.read import array, burnin_of, choose, one_run, setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Lines(NamedTuple):
    """Curves of one column: losses, their moving averages and running LLCs ``(chain, step)``, and L(w0)."""

    losses: np.ndarray
    smooth: np.ndarray
    llc: np.ndarray
    init: float


#: Columns of a picture of several restrictions that can still be read.
MAX_COLUMNS = 4


def trace(
    tree: xr.DataTree,
    *,
    restriction: str | None = None,
    burnin: int | None = None,
    paired: bool = True,
    verdict: bool = True,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    r"""Draw the minibatch loss along every chain, and below it the LLC as the chain runs.

    Pale lines are the losses of minibatches :math:`L_B(w)`. Where the run stores the losses of its rows at :math:`w_0`, strong
    lines are :math:`L(w_0)` plus a moving average of :math:`L_B(w) - L_B(w_0)`, in which the noise of the data cancels, and the
    lower panel is the paired LLC so far, :math:`n\beta\,\frac1k\sum_{s \le k} (L_B(w_s) - L_B(w_0))` over the steps after
    burn-in. Otherwise, and with ``paired=False``, they are the moving average of the losses and DevInterp 2's LLC,
    :math:`n\beta\,(\frac1k\sum_{s \le k} L_B(w_s) - L(w_0))`. A healthy trace rises above :math:`L(w_0)`, levels off before
    burn-in ends, and its chains agree.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    restriction : str, optional
        The weight restriction to draw; by default all of them side by side, up to four.
    burnin : int, optional
        Number of initial steps that are shaded and left out of the LLC, from 0 to the number of steps less one; by default
        the run's ``num_burnin_steps``.
    paired : bool, default: True
        Draw the paired LLC, where the run stores what it needs, instead of DevInterp 2's.
    verdict : bool, default: True
        Write above what ``tree.slt.llc()`` says of the chains that finished.
    axes : sequence of two matplotlib.axes.Axes, optional
        Where to draw the losses and the LLC of one restriction; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, if `restriction` is unknown, if there are more than four restrictions and
        none is chosen, if `burnin` leaves no step, or if `axes` are not two.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="trace")
    names = restriction_names(run)
    if restriction is not None or len(names) > MAX_COLUMNS or axes is not None:
        names = [choose("restriction", restriction, names, plot="trace")]
    burnin = burnin_of(run, burnin)
    if axes is not None:
        if len(axes) != 2:
            raise InvalidInputError(f"`axes` must be two, for the loss and for the LLC; got {len(axes)}.")
        _frame(axes[0], axes[1], [_column(run, names[0], burnin, paired, axes[0], axes[1], title=None)])
        if verdict:
            _write_verdict(axes[0], run, burnin)
        return style.owner(axes[0])
    figure = style.picture(max(7.2, 1.2 + 4.0 * len(names)), 5.4)
    grid = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2))
    drawn = [
        _column(run, name, burnin, paired, top, bottom, title=name if len(names) > 1 else None)
        for name, (top, bottom) in zip(names, grid.T, strict=True)
    ]
    _frame(grid[0, 0], grid[1, 0], drawn)
    if verdict:
        _write_verdict(grid[0, -1], run, burnin)
    for ax in grid[:, 1:].flat:
        ax.set_ylabel("")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    ncols = int(figure.get_figwidth() / 1.3)
    figure.legend(handles, labels, loc="outside upper left", ncols=ncols, frameon=False, fontsize=8.5, handlelength=1.6)
    return figure


def _write_verdict(ax: Axes, run: xr.DataTree, burnin: int) -> None:
    """Write the verdict of the coefficients and the codes of its findings above axes, flush right."""
    from devinterp_plots import style

    try:
        attrs = compute_llc(run, burnin=burnin, chains="finished").attrs
    except (BrokenChainsError, MissingDataError) as error:
        text = "no chain has finished" if isinstance(error, BrokenChainsError) else "not judged"
        ax.set_title(text, loc="right", fontsize=8.5, color=style.MUTED)
        return
    left_out = f"; chains {', '.join(map(str, attrs['chains_left_out']))} left out" if attrs["chains_left_out"] else ""
    verdict = str(attrs["verdict"]).partition(",")[0]  # of a lazy run: not judged, and why
    codes = f" ({', '.join(attrs['findings'])})" if attrs.get("findings") else ""
    ax.set_title(f"verdict: {verdict}{codes}{left_out}", loc="right", fontsize=8.5, color=style.MUTED)


def _column(
    run: xr.DataTree, name: str, burnin: int, paired: bool, top: Axes, bottom: Axes, *, title: str | None
) -> Lines:
    """Draw one restriction, losses on `top` and running LLC on `bottom`, and return what it drew."""
    from devinterp_plots import style

    losses, rise, init = _losses(run, name)
    kind = "LLC" if rise is None or not paired else "paired LLC"
    if rise is None or not paired:
        rise = losses - init
    smooth = init + np.vstack([_smooth(of_chain) for of_chain in rise])
    llc = float(setting(run, "n_beta")) * running_mean(rise[:, burnin:])
    steps = np.arange(losses.shape[1])
    labels = array(run, schema.CHAIN).values
    states = (
        array(run, "status/state").sel({schema.RESTRICTION: name}).values if schema.STATUS in run.children else None
    )
    for chain, colour in enumerate(style.colours(len(losses))):
        top.plot(steps, losses[chain], color=colour, alpha=0.28, linewidth=0.7, zorder=1.5)
        top.plot(steps, smooth[chain], color=colour, linewidth=1.5, label=f"chain {labels[chain]}")
        bottom.plot(steps[burnin:], llc[chain], color=colour, linewidth=1.4)
        finite_steps = np.flatnonzero(np.isfinite(losses[chain]))
        if states is not None and states[chain] == schema.DIVERGED and finite_steps.size:
            end = (finite_steps[-1], smooth[chain, finite_steps[-1]])
            top.plot(*end, marker="X", color=colour, markersize=10, markeredgecolor="white", zorder=5)
            paper = {"facecolor": style.PAGE, "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
            top.annotate(
                "diverged", end, (9, 9), textcoords="offset points", color=colour, fontsize=8.5, bbox=paper, zorder=6
            )
    top.axhline(init, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)), label="at the starting weights")
    bottom.axhline(0.0, color=style.INK, linewidth=1.1, linestyle=(0, (4, 3)))
    style.tidy(top, title=title, ylabel="minibatch loss\n(nats per token)")
    style.tidy(bottom, xlabel="step", ylabel=f"{kind} so far")
    for ax in (top, bottom):
        ax.set_xlim(0, max(losses.shape[1] - 1, 1))
        if burnin:
            ax.axvspan(0, burnin, color=style.SHADE, zorder=0, linewidth=0)
    if burnin:
        bottom.text(0.01, 0.95, "burn-in", transform=bottom.transAxes, va="top", color=style.MUTED, fontsize=8.5)
    return Lines(losses, smooth, llc, init)


def _losses(run: xr.DataTree, name: str) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Return mean losses ``(chain, step)``, their rise over the same minibatches at w0 where that is known, and L(w0)."""
    traces = loss_traces(under_restrictions(run, [name])).compute().squeeze(schema.RESTRICTION)
    loss = traces["loss"].transpose(schema.CHAIN, schema.STEP).values
    rise = traces["rise"].transpose(schema.CHAIN, schema.STEP).values if "rise" in traces else None
    return loss, rise, float(traces["w0_loss"])


def _smooth(loss: np.ndarray) -> np.ndarray:
    """Return a centred moving average over a twenty-fifth of the chain, ``(step,)``, NaN where the loss is not finite."""
    width = max(1, len(loss) // 25) | 1
    is_finite = np.isfinite(loss)
    window = np.ones(width)
    total = np.convolve(np.where(is_finite, loss, 0.0), window, mode="same")
    count = np.convolve(is_finite, window, mode="same")
    return np.where(is_finite, total / np.maximum(count, 1), np.nan)


def _frame(top: Axes, bottom: Axes, drawn: Sequence[Lines]) -> None:
    """Set the y limits by quantiles of the chains that stayed finite.

    One exploding chain, or the first steps of a running mean, must not flatten everything else.
    """
    for ax, values, always in (
        (top, [finite_chains(lines.smooth) for lines in drawn], [lines.init for lines in drawn]),
        (bottom, [finite_chains(lines.llc)[:, lines.llc.shape[1] // 20 :] for lines in drawn], [0.0]),
    ):
        bulk = np.concatenate([value.ravel() for value in values])
        if not np.isfinite(bulk).any():
            continue
        bounds = [*always, *np.nanquantile(bulk, [0.005, 0.995])]
        if ax is top:
            losses = np.concatenate([finite_chains(lines.losses).ravel() for lines in drawn])
            bounds += [*np.nanquantile(losses, [0.02, 0.98])]
        pad = 0.06 * (max(bounds) - min(bounds)) or 0.5
        ax.set_ylim(min(bounds) - pad, max(bounds) + pad)


def finite_chains(values: np.ndarray) -> np.ndarray:
    """Return the chains of ``(chain, step)`` that are finite to the end, or all where none is."""
    is_finite = np.isfinite(values[:, -1])
    return values[is_finite] if is_finite.any() else values
