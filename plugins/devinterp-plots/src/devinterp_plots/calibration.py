"""What a calibration tried and what became of each setting: a grid with the failed criterion written into its cells."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from devinterp.calibration.result import Calibration, Row

#: Columns and rows of a grid, and grids, beyond which the picture could not be read.
MAX_LABELS, MAX_GRIDS = 12, 6
#: Outcomes of settings that no criterion speaks against.
_PASSED = ("recommended", "compared", "to be run")
#: Characters of a line in a cell, and step sizes that are written into it.
_WIDTH, _MAX_LINES = 26, 5


def calibration(tree: xr.DataTree | Calibration, *, axes: Sequence[Axes] | None = None) -> Figure:
    r"""Draw the grid of settings that a calibration considered, with what became of each written into its cell.

    A grid for each kernel and batch size; columns are :math:`n\beta`, rows the localization :math:`\gamma`. A cell has a line
    for each step size that was considered: the criterion that failed with its figure and limit, or that the setting was
    recommended. The cell of the recommendation is framed; those in which every step failed are shaded.

    Parameters
    ----------
    tree : xarray.DataTree or devinterp.calibration.result.Calibration
        The tree of a calibration's store, or what `devinterp.calibrate` returned.
    axes : sequence of matplotlib.axes.Axes, optional
        Where to draw, as many as there are kernels and batch sizes; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    MissingDataError
        If the tree is not that of a calibration, or the calibration was interrupted.
    InvalidInputError
        If there are more settings than a picture can show, or not as many axes as grids.
    """
    from devinterp_plots import style

    result = _result(tree)
    grids = _grids(result.rows)
    widths = {key: len({row.n_beta for row in rows}) for key, rows in grids.items()}
    heights = {key: len({row.localization for row in rows}) for key, rows in grids.items()}
    _check(widths, heights)
    if axes is None:
        lines = max(_num_lines(rows) for rows in grids.values())
        height = sum(0.9 + heights[key] * (0.2 + 0.155 * lines) for key in grids)
        page = style.picture(1.4 + 2.1 * max(max(widths.values()), 2), 0.6 + height)
        drawn: Any = page.subplots(len(grids), 1, squeeze=False, height_ratios=[heights[key] for key in grids])
        axes = list(drawn[:, 0])
    if len(axes) != len(grids):
        raise InvalidInputError(f"`plot.calibration`: `axes` must be {len(grids)}, one for each grid; got {len(axes)}.")
    for ax, ((kernel, batch_size), rows) in zip(axes, grids.items(), strict=True):
        _grid(ax, rows, f"{kernel}, minibatches of {batch_size}")
    axes[0].set_title(_verdict(result), loc="right", fontsize=9, color=style.INK)
    return style.owner(axes[0])


def _result(tree: xr.DataTree | Calibration) -> Calibration:
    from devinterp.calibration.result import Calibration
    from devinterp.store.calibration_store import CALIBRATION

    if isinstance(tree, Calibration):
        return tree
    record = tree.attrs.get(CALIBRATION)
    if not isinstance(record, dict):
        raise MissingDataError(
            "`plot.calibration` needs the tree of a calibration's store: `devinterp.open(path)`, path being the `output_path` "
            "of `devinterp.calibrate`."
        )
    if record.get("result") is None:
        raise MissingDataError(
            "`plot.calibration` needs a finished calibration; this one was interrupted: call `devinterp.calibrate` again with "
            "its `output_path`, and it goes on."
        )
    return Calibration.from_json(record["result"])


def _grids(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    grids: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        grids.setdefault((row.kernel, row.batch_size), []).append(row)
    if not grids:
        raise MissingDataError("`plot.calibration`: this calibration considered no setting.")
    return grids


def _check(widths: dict[tuple[str, int], int], heights: dict[tuple[str, int], int]) -> None:
    most = max(*widths.values(), *heights.values())
    if len(widths) > MAX_GRIDS or most > MAX_LABELS:
        raise InvalidInputError(
            f"`plot.calibration` draws up to {MAX_GRIDS} kernels and batch sizes, each with up to {MAX_LABELS} values of "
            f"n_beta and localization; this calibration has {len(widths)} and {most}. `str(calibration)` lists them all."
        )


def _cells(rows: Sequence[Row]) -> dict[tuple[float, float], list[Row]]:
    cells: dict[tuple[float, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.n_beta, row.localization), []).append(row)
    return cells


def _num_lines(rows: Sequence[Row]) -> int:
    return max(len(_lines(cell)) for cell in _cells(rows).values())


def _lines(cell: Sequence[Row]) -> list[str]:
    """Return what is written into a cell: a line for each step size, and one more for the figure that failed."""
    lines: list[str] = []
    for row in sorted(cell, key=lambda each: -each.lr)[:_MAX_LINES]:
        at = "".join(f" {each}" for each in (row.checkpoint, row.restriction) if each and row.outcome not in _PASSED)
        lines.append(textwrap.shorten(f"ε {row.lr:.3g}: {row.outcome}{at}", _WIDTH, placeholder="…"))
        if row.value == row.value and row.outcome not in _PASSED:
            lines.append(f"   {row.value:.3g}, limit {row.limit:.3g}")
    if len(cell) > _MAX_LINES:
        lines.append(f"   and {len(cell) - _MAX_LINES} more")
    return lines


def _grid(ax: Axes, rows: Sequence[Row], title: str) -> None:
    from matplotlib.patches import Rectangle

    from devinterp_plots import style

    columns, levels = sorted({row.n_beta for row in rows}), sorted({row.localization for row in rows}, reverse=True)
    for (n_beta, localization), cell in _cells(rows).items():
        x, y = columns.index(n_beta), levels.index(localization)
        outcomes = {row.outcome for row in cell}
        is_chosen = "recommended" in outcomes
        colour = style.PAGE if outcomes & set(_PASSED) else style.SHADE
        edge, width = (style.colours(3)[2], 2.4) if is_chosen else (style.GRID, 0.8)
        ax.add_patch(
            Rectangle(
                (x - 0.48, y - 0.47),
                0.96,
                0.94,
                facecolor=colour,
                edgecolor=edge,
                linewidth=width,
                zorder=1 + is_chosen,
            )
        )
        text = "\n".join(map(style.label, _lines(cell)))
        ax.text(x - 0.44, y, text, va="center", ha="left", fontsize=7, color=style.INK, zorder=3, linespacing=1.3)
    ax.set_xlim(-0.55, len(columns) - 0.45)
    ax.set_ylim(len(levels) - 0.45, -0.55)
    ax.set_xticks(range(len(columns)), [f"{each:.4g}" for each in columns])
    ax.set_yticks(range(len(levels)), [f"{each:.4g}" for each in levels])
    style.tidy(ax, title=title, xlabel="nβ (`n_beta`)", ylabel="γ (`localization`)")
    ax.grid(False)
    ax.tick_params(length=0)


def _verdict(result: Calibration) -> str:
    if result.recommendation is not None:
        return "recommended: framed"
    is_dry = any(row.outcome == "to be run" for row in result.rows)
    return "a dry run: nothing was sampled" if is_dry else "refused: no setting passed"
