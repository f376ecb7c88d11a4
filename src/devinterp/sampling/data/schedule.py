"""Which rows of the data are used when. All of it is known before a run starts.

The streams are those of DevInterp 2, so that the same seed gives the same numbers.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from devinterp.errors import InvalidInputError
from devinterp.sampling.settings import Settings


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


def chain_batches(settings: Settings, num_rows: int, chain: int) -> np.ndarray:
    """Return the batches of one epoch of a chain; later epochs replay it. See `epoch_batches`."""
    seed = settings.init_seed + (0 if settings.match_sampling_input_ids_across_chains else chain)
    return epoch_batches(num_rows, settings.batch_size, seed=seed, shuffle=settings.shuffle)


def step_rows(settings: Settings, num_rows: int, chain: int) -> np.ndarray:
    """Return the rows of each step of a chain.

    Returns
    -------
    numpy.ndarray
        ``(step, batch)``, with the minibatches that a step accumulates one after the other.
    """
    batches = chain_batches(settings, num_rows, chain)
    num = settings.num_steps * settings.batches_per_step
    return batches[np.arange(num) % len(batches)].reshape(settings.num_steps, -1)


def init_loss_rows(settings: Settings, num_rows: int, chain: int) -> np.ndarray:
    """Return the batches on which the loss at the start is measured, ``(num_batches, batch)``."""
    batches = chain_batches(settings, num_rows, chain)
    return batches[np.arange(settings.num_init_loss_batches * settings.batches_per_step) % len(batches)]


def rows_of_run(settings: Settings, num_rows: int) -> np.ndarray:
    """Return the rows that minibatches of any chain or the initial loss use, increasing."""
    num = max(settings.num_steps, settings.num_init_loss_batches) * settings.batches_per_step
    distinct = 1 if settings.match_sampling_input_ids_across_chains else settings.num_chains
    parts = [chain_batches(settings, num_rows, chain)[:num] for chain in range(distinct)]
    return np.unique(np.concatenate(parts))


def observable_rows(settings: Settings, num_rows: int, batches_per_draw: int, *, name: str) -> np.ndarray:
    """Return the rows of an observable, ``(sequence,)``: a random choice that is the same at every draw."""
    num = settings.batch_size * batches_per_draw
    if num_rows < num:
        raise InvalidInputError(
            f"observable {name!r} has {num_rows} rows, fewer than `batch_size` x `batches_per_draw` "
            f"(={settings.batch_size} x {batches_per_draw} = {num}): ask for fewer, for example "
            f"observables={{{name!r}: (dataset, 1)}}."
        )
    return np.array(random.Random(settings.obs_seed).sample(range(num_rows), num))
