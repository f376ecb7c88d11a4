"""How far the tokens of a pattern lie from the others along each component."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.schema import TOKEN
from devinterp_structure.patterns import PATTERN
from devinterp_structure.pca import COMPONENT, SCORE

#: Groups of texts of which one is left out at a time, at most.
_GROUPS = 20


def separation(components: xr.Dataset, patterns: xr.Dataset) -> xr.Dataset:
    r"""Compute how well a component tells the tokens of a pattern from the others.

    As the probability that a token with the pattern has a larger score than one without (the area under the ROC curve): 1 or 0
    if all of them lie on one side, 0.5 if the component says nothing about the pattern.

    Parameters
    ----------
    components : xarray.Dataset
        A result of ``tree.slt.pca()``, of one run.
    patterns : xarray.Dataset
        A result of ``tree.slt.patterns()`` for the same tokens in the same order.

    Returns
    -------
    xarray.Dataset
        ``auc(pattern, component)``, NaN for patterns that all tokens have or none, and ``auc_se``, a jackknife over up to 20
        groups of texts; ``num_tokens(pattern)``, how many tokens have it.

    Raises
    ------
    InvalidInputError
        If the two are not of the same tokens.
    """
    for result, name, of in ((components, SCORE, "pca"), (patterns, "has_pattern", "patterns")):
        if not isinstance(result, xr.Dataset) or name not in result:
            raise InvalidInputError(
                f"`separation` takes results of `pca` and of `patterns`; there is no `{name}`, of `{of}`."
            )
    if set(components[SCORE].dims) != {TOKEN, COMPONENT} or components.sizes[TOKEN] != patterns.sizes[TOKEN]:
        raise InvalidInputError(
            "`separation` needs components of one run and patterns of the same tokens; there are scores of "
            f"{dict(components[SCORE].sizes)} and patterns of {patterns.sizes[TOKEN]} tokens."
        )
    scores = components[SCORE].transpose(TOKEN, COMPONENT).to_numpy()
    has = patterns["has_pattern"].transpose(PATTERN, TOKEN).to_numpy()
    texts = np.asarray(components["text"]) if "text" in components.coords else np.arange(len(scores))
    groups = [part for part in np.array_split(np.unique(texts), _GROUPS) if len(part)]
    left_out = [_auc(scores[keep], has[:, keep]) for keep in (~np.isin(texts, part) for part in groups)]
    dims = (PATTERN, COMPONENT)
    error = jackknife_error(left_out) if len(groups) > 1 else np.full((len(has), scores.shape[1]), np.nan)
    result = xr.Dataset(
        {"auc": (dims, _auc(scores, has)), "auc_se": (dims, error), "num_tokens": (PATTERN, has.sum(axis=1))},
        coords={PATTERN: patterns[PATTERN].to_numpy(), COMPONENT: components[COMPONENT].to_numpy()},
    )
    result["auc_se"].attrs["degrees_of_freedom"] = len(groups) - 1
    return result


def _auc(scores: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve ``(pattern, component)``, by the ranks of scores; ties count as half."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    with_it = has.sum(axis=1)[:, None].astype(float)
    pairs = with_it * (len(scores) - with_it)
    above = has.astype(float) @ ranks - with_it * (with_it + 1) / 2
    return np.asarray(np.where(pairs > 0, above / np.where(pairs > 0, pairs, 1), np.nan))
