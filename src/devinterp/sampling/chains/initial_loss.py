"""The loss where a chain starts, and how uncertain it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.stepper import put_at_start
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
        Mean over all losses that count; in ragged text not the mean of `mean` over its `loss_dims`.
    overall_se : numpy.ndarray
        Its standard error.
    """

    mean: np.ndarray
    se: np.ndarray
    overall: np.ndarray
    overall_se: np.ndarray


def initial_loss(spec: RunSpec) -> InitialLoss:
    """Return the loss where each chain starts, on the batches v2 uses for it.

    Chains that share their data (and start at the same weights) share one measurement.

    Raises
    ------
    InvalidInputError
        If it is not finite.
    """
    settings = spec.settings
    chains = range(settings.num_chains)
    if settings.init_noise is None:
        return loss_at_w0(spec)
    per_restriction = []
    for masks in spec.restrictions.values():
        with borrowed(spec.model, masks) as weights:
            rows = []
            for chain in chains:
                put_at_start(weights, settings, [chain])
                rows.append(_measure(spec, chain))
            per_restriction.append(_stack(rows))
    return _stack(per_restriction)


def loss_at_w0(spec: RunSpec) -> InitialLoss:
    """Return the loss at w0 on each chain's batches, without ``init_noise``, ``(chain, ...)``; raises as `initial_loss`."""
    chains = range(spec.settings.num_chains)
    distinct = [0] if spec.settings.match_sampling_input_ids_across_chains else chains
    measured = {chain: _measure(spec, chain) for chain in distinct}
    return _stack([measured.get(chain, measured[0]) for chain in chains])


def _stack(parts: list[InitialLoss]) -> InitialLoss:
    return InitialLoss(
        *(np.stack([getattr(p, name) for p in parts]) for name in ("mean", "se", "overall", "overall_se"))
    )


def _measure(spec: RunSpec, chain: int) -> InitialLoss:
    batches = spec.schedule.initial_batches(chain)
    # A replayed epoch adds no information, so every distinct row is evaluated once and counted as often as it occurs.
    distinct, counts = np.unique(batches, axis=0, return_counts=True)
    per_token, per_row = _Moments(), _Moments()
    for rows, count in zip(distinct, counts, strict=True):
        losses, finite = spec.evaluate(spec.rows, rows)
        if not finite:
            raise InvalidInputError(
                f"the loss at the starting weights is not finite on rows {rows[:5].tolist()} ... of the dataset: check "
                "the model and its dtype (float16 overflows), or the `loss_fn`."
            )
        values = losses.double().cpu().numpy()
        per_token.add(values, int(count))
        per_row.add(_row_means(values.reshape(len(values), -1)), int(count))
    num_distinct = distinct.size
    return InitialLoss(
        per_token.mean,
        per_token.standard_error(num_distinct, spec.num_rows),
        per_token.overall,
        per_row.standard_error(num_distinct, spec.num_rows),
    )


def _row_means(losses: np.ndarray) -> np.ndarray:
    """Return the mean over the losses of each row that count, NaN where none does."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(losses, axis=1) / np.isfinite(losses).sum(axis=1))


class _Moments:
    """Mean and variance over rows, NaN where a loss does not count."""

    def __init__(self) -> None:
        self._count: np.ndarray | float = 0.0
        self._sum: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, values: np.ndarray, weight: int) -> None:
        counted = np.isfinite(values)
        values = np.where(counted, values, 0)
        self._count = self._count + weight * counted.sum(0)
        self._sum = self._sum + weight * values.sum(0)
        self._squares = self._squares + weight * (values**2).sum(0)

    @property
    def mean(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sum / self._count)

    @property
    def overall(self) -> np.ndarray:
        return np.asarray(np.sum(self._sum) / np.sum(self._count))

    def standard_error(self, num: int, population: int) -> np.ndarray:
        """Return the error of the mean as an estimate for all rows: drawn without replacement, none when all were seen."""
        with np.errstate(invalid="ignore"):
            variance = np.maximum(self._squares / self._count - self.mean**2, 0) * num / max(num - 1, 1)
        if num == 1 < population:
            return np.full_like(variance, np.nan)
        return np.asarray(np.sqrt(variance / num * (1 - num / population)))


def check_finite_weights(model: torch.nn.Module) -> None:
    """Raise unless all weights of a model are finite."""
    for name, parameter in model.named_parameters():
        # The sum of a tensor is finite only if all entries are (up to overflow, which the exact test then settles).
        if not math.isfinite(float(parameter.detach().sum(dtype=torch.float32))) and not bool(
            torch.isfinite(parameter).all()
        ):
            raise InvalidInputError(
                f"parameter {name!r} of the model holds values that are not finite: load the weights again."
            )
