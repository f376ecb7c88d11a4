"""DataLoaders: which rows their sampler chooses, and what their ``collate_fn`` makes of them.

A run has its own minibatches, in an order fixed by its seed, so that they can be repeated. Of a DataLoader it therefore takes
the set of rows and the collation, and refuses by name what decides more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)
from torch.utils.data._utils.collate import default_convert

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.columns import Batch, leaves, map_tensors, same, stacked

Collate = Callable[[Sequence[Any]], Batch]


def chosen_rows(loader: DataLoader[Any], *, name: str) -> np.ndarray | None:
    """Return the rows of a loader's dataset that its sampler chooses, or None for all of them.

    They are in the sampler's order where it is the same every time, else in increasing order.

    Raises
    ------
    InvalidInputError
        If the sampler chooses other rows each time, or decides which rows come together.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    batches = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        raise InvalidInputError(
            f"{name} is a DataLoader whose batch_sampler ({type(batches).__name__}) decides which rows come together; here "
            "`batch_size`, `shuffle` and `init_seed` do. Pass its dataset, or a DataLoader with a sampler."
        )
    sampler: Any = loader.sampler if batches is None else batches.sampler
    if type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and _is_permutation(sampler)):
        return None
    first, second = _drawn_twice(sampler)
    if Counter(first) != Counter(second):
        raise InvalidInputError(
            f"{name} is a DataLoader whose sampler ({type(sampler).__name__}) chooses other rows each time, so that there is "
            "no mean loss of its own to sample. Choose once: torch.utils.data.Subset(dataset, list(sampler))."
        )
    return np.asarray(first if first == second else sorted(first), dtype=np.int64)


def _is_permutation(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source)


def _drawn_twice(sampler: Any) -> tuple[list[int], list[int]]:
    """Return what a sampler gives two times after each other; a generator of its own is afterwards as it was."""
    generator = getattr(sampler, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    try:
        return [int(row) for row in sampler], [int(row) for row in sampler]
    finally:
        if state is not None:
            generator.set_state(state)  # type: ignore[union-attr]


def collation(loader: DataLoader[Any], *, name: str) -> Collate | None:
    """Return what a loader makes of a list of rows, or None where it only stacks them.

    Raises
    ------
    InvalidInputError
        If the loader makes no batches.
    """
    if loader.collate_fn is default_collate:
        return None
    if loader.batch_size is None and loader.batch_sampler is None:
        raise InvalidInputError(
            f"{name} is a DataLoader with batch_size=None, which hands on what its dataset gives: pass the dataset, if its "
            "items are single rows."
        )
    if loader.collate_fn is default_convert:
        return None
    return lambda items: _as_batch(loader.collate_fn(list(items)), len(items), name)


def check_collation(collate: Collate, items: Sequence[Any], *, name: str) -> None:
    """Raise unless a collation gives the same each time, and of a row the same whatever rows it is with, up to padding.

    Raises
    ------
    InvalidInputError
        Because the rows of a run are collated once.
    """
    few = list(items[:3])
    together = collate(few)
    if not same(together, collate(few)):
        raise InvalidInputError(
            f"the collate_fn of {name} gives something else each time (random masks or crops?), so that there is no mean loss "
            "of its own to sample. Draw once, and pass what it gave."
        )
    if len(few) > 1 and not _agrees(together, collate(few[1:2])):
        raise InvalidInputError(
            f"the collate_fn of {name} makes something else of a row beside other rows, by more than padding. The rows of a "
            "run are collated once, so each must stand for itself."
        )


def _agrees(together: Batch, alone: Batch) -> bool:
    """Say whether the second row of one batch is the only one of another, up to padding on one side."""
    for (name, many), (other, one) in zip(leaves(together), leaves(alone), strict=False):
        if name != other or isinstance(many, list) or isinstance(one, list):
            continue
        full, short = many[1], one[0]
        for dim, size in enumerate(short.shape[: full.ndim]):
            size = min(size, full.shape[dim])
            left = full.narrow(dim, 0, size), short.narrow(dim, 0, size)
            right = full.narrow(dim, full.shape[dim] - size, size), short.narrow(dim, short.shape[dim] - size, size)
            full, short = left if left[0].shape == left[1].shape and same(*left) else right
        if not same(full, short):
            return False
    return True


def _as_batch(collated: Any, num_rows: int, name: str) -> Batch:
    """Return what a ``collate_fn`` gave as stacked rows.

    Raises
    ------
    InvalidInputError
        If a part has not one entry for each row.
    """
    batch = _structured(collated)
    for path, leaf in leaves(batch):
        if (isinstance(leaf, Tensor) and not leaf.ndim) or len(leaf) != num_rows:
            shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else f"{len(leaf)} entries"
            part = f" under {path!r}" if path else ""
            raise InvalidInputError(
                f"the collate_fn of {name} must give one entry for each row along the first dimension; for {num_rows} rows it "
                f"gave {shape}{part}."
            )
    detached: Batch = map_tensors(batch, lambda tensor: tensor.detach())
    return detached


def _structured(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "keys") and hasattr(value, "__getitem__"):  # also what is only like a mapping
        return {key: _structured(value[key]) for key in value.keys()}  # noqa: SIM118
    if isinstance(value, tuple):
        parts = [_structured(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        nested = any(isinstance(part, Tensor | np.ndarray | dict | list | tuple) for part in value)
        return tuple(_structured(part) for part in value) if nested else stacked(value, "the batch")
    if isinstance(value, np.ndarray):
        return stacked(value, "the batch")
    return [value]
