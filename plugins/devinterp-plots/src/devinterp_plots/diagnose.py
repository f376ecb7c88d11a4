"""One page about a run: its verdict with the findings, traces, ranks, autocorrelation and coefficients."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp.analyses.common.run_data import restriction_names, under_restrictions
from devinterp.analyses.diagnosis import diagnose as diagnosis
from devinterp.errors import DevinterpError
from devinterp_plots.autocorrelation import autocorrelation
from devinterp_plots.llc import llc
from devinterp_plots.rank import rank
from devinterp_plots.read import choose, one_run
from devinterp_plots.trace import trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

#: Findings that are written out; the worst come first.
MAX_FINDINGS = 9


def diagnose(
    tree: xr.DataTree,
    *,
    restriction: str | None = None,
    burnin: int | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Draw what decides whether a run's numbers can be used, on one page.

    Above, the verdict of ``tree.slt.diagnose()`` with its findings; below, of one restriction, the losses and the LLC as the
    chain runs, ranks and autocorrelation, and the coefficients of the chains that finished.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    restriction : str, optional
        The weight restriction of the pictures; by default ``"full"``, or the first.
    burnin : int, optional
        As in ``tree.slt.diagnose()``.
    figure : matplotlib.figure.Figure or matplotlib.figure.SubFigure, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, `restriction` is unknown, or `burnin` leaves no step.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="diagnose")
    names = restriction_names(run)
    default = "full" if "full" in names else names[0]
    name = choose("restriction", restriction or default, names, plot="diagnose")
    result = diagnosis(run, burnin=burnin).compute()
    page = style.picture(11.0, 11.0) if figure is None else figure
    parts: Any = page.subfigures(3, 1, height_ratios=(3, 4.4, 3.2))
    top, middle, bottom = parts
    for part in parts:
        part.set_facecolor("none")
    _write(top.subplots(), result)
    axes = middle.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    trace(run, restriction=name, burnin=burnin, verdict=False, axes=axes)
    left, centre, right = bottom.subplots(1, 3)
    steps: dict[str, object] = {"burnin": burnin}
    one = under_restrictions(run, [name])
    for ax, draw, options in (
        (left, rank, steps),
        (centre, autocorrelation, steps),
        (right, llc, {**steps, "chains": "finished"}),
    ):
        _try(ax, draw, one, options)
    return style.owner(left)


def _try(ax: Axes, draw: object, run: xr.DataTree, options: dict[str, object]) -> None:
    """Draw, or write why this run cannot be drawn so."""
    from devinterp_plots import style

    assert callable(draw)
    try:
        draw(run, ax=ax, **options)
    except DevinterpError as error:
        ax.axis("off")
        ax.text(0, 1, textwrap.fill(str(error), 40), va="top", fontsize=8, color=style.INK, transform=ax.transAxes)


def _write(ax: Axes, result: xr.Dataset) -> None:
    """Write the verdict, the worst findings, and how many checks could not be made."""
    from devinterp_plots import style

    ax.axis("off")
    ax.set_title(f"verdict: {result['verdict'].item()}", loc="left", fontsize=13, color=style.INK, fontweight="bold")
    lines: list[str] = []
    for n in range(min(result.sizes["finding"], MAX_FINDINGS)):
        one = result.isel(finding=n)
        about = ", ".join(str(one[key].item()) for key in ("restriction", "observable") if one[key].item())
        head = f"{one['severity'].item()}  {one['code'].item()}{f' ({about})' if about else ''}: "
        lines.append(textwrap.shorten(head + str(one["message"].item()), 150, placeholder=" …"))
    if result.sizes["finding"] > MAX_FINDINGS:
        lines.append(f"and {result.sizes['finding'] - MAX_FINDINGS} more findings: tree.slt.diagnose()")
    if not lines:
        lines.append("Nothing was found that speaks against these numbers.")
    num_missed = int((~result["looked_at"].to_numpy().astype(bool)).sum())
    if num_missed:
        lines.append(f"{num_missed} of {result.sizes['check']} checks could not be made")
    for n, line in enumerate(lines):
        ax.text(0, 1 - n / (MAX_FINDINGS + 2), line, va="top", fontsize=8.5, color=style.INK, transform=ax.transAxes)
