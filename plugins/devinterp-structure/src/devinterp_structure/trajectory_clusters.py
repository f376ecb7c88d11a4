r"""Clusters of trajectories: parts of a model whose refined learning coefficients go the same way over training."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp_structure.steps import after

CLUSTER, GROUP, MERGE = "cluster", "group", "merge"
Scale = Literal["shape", "size"]
#: Most clusters that are tried where their number is not given.
_MOST_CLUSTERS = 8


def trajectory_clusters(
    values: xr.DataArray,
    errors: xr.DataArray | None = None,
    *,
    num_clusters: int | None = None,
    of: str = "restriction",
    scale: Scale = "shape",
    num_resamples: int = 100,
    seed: int = 0,
) -> xr.Dataset:
    r"""Group parts of a model by how a number of theirs goes over training, by Ward's hierarchical clustering [1]_.

    Parameters
    ----------
    values : xarray.DataArray
        With the dim `of` and one or more others, such as ``tree.slt.llc()["paired_llc_mean"]`` of a study: ``(checkpoint,
        restriction)``. All other dims together are the trajectory; with ``seed`` among them, what the seeds have in common and
        what they have not both count.
    errors : xarray.DataArray, optional
        Standard errors of `values`, of the same dims: how stable the clusters are follows from them.
    num_clusters : int, optional
        How many, at least 2; default: the number up to 8 with the largest mean silhouette.
    of : str, default: "restriction"
        What is clustered.
    scale : {"shape", "size"}, default: "shape"
        ``"shape"``: each trajectory less its mean, divided by its standard deviation, so that when a part changes counts and
        how much does not. ``"size"``: as it is.
    num_resamples : int, default: 100
        Trajectories are drawn anew so often with Gaussian errors.
    seed : int, default: 0
        Of these.

    Returns
    -------
    xarray.Dataset
        - ``cluster(restriction)``, numbered from 0 by size; ``silhouette(restriction)``, between -1 and 1, above 0 where a part
          is nearer to its own cluster than to the next.
        - ``mean(group, ...)``: mean trajectory of each cluster, as scaled.
        - ``stability``: mean adjusted Rand index, 1 for the same clusters and 0 on average for clusters by chance, of the
          clusters with those of trajectories drawn anew, and ``stability_sd``, its standard deviation over draws; NaN without
          errors. Of trajectories that differ by no more than their errors it is near 0. The noise that `values` have already is
          drawn once more, so that the true agreement is rather larger.
        - ``linkage(merge, 4)``: as of ``scipy.cluster.hierarchy``.

    Raises
    ------
    InvalidInputError
        If there are fewer than 3 parts, a number is not finite, or with ``scale="shape"`` a trajectory does not change.

    References
    ----------
    .. [1] G. Wang, J. Hoogland, S. van Wingerden, Z. Furman, D. Murfet. Differentiation and specialization of attention heads
       via the refined local learning coefficient. arXiv:2410.02984.
    """
    arguments.word("scale", scale, get_args(Scale))
    table, names = _table("values", values, of), [str(name) for name in _labels(values, of)]
    most = len(table) - 1
    if most < 2:
        raise InvalidInputError(f"clusters need 3 of {of!r} or more; `values` has {len(table)}.")
    given = None if num_clusters is None else arguments.count("num_clusters", num_clusters, least=2)
    if given is not None and given > most:
        raise InvalidInputError(f"`num_clusters` (={given}) must be less than the {len(table)} of {of!r}.")
    rows = _scaled(table, scale, names)
    tree = _linkage(rows)
    count = given or _best_number(rows, tree, min(most, _MOST_CLUSTERS))
    found = _cut(tree, count)
    agreement = _agreement(table, _errors(errors, values, of), found, scale, names, num_resamples, seed)
    others = [dim for dim in values.dims if dim != of]
    means = np.stack([rows[found == number].mean(0) for number in range(count)])
    result = xr.Dataset(
        {
            CLUSTER: (of, found),
            "silhouette": (of, _silhouettes(rows, found)),
            "mean": ((GROUP, *others), means.reshape(count, *(values.sizes[dim] for dim in others))),
            "stability": ((), float(agreement.mean()) if len(agreement) else np.nan),
            "stability_sd": ((), float(agreement.std(ddof=1)) if len(agreement) > 1 else np.nan),
            "linkage": ((MERGE, "linkage_column"), tree),
        },
        coords={dim: values[dim].variable for dim in values.dims if dim in values.coords},
    )
    parameters = {"num_clusters": count, "scale": scale, "num_resamples": num_resamples, "seed": seed}
    result.attrs = after(xr.Dataset(), "trajectory_clusters", parameters)
    return result


def _labels(values: xr.DataArray, of: str) -> np.ndarray:
    return values[of].to_numpy() if of in values.coords else np.arange(values.sizes[of])


def _table(name: str, values: Any, of: Hashable) -> np.ndarray:
    """Return trajectories as ``(part, place)``."""
    if not isinstance(values, xr.DataArray) or of not in values.dims or values.ndim < 2:
        got = f"dims {values.dims}" if isinstance(values, xr.DataArray) else type(values).__name__
        raise InvalidInputError(f"`{name}` must be a DataArray with the dim {of!r} and others; got {got}.")
    table = values.transpose(of, ...).to_numpy().astype(float)
    if not np.isfinite(table).all():
        raise InvalidInputError(
            f"`{name}` must be finite; {int((~np.isfinite(table)).sum())} of its {table.size} numbers are not."
        )
    return np.asarray(table.reshape(len(table), -1))


def _errors(errors: xr.DataArray | None, values: xr.DataArray, of: str) -> np.ndarray | None:
    if errors is None:
        return None
    if not isinstance(errors, xr.DataArray) or set(errors.dims) != set(values.dims) or errors.sizes != values.sizes:
        raise InvalidInputError("`errors` must have the dims and lengths of `values`.")
    return _table("errors", errors.transpose(*values.dims), of)


def _scaled(table: np.ndarray, scale: Scale, names: list[str]) -> np.ndarray:
    if scale == "size":
        return table
    spread = table.std(axis=1, keepdims=True)
    still = [name for name, each in zip(names, spread[:, 0], strict=True) if each == 0]
    if still:
        raise InvalidInputError(f"`scale`='shape' needs trajectories that change; {', '.join(still)} do not.")
    return np.asarray((table - table.mean(axis=1, keepdims=True)) / spread)


def _linkage(rows: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import linkage

    return np.asarray(linkage(rows, method="ward"))


def _cut(tree: np.ndarray, count: int) -> np.ndarray:
    """Return a number for each part, 0 for the largest cluster; of equal ones that with the first part first."""
    from scipy.cluster.hierarchy import cut_tree

    raw = cut_tree(tree, n_clusters=count)[:, 0]
    names, first, sizes = np.unique(raw, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    return np.asarray(np.argsort(order)[np.searchsorted(names, raw)])


def _best_number(rows: np.ndarray, tree: np.ndarray, most: int) -> int:
    return max(range(2, most + 1), key=lambda count: float(_silhouettes(rows, _cut(tree, count)).mean()))


def _silhouettes(rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(rows, found))


def _agreement(
    table: np.ndarray,
    errors: np.ndarray | None,
    found: np.ndarray,
    scale: Scale,
    names: list[str],
    num_resamples: int,
    seed: int,
) -> np.ndarray:
    """Return the adjusted Rand index of the clusters with those of each resample; none without errors."""
    from sklearn.metrics import adjusted_rand_score

    count = arguments.count("num_resamples", num_resamples, least=2)
    generator = np.random.default_rng(arguments.count("seed", seed, least=0))
    if errors is None:
        return np.empty(0)
    num_clusters = int(found.max()) + 1
    drawn = (_scaled(generator.normal(table, errors), scale, names) for _ in range(count))
    return np.array([adjusted_rand_score(found, _cut(_linkage(rows), num_clusters)) for rows in drawn])
