r"""The loss at w0 of every row that a run's minibatches use, so that the noise of the data can be subtracted.

The loss of a minibatch at :math:`w` and at :math:`w_0` share the noise of which rows it holds. With the latter known, the
learning coefficient is estimated from :math:`L_B(w) - L_B(w_0)` (docs/errors.md). It costs one forward pass of each distinct
row, whatever the number of chains and restrictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.reductions import mean_of_rows
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.spec import RunSpec

#: A forward pass costs about a third of a gradient.
_FORWARD = 1 / 3
#: Share of the cost of a run's gradients up to which losses at w0 are stored unless the user says otherwise.
MAX_SHARE = 0.15


@final
@dataclass(frozen=True)
class RowLosses:
    """Losses at w0 of rows of the sampling dataset.

    Parameters
    ----------
    ids : numpy.ndarray
        Which rows, ``(row,)``.
    loss : numpy.ndarray
        ``(row, *loss_dims)``, NaN where masked; or their means over unmasked losses, ``(row,)``, where a run stores no more.
    count : numpy.ndarray or None
        Number of unmasked losses of each row, ``(row,)``, where `loss` holds means.
    """

    ids: np.ndarray
    loss: np.ndarray
    count: np.ndarray | None = None

    def joined(self, more: RowLosses) -> RowLosses:
        """Return these rows and, behind them, others."""
        count = None if self.count is None or more.count is None else np.concatenate([self.count, more.count])
        return RowLosses(np.concatenate([self.ids, more.ids]), np.concatenate([self.loss, more.loss]), count)


def share_of_cost(spec: RunSpec) -> float:
    """Return the cost of measuring all rows at w0 as a share of the cost of the run's gradients."""
    settings = spec.settings
    gradients = settings.num_chains * len(spec.restrictions) * settings.num_steps * settings.batches_per_step
    return _FORWARD * len(spec.schedule.step_rows()) / (gradients * settings.batch_size)


def row_losses(at_w0: LossesAtW0, ids: np.ndarray) -> RowLosses:
    """Return losses at w0 of rows of the sampling dataset, increasing, as much of them as the run stores of losses.

    Parameters
    ----------
    at_w0 : LossesAtW0
        The run's losses.
    ids : numpy.ndarray
        Rows, ``(row,)``, in the order in which they are evaluated; see `Schedule.step_rows`.

    Raises
    ------
    InvalidInputError
        If a loss is not finite.
    """
    settings = at_w0.spec.settings
    losses, finite = at_w0.of_dataset(ids)
    if not finite:
        raise InvalidInputError(
            "the loss at the starting weights is not finite on some rows of the dataset: check the model and its dtype "
            f"(float16 overflows), or the `loss_fn`; what is beyond {settings.largest_loss:.3g} cannot be stored."
        )
    order = np.argsort(ids)
    ids, values = ids[order], losses.float().cpu().numpy()[order]
    if settings.record == "token":
        return RowLosses(ids, values)
    unmasked = np.isfinite(values).reshape(len(values), -1).sum(1)
    return RowLosses(ids, mean_of_rows(values, 1).astype(np.float64), unmasked.astype(np.int32))
