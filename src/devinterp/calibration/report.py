"""A calibration as text: what was measured, every setting with what became of it, and the recommendation or the refusal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from devinterp.analyses.common.limits import LIMITS
from devinterp.calibration.measured import Measured
from devinterp.calibration.recommendation import Recommendation

if TYPE_CHECKING:
    from devinterp.calibration.result import Row

#: Restriction of a run that is given none.
_UNRESTRICTED = "full"
_MEASURED = ("checkpoint", "restriction", "weights", "h_max", "|grad L|^2", "noise", "noise along")
_POINTS = (
    "kernel",
    "lr",
    "n_beta",
    "localization",
    "batch",
    "step",
    "noise",
    "relaxation",
    "llc",
    "s_gamma",
    "outcome",
)


def report(
    measured: Sequence[Measured], rows: Sequence[Row], recommendation: Recommendation | None, num_gradients: int
) -> str:
    """Return a calibration as text."""
    lines = [
        "At w0:",
        *_aligned([_MEASURED, *(_measured(each) for each in measured)]),
        "",
        "Settings, in the order tried:",
    ]
    lines += _aligned([_POINTS, *(_point(row) for row in rows)])
    for row in rows:
        if row.message:
            lines.append(
                f"  lr {row.lr:g}, n_beta {row.n_beta:g}, localization {row.localization:g}: {_place(row)}{row.message}"
            )
    restrictions = list(dict.fromkeys(each.restriction for each in measured))
    return "\n".join([*lines, "", *_end(rows, recommendation, num_gradients, restrictions)])


def _end(
    rows: Sequence[Row], recommendation: Recommendation | None, num_gradients: int, restrictions: Sequence[str]
) -> Iterator[str]:
    if recommendation is not None:
        yield f"Recommended (calibration took {num_gradients:,} gradients):"
        yield from (f"  {name} = {value!r}" for name, value in recommendation.settings.items())
        yield (
            f"The run takes {recommendation.predicted_gradients:,} gradients for each checkpoint; the error of its least "
            f"certain coefficient should be {recommendation.predicted_error:.0%} or less."
        )
        yield from _slope(recommendation)
        if restrictions != [_UNRESTRICTED]:
            yield (
                f"It holds where these move: {', '.join(restrictions)}. Give `sample` the same `param_masks` or "
                "`weight_restrictions`; `devinterp sample --from` does."
            )
    elif any(row.outcome == "to be run" for row in rows):
        yield f"A dry run: {num_gradients:,} gradients were taken to measure, and nothing was sampled."
    else:
        reasons: dict[str, int] = {}
        for row in rows:
            reasons[row.outcome] = reasons.get(row.outcome, 0) + 1
        told = ", ".join(f"{code} ({number})" for code, number in sorted(reasons.items(), key=lambda each: -each[1]))
        yield f"No setting is recommended (after {num_gradients:,} gradients). What failed: {told}."


def _slope(recommendation: Recommendation) -> Iterator[str]:
    """Say how much localization decides, where that is known and not little."""
    slope, error, limit = recommendation.slope, recommendation.slope_se, LIMITS["prior"]
    if slope <= limit.note or slope <= 2 * error:
        return
    yield (
        f"The coefficient falls as localization to the power {slope:.2f} ± {error:.1g} there: compare it "
        "with others at the same localization only."
    )
    if slope > limit.warning:
        yield (
            f"Localization decides much of it (0: nothing, 1: all; `diagnose` warns above {limit.warning:g}): the table says "
            "why none weaker was taken."
        )


def _measured(each: Measured) -> tuple[str, ...]:
    figures = (each.h_max, each.gradient_square, each.noise, each.noise_along)
    return (each.checkpoint or "-", each.restriction, f"{each.num_parameters:,}", *map(_number, figures))


def _point(row: Row) -> tuple[str, ...]:
    llc = "" if math.isnan(row.llc) else f"{row.llc:.3g} ± {row.llc_se:.1g}"
    settings = (row.lr, row.n_beta, row.localization, row.batch_size, row.step, row.noise, row.relaxation)
    slope = "" if math.isnan(row.s_gamma) else f"{row.s_gamma:.2f} ± {row.s_gamma_se:.1g}"
    return (row.kernel, *map(_number, settings), llc, slope, row.outcome)


def _place(row: Row) -> str:
    return "".join(f"{each}: " for each in (row.checkpoint, row.restriction) if each)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _aligned(table: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
