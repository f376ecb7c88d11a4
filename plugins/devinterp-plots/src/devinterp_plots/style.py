"""How every picture looks, in light and in dark. The only module that imports matplotlib, so that listing stays cheap.

Colours are those of the theme in force (`themes`), in capitals: ``style.INK``, ``style.MUTED``, ``style.PAGE`` ...
"""

from __future__ import annotations

import io
import unicodedata
from functools import cache
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from devinterp_plots.themes import LIGHT, current

#: Comes with matplotlib, so that widths are the same everywhere.
MONOSPACE, SANS = "DejaVu Sans Mono", "DejaVu Sans"


def __getattr__(name: str) -> Any:
    """Return a colour of the theme in force."""
    if name.isupper() and name.lower() in current().__slots__:
        return getattr(current(), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Picture(Figure):
    """A figure that notebooks show without pyplot, whose global list would keep it alive."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def picture(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Picture:
    """Return an empty figure of a size in inches."""
    figure = Picture(figsize=(width, height), dpi=144, facecolor=current().page, layout=layout)
    if layout is not None:
        figure.set_layout_engine(layout, w_pad=0.12, h_pad=0.08)
    return figure


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return where to draw: what was given, or the axes of a new figure of this size in inches."""
    return picture(width, height).subplots() if ax is None else ax


def colours(count: int) -> list[str]:
    """Return as many distinct colours as there are chains or observables."""
    palette = current().palette
    if count <= len(palette):
        return list(palette[:count])
    shades = colormaps["viridis"](np.linspace(0.0, 0.9, count) if current() is LIGHT else np.linspace(0.2, 1.0, count))
    return ["#" + "".join(f"{round(255 * c):02x}" for c in shade[:3]) for shade in shades]


def diverging() -> LinearSegmentedColormap:
    """Return blue - page - red, without ends on which the text of the theme could not be read."""
    if current() is not LIGHT:
        return LinearSegmentedColormap.from_list("devinterp-dark", ["#2a5bb0", current().page, "#a84320"])
    return LinearSegmentedColormap.from_list("devinterp", colormaps["RdBu_r"](np.linspace(0.14, 0.86, 256)))


def tidy(ax: Axes, *, title: str | None = None, xlabel: str | None = None, ylabel: str | None = None) -> None:
    """Give axes the common look: no box, a pale grid behind the data, text in dark grey, the title flush left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    theme = current()
    for side in ("left", "bottom"):
        ax.spines[side].set_color(theme.muted)
    ax.set_axisbelow(True)
    ax.grid(True, color=theme.grid, linewidth=0.7)
    ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8.5)
    if title is not None:
        ax.set_title(title, loc="left", fontsize=10.5, color=theme.ink, fontweight="bold")
    if xlabel is not None:
        ax.set_xlabel(xlabel, fontsize=9, color=theme.ink)
    if ylabel is not None:
        ax.set_ylabel(ylabel, fontsize=9, color=theme.ink)


def owner(ax: Axes) -> Figure:
    """Return the figure that axes belong to, through any subfigures."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


@cache
def _has_glyph(character: str, family: str) -> bool:
    return bool(get_font(findfont(FontProperties(family=family))).get_char_index(ord(character)))


def drawable(text: str, family: str = MONOSPACE) -> str:
    """Return text with an empty box (as wide) for what the font cannot draw, which would be a warning for each picture."""
    return "".join(c if _has_glyph(c, family) else "\u25a1" for c in text)


#: Characters of a name, beyond which its middle is left out.
MAX_LABEL = 40


def label(name: object, limit: int = MAX_LABEL) -> str:
    """Return a name as a label: on one line, of bounded length, drawn as it is although it may look like mathematics."""
    text = str(name).replace("\n", "·").replace(r"\$", "$")
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[len(text) - limit // 2 :]}"
    return _plain(text)


def _seen(character: str) -> str:
    return "·" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def _plain(text: str) -> str:
    """Return text of which nothing is mathematics and every character can be drawn."""
    joined = "\n".join(drawable("".join(map(_seen, line)), SANS) for line in text.split("\n"))
    return joined if r"\$" in joined else joined.replace("$", r"\$")


def finish(figure: Figure) -> None:
    """Give what matplotlib coloured by itself the colours of the theme, and draw names as they are, mathematics or not."""
    theme = current()
    for ax in figure.axes:
        if ax.patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0):
            ax.set_facecolor(theme.page)
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):
                labels = [each.get_text() for each in axis.get_ticklabels()]
                if labels != [label(each) for each in labels]:
                    axis.set_ticks(axis.get_ticklocs(), [label(each) for each in labels])
    for legend in figure.findobj(Legend):
        assert isinstance(legend, Legend)
        for text in legend.get_texts():
            text.set_text(label(text.get_text()))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if isinstance(text.get_color(), str) and text.get_color() == "black":
            text.set_color(theme.ink)
        if text.get_parse_math() and text.get_text():
            text.set_text(_plain(text.get_text()))
