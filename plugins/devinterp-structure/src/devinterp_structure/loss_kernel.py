r"""The loss kernel: sequences are near each other where their losses move together over the posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.analyses.bif import compute_bif
from devinterp.analyses.bif.selection import Selection
from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN
from devinterp_structure.components import principal_coordinates
from devinterp_structure.pca import COMPONENT, SCORE
from devinterp_structure.steps import after

KERNEL = "kernel"
SAMPLE, OTHER, GROUP, OTHER_GROUP = "sample", "other_sample", "group", "other_group"


def loss_kernel(
    tree: xr.DataTree,
    *,
    observables: Selection = None,
    groups: Any = None,
    num_components: int = 3,
    detrend: bool = False,
    burnin: int | None = None,
) -> xr.Dataset:
    r"""Compute the kernel of loss correlations between sequences, its principal components, and its means over groups [1]_.

    .. math:: K_{xy} = \mathrm{corr}_w(\ell_x(w), \ell_y(w))

    over the draws of all chains, each chain about its own mean: what ``tree.slt.bif(method="sequence", centre="chain")`` gives.
    It is an inner product, so that it has principal components and distances :math:`\sqrt{2 (1 - K_{xy})}`. Computed at once,
    of all pairs.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run, of one restriction.
    observables : str, list of str or dict, optional
        Which sequences take part, as ``loss_keys=`` of ``tree.slt.bif``; default: all.
    groups : array_like, optional
        A label for each sequence, in the order of the kernel's rows (see ``observable`` and ``sequence``). Default: the name of
        its observable.
    num_components : int, default: 3
        Components, fewer than there are sequences.
    detrend : bool, default: False
        Take out each chain's linear trend.
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.

    Returns
    -------
    xarray.Dataset
        - ``kernel(sample, other_sample)``, between -1 and 1, with the coordinates ``observable`` and ``sequence``.
        - ``score(sample, component)`` and ``explained_variance_ratio(component)`` of the centred kernel.
        - ``group_mean(group, other_group)``: the mean over pairs of different sequences, with its jackknife error over chains
          ``group_mean_se``; NaN for a single chain, and for a group of one with itself.

        Sequences of which a loss does not vary are left out; the attribute ``num_left_out`` says how many. The attribute
        ``steps`` records the parameters.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished.
    InvalidInputError
        If the run has several restrictions, or there are not as many groups as sequences.

    References
    ----------
    .. [1] M. Adam, Z. Furman, J. Hoogland. The loss kernel: a geometric probe for deep learning interpretability.
       arXiv:2509.26537.
    """
    options = {"loss_keys": observables, "detrend": detrend, "burnin": burnin}
    whole = _correlations(tree, options)
    labels = _labels(groups, whole)
    kept = ~whole["constant_1"].to_numpy()
    kernel, labels = whole["influences"].to_numpy()[np.ix_(kept, kept)].astype(float), labels[kept]
    count = arguments.count("num_components", num_components, least=1)
    if count >= len(kernel):
        raise InvalidInputError(f"`num_components` (={count}) must be less than the {len(kernel)} sequences that vary.")
    scores, ratio = principal_coordinates(kernel, count)
    names, means = _group_means(kernel, labels)
    errors = _errors(tree, options, kept, labels, means)
    result = xr.Dataset(
        {
            KERNEL: ((SAMPLE, OTHER), kernel.astype(np.float32)),
            SCORE: ((SAMPLE, COMPONENT), scores),
            "explained_variance_ratio": (COMPONENT, ratio),
            "group_mean": ((GROUP, OTHER_GROUP), means),
            "group_mean_se": ((GROUP, OTHER_GROUP), errors),
        },
        coords={
            "observable": (SAMPLE, whole["observable_1"].to_numpy()[kept]),
            "sequence": (SAMPLE, whole["sequence_1"].to_numpy()[kept]),
            "sample_group": (SAMPLE, labels),
            COMPONENT: np.arange(1, count + 1),
            GROUP: names,
            OTHER_GROUP: names,
        },
    )
    parameters = {"num_components": count, "detrend": detrend}
    result.attrs = {**after(xr.Dataset(), "loss_kernel", parameters), "num_left_out": int((~kept).sum())}
    return result


def _correlations(tree: xr.DataTree, options: dict[str, Any]) -> xr.Dataset:
    found = compute_bif(tree, method="sequence", centre="chain", **options).compute()
    if found["influences"].ndim != 2:
        raise InvalidInputError("`tree` must be of one restriction: choose it with `tree.sel(restriction=...)`.")
    return found


def _labels(groups: Any, whole: xr.Dataset) -> np.ndarray:
    """Return a word for each sequence."""
    if groups is None:
        return whole["observable_1"].to_numpy().astype(str)
    labels = np.asarray(groups).astype(str)
    if labels.shape != whole["observable_1"].shape:
        raise InvalidInputError(
            f"`groups` must have a label for each of the {whole['observable_1'].size} sequences; its shape is {labels.shape}."
        )
    return labels


def _group_means(kernel: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the names of groups, and means over pairs of different sequences."""
    names, number = np.unique(labels, return_inverse=True)
    member = np.eye(len(names))[number]
    sums = member.T @ (kernel - np.diag(np.diag(kernel))) @ member
    sizes = member.sum(0)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    return names, np.divide(sums, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)


def _errors(
    tree: xr.DataTree, options: dict[str, Any], kept: np.ndarray, labels: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Return jackknife errors over chains of means over groups."""
    num_chains = int(tree["status/error"].sizes[CHAIN])
    if num_chains < 2:
        return np.full(means.shape, np.nan)
    left_out = []
    for chain in range(num_chains):
        others = tree.isel({CHAIN: [number for number in range(num_chains) if number != chain]})
        kernel = _correlations(others, options)["influences"].to_numpy()[np.ix_(kept, kept)].astype(float)
        left_out.append(_group_means(kernel, labels)[1])
    return np.asarray(jackknife_error(left_out))
