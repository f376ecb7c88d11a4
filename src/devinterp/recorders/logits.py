r"""Logits of fixed tokens: of those that lead at the initial weights, or projected onto random directions.

With ``top_k`` the logits of the k tokens that have the largest ones at :math:`w_0`, at each place, and the logarithm of the sum
of all exponentials, so that log-probabilities are ``logits - log_normalizer``. With ``projection=m`` the centred logits times a
random matrix of entries :math:`\pm 1/\sqrt m`: inner products and distances between logits are kept in expectation, with
a relative standard error of about :math:`\sqrt{2/m}`. It costs a forward pass over the sequences for each draw of each chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.recorders.device_copy import DeviceCopy
from devinterp.types import RecordedData, RecordedRun, Recorder, Recording, Snapshot

if TYPE_CHECKING:
    from torch import Tensor

_TOP_K = 8


def build(
    run: RecordedRun,
    *,
    dataset: Any = None,
    num_sequences: int | None = None,
    top_k: int | None = None,
    projection: int | None = None,
    seed: int = 0,
) -> Recording:
    """Record next-token logits of fixed sequences.

    Parameters
    ----------
    run : RecordedRun
        The run.
    dataset : object, optional
        The sequences, anything that ``sample`` takes; None: the first 8 rows of the data set that the run samples on.
    num_sequences : int, optional
        How many of its first rows.
    top_k : int, optional
        How many tokens' logits to keep at each place: those that are largest at the initial weights. 8 without `projection`.
    projection : int, optional
        How many random directions to project onto, instead.
    seed : int, default: 0
        Seeds these directions.

    Returns
    -------
    Recording
        ``logits(sequence, token, rank)``, ``log_normalizer(sequence, token)`` and the labels
        ``vocabulary_id(sequence, token, rank)``; or ``logits(sequence, token, direction)``. The logits at a token are for the
        next one; NaN where there is padding.

    Raises
    ------
    InvalidInputError
        If both or none can be done: `top_k` and `projection` are both given, or not positive.
    """
    if top_k is not None and projection is not None:
        raise InvalidInputError(
            "recorder 'logits': `top_k` and `projection` are two ways of keeping less: pass only one."
        )
    for name, value in (("top_k", top_k), ("projection", projection)):
        if value is not None and value < 1:
            raise InvalidInputError(f"recorder 'logits': `{name}` (={value}) must be at least 1.")
    if dataset is None and num_sequences is None:
        num_sequences = min(8, run.data().num_rows)
    data = run.data(dataset, num_rows=num_sequences)
    if projection is not None:
        return _projected(run, data, projection, seed)
    return _of_leading(run, data, _TOP_K if top_k is None else top_k)


def _of_leading(run: RecordedRun, data: RecordedData, top_k: int) -> Recording:
    import torch

    parts = [logits.topk(min(top_k, logits.shape[-1])).indices.cpu() for logits in data.logits(run.model)]
    places = ("sequence", "token")
    return Recording(
        LeadingLogits(data, [DeviceCopy(part) for part in parts]),
        dims={"logits": (*places, "rank"), "log_normalizer": places},
        coords={"vocabulary_id": ((*places, "rank"), torch.cat(parts).numpy())},
    )


def _projected(run: RecordedRun, data: RecordedData, num: int, seed: int) -> Recording:
    import torch

    width = next(iter(data.logits(run.model))).shape[-1]
    signs = torch.randint(2, (width, num), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    matrix = DeviceCopy(signs / num**0.5)
    return Recording(ProjectedLogits(data, matrix), dims={"logits": ("sequence", "token", "direction")})


@final
@dataclass(frozen=True)
class LeadingLogits:
    """Computes the logits of the tokens that led at the initial weights.

    Parameters
    ----------
    data : RecordedData
        The sequences.
    leading : sequence of DeviceCopy
        For each batch the ids of these tokens, ``(batch, token, rank)``.
    """

    data: RecordedData
    leading: Sequence[DeviceCopy]

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Tensor]:
        """Return ``logits`` and ``log_normalizer``, float32."""
        import torch

        kept, normalizers = [], []
        for logits, ids in zip(self.data.logits(snapshot.model), self.leading, strict=True):
            kept.append(logits.gather(-1, ids.on(logits.device)).float())
            normalizers.append(logits.float().logsumexp(-1))
        mask = self.data.attention_mask()
        return {
            "logits": _unless_padded(torch.cat(kept), mask),
            "log_normalizer": _unless_padded(torch.cat(normalizers), mask),
        }


@final
@dataclass(frozen=True)
class ProjectedLogits:
    """Computes logits along random directions.

    Parameters
    ----------
    data : RecordedData
        The sequences.
    matrix : DeviceCopy
        The directions, ``(vocabulary, direction)``.
    """

    data: RecordedData
    matrix: DeviceCopy

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Tensor]:
        """Return ``logits``, float32."""
        import torch

        parts = []
        for logits in self.data.logits(snapshot.model):
            centred = logits.float() - logits.float().mean(-1, keepdim=True)
            parts.append(centred @ self.matrix.on(logits.device))
        return {"logits": _unless_padded(torch.cat(parts), self.data.attention_mask())}


def _unless_padded(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return values ``(sequence, token, ...)``, NaN where there is padding."""
    if mask is None:
        return values
    padded = ~mask.to(values.device)
    return values.masked_fill(padded.view(*padded.shape, *[1] * (values.ndim - 2)), float("nan"))


@hookimpl
def devinterp_recorders() -> list[Recorder]:
    """Register the recorder of logits."""
    return [Recorder(name="logits", build=build)]
