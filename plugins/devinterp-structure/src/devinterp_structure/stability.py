r"""Whether clusters and neighbours stay when the seed, the tokens or the chains are others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp_structure.agreement import measures
from devinterp_structure.clusters import Method, Options, Search, labelled_with_neighbours
from devinterp_structure.exact_neighbours import Metric, share_of_pairs
from devinterp_structure.lazy import call, part
from devinterp_structure.matrix import LEFT_OUT, LEFT_OUT_CHAIN, with_left_out
from devinterp_structure.neighbours import DEFAULT_NUMBER, coordinates, points_of
from devinterp_structure.pca import SCORE
from devinterp_structure.response import DEFAULT_STEPS
from devinterp_structure.steps import after
from devinterp_structure.sweeps import Sweeps

#: What may be changed.
CHANGES = ("seed", "subsample", "chain")
REPEAT = "repeat"
_MEASURES = ("adjusted_rand", "nmi", "neighbour_overlap", "num_clusters")


def stability(
    tree: xr.DataTree | xr.Dataset,
    *,
    changes: Sequence[str] | None = None,
    num_repeats: int = 5,
    share: float = 0.8,
    method: Method = "pagerank",
    num_clusters: int | None = None,
    min_size: int = 20,
    num_neighbours: int = DEFAULT_NUMBER,
    metric: Metric = "euclidean",
    search: Search = "exact",
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
) -> xr.Dataset:
    r"""Compute how far clusters and neighbours are the same when something is changed that should not matter.

    Clusters and neighbours of all tokens, from all chains, are compared with those from another seed (of the Gaussian cloud, of
    the spectral method, of an approximate search), from a random part of the tokens, and from all chains but one. All in the
    space of responses itself, not in a picture of it.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or the result of ``tree.slt.response_matrix()``; or of ``tree.slt.pca()``, which has no matrices
        without a chain.
    changes : sequence of str, optional
        Which of ``"seed"``, ``"subsample"`` and ``"chain"``; default: all that the matrix allows.
    num_repeats : int, default: 5
        Other seeds, and other parts of the tokens. Of chains each is left out once.
    share : float, default: 0.8
        Share of the tokens in a part; above 0, below 1.
    method, num_clusters, min_size, num_neighbours, metric, search, seed : optional
        As in ``tree.slt.clusters()``.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on. For other options compute the matrix first.
    steps : sequence of str, default: ("z_score", "centre_rows")
        For a run: as in ``tree.slt.response_matrix()``.

    Returns
    -------
    xarray.Dataset
        Along ``repeat``, with the coordinates ``change`` and ``number``, of the tokens that both have:

        - ``adjusted_rand(repeat)`` and ``nmi(repeat)`` of clusters, where tokens in no cluster count as one;
          ``num_clusters(repeat)`` beside ``num_clusters_of_all``.
        - ``neighbour_overlap(repeat)``: the mean share of a token's neighbours that stay its neighbours. By chance it would be
          the attribute ``by_chance``. With an exact search only chains can change it.

    Raises
    ------
    InvalidInputError
        If an option cannot be.
    MissingDataError
        If chains are to be left out, and the matrix was computed with ``leave_out_chains=False`` or has a single chain.
    """
    source = points_of(tree, sampling_task, steps, needed_by="stability")
    points = coordinates(source)
    changes = _checked_changes(changes, source)
    options = Options(
        method=method,
        num_clusters=num_clusters,
        sweeps=Sweeps(min_size=min_size),
        num_neighbours=num_neighbours,
        metric=metric,
        search=search,
        seed=seed,
    )
    share = arguments.number("share", share, positive=True)
    if share >= 1:
        raise InvalidInputError(f"`share` (={share}) must be below 1.")
    options.check(int(share * points.shape[0]))
    repeats = arguments.count("num_repeats", num_repeats, least=1)
    # One array, so that what all of it is made of is computed once.
    everything = with_left_out(source) if "chain" in changes else points[None]
    num_chains = everything.shape[0] - 1
    plan = [(change, n) for change in changes for n in range(num_chains if change == "chain" else repeats)]
    solved = call(_compared, everything, options=options, plan=plan, share=share)
    numbers = [int(source[LEFT_OUT_CHAIN][n]) if change == "chain" else n for change, n in plan]
    result = xr.Dataset(
        coords={
            "change": (REPEAT, np.array([change for change, _ in plan], dtype=object)),
            "number": (REPEAT, np.array(numbers)),
        }
    )
    for name in _MEASURES:
        result[name] = (REPEAT, part(solved, name, (len(plan),)))
    result["num_clusters_of_all"] = ((), part(solved, "num_clusters_of_all", ()))
    result["neighbour_overlap"].attrs["by_chance"] = num_neighbours / (points.shape[0] - 1)
    parameters = {"changes": list(changes), "num_repeats": repeats, "share": share, **options.parameters()}
    result.attrs = after(source, "stability", {**parameters, "seed": seed})
    return result


def _checked_changes(changes: Sequence[str] | None, source: xr.Dataset) -> list[str]:
    if changes is None:
        return [change for change in CHANGES if change != "chain" or (LEFT_OUT in source and SCORE not in source)]
    chosen = [arguments.word("changes", change, CHANGES) for change in arguments.names("changes", changes)]
    if "chain" in chosen and (LEFT_OUT not in source or SCORE in source):
        raise MissingDataError(
            "`stability`: changes='chain' needs the response matrix without each chain: pass a result of "
            "`tree.slt.response_matrix()` of a run with several chains."
        )
    return chosen


def _compared(
    everything: np.ndarray, *, options: Options, plan: Sequence[tuple[str, int]], share: float
) -> dict[str, np.ndarray]:
    """Return the measures of agreement of each repeat with the clusters and neighbours of the first of several matrices."""
    points, left_out = everything[0], everything[1:]
    labels, near = labelled_with_neighbours(points, options)
    rows = []
    for others, chosen, changed in _changed(points, left_out, options, plan, share):
        other_labels, other_near = labelled_with_neighbours(others, changed)
        scores = measures(labels[chosen], other_labels)
        overlap = share_of_pairs(_within(near, chosen), other_near).mean()
        rows.append((scores["adjusted_rand"], scores["nmi"], overlap, other_labels.max(initial=-1) + 1))
    columns = zip(_MEASURES, np.array(rows, dtype=float).T, strict=True)
    return {**dict(columns), "num_clusters_of_all": np.asarray(labels.max(initial=-1) + 1)}


def _changed(
    points: np.ndarray,
    left_out: np.ndarray,
    options: Options,
    plan: Sequence[tuple[str, int]],
    share: float,
) -> Iterator[tuple[np.ndarray, np.ndarray, Options]]:
    """Yield the points of each repeat, the numbers of their tokens, and how their clusters are found."""
    everything = np.arange(len(points))
    for change, number in plan:
        if change == "seed":
            yield points, everything, replace(options, seed=options.seed + 1 + number)
        elif change == "chain":
            yield left_out[number], everything, options
        else:
            rng = np.random.default_rng([options.seed, number])
            chosen = np.sort(rng.choice(len(points), int(share * len(points)), replace=False))
            yield points[chosen], chosen, options


def _within(near: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the neighbours of some tokens that are among them, by their places there, -1 for those that are not."""
    place = np.full(len(near) + 1, -1)  # the last for what is no neighbour, -1
    place[chosen] = np.arange(len(chosen))
    return np.asarray(place[near[chosen]])
