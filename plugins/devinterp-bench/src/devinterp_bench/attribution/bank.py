"""The bank: losses of models that are trained anew, each on a random half of the training data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.random import default_rng
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from devinterp.errors import InvalidInputError
from devinterp_bench.attribution.shapes import Rows, Shape, row_losses


@dataclass(frozen=True)
class Retraining:
    """How many models are trained.

    Parameters
    ----------
    num_subsets : int, default: 60
        Random subsets, each of half of the candidates.
    num_seeds : int, default: 3
        Models for each subset, with first weights and minibatches of their own.
    seed : int, default: 0
        Of subsets and models.
    """

    num_subsets: int = 60
    num_seeds: int = 3
    seed: int = 0


def train(shape: Shape, candidates: Rows, chosen: np.ndarray, seed: int) -> nn.Module:
    """Train a model.

    Parameters
    ----------
    shape : Shape
        What is trained.
    candidates : tuple of torch.Tensor
        Inputs and labels of all training data.
    chosen : numpy.ndarray
        Numbers of the rows to train on.
    seed : int
        Of first weights and minibatches.
    """
    how, rows = shape.training, torch.as_tensor(chosen)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn from the global generator
        torch.manual_seed(seed)
        model = shape.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=how.lr, weight_decay=how.decay)
    schedule = CosineAnnealingLR(optimizer, how.num_steps)
    for _ in range(how.num_steps):
        batch = rows[torch.randint(len(rows), (how.batch_size,), generator=generator)]
        optimizer.zero_grad()
        loss = row_losses(model, (candidates[0][batch], candidates[1][batch])).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def bank(shape: Shape, how: Retraining, path: Path | None, console: Console) -> xr.Dataset:
    """Return the losses of retrained models, and train those that are missing.

    Parameters
    ----------
    shape : Shape
        What is trained.
    how : Retraining
        How many models.
    path : Path, optional
        A Zarr store, in a group of which the losses of each subset are kept as soon as they are there; what it holds already
        is not trained again.
    console : rich.console.Console
        Where progress is shown.

    Returns
    -------
    xarray.Dataset
        ``losses(subset, seed, query)`` in nats and ``membership(subset, candidate)``.

    Raises
    ------
    InvalidInputError
        If the store holds models that were trained otherwise.
    """
    candidates, queries = shape.data()
    kept = _opened(shape, how, path, len(candidates[0]), len(queries[0]))
    missing = np.flatnonzero(np.isnan(kept["losses"].values).any(axis=(1, 2)))
    for subset in track(missing, description=f"{shape.name}: retraining", console=console):
        chosen = np.flatnonzero(kept["membership"].values[subset])
        kept["losses"].values[subset] = list(_losses(shape, how, candidates, queries, chosen, int(subset)))
        if path is not None:
            block = kept[["losses"]].isel(subset=slice(subset, subset + 1))
            block.to_zarr(path, group=_group(shape), region={"subset": slice(subset, subset + 1)}, consolidated=False)
    return kept


def _losses(
    shape: Shape, how: Retraining, candidates: Rows, queries: Rows, chosen: np.ndarray, subset: int
) -> Iterator[np.ndarray]:
    """Yield the losses of queries under each model of a subset."""
    for number in range(how.num_seeds):
        # No two models share a seed, nor does one with the model of all the data.
        seed = int(default_rng([how.seed, 1, subset, number]).integers(2**62))
        model = train(shape, candidates, chosen, seed)
        with torch.no_grad():
            yield row_losses(model, queries).numpy()


def _opened(shape: Shape, how: Retraining, path: Path | None, num_candidates: int, num_queries: int) -> xr.Dataset:
    """Return what a store holds, with NaN for what is missing; it is made where it is not there."""
    recipe = json.dumps({"shape": shape.name, "training": asdict(shape.training), **asdict(how)}, sort_keys=True)
    if path is not None and (path / _group(shape)).exists():
        kept = xr.load_dataset(path, group=_group(shape), engine="zarr", consolidated=False)
        if kept.attrs["recipe"] != recipe:
            raise InvalidInputError(
                f"`--bank` (={path}) holds models of {shape.name} that were trained otherwise:\n  there: "
                f"{kept.attrs['recipe']}\n  asked: {recipe}\nGive the same settings or another store."
            )
        return kept
    shuffled = default_rng([how.seed, 0]).random((how.num_subsets, num_candidates)).argsort(1)
    empty = xr.Dataset(
        {
            "losses": (("subset", "seed", "query"), np.full((how.num_subsets, how.num_seeds, num_queries), np.nan)),
            "membership": (("subset", "candidate"), shuffled < num_candidates // 2),
        },
        attrs={"recipe": recipe},
    )
    if path is not None:
        chunks = {"losses": {"chunks": (1, how.num_seeds, num_queries)}}
        empty.to_zarr(path, group=_group(shape), mode="a", encoding=chunks, consolidated=False)
    return empty


def _group(shape: Shape) -> str:
    return shape.name.replace(", ", "-").replace(" ", "_")
