r"""Susceptibilities, in several variants from which their errors follow, whatever is done to them in between.

The first variant is the estimate from all chains. Then come those that leave out one chain each, for the jackknife, and, where
:math:`L_0` has an error, all of these again with :math:`L_0` larger by it. Every transform is applied to all variants.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from devinterp.analyses.common.blockwise import Array, blockwise
from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.analyses.susceptibilities.moments import Moments

Errors = Literal["none", "jackknife", "ess"]
#: By observable: ``(variant, restriction, sequence, position)``.
Variants: TypeAlias = dict[str, Array]


def variants(moments: Moments, reference: int | None, errors: Errors, initial_loss_error: Array | None) -> Array:
    """Return the susceptibilities of an observable's tokens ``(variant, restriction, sequence, position)``.

    Parameters
    ----------
    moments : Moments
        Of the observable.
    reference : int or None
        Index of the run of all weights; None where each run is its own reference.
    errors : {"none", "jackknife", "ess"}
        Which variants there are: those that leave out a chain only for ``"jackknife"``, none but the estimate for ``"none"``.
    initial_loss_error : array or None
        Standard error of L0, ``(restriction, 1, 1)``.
    """
    num_chains = moments.task.shape[1]
    left_out = num_chains if errors == "jackknife" and num_chains > 1 else 0
    shifted = errors != "none" and initial_loss_error is not None
    chosen = slice(None) if reference is None else slice(reference, reference + 1)
    base = "r" if reference is None else "b"
    return blockwise(
        _variants,
        "krst",
        (moments.token, "rcmst"),
        (moments.task, "reo"),
        (moments.token[chosen], f"{base}cmst"),
        (moments.task[chosen], f"{base}eo"),
        *([(initial_loss_error, "rxy")] if shifted else []),
        sizes={"k": (1 + left_out) * (1 + shifted)},
        dtype=np.float64,
        leave_out=left_out > 0,
    )


def _variants(
    token: np.ndarray,
    task: np.ndarray,
    base_token: np.ndarray,
    base_task: np.ndarray,
    initial_loss_error: np.ndarray | None = None,
    *,
    leave_out: bool,
) -> np.ndarray:
    loss, rise_loss = np.moveaxis(_over_chains(token, leave_out), 2, 0)
    rise, task_loss, rise_task = np.moveaxis(_over_chains(task, leave_out), 2, 0)[..., None, None]
    base = _over_chains(base_task, leave_out)[:, :, 1, None, None] - _over_chains(base_token, leave_out)[:, :, 0]
    chi = rise_task - rise_loss - rise * base
    if initial_loss_error is None:
        return np.asarray(chi)
    # An error d of L0 adds -d (E_C[L - loss] - E_full[L - loss]); nothing where both are the same run.
    difference = base - (task_loss - loss)
    shifted = chi + np.where(difference == 0, 0, difference * initial_loss_error)
    return np.concatenate([chi, shifted])


def _over_chains(values: np.ndarray, leave_out: bool) -> np.ndarray:
    """Return the mean over chains, the second axis, and then the means over all chains but one, along a new first axis."""
    mean: np.ndarray = values.mean(axis=1)[None]
    num_chains = values.shape[1]
    if not leave_out:
        return mean
    return np.concatenate([mean, (num_chains * mean - np.moveaxis(values, 1, 0)) / (num_chains - 1)])


def z_scores(estimates: Variants) -> Variants:
    """Subtract from each restriction's column its mean over the tokens of all observables, and divide by their spread."""
    present = {name: ~np.isnan(chi) for name, chi in estimates.items()}
    count = sum(each.sum(axis=(2, 3), keepdims=True) for each in present.values())
    count = np.where(count > 0, count, np.nan)

    def mean(values: Variants) -> Array:
        parts = [np.where(present[name], each, 0).sum(axis=(2, 3), keepdims=True) for name, each in values.items()]
        total: Array = sum(parts[1:], parts[0])
        return total / count

    centred = {name: chi - mean(estimates) for name, chi in estimates.items()}
    spread = mean({name: chi**2 for name, chi in centred.items()}) ** 0.5
    spread = np.where(
        spread > 0, spread, np.nan
    )  # equal susceptibilities, as of weights that did not move, have no z-score
    return {name: chi / spread for name, chi in centred.items()}


def centred_rows(estimates: Variants) -> Variants:
    """Subtract from each token its mean over restrictions."""
    return {name: chi - chi.mean(axis=1, keepdims=True) for name, chi in estimates.items()}


def with_error(chi: Array, errors: Errors, num_chains: int, within: Array) -> tuple[Array | None, ...]:
    r"""Return the estimates ``(restriction, sequence, position)``, their standard errors, and the degrees of freedom of these.

    The latter only where the error of :math:`L_0`, which is known, is added to a spread of chains, which is itself uncertain:
    Satterthwaite's :math:`(C - 1) (\mathrm{se}^2 / \mathrm{se}_{chains}^2)^2`. How far an error of :math:`L_0` moves the
    estimate is known from the same chains: the square of their noise is subtracted from the square of that distance.

    Parameters
    ----------
    chi : array
        All variants of them.
    errors : {"none", "jackknife", "ess"}
        Which variants these are.
    num_chains : int
        Number of chains.
    within : array
        For ``"ess"``, the error of the estimates from the draws within chains.
    """
    estimate = chi[0]
    if errors == "none":
        return estimate, None, None
    if errors == "jackknife" and num_chains < 2:
        return estimate, estimate * np.nan, None
    num_variants = 1 + (num_chains if errors == "jackknife" else 0)
    error = jackknife_error(list(chi[1:num_variants])) if errors == "jackknife" else within
    if chi.shape[0] == num_variants:
        return estimate, error, None
    shift = chi[num_variants:] - chi[:num_variants]
    if errors == "ess":
        return estimate, (error**2 + shift[0] ** 2) ** 0.5, None
    total = error**2 + np.maximum(shift[0] ** 2 - jackknife_error(list(shift[1:])) ** 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return estimate, total**0.5, (num_chains - 1) * (total / error**2) ** 2
