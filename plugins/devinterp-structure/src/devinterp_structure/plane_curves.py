r"""Geometry of plane curves: curvature, osculating circles, vertices and cusps.

For a curve :math:`(x(t), y(t))` the curvature is :math:`\kappa = (x' y'' - y' x'') / (x'^2 + y'^2)^{3/2}`, and the circle that
fits best at a point, its osculating circle, has the radius :math:`1/|\kappa|` and the centre
:math:`(x, y) + (-y', x') / (\kappa \sqrt{x'^2 + y'^2})`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PlaneCurve:
    """What is known at each point of a curve.

    Parameters
    ----------
    speed : numpy.ndarray
        ``(point,)``: distance for each unit of the parameter.
    curvature : numpy.ndarray
        ``(point,)``: positive where the curve turns to the left; NaN where it stands still.
    centre : numpy.ndarray
        ``(point, 2)``: of the osculating circle; NaN where the curve is straight.
    is_vertex, is_cusp : numpy.ndarray
        ``(point,)``: see `vertices` and `cusps`.
    """

    speed: np.ndarray
    curvature: np.ndarray
    centre: np.ndarray
    is_vertex: np.ndarray
    is_cusp: np.ndarray


def plane_curve(places: np.ndarray, first: np.ndarray, second: np.ndarray, *, edge: int = 1) -> PlaneCurve:
    """Return the geometry of a curve.

    Parameters
    ----------
    places, first, second : numpy.ndarray
        ``(point, 2)``: its points, and their first and second derivatives.
    edge : int, default: 1
        Points at either end that count as neither vertex nor cusp, at least 1.
    """
    (x1, y1), (x2, y2) = first.T, second.T
    speed = np.hypot(x1, y1)
    # What is no more than rounding of the curve's size counts as no speed, and as no turn.
    least = 1e-9 * np.ptp(places, axis=0).max()
    moving = speed > least
    turn = x1 * y2 - y1 * x2
    curvature = np.divide(turn, speed**3, out=np.full(len(places), np.nan), where=moving)
    turning = moving & (np.abs(turn) > least * speed)
    offset = np.divide(speed**2, turn, out=np.full(len(places), np.nan), where=turning)
    centre = places + offset[:, None] * np.stack([-y1, x1], axis=1)
    number = np.arange(len(places))
    inside = (number >= edge) & (number < len(places) - edge)
    return PlaneCurve(speed, curvature, centre, vertices(curvature) & inside, cusps(places, speed) & inside)


def vertices(curvature: np.ndarray) -> np.ndarray:
    """Say at which points, ends left out, the curvature is larger or smaller than at both neighbours."""
    result = np.zeros(len(curvature), dtype=bool)
    before, here, after = curvature[:-2], curvature[1:-1], curvature[2:]
    result[1:-1] = ((here > before) & (here > after)) | ((here < before) & (here < after))
    return result


def cusps(places: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Say at which points, ends left out, the curve turns back: it is slowest there, and goes on by more than a right angle."""
    result = np.zeros(len(places), dtype=bool)
    steps = np.diff(places, axis=0)
    turns_back = (steps[1:] * steps[:-1]).sum(axis=1) < 0
    result[1:-1] = turns_back & (speed[1:-1] <= speed[:-2]) & (speed[1:-1] <= speed[2:])
    return result
