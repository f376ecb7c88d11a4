"""Learning coefficients along what varies in a study: lines with bands of their error, or a heat map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.study_labels import is_logarithmic
from devinterp_plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Verdicts that are marked, and how.
_MARKS = {"warning": ("o", "warning"), "reject": ("X", "reject: do not use")}
#: More lines than this have no legend.
_MOST_LABELS = 24


def draw_study(result: xr.Dataset, *, x: str | None, y: str | None, ax: Axes | None) -> Figure:
    """Draw the learning coefficients of a study.

    Parameters
    ----------
    result : xarray.Dataset
        From ``tree.slt.llc()`` of a study.
    x, y : str or None
        Dimensions of the study; a heat map with `y`.
    ax : matplotlib.axes.Axes or None
        Where to draw; None: on a new figure, or several for a heat map of each restriction.
    """
    result = result.compute()
    name = "paired_llc" if "paired_llc_mean" in result else "llc"
    dims = [str(dim) for dim in result["verdict"].dims] if "verdict" in result else []
    x = x or (dims[0] if dims else None)
    for each in (x, *([y] if y else [])):
        if each not in dims:
            raise InvalidInputError(
                f"`plot.llc`: {each!r} must be a dimension of the study: {', '.join(dims) or 'none'}."
            )
    assert x is not None
    ax = style.axes(ax, 7.0, 4.2)
    if y is not None:
        return _heat_map(result[f"{name}_mean"], result["verdict"], x, y, ax)
    _lines(ax, result, name, x)
    _scale(ax, result[x].to_numpy())
    style.tidy(ax, xlabel=x, ylabel="local learning coefficient\n± one standard error")
    handles, labels = ax.get_legend_handles_labels()
    marks = {text for _, text in _MARKS.values()}
    order = sorted(
        range(len(labels)), key=lambda number: labels[number] in marks
    )  # what lines are, then what marks mean
    if len(labels) > 1 or marks & set(labels):
        ax.legend(
            [handles[n] for n in order],
            [labels[n] for n in order],
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            fontsize=8.5,
        )
    return style.owner(ax)


def _lines(ax: Axes, result: xr.Dataset, name: str, x: str) -> None:
    mean, error, verdict = result[f"{name}_mean"], result[f"{name}_se"], result["verdict"]
    restrictions = [str(each) for each in mean[schema.RESTRICTION].values] if schema.RESTRICTION in mean.dims else [""]
    colours = style.colours(len(restrictions))
    numeric = result[x].dtype.kind in "iuf"
    places = result[x].to_numpy() if numeric else np.arange(result.sizes[x])
    marked: set[str] = set()
    for number, colour in enumerate(colours):
        of_one = {schema.RESTRICTION: number} if schema.RESTRICTION in mean.dims else {}
        for first, others in enumerate(_others(mean, x)):
            values, errors = (each.isel({**others, **of_one}).to_numpy() for each in (mean, error))
            label = restrictions[number] if first == 0 and len(restrictions) <= _MOST_LABELS else None
            ax.plot(
                places, values, "-o", ms=3, color=colour, lw=1.4, alpha=1.0 if first == 0 else 0.6, label=label or None
            )
            ax.fill_between(places, values - errors, values + errors, color=colour, alpha=0.16, linewidth=0)
            verdicts = verdict.isel({dim: place for dim, place in others.items() if dim in verdict.dims}).to_numpy()
            _mark(ax, places, values, verdicts, marked)
    if not numeric:
        ax.set_xticks(places, [str(label) for label in result[x].values])


def _mark(ax: Axes, places: np.ndarray, values: np.ndarray, verdicts: np.ndarray, marked: set[str]) -> None:
    """Mark the points of runs whose verdict is bad; `marked` holds the kinds that the legend has already."""
    for kind, (marker, text) in _MARKS.items():
        at = verdicts == kind
        if not at.any():
            continue
        face = "none" if kind == "warning" else style.INK
        label = None if kind in marked else text
        ax.scatter(
            places[at], values[at], marker=marker, s=42, facecolors=face, edgecolors=style.INK, label=label, zorder=3
        )
        marked.add(kind)


def _others(values: xr.DataArray, x: str) -> Iterator[Mapping[Any, int]]:
    """Yield every place along the dimensions that are neither an axis nor coloured."""
    dims = [dim for dim in values.dims if dim not in (x, schema.RESTRICTION)]
    for places in itertools.product(*(range(values.sizes[dim]) for dim in dims)):
        yield dict(zip(dims, places, strict=True))


def _scale(ax: Axes, labels: np.ndarray) -> None:
    """Make the axis logarithmic where labels are spaced so; a zero stands left of the smallest one."""
    if labels.dtype.kind in "iuf" and is_logarithmic(labels.tolist()):
        positive = labels[labels > 0]
        if (labels == 0).any():
            ax.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.4)
        else:
            ax.set_xscale("log")


def _heat_map(mean: xr.DataArray, verdict: xr.DataArray, x: str, y: str, ax: Axes) -> Figure:
    further = [str(dim) for dim in mean.dims if dim not in (x, y)]
    if further:
        raise InvalidInputError(
            f"`plot.llc`: a heat map over {x!r} and {y!r} needs one label along {', '.join(further)}: select a part."
        )
    values = mean.transpose(y, x)
    image = ax.imshow(values.to_numpy(), origin="lower", aspect="auto", cmap="viridis")
    ax.set_xticks(range(values.sizes[x]), [str(label) for label in values[x].values], rotation=45, ha="right")
    ax.set_yticks(range(values.sizes[y]), [str(label) for label in values[y].values])
    verdicts = verdict.transpose(y, x).to_numpy()
    for kind, (marker, text) in _MARKS.items():
        rows, columns = np.nonzero(verdicts == kind)
        if len(rows):
            face = "none" if kind == "warning" else "white"
            ax.scatter(columns, rows, marker=marker, s=42, facecolors=face, edgecolors="white", label=text)
    figure = style.owner(ax)
    figure.colorbar(image, ax=ax, label="local learning coefficient")
    style.tidy(ax, xlabel=x, ylabel=y)
    ax.grid(False)
    return figure
