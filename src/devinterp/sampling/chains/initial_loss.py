"""The loss where a chain starts, and how uncertain it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.stepper import put_at_start
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.engines.weights import borrowed
from devinterp.sampling.spec import RunSpec


@dataclass(frozen=True)
class InitialLoss:
    """Mean loss where chains start, with standard errors.

    Parameters
    ----------
    mean, se : numpy.ndarray
        ``(chain, *loss_dims)``, or ``(restriction, chain, *loss_dims)`` with ``init_noise``.
    overall : numpy.ndarray
        Mean over minibatches of each one's mean unmasked loss, which is what a chain descends; of padded text not the mean of
        `mean` over its `loss_dims`.
    overall_se : numpy.ndarray
        Its standard error.
    """

    mean: np.ndarray
    se: np.ndarray
    overall: np.ndarray
    overall_se: np.ndarray


def initial_loss(at_w0: LossesAtW0) -> InitialLoss:
    """Return the loss where each chain starts, on the batches v2 uses for it.

    Chains that share their data (and start at the same weights) share one measurement.

    Raises
    ------
    InvalidInputError
        If it is not finite.
    """
    spec = at_w0.spec
    settings = spec.settings
    chains = range(settings.num_chains)
    if settings.init_noise is None:
        return loss_at_w0(at_w0)
    per_restriction = []
    for masks in spec.restrictions.values():
        with borrowed(spec.model, masks) as weights:
            rows = []
            for chain in chains:
                put_at_start(weights, settings, [chain])
                rows.append(_measure(spec, chain, partial(spec.evaluate, spec.rows)))
            per_restriction.append(_stack(rows))
    return _stack(per_restriction)


def loss_at_w0(at_w0: LossesAtW0) -> InitialLoss:
    """Return the loss at w0 on each chain's batches, without ``init_noise``, ``(chain, ...)``; raises as `initial_loss`."""
    spec = at_w0.spec
    chains = range(spec.settings.num_chains)
    distinct = [0] if spec.settings.match_sampling_input_ids_across_chains else chains
    measured = {chain: _measure(spec, chain, at_w0.of_dataset) for chain in distinct}
    return _stack([measured.get(chain, measured[0]) for chain in chains])


def _stack(parts: list[InitialLoss]) -> InitialLoss:
    return InitialLoss(
        *(np.stack([getattr(p, name) for p in parts]) for name in ("mean", "se", "overall", "overall_se"))
    )


def _measure(spec: RunSpec, chain: int, losses_of: Callable[[np.ndarray], tuple[Tensor, bool]]) -> InitialLoss:
    batches = spec.schedule.initial_batches(chain)
    # A replayed epoch adds no information, so every distinct row is evaluated once and counted as often as it occurs.
    distinct, counts = np.unique(batches, axis=0, return_counts=True)
    moments = _Moments()
    for rows, count in zip(distinct, counts, strict=True):
        losses, finite = losses_of(rows)
        if not finite:
            raise InvalidInputError(
                f"the loss at the starting weights is not finite on rows {rows[:5].tolist()} ... of the dataset: check "
                "the model and its dtype (float16 overflows), or the `loss_fn`; what is beyond "
                f"{spec.settings.largest_loss:.3g} cannot be stored."
            )
        moments.add(losses.double().cpu().numpy(), int(count))
    # Of the variance of a row's loss its mean over these rows, as an estimate for all rows, keeps the sum of squared weights;
    # less what the mean over all rows has, because rows are drawn without replacement.
    kept = max(float((counts**2).sum()) * batches.shape[1] / batches.size**2 - 1 / spec.num_rows, 0.0)
    if distinct.size == 1 < spec.num_rows:
        kept = math.nan
    return InitialLoss(moments.mean, moments.error(kept), moments.mean_of_batches, moments.error_of_batches(kept))


class _Moments:
    """Means and variances of losses over rows that are added in minibatches; NaN marks a masked loss."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._num_batches = 0
        self._count: np.ndarray | float = 0.0
        self._sum: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0
        self._batch_means = 0.0
        self._rows: list[np.ndarray] = []

    def add(self, losses: np.ndarray, times: int) -> None:
        """Add the losses ``(row, *loss_dims)`` of a minibatch that occurs several times."""
        unmasked = np.isfinite(losses)
        losses = np.where(unmasked, losses, 0)
        self._num_rows += times * len(losses)
        self._num_batches += times
        self._count = self._count + times * unmasked.sum(0)
        self._sum = self._sum + times * losses.sum(0)
        self._squares = self._squares + times * (losses**2).sum(0)
        with np.errstate(invalid="ignore"):
            self._batch_means += times * float(losses.sum() / unmasked.sum())
        self._rows.append(np.stack([one.reshape(len(one), -1).sum(1) for one in (losses, unmasked)], axis=1))

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of each loss over the rows in which it is unmasked."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sum / self._count)

    @property
    def mean_of_batches(self) -> np.ndarray:
        """Return the mean over minibatches of each one's mean unmasked loss."""
        return np.asarray(self._batch_means / self._num_batches)

    def error(self, kept: float) -> np.ndarray:
        """Return the standard error of `mean`, which keeps this share of the variance of rows."""
        num = sum(map(len, self._rows))
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.maximum(self._squares / self._count - self.mean**2, 0) * num / max(num - 1, 1)
            return np.asarray(np.sqrt(variance * self._num_rows / self._count * kept))

    def error_of_batches(self, kept: float) -> np.ndarray:
        """Return the standard error of `mean_of_batches`: row i adds n_i (m_i - mu) / mean(n) to the mean of a minibatch."""
        total, count = np.concatenate(self._rows).T
        residuals = (total - count * (total.sum() / count.sum())) / count.mean()
        return np.asarray(np.sqrt((residuals**2).sum() / max(len(residuals) - 1, 1) * kept))
