"""Which rows of the data are used at which step. All of it is known before a run starts.

The random streams are those of DevInterp 2, so that the same seed gives the same numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch

from devinterp.errors import InvalidInputError
from devinterp.sampling.settings import Settings


@final
@dataclass(frozen=True)
class Schedule:
    """The minibatches of every chain: one epoch in an order fixed by the seed, replayed until the chain ends.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    num_rows : int
        Rows of the whole sampling dataset; at least ``batch_size``.
    """

    settings: Settings
    num_rows: int
    _steps: dict[int, list[np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def epoch(self, chain: int) -> np.ndarray:
        """Return the minibatches of one epoch of a chain, ``(batch_of_epoch, batch)``; see `epoch_batches`.

        Raises
        ------
        InvalidInputError
            If the dataset has fewer rows than a minibatch.
        """
        settings = self.settings
        seed = settings.init_seed + self._stream(chain)
        return epoch_batches(self.num_rows, settings.batch_size, seed=seed, shuffle=settings.shuffle)

    def steps(self, chain: int) -> list[np.ndarray]:
        """Return the rows of each step of a chain, ``(batch,)``: the minibatches a step accumulates one after the other.

        Chains with the same minibatches get the very same arrays.
        """
        stream = self._stream(chain)
        if stream not in self._steps:
            epoch, settings = self.epoch(chain), self.settings
            num = settings.num_steps * settings.batches_per_step
            self._steps[stream] = list(epoch[np.arange(num) % len(epoch)].reshape(settings.num_steps, -1))
        return self._steps[stream]

    def initial_batches(self, chain: int) -> np.ndarray:
        """Return the minibatches on which a chain's loss before the first step is measured, ``(num_batches, batch)``."""
        epoch, settings = self.epoch(chain), self.settings
        return epoch[np.arange(settings.num_init_loss_batches * settings.batches_per_step) % len(epoch)]

    def rows(self) -> np.ndarray:
        """Return the rows that any chain or its initial loss uses, each once, increasing."""
        settings = self.settings
        num = max(settings.num_steps, settings.num_init_loss_batches) * settings.batches_per_step
        return np.unique(np.concatenate([self.epoch(stream)[:num] for stream in self._streams()]))

    def step_rows(self) -> np.ndarray:
        """Return the rows that a step of any chain uses, each once, in the order in which they are used first, ``(row,)``.

        Where chains share their minibatches these stand behind each other.
        """
        settings = self.settings
        num = settings.num_steps * settings.batches_per_step
        used = np.concatenate([self.epoch(stream)[:num] for stream in sorted(self._streams())]).ravel()
        return used[np.sort(np.unique(used, return_index=True)[1])]

    def _streams(self) -> set[int]:
        return {self._stream(chain) for chain in range(self.settings.num_chains)}

    def _stream(self, chain: int) -> int:
        """Return which order of the data a chain follows."""
        return 0 if self.settings.match_sampling_input_ids_across_chains else chain


def epoch_batches(num_rows: int, batch_size: int, *, seed: int, shuffle: bool) -> np.ndarray:
    """Return the batches of one epoch, as a ``torch.utils.data.DataLoader`` with a generator so seeded gives them.

    An incomplete last batch is dropped.

    Parameters
    ----------
    num_rows, batch_size : int
        Rows of the dataset, and of a batch.
    seed : int
        Seed of the loader's own generator.
    shuffle : bool
        Whether the rows are permuted.

    Returns
    -------
    numpy.ndarray
        Row numbers, int64 of shape ``(batch_of_epoch, batch)``.

    Raises
    ------
    InvalidInputError
        If there are fewer rows than a batch takes.
    """
    if num_rows < batch_size:
        raise InvalidInputError(
            f"`dataset` has {num_rows} rows, fewer than `batch_size` (={batch_size}): use a smaller batch or more data."
        )
    order = np.arange(num_rows)
    if shuffle:
        generator = torch.Generator().manual_seed(seed)
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # the loader's own base seed
        order = torch.randperm(num_rows, generator=generator).numpy()
    num_batches = num_rows // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size)


def observable_rows(settings: Settings, num_rows: int, batches_per_draw: int, *, name: str) -> np.ndarray:
    """Return the rows of an observable, ``(sequence,)``: a random choice that is the same at every draw.

    Raises
    ------
    InvalidInputError
        If the observable has fewer rows than are asked for.
    """
    num = settings.batch_size * batches_per_draw
    if num_rows < num:
        raise InvalidInputError(
            f"observable {name!r} has {num_rows} rows, fewer than `batch_size` x `batches_per_draw` "
            f"(={settings.batch_size} x {batches_per_draw} = {num}): ask for fewer, for example "
            f"observables={{{name!r}: (dataset, 1)}}."
        )
    return np.array(random.Random(settings.obs_seed).sample(range(num_rows), num))
