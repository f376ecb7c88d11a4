"""An observable by itself, under the import path of DevInterp 2: some rows of a dataset, and their losses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.losses.loss import LossFunction
from devinterp.slt.lm_loss import compute_per_token_loss

_SEED = 1337


def to_obs_id(task_name: str) -> str:
    """Return the name that DevInterp 2's flat layout gives an observable: ``"pile-cc"`` becomes ``"pile_cc"``."""
    return schema.flat_name(task_name)


class DeterministicShuffledSampler(Sampler[int]):
    """Some rows of a dataset in a random order that a seed fixes.

    Parameters
    ----------
    data_source : Dataset
        Of known length.
    num_samples : int
        How many rows.
    seed : int, default: 42
        Which.
    """

    def __init__(self, data_source: Any, num_samples: int, seed: int = 42) -> None:
        total = row_source(data_source, name="`data_source`").num_rows
        if not 0 <= num_samples <= total:
            raise InvalidInputError(f"`num_samples` (={num_samples}) must be at most the number of rows ({total}).")
        self.data_source, self.num_samples, self.seed = data_source, num_samples, seed
        self._rows = random.Random(seed).sample(range(total), num_samples)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return self.num_samples


class Observable:
    """Rows of a dataset whose losses are measured together.

    Parameters
    ----------
    dataset : object
        As for `devinterp.slt.sampling.sample`.
    task_name : str
        Its name.
    batches_per_draw, batch_size : int
        How many batches, and of how many sequences.
    context_length : int
        Positions of a sequence: one less than its tokens.
    device : torch.device
        Where losses are computed.
    seed : int, default: 1337
        Chooses the rows.
    loss_fn : callable, optional
        ``loss_fn(model, input_ids)``; default: `devinterp.slt.lm_loss.compute_per_token_loss`.

    Attributes
    ----------
    input_ids : Tensor
        Token ids, ``(sequence, token)``.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        task_name: str,
        batches_per_draw: int,
        batch_size: int,
        context_length: int,
        device: torch.device | str,
        seed: int = _SEED,
        loss_fn: LossFunction | None = None,
    ) -> None:
        self.obs_id, self.batch_size, self.batches_per_draw = to_obs_id(task_name), batch_size, batches_per_draw
        self.n_samples, self.context_length = batch_size * batches_per_draw, context_length
        self.device, self.loss_fn = torch.device(device), loss_fn or compute_per_token_loss
        ids = np.array(list(DeterministicShuffledSampler(dataset, self.n_samples, seed)))
        batch = row_source(dataset, name=f"observable {task_name!r}").read(ids, only_tokens=True).batch(ids).data
        if not isinstance(batch, Tensor) or batch.ndim != 2 or batch.shape[1] != context_length + 1:
            shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise InvalidInputError(
                f"observable {task_name!r} must hold token ids of {context_length + 1} tokens (`context_length` + "
                f"1); got {shape}."
            )
        self.input_ids = batch.to(self.device)

    @torch.no_grad()
    def compute_loss(self, model: nn.Module) -> Tensor:
        """Return the losses ``(sequence, position)`` of a model."""
        return torch.cat([self.loss_fn(model, part) for part in torch.split(self.input_ids, self.batch_size)])
