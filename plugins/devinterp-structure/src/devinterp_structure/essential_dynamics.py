r"""Essential dynamics: the path of a model's outputs over training, in the few dimensions in which it moves most."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp_structure.components import principal_coordinates
from devinterp_structure.pca import COMPONENT, SCORE
from devinterp_structure.plane_curves import PlaneCurve, plane_curve
from devinterp_structure.steps import after

PLANE, CENTRE_AXIS = "plane", "centre_axis"
#: Fewer checkpoints than this have no curve whose turns could be judged.
_LEAST_CHECKPOINTS = 5
#: So many widths of the Gaussian from an end, turns are those of the smoothing.
_EDGE = 3


def essential_dynamics(
    outputs: xr.DataArray, *, num_components: int = 3, smoothing: float = 1.0, dim: str = "checkpoint"
) -> xr.Dataset:
    r"""Compute the path of a model's outputs over checkpoints, and the geometry of its projections onto planes [1]_.

    The outputs at each checkpoint, mostly logits of fixed tokens, are one long vector. Their principal components over
    checkpoints are the coordinates of a path; it is smoothed by a Gaussian, and each pair of components is a plane curve with
    a speed, a curvature and an osculating circle. A *vertex*, where the circle hardly moves while the path goes on, and a
    *cusp*, where the path turns back, are what a change of the training's direction looks like.

    Parameters
    ----------
    outputs : xarray.DataArray
        With the dim `dim` and any others, such as ``(checkpoint, sequence, token, direction)`` of the recorder ``logits``; its
        means over chains and draws, or outputs at the checkpoints' own weights. What is NaN at every checkpoint, as at padding,
        is left out. Lazy outputs are read twice, block by block.
    num_components : int, default: 3
        Components, at least 2 and fewer than there are checkpoints.
    smoothing : float, default: 1.0
        Standard deviation of the Gaussian in numbers of checkpoints, above 0: it takes away what is faster. With noise there
        are vertices at every turn; those that stay with more smoothing are the path's.
    dim : str, default: "checkpoint"
        The dim of the path, in its order. Derivatives are taken by the number of the checkpoint, so that the spacing of
        checkpoints (often logarithmic) is the clock of speeds; curvatures, circles, vertices and cusps do not depend on it.

    Returns
    -------
    xarray.Dataset
        - ``score(checkpoint, component)``, the path, in units of the outputs, with the largest coordinate of each component
          positive; ``smoothed``, the same smoothed; ``explained_variance_ratio(component)``.
        - for each ``plane``, named as ``"1,2"``: ``speed(plane, checkpoint)``, ``curvature``, ``centre(plane, checkpoint,
          centre_axis)`` of the osculating circle, the booleans ``is_vertex`` and ``is_cusp``, False within three times
          `smoothing` of the ends.

        The attribute ``steps`` records the parameters.

    Raises
    ------
    InvalidInputError
        If there are fewer than 5 checkpoints, or outputs are NaN at some checkpoints only.

    References
    ----------
    .. [1] J. Hoogland, G. Wang, M. Farrugia-Roberts, L. Carroll, S. Wei, D. Murfet. Loss landscape degeneracy and stagewise
       development in transformers. arXiv:2402.02364.
    """
    rows = _rows(outputs, dim)
    num_checkpoints = rows.shape[0]
    count = arguments.count("num_components", num_components, least=2)
    if count >= num_checkpoints:
        raise InvalidInputError(f"`num_components` (={count}) must be less than the {num_checkpoints} checkpoints.")
    width = arguments.number("smoothing", smoothing)
    if width <= 0:
        raise InvalidInputError(f"`smoothing` (={smoothing}) must be above 0.")
    path, ratio = _path(rows, count)
    smoothed, first, second = _smoothed(path, width)
    pairs = list(combinations(range(count), 2))
    edge = int(np.ceil(_EDGE * width)) + 1
    curves = [plane_curve(smoothed[:, pair], first[:, pair], second[:, pair], edge=edge) for pair in map(list, pairs)]
    result = xr.Dataset(
        {
            SCORE: ((dim, COMPONENT), path),
            "smoothed": ((dim, COMPONENT), smoothed),
            "explained_variance_ratio": (COMPONENT, ratio),
            **_stacked(curves, dim),
        },
        coords={COMPONENT: np.arange(1, count + 1), PLANE: [f"{i + 1},{j + 1}" for i, j in pairs]},
    )
    if dim in outputs.coords:
        result = result.assign_coords({dim: outputs[dim].variable})
    result.attrs = after(xr.Dataset(), "essential_dynamics", {"num_components": count, "smoothing": width, "dim": dim})
    return result


def _rows(outputs: Any, dim: str) -> Any:
    """Return the outputs as ``(checkpoint, feature)``, without features that are NaN everywhere; lazy if they are."""
    if not isinstance(outputs, xr.DataArray) or dim not in outputs.dims or outputs.ndim < 2:
        got = f"dims {outputs.dims}" if isinstance(outputs, xr.DataArray) else type(outputs).__name__
        raise InvalidInputError(f"`outputs` must be a DataArray with the dim {dim!r} and others; got {got}.")
    if outputs.sizes[dim] < _LEAST_CHECKPOINTS:
        raise InvalidInputError(
            f"a path needs {_LEAST_CHECKPOINTS} checkpoints or more; `outputs` has {outputs.sizes[dim]} along {dim!r}."
        )
    table = outputs.transpose(dim, ...)
    missing = table.isnull().sum(dim)
    partly, whole = (missing > 0) & (missing < table.sizes[dim]), missing == 0
    counts = xr.Dataset({"partly": partly.sum(), "whole": whole.sum()}).compute()
    if counts["partly"]:
        raise InvalidInputError(
            "`outputs` must be there at every checkpoint or at none; "
            f"{int(counts['partly'])} of {missing.size} are NaN at some only."
        )
    if not counts["whole"]:
        raise InvalidInputError("`outputs` is NaN everywhere.")
    return table.fillna(0.0).data.reshape(table.sizes[dim], -1)  # 0 at every checkpoint moves nothing


def _path(rows: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates ``(checkpoint, component)`` and their shares of the variance, from inner products alone."""
    moved = (rows - rows[:1]).astype(np.float64)  # what all checkpoints share would cost digits
    return principal_coordinates(np.asarray(moved @ moved.T), count)


def _smoothed(path: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the smoothed path and its first and second central differences."""
    from scipy.ndimage import gaussian_filter1d

    # Beyond an end the path goes on as its mirror image in that point, so that the end stays where it is.
    beyond = min(len(path) - 1, int(np.ceil(4 * width)) + 1)
    padded = np.pad(path, ((beyond, beyond), (0, 0)), mode="reflect", reflect_type="odd")
    smooth = gaussian_filter1d(padded, width, axis=0, mode="nearest")
    left, here, right = (smooth[beyond + by : beyond + by + len(path)] for by in (-1, 0, 1))
    return here, (right - left) / 2, right - 2 * here + left


def _stacked(curves: list[PlaneCurve], dim: str) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    alone = ("speed", "curvature", "is_vertex", "is_cusp")
    variables = {name: ((PLANE, dim), np.stack([getattr(curve, name) for curve in curves])) for name in alone}
    return {**variables, "centre": ((PLANE, dim, CENTRE_AXIS), np.stack([curve.centre for curve in curves]))}
