"""How every picture looks. The only module that imports matplotlib, so that listing plugins stays cheap."""

from __future__ import annotations

import io
from functools import cache
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

INK, MUTED, GRID, SHADE = "#222222", "#6b6b6b", "#e4e4e4", "#f1f1f1"

#: Okabe and Ito's palette, told apart by readers with any form of colour blindness; yellow is left out (too pale for lines).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

#: Comes with matplotlib, so that widths are the same everywhere.
MONOSPACE = "DejaVu Sans Mono"


class Picture(Figure):
    """A figure that notebooks show without pyplot, whose global list would keep it alive."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def picture(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Picture:
    """Return an empty figure of a size in inches."""
    figure = Picture(figsize=(width, height), dpi=144, facecolor="white", layout=layout)
    if layout is not None:
        figure.set_layout_engine(layout, w_pad=0.12, h_pad=0.08)
    return figure


def colours(count: int) -> list[str]:
    """Return as many distinct colours as there are chains or observables."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, count))
    return ["#" + "".join(f"{round(255 * c):02x}" for c in shade[:3]) for shade in shades]


def diverging() -> LinearSegmentedColormap:
    """Return blue - white - red without its darkest ends, so that black text can be read on every colour."""
    return LinearSegmentedColormap.from_list("devinterp", colormaps["RdBu_r"](np.linspace(0.14, 0.86, 256)))


def tidy(ax: Axes, *, title: str | None = None, xlabel: str | None = None, ylabel: str | None = None) -> None:
    """Give axes the common look: no box, a pale grid behind the data, text in dark grey, the title flush left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.set_axisbelow(True)
    ax.grid(True, color=GRID, linewidth=0.7)
    ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)
    if title is not None:
        ax.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    if xlabel is not None:
        ax.set_xlabel(xlabel, fontsize=9, color=INK)
    if ylabel is not None:
        ax.set_ylabel(ylabel, fontsize=9, color=INK)


def owner(ax: Axes) -> Figure:
    """Return the figure that axes belong to, through any subfigures."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


@cache
def _has_glyph(character: str) -> bool:
    return bool(get_font(findfont(FontProperties(family=MONOSPACE))).get_char_index(ord(character)))


def drawable(text: str) -> str:
    """Return text with an empty box (as wide) for what the font cannot draw, which would be a warning for each picture."""
    return "".join(c if _has_glyph(c) else "\u25a1" for c in text)
