"""Tokens as points, coloured by a label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Most labels with a colour of their own; the most frequent ones.
MAX_LABELS = 12
_OTHER = "other"


def labels_of(labels: Any, num_tokens: int) -> np.ndarray | None:
    """Return a word for each token: a cluster, the first pattern that it has, or whatever label was given; None for none.

    Parameters
    ----------
    labels : xarray.Dataset, xarray.DataArray, array or None
        A result of ``tree.slt.clusters()`` or ``tree.slt.patterns()``, or labels ``(token,)``.
    num_tokens : int
        Number of tokens.

    Raises
    ------
    InvalidInputError
        If these are labels of other tokens.
    """
    if labels is None:
        return None
    if isinstance(labels, xr.Dataset) and "has_pattern" in labels:
        has = labels["has_pattern"].transpose("pattern", "token").to_numpy()
        names = np.array([*labels["pattern"].to_numpy(), _OTHER], dtype=object)
        values = names[np.where(has.any(axis=0), has.argmax(axis=0), len(names) - 1)]
    else:
        values = np.asarray(labels["cluster"] if isinstance(labels, xr.Dataset) else labels)
        if values.dtype.kind in "iu":
            values = np.array([f"cluster {v}" if v >= 0 else _OTHER for v in values], dtype=object)
        values = values.astype(str).astype(object)
    if values.shape != (num_tokens,):
        raise InvalidInputError(
            f"`labels` must be of the {num_tokens} tokens that are drawn; they have the shape {values.shape}."
        )
    return np.asarray(values)


def scatter(ax: Axes, places: np.ndarray, labels: np.ndarray | None) -> None:
    """Draw tokens ``(token, 2)`` as points, those without a label behind the others.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    places : numpy.ndarray
        Coordinates.
    labels : numpy.ndarray or None
        A word for each token; beyond 12 the rarer ones count as other.
    """
    from devinterp_plots import style

    common: dict[str, Any] = {
        "s": float(np.clip(6000 / max(len(places), 1), 0.5, 12)),
        "linewidths": 0,
        "rasterized": True,
    }
    if labels is None:
        ax.scatter(places[:, 0], places[:, 1], color=style.colours(1)[0], alpha=0.6, **common)
        return
    names, counts = np.unique(labels[labels != _OTHER], return_counts=True)
    shown = sorted(names[np.argsort(-counts, kind="stable")][:MAX_LABELS])
    colours = dict(zip(shown, style.colours(len(shown)), strict=True))
    rest = ~np.isin(labels, shown)
    if rest.any():
        ax.scatter(places[rest, 0], places[rest, 1], color=style.MUTED, alpha=0.35, label=_OTHER, **common)
    for name, colour in colours.items():
        here = labels == name
        ax.scatter(places[here, 0], places[here, 1], color=colour, alpha=0.7, label=name, **common)
    legend = ax.legend(frameon=False, fontsize=8, markerscale=3 / max(common["s"], 1) ** 0.5, loc="best")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
