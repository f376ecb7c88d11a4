"""How well two labellings of the same tokens agree, with errors over texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.schema import TOKEN
from devinterp_structure.clusters import CLUSTER

#: Groups of texts of which one is left out at a time, at most.
_GROUPS = 20


def agreement(labels: xr.Dataset | xr.DataArray, others: Any, *, only_labelled: bool = True) -> xr.Dataset:
    r"""Compute how well two labellings of the same tokens agree.

    By the adjusted Rand index, which is 1 for the same labelling and 0 on average for labels by chance; the normalised mutual
    information; and the purity, the share of tokens whose label is the most frequent one of their cluster.

    Parameters
    ----------
    labels : xarray.Dataset or xarray.DataArray
        A result of ``tree.slt.clusters()``, or labels ``(token,)``.
    others : xarray.Dataset, xarray.DataArray or array
        Other labels of the same tokens in the same order: of another method or run, of features, of patterns; numbers or words.
    only_labelled : bool, default: True
        Leave out tokens of which either label is a number below 0: those in no cluster. Otherwise these count as a cluster.

    Returns
    -------
    xarray.Dataset
        ``adjusted_rand``, ``nmi``, ``purity``, each with its standard error ``_se``, a jackknife over up to 20 groups of texts
        (of tokens, where labels do not say to which text a token belongs), and ``num_tokens``. NaN where fewer than two tokens
        are labelled.

    Raises
    ------
    InvalidInputError
        If the two are not of the same length.
    """
    one, other, texts = _values(labels), _values(others), _texts(labels)
    if one.shape != other.shape or one.ndim != 1:
        raise InvalidInputError(
            f"two labellings must be of the same tokens; these have the shapes {one.shape} and {other.shape}."
        )
    if only_labelled:
        both = _is_labelled(one) & _is_labelled(other)
        one, other, texts = one[both], other[both], texts[both]
    result = xr.Dataset({"num_tokens": ((), len(one))})
    scores = measures(one, other)
    groups = [part for part in np.array_split(np.unique(texts), _GROUPS) if len(part)]
    left_out = [measures(one[keep], other[keep]) for keep in (~np.isin(texts, part) for part in groups)]
    for name, value in scores.items():
        result[name] = ((), value)
        enough = len(groups) > 1 and np.isfinite(value)
        result[f"{name}_se"] = ((), jackknife_error([each[name] for each in left_out]) if enough else np.nan)
        result[f"{name}_se"].attrs["degrees_of_freedom"] = len(groups) - 1
    return result


def measures(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the adjusted Rand index, normalised mutual information and purity of two labellings; NaN of one token."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    if len(one) < 2:
        return dict.fromkeys(("adjusted_rand", "nmi", "purity"), float("nan"))
    return {
        "adjusted_rand": float(adjusted_rand_score(other, one)),
        "nmi": float(normalized_mutual_info_score(other, one)),
        "purity": float(contingency_matrix(other, one).max(axis=0).sum() / len(one)),
    }


def _values(labels: Any) -> np.ndarray:
    if isinstance(labels, xr.Dataset):
        labels = labels[CLUSTER]
    return np.asarray(labels)


def _texts(labels: Any) -> np.ndarray:
    array = labels[CLUSTER] if isinstance(labels, xr.Dataset) else labels
    if isinstance(array, xr.DataArray) and "text" in array.coords and array["text"].dims == (TOKEN,):
        return np.asarray(array["text"])
    return np.arange(len(array))


def _is_labelled(labels: np.ndarray) -> np.ndarray:
    return np.asarray(labels >= 0) if labels.dtype.kind in "if" else np.ones(labels.shape, dtype=bool)
