"""One passage of text, each token coloured by its own learning coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.llc import token_llc
from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer, pieces
from devinterp_plots.read import array, choose, one_run
from devinterp_plots.text import Cell, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most and fewest characters of a line (fewer would cut the caption), points, and lines in units of the font size.
COLUMNS, MIN_COLUMNS, FONT_SIZE, LINE_HEIGHT = 108, 72, 9.0, 1.75
#: Advance of a character of DejaVu Sans Mono, the font that comes with matplotlib, in units of the font size.
ADVANCE = 0.602


def tokens(
    tree: xr.DataTree,
    *,
    observable: str | None = None,
    sequence: int = 0,
    restriction: str | None = None,
    tokenizer: Tokenizer | Sequence[str] | None = None,
    limit: float | None = None,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the text of one sequence, each token coloured by its LLC, :math:`n\beta\,(E[\ell_t(w)] - \ell_t(w_0))`.

    Red tokens are predicted worse by the sampled weights than by :math:`w_0`, blue ones better, white ones equally well.
    The first token is never predicted and stays grey.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run with observables.
    observable : str, optional
        Name of the observable; may be left out when there is only one.
    sequence : int, default: 0
        Which of the observable's sequences, counted from 0.
    restriction : str, optional
        Name of the weight restriction; may be left out when there is only one.
    tokenizer : tokenizer or sequence of str, optional
        Either something with ``decode(token_ids)``, or the text of each token of this sequence; without it, token ids are
        shown.
    limit : float, optional
        LLC of the darkest red, and minus that of the darkest blue; above 0. By default the 98th percentile of the sizes.
    burnin : int, optional
        As in `devinterp.analyses.llc.token_llc`.
    chains : {"all", "finished"}, default: "all"
        As in `devinterp.analyses.llc.token_llc`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the text is made small enough to fit. By default on a new figure, as tall as the text needs.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, a name is unknown or has to be chosen, `sequence` is out of range, `limit`
        is not positive, or `tokenizer` holds another number of strings than the sequence has tokens.
    BrokenChainsError
        If chains diverged or did not finish and `chains` is ``"all"``.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="tokens")
    observable = choose("observable", observable, schema.observable_names(run), plot="tokens")
    values, texts = _passage(run, observable, sequence, restriction, tokenizer, burnin, chains)
    if limit is None:
        limit = float(np.nanquantile(np.abs(values), 0.98)) if np.isfinite(values).any() else 1.0
        limit = limit or 1.0
    if not limit > 0:
        raise InvalidInputError(f"`limit` (={limit}) must be positive: it is the LLC of the darkest red.")
    if ax is None:
        ax, cells, size = _page(texts)
    else:
        cells, size = _shrink(texts, ax)
    _write(ax, cells, values, limit, size)
    ax.set_title(_caption(run, observable, sequence, restriction, values), loc="left", fontsize=9.5, color=style.INK)
    return style.owner(ax)


def _passage(
    run: xr.DataTree,
    observable: str,
    sequence: int,
    restriction: str | None,
    tokenizer: Tokenizer | Sequence[str] | None,
    burnin: int | None,
    chains: Literal["all", "finished"],
) -> tuple[np.ndarray, list[str]]:
    """Return the LLC of each token, NaN where it is not predicted, and its text; both of the length of the passage."""
    llc = token_llc(run, observable=observable, burnin=burnin, chains=chains)["llc"]
    if schema.RESTRICTION in llc.dims:
        names = [str(name) for name in llc[schema.RESTRICTION].values]
        llc = llc.sel({schema.RESTRICTION: choose("restriction", restriction, names, plot="tokens")})
    count = llc.sizes[schema.SEQUENCE]
    if not 0 <= sequence < count:
        raise InvalidInputError(
            f"`sequence` (={sequence}) must be 0 to {count - 1}: {observable!r} has {count} sequences."
        )
    llc = llc.isel({schema.SEQUENCE: sequence}).compute()
    predicted = llc[schema.POSITION].values if schema.POSITION in llc.coords else np.arange(1, llc.size + 1)
    values = np.full(llc.size + 1, np.nan)
    values[predicted] = llc.values
    if isinstance(tokenizer, Sequence):
        texts = list(tokenizer)
        if len(texts) != len(values):
            raise InvalidInputError(f"`tokenizer` holds {len(texts)} strings; the sequence has {len(values)} tokens.")
    else:
        path = f"{schema.OBSERVABLES}/{observable}/token_ids"
        if schema.missing(run, [path]):
            raise InvalidInputError(
                f"observable {observable!r} has no `token_ids`: pass the text of its tokens as `tokenizer=`."
            )
        texts = pieces(array(run, path).isel({schema.SEQUENCE: sequence}).values.tolist(), tokenizer)
    return values, texts


def _page(texts: list[str]) -> tuple[Axes, list[Cell], float]:
    """Return axes on a new figure that fit the text exactly, its layout, and its font size."""
    from devinterp_plots import style

    cells = lay_out(texts, COLUMNS)
    columns = max(MIN_COLUMNS, *(cell.column + cell.width for cell in cells))
    width, height = columns * ADVANCE * FONT_SIZE / 72, (cells[-1].line + 1) * LINE_HEIGHT * FONT_SIZE / 72
    left, top, bottom = 0.25, 0.4, 0.65
    figure = style.picture(width + 2 * left, height + top + bottom, layout=None)
    total_width, total_height = figure.get_size_inches()
    ax = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    return ax, cells, FONT_SIZE


def _shrink(texts: list[str], ax: Axes) -> tuple[list[Cell], float]:
    """Return the layout and font size of the largest text, at most the usual size, that fits into given axes."""
    from devinterp_plots import style

    figure = style.owner(ax)
    figure.draw_without_rendering()  # a layout engine decides on the size of axes only now
    box = ax.get_window_extent()
    width, height = 72 * box.width / figure.dpi, 72 * box.height / figure.dpi
    for size in np.arange(FONT_SIZE, 2.0, -0.5):
        cells = lay_out(texts, max(2, int(width / (ADVANCE * size))))
        if (cells[-1].line + 1) * LINE_HEIGHT * size <= height:
            break
    return cells, float(size)


def _write(ax: Axes, cells: list[Cell], values: np.ndarray, limit: float, size: float) -> None:
    """Put coloured boxes and their text on axes whose units are characters and lines, and a colour bar below."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    from devinterp_plots import style

    scale = ScalarMappable(Normalize(-limit, limit), style.diverging())
    boxes = [Rectangle((cell.column, cell.line + 0.06), cell.width, 0.88) for cell in cells]
    llcs = values[[cell.token for cell in cells]]
    faces = np.where(np.isfinite(llcs)[:, None], scale.to_rgba(np.nan_to_num(llcs)), (0.91, 0.91, 0.91, 1.0))
    ax.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors="white", linewidths=0.6))
    for cell in cells:
        ax.text(
            cell.column,
            cell.line + 0.68,
            style.drawable(cell.text),
            family=style.MONOSPACE,
            fontsize=size,
            color=style.INK,
            va="baseline",
            parse_math=False,
        )
    box = ax.get_window_extent()
    points = 72 / style.owner(ax).dpi
    ax.set_xlim(0, box.width * points / (ADVANCE * size))
    ax.set_ylim(box.height * points / (LINE_HEIGHT * size), 0)
    ax.axis("off")
    beyond = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    extend = beyond[bool(np.nanmin(values, initial=0) < -limit), bool(np.nanmax(values, initial=0) > limit)]
    inch = 72 / (box.height * points)
    bar_ax = ax.inset_axes((0.0, -0.26 * inch, 0.45, 0.1 * inch))
    bar = style.owner(ax).colorbar(scale, cax=bar_ax, orientation="horizontal", extend=extend)
    bar_ax.tick_params(labelsize=8, color=style.MUTED, length=2)
    bar_ax.text(
        1.08,
        0.5,
        "LLC of the token (grey: not predicted)",
        transform=bar_ax.transAxes,
        va="center",
        fontsize=8,
        color=style.INK,
    )
    bar.outline.set_visible(False)


def _caption(run: xr.DataTree, observable: str, sequence: int, restriction: str | None, values: np.ndarray) -> str:
    """Return the title: observable, sequence, restriction, and the mean LLC."""
    of_restriction = f", restriction {restriction!r}" if restriction is not None else ""
    return f"{observable}, sequence {sequence}{of_restriction}: mean LLC per token {np.nanmean(values):.3g}"
