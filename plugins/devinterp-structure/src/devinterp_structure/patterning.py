r"""Patterning: weights of training samples that move expectations of losses by wanted amounts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.analyses.common.run_data import Chains
from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN
from devinterp_structure.loss_covariance import CANDIDATE, TARGET, derivatives
from devinterp_structure.steps import STEPS, described, steps_of

#: Names of the variables of a result that other functions read.
DERIVATIVE, WEIGHT = "derivative", "weight"
NUM_BINS = 20
#: Profiles that differ by less than this share of their size are the same: rounding of float32 losses.
SAME_PROFILE = 1e-4


def patterning(
    tree: xr.DataTree,
    change: Mapping[str, float],
    *,
    candidates: str,
    step_size: float = 1.0,
    tolerance: float = 1e-3,
    restriction: str | None = None,
    burnin: int | None = None,
    chains: Chains = "all",
) -> xr.Dataset:
    r"""Compute weights of training samples under which mean losses of observables would change as wanted.

    With weights :math:`\rho_j` in the training loss :math:`L = \sum_j \rho_j s_j \ell_j`, where :math:`s_j` is the share of
    sample :math:`j` in the mean, an expectation :math:`\mu_i = E[\phi_i]` over the posterior changes at all weights 1 by

    .. math:: X_{ij} = \partial \mu_i / \partial \rho_j = -n\beta \, s_j \, \mathrm{cov}(\phi_i, \ell_j),

    divided by the temperature, the square of the run's ``noise_level``. The smallest change of the weights that gives a wanted
    :math:`d\mu` to first order is [1]_

    .. math:: \rho_j = 1 + \alpha \, (X^\dagger d\mu)_j, \qquad X^\dagger = X^T (X X^T)^{-1}.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with two observables or more that recorded losses.
    change : mapping of str to float
        The wanted change :math:`d\mu` of the mean loss of each of these observables, in nats; 0 keeps one where it is.
    candidates : str
        The observable that holds the data that the run was sampled on, all of it: a share of the samples would be taken for
        the whole, and is refused.
    step_size : float, default: 1.0
        :math:`\alpha`: the share of the wanted change to make.
    tolerance : float, default: 1e-3
        Directions whose singular value is less than this share of the largest are left out of the pseudo-inverse: between 0 and
        1. What was wanted in them is not predicted either.
    restriction : str, optional
        The restriction under which expectations are taken; needed where there are several.
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.Dataset
        - ``weight(candidate)``, labelled by the rows of the data set, in their order; a negative one asks for the
          opposite of a sample, such as a preference with its labels swapped.
        - ``predicted_change(target)``: what these weights do to first order, from the covariances that they were computed from,
          so that noise of these is taken for effect; ``wanted_change(target)`` is `step_size` times `change`.
        - ``held_out_change(target)`` and ``held_out_change_se``: weights computed without a chain, their effect taken from that
          chain, the mean over chains, and its standard error over chains. It is the share of the prediction that another run
          would confirm. NaN with one chain.
        - ``derivative(chain, target, candidate)``: :math:`X` of each chain, in nats for a change of a weight by 1;
          ``singular_value(direction)``, the largest first.
        - ``duplicate_of(candidate)``: the first candidate with the same derivatives, or -1: such samples share a weight.
        - ``weight_count(bin)``: a histogram of the weights, with ``weight_from`` and ``weight_to`` of each bin.

        Attributes: ``condition_number`` (of the directions used), ``rank``, ``effective_samples`` (:math:`(\sum\rho)^2 /
        \sum\rho^2`), ``share_negative``, ``step_size``, ``steps``.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If there is no such observable or restriction, `candidates` does not hold all rows that the run was sampled on, nothing
        is wanted, or no sample moves any of the expectations.

    References
    ----------
    .. [1] G. Wang, D. Murfet. Patterning: the dual of interpretability. arXiv:2601.13548.
    """
    step_size = arguments.number("step_size", step_size, positive=True)
    tolerance = arguments.number("tolerance", tolerance, positive=True)
    if tolerance >= 1:
        raise InvalidInputError(f"`tolerance` (={tolerance}) must be less than 1: it is a share of the largest value.")
    wanted = _wanted(change)
    slopes = derivatives(
        tree, list(wanted), candidates, restriction=restriction, burnin=burnin, chains=chains, needed_by="patterning"
    )
    values = slopes.to_numpy()
    mean = values.mean(0)
    goal = step_size * np.array(list(wanted.values()))
    moved = _changes(mean, goal, tolerance)
    weights = 1 + moved
    singular = np.linalg.svd(mean, compute_uv=False)
    used = singular[singular > tolerance * singular[0]]
    result = xr.Dataset({WEIGHT: (CANDIDATE, weights)}, coords={name: slopes[name] for name in (TARGET, CANDIDATE)})
    result["wanted_change"] = (TARGET, goal)
    result["predicted_change"] = (TARGET, mean @ moved)
    held_out, error = _held_out(values, goal, tolerance)
    result["held_out_change"], result["held_out_change_se"] = (TARGET, held_out), (TARGET, error)
    result[DERIVATIVE] = slopes
    result["singular_value"] = ("direction", singular)
    result["duplicate_of"] = (CANDIDATE, duplicates(values, slopes[CANDIDATE].to_numpy()))
    counts, edges = np.histogram(weights, bins=NUM_BINS)
    result["weight_count"] = ("bin", counts)
    result = result.assign_coords(weight_from=("bin", edges[:-1]), weight_to=("bin", edges[1:]))
    parameters = {"change": dict(wanted), "candidates": candidates, "step_size": step_size, "tolerance": tolerance}
    result.attrs = {
        "condition_number": float(used[0] / used[-1]),
        "rank": len(used),
        "effective_samples": float(weights.sum() ** 2 / (weights**2).sum()),
        "share_negative": float((weights < 0).mean()),
        "step_size": step_size,
        STEPS: [described("patterning", parameters)],
    }
    return result


def predicted_change(result: xr.Dataset, weights: Any) -> xr.Dataset:
    """Compute what other weights of the samples would do to first order: all equal, rounded, or of another method.

    Parameters
    ----------
    result : xarray.Dataset
        Of `patterning`, whose derivatives are used.
    weights : array_like
        ``(candidate,)``: a weight for each sample; 1 leaves it as it is.

    Returns
    -------
    xarray.Dataset
        ``change(target)`` in nats, and its standard error over chains, ``change_se``; NaN with one chain. The error holds for
        weights that were not computed from the same chains.

    Raises
    ------
    InvalidInputError
        If there is not one weight for each sample.
    """
    values = result[DERIVATIVE].transpose(CHAIN, TARGET, CANDIDATE)
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (values.sizes[CANDIDATE],):
        raise InvalidInputError(
            f"`weights` must be one number for each of the {values.sizes[CANDIDATE]} samples; its shape is {weights.shape}."
        )
    by_chain = values.to_numpy() @ (weights - 1)
    changes = xr.Dataset(
        {"change": (TARGET, by_chain.mean(0)), "change_se": (TARGET, _error(by_chain))},
        coords={TARGET: result[TARGET].to_numpy()},
    )
    changes.attrs = {STEPS: [*steps_of(result), described("predicted_change")]}
    return changes


def _wanted(change: Mapping[str, float]) -> dict[str, float]:
    wanted = {str(name): float(value) for name, value in arguments.mapping("change", change).items()}
    bad = {name: value for name, value in wanted.items() if not math.isfinite(value)}
    if bad or not any(wanted.values()):
        raise InvalidInputError(
            f"`change` (={change!r}) must give finite numbers, in nats, and at least one that is not 0: the wanted change of "
            "the mean loss of each observable."
        )
    return wanted


def _changes(slopes: np.ndarray, goal: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the smallest changes of weights, ``(candidate,)``, that make the wanted changes of the expectations."""
    if not np.any(slopes):
        raise InvalidInputError("`patterning`: no sample moves any of these observables: their losses do not vary.")
    return np.asarray(np.linalg.pinv(slopes, rcond=tolerance) @ goal)


