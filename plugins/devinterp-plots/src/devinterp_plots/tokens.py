"""One passage of text, each token coloured by its learning coefficient, its susceptibility, or the influence of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.bif import compute_bif
from devinterp.analyses.common.pictures import colour_limit
from devinterp.analyses.common.run_data import restriction_names, under_restrictions
from devinterp.analyses.llc import token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
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
    restriction: str | Sequence[str] | None = None,
    of: Literal["llc", "susceptibility", "influence"] = "llc",
    query: int | None = None,
    sampling_task: str | None = None,
    tokenizer: Tokenizer | Sequence[str] | None = None,
    limit: float | None = None,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the text of one sequence, each token coloured by its LLC, its susceptibility, or the influence of another.

    The LLC of a token is :math:`n\beta\,(E[\ell_t(w)] - \ell_t(w_0))`: red tokens are predicted worse by the sampled weights
    than by :math:`w_0`, blue ones better, white ones equally well. The first token is never predicted and stays grey. The
    influence of a token is how its loss and each other's move together over the posterior.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run with observables.
    observable : str, optional
        Name of the observable; may be left out when there is only one.
    sequence : int, default: 0
        Which of the observable's sequences, counted from 0.
    restriction : str or sequence of str, optional
        Name of the weight restriction; may be left out when there is only one. Several are drawn below each other.
    of : {"llc", "susceptibility", "influence"}, default: "llc"
        What the colours are.
    query : int, optional
        With ``of="influence"``: index of the token whose influence is drawn, from 1.
    sampling_task : str, optional
        With ``of="susceptibility"``: the observable made of the data that the run was sampled on, where there are several.
    tokenizer : tokenizer or sequence of str, optional
        Either something with ``decode(token_ids)``, or the text of each token of this sequence; without it, token ids are
        shown.
    limit : float, optional
        Number of the darkest red, and minus that of the darkest blue; above 0. By default the 98th percentile of the sizes.
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
        If the tree does not hold exactly one run, a name is unknown or has to be chosen, `sequence` or `query` is out of range,
        `limit` is not positive, several restrictions do not fit on `ax`, or `tokenizer` holds another number of strings than
        the sequence has tokens.
    BrokenChainsError
        If chains diverged or did not finish and `chains` is ``"all"``.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="tokens")
    observable = choose("observable", observable, schema.observable_names(run), plot="tokens")
    wanted = _restrictions(run, restriction)
    if ax is not None and len(wanted) > 1:
        raise InvalidInputError(f"`ax` has room for one restriction, got {wanted}: leave `ax` out, or choose one.")
    passage = Passage(run, observable, sequence, burnin, chains)
    rows = [passage.numbers(each, of, query, sampling_task) for each in wanted]
    texts = _texts(run, observable, sequence, tokenizer, len(rows[0]))
    if limit is None:
        limit = colour_limit(np.concatenate(rows))
    if not limit > 0:
        raise InvalidInputError(f"`limit` (={limit}) must be positive: it is the number of the darkest red.")
    if ax is None:
        axes, cells, size = _page(texts, len(rows))
    else:
        axes, (cells, size) = [ax], _shrink(texts, ax)
    named = [None] if restriction is None else wanted
    for one, values, name in zip(axes, rows, named, strict=True):
        _write(one, cells, values, limit, size, _BARS[of])
        caption = _caption(run, observable, sequence, name, values, of, query)
        one.set_title(style.label(caption, 160), loc="left", fontsize=9.5, color=style.INK)
    return style.owner(axes[0])


#: What the colours are, beside their bar.
_BARS = {
    "llc": "LLC of the token (grey: not predicted)",
    "susceptibility": "susceptibility of the token (grey: not predicted)",
    "influence": "correlation with the query (grey: not predicted)",
}


def _restrictions(run: xr.DataTree, given: str | Sequence[str] | None) -> list[str]:
    """Return the restrictions that were asked for, or the only one."""
    names = restriction_names(run)
    wanted = [given] if given is None or isinstance(given, str) else list(given)
    return [choose("restriction", each, names, plot="tokens") for each in wanted]


@dataclass(frozen=True, slots=True)
class Passage:
    """One sequence of an observable, and how numbers of its tokens are computed.

    Parameters
    ----------
    run : xarray.DataTree
        The run.
    observable : str
        Name of the observable.
    sequence : int
        Which of its sequences.
    burnin : int or None
        As in the analyses.
    chains : {"all", "finished"}
        As in the analyses.
    """

    run: xr.DataTree
    observable: str
    sequence: int
    burnin: int | None
    chains: Literal["all", "finished"]

    def numbers(self, restriction: str, of: str, query: int | None, sampling_task: str | None) -> np.ndarray:
        """Return the number of each token, NaN where it is not predicted; of the length of the passage."""
        if of not in _BARS:
            raise InvalidInputError(f"`of` (={of!r}) must be one of {', '.join(map(repr, _BARS))}.")
        count = self.run[f"{schema.OBSERVABLES}/{self.observable}"].sizes[schema.SEQUENCE]
        if not 0 <= self.sequence < count:
            raise InvalidInputError(
                f"`sequence` (={self.sequence}) must be 0 to {count - 1}: {self.observable!r} has {count} sequences."
            )
        numbers = {"llc": self._llc, "susceptibility": self._susceptibility, "influence": self._influence}
        one = numbers[of](restriction, query, sampling_task).compute()
        predicted = one[schema.POSITION].values if schema.POSITION in one.coords else np.arange(1, one.size + 1)
        values = np.full(one.size + 1, np.nan)
        values[predicted] = one.values
        return values

    def _options(self) -> dict[str, Any]:
        return {"burnin": self.burnin, "chains": self.chains}

    def _under(self, restriction: str) -> xr.DataTree:
        return under_restrictions(self.run, [restriction])

    def _llc(self, restriction: str, query: int | None, sampling_task: str | None) -> xr.DataArray:
        result = token_llc(self._under(restriction), observable=self.observable, **self._options())
        return result["llc"].isel({schema.SEQUENCE: self.sequence})

    def _susceptibility(self, restriction: str, query: int | None, sampling_task: str | None) -> xr.DataArray:
        tree = compute_susceptibilities(self.run, sampling_task, include_sampling_task=True, **self._options())
        labelled = array(tree, "labelled/susceptibility").sel(
            {schema.RESTRICTION: restriction, "observable": self.observable}
        )
        length = self.run[f"{schema.OBSERVABLES}/{self.observable}"].sizes[schema.POSITION]
        return labelled.isel({schema.SEQUENCE: self.sequence, schema.POSITION: slice(0, length)})

    def _influence(self, restriction: str, query: int | None, sampling_task: str | None) -> xr.DataArray:
        side = {self.observable: [self.sequence]}
        result = compute_bif(self._under(restriction), queries=side, candidates=side, **self._options())
        labels = result["target_position"].to_numpy()
        if query not in labels:
            raise InvalidInputError(
                f"`query` (={query}) must be {labels.min()} to {labels.max()}: the token whose influence is drawn."
            )
        pairs = result["influences"].isel(batch_1=0, batch_2=0).sel(target_position=query, drop=True)
        return pairs.rename(target_position_T=schema.POSITION)


def _texts(
    run: xr.DataTree, observable: str, sequence: int, tokenizer: Tokenizer | Sequence[str] | None, length: int
) -> list[str]:
    """Return the text of each token of a passage."""
    if isinstance(tokenizer, Sequence):
        texts = list(tokenizer)
        if len(texts) != length:
            raise InvalidInputError(f"`tokenizer` holds {len(texts)} strings; the sequence has {length} tokens.")
        return texts
    path = f"{schema.OBSERVABLES}/{observable}/token_ids"
    if schema.missing(run, [path]):
        raise InvalidInputError(
            f"observable {observable!r} has no `token_ids`: pass the text of its tokens as `tokenizer=`."
        )
    return pieces(array(run, path).isel({schema.SEQUENCE: sequence}).values.tolist(), tokenizer)


def _page(texts: list[str], count: int) -> tuple[list[Axes], list[Cell], float]:
    """Return so many axes below each other on a new figure, each of which fits the text, its layout, and its font size."""
    from devinterp_plots import style

    cells = lay_out(texts, COLUMNS)
    columns = max(MIN_COLUMNS, *(cell.column + cell.width for cell in cells))
    width, height = columns * ADVANCE * FONT_SIZE / 72, (cells[-1].line + 1) * LINE_HEIGHT * FONT_SIZE / 72
    left, top, bottom = 0.25, 0.4, 0.65
    row = height + top + bottom
    figure = style.picture(width + 2 * left, count * row, layout=None)
    total_width, total_height = figure.get_size_inches()
    axes = [
        figure.add_axes(
            (left / total_width, (n * row + bottom) / total_height, width / total_width, height / total_height)
        )
        for n in reversed(range(count))
    ]
    return axes, cells, FONT_SIZE


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


def _write(ax: Axes, cells: list[Cell], values: np.ndarray, limit: float, size: float, label: str) -> None:
    """Put coloured boxes and their text on axes whose units are characters and lines, and a colour bar below."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize, to_rgba
    from matplotlib.patches import Rectangle

    from devinterp_plots import style

    scale = ScalarMappable(Normalize(-limit, limit), style.diverging())
    boxes = [Rectangle((cell.column, cell.line + 0.06), cell.width, 0.88) for cell in cells]
    llcs = values[[cell.token for cell in cells]]
    faces = np.where(np.isfinite(llcs)[:, None], scale.to_rgba(np.nan_to_num(llcs)), to_rgba(style.BLANK))
    ax.add_collection(PatchCollection(boxes, facecolors=faces, edgecolors=style.PAGE, linewidths=0.6))
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
    bar_ax.tick_params(labelsize=8, color=style.MUTED, labelcolor=style.INK, length=2)
    bar_ax.text(
        1.08,
        0.5,
        label,
        transform=bar_ax.transAxes,
        va="center",
        fontsize=8,
        color=style.INK,
    )
    bar.outline.set_visible(False)


def _caption(
    run: xr.DataTree,
    observable: str,
    sequence: int,
    restriction: str | None,
    values: np.ndarray,
    of: str,
    query: int | None,
) -> str:
    """Return the title: observable, sequence, restriction, and what the numbers are."""
    of_restriction = f", restriction {restriction!r}" if restriction is not None else ""
    what = {
        "llc": f"mean LLC per token {np.nanmean(values):.3g}",
        "susceptibility": f"mean susceptibility {np.nanmean(values):.3g}",
        "influence": f"influence of token {query}",
    }
    return f"{observable}, sequence {sequence}{of_restriction}: {what[of]}"
