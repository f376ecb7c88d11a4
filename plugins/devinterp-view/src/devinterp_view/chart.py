"""A panel of traces as the coordinates of a drawing: paths, ticks, a shade. The template writes them as SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from devinterp_view.text import number
from devinterp_view.traces import Curve, Panel

#: Size of a drawing, and the margins around what is drawn, in its own units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 210, 58, 8, 10, 34
_NAMES = {
    "loss": "minibatch loss (nats per token)",
    "rise": "rise over the same minibatches at w0 (nats per token)",
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing, in units of its view box.

    Parameters
    ----------
    label : str
        What is drawn.
    lines : list of dict
        ``path`` of each chain with its ``colour`` (a number), its ``chain`` and its ``last`` value.
    level_y : float
        Height of the dashed line.
    level : str
        What it is at.
    shade : float
        Width of the shaded burn-in.
    x_ticks, y_ticks : list of (float, str)
        Place and text.
    """

    label: str
    lines: list[dict[str, str]]
    level_y: float
    level: str
    shade: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def chart(panel: Panel) -> Chart:
    """Return the drawing of a panel; one exploding chain does not flatten the others."""
    low, high = _limits(panel)
    label = _NAMES.get(panel.quantity, f"{'paired LLC' if panel.is_paired else 'LLC'} of the steps so far")

    def x(step: np.ndarray | float) -> np.ndarray:
        return LEFT + np.asarray(step, float) / max(panel.num_steps - 1, 1) * (WIDTH - LEFT - RIGHT)

    def y(value: np.ndarray | float) -> np.ndarray:
        inside = np.clip((np.asarray(value, float) - low) / (high - low), -0.05, 1.05)
        return HEIGHT - BOTTOM - inside * (HEIGHT - TOP - BOTTOM)

    lines = [
        {
            "path": _path(x(curve.step), y(curve.value)),
            "colour": str(n % 7),
            "chain": curve.chain,
            "last": number(curve.last) if np.isfinite(curve.last) else "diverged",
        }
        for n, curve in enumerate(panel.curves)
    ]
    return Chart(
        label,
        lines,
        round(float(y(panel.level)), 2),
        f"at the starting weights: {number(panel.level)}",
        round(float(x(panel.burnin)) - LEFT, 2) if panel.burnin else 0.0,
        [(round(float(x(tick)), 2), f"{tick:,.0f}") for tick in ticks(0, panel.num_steps - 1)],
        [(round(float(y(tick)), 2), f"{tick:.6g}") for tick in ticks(low, high)],
    )


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{each_x:.1f} {each_y:.1f}" for each_x, each_y in zip(x, y, strict=True)) if len(x) else ""


def _limits(panel: Panel) -> tuple[float, float]:
    """Return the range of what is drawn: quantiles of the chains that stayed finite, and the dashed line."""
    whole = [curve for curve in panel.curves if np.isfinite(curve.last)] or panel.curves
    values = np.concatenate([_settled(curve, panel) for curve in whole]) if whole else np.zeros(0)
    bounds = [panel.level, *(np.quantile(values, [0.005, 0.995]) if len(values) else [])]
    pad = 0.06 * (max(bounds) - min(bounds)) or 0.5
    return float(min(bounds) - pad), float(max(bounds) + pad)


def _settled(curve: Curve, panel: Panel) -> np.ndarray:
    """Return the values of a curve, of running means without the first twentieth, which is of few steps."""
    values: np.ndarray = curve.value
    return values[len(values) // 20 :] if panel.quantity == "llc" else values


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about so many round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    step = 10 ** np.floor(np.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count)
    return [float(n * step) for n in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