def _held_out(values: np.ndarray, goal: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean change that each chain confirms of the weights computed from the others, and its standard error."""
    count = len(values)
    if count == 1:
        return np.full(len(goal), np.nan), np.full(len(goal), np.nan)
    others = (values.sum(0) - values) / (count - 1)
    confirmed = np.stack([each @ _changes(rest, goal, tolerance) for each, rest in zip(values, others, strict=True)])
    return confirmed.mean(0), _error(confirmed)


def _error(by_chain: np.ndarray) -> np.ndarray:
    if len(by_chain) == 1:
        return np.full(by_chain.shape[1:], np.nan)
    return np.asarray(by_chain.std(0, ddof=1) / math.sqrt(len(by_chain)))


def duplicates(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each candidate the label of the first one with the same derivatives, or -1."""
    profiles = values.reshape(-1, values.shape[-1]).T
    sizes = np.linalg.norm(profiles, axis=1)
    order, first = np.argsort(sizes, kind="stable"), np.arange(len(profiles))
    # Profiles that are the same have the same size: only those that follow each other by size are compared.
    for shift in range(1, len(profiles)):
        small, large = order[:-shift], order[shift:]
        near = sizes[large] <= sizes[small] * (1 + SAME_PROFILE)
        if not near.any():
            break
        small, large = small[near], large[near]
        same = np.linalg.norm(profiles[small] - profiles[large], axis=1) <= SAME_PROFILE * sizes[small]
        np.minimum.at(first, np.maximum(small, large)[same], np.minimum(small, large)[same])
    return np.asarray(np.where(first == np.arange(len(profiles)), -1, labels[first]))
