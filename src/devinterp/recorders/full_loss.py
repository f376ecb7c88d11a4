r"""The mean loss over all rows of a data set, at every draw: :math:`L(w)` without the noise of minibatches.

It costs a forward pass over the data set for each draw of each chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from devinterp.hookspecs import hookimpl
from devinterp.types import RecordedData, RecordedRun, Recorder, Recording, Snapshot

if TYPE_CHECKING:
    from torch import Tensor


def build(run: RecordedRun, *, dataset: Any = None) -> Recording:
    """Record the mean over all unmasked losses of a data set.

    Parameters
    ----------
    run : RecordedRun
        The run, whose loss it is.
    dataset : object, optional
        The data set, anything that ``sample`` takes; None: the one that the run samples on.

    Returns
    -------
    Recording
        ``loss`` without dims of its own, float64, in nats. It is of all rows, so that it has no error as an estimate for this
        data set.
    """
    data = run.data(dataset)
    return Recording(FullLoss(data), dims={"loss": ()}, attrs={"loss": {"units": "nats", "num_rows": data.num_rows}})


@final
@dataclass(frozen=True)
class FullLoss:
    """Computes the mean loss of a data set.

    Parameters
    ----------
    data : RecordedData
        The data set.
    """

    data: RecordedData

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Tensor]:
        """Return ``loss``, float64."""
        import torch

        sums = []
        for losses in self.data.losses(snapshot.model):
            unmasked = ~losses.isnan()
            sums.append(torch.stack([torch.where(unmasked, losses, 0).double().sum(), unmasked.sum().double()]))
        total, count = torch.stack(sums).sum(0)
        return {"loss": total / count}


@hookimpl
def devinterp_recorders() -> list[Recorder]:
    """Register the recorder of the loss over a whole data set."""
    return [Recorder(name="full_loss", build=build)]
