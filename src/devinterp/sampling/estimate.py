"""What a run would cost, before it is paid for: bytes, model evaluations, and time from a few timed steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import zarr
from rich.console import Console, ConsoleOptions
from rich.table import Table
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from devinterp import schema
from devinterp.sampling.chains.initial_loss import InitialLoss
from devinterp.sampling.chains.loop import run_chains
from devinterp.sampling.chains.reductions import reduction_of
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.data.schedule import step_rows
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.plan import plan, set_up
from devinterp.sampling.run_store import fingerprint as identity
from devinterp.sampling.run_store.array_layout import layout
from devinterp.sampling.spec import RunSpec
from devinterp.store.arrays.create import create_run
from devinterp.store.arrays.specs import ArraySpec, array_specs
from devinterp.types import Draw

_TIMED_STEPS, _TRIAL_DRAWS, _MAX_TIMED_RESTRICTIONS = 3, 4, 4


@dataclass(frozen=True)
class DryRun:
    """What a run would cost.

    Parameters
    ----------
    arrays : dict of str to int
        Bytes that each array takes in the store, compressed, by its path; metadata under ``"metadata"``.
    gradients, evaluations : int
        Forward and backward passes, and forward passes alone, of one batch each.
    seconds : float
        For all of it, as measured by a few steps on this machine.
    """

    arrays: Mapping[str, int]
    gradients: int
    evaluations: int
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Return the size of the store, in bytes."""
        return sum(self.arrays.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        """Yield a table of the arrays, and the rest in a line."""
        table = Table("array", title="what this run would write")
        table.add_column("bytes", justify="right")
        for path, size in sorted(self.arrays.items(), key=lambda item: -item[1]):
            table.add_row(path, f"{size:,}")
        table.add_section()
        table.add_row("total", f"{self.num_bytes:,}")
        yield table
        hours, minutes = divmod(int(self.seconds) // 60, 60)
        yield (
            f"{self.gradients:,} gradients and {self.evaluations:,} evaluations of a batch; about "
            f"{hours} h {minutes} min {self.seconds % 60:.0f} s."
        )


def dry_run(spec: RunSpec, loss_dims: tuple[str, ...], *, mode: str = "auto") -> DryRun:
    """Return what a run would cost. Takes a few steps and evaluations; writes nothing.

    Parameters
    ----------
    spec : RunSpec
        The run.
    loss_dims : tuple of str
        Names of the dims of one sample's loss.
    mode : {"auto", "sequential", "vectorized"}, default: "auto"
        How chains would run.
    """
    draws = _trial(spec)
    seconds = _seconds(spec, mode)
    gradients, evaluations = _passes(spec)
    return DryRun(_array_bytes(spec, loss_dims, draws), gradients, evaluations, seconds)


def _passes(spec: RunSpec) -> tuple[int, int]:
    settings = spec.settings
    chains = settings.num_chains * len(spec.restrictions)
    per_draw = sum(len(spec.batches_of(o.sequence_id)) for o in spec.observables.values())
    at_start = settings.num_init_loss_batches * settings.batches_per_step
    if settings.init_noise is not None:
        at_start *= chains
    elif not settings.match_sampling_input_ids_across_chains:
        at_start *= settings.num_chains
    gradients = chains * settings.num_steps * settings.batches_per_step
    return gradients, at_start + per_draw * (1 + chains * settings.num_draws)


def _trial(spec: RunSpec) -> list[Draw]:
    """Return a few draws as the recorder would store them, from one chain of the first restriction."""
    settings = replace(
        spec.settings,
        num_chains=1,
        num_draws=_TRIAL_DRAWS,
        num_burnin_steps=0,
        num_steps_bw_draws=1,
        init_noise=None,
    )
    short = replace(spec, settings=settings, paths={})
    (name, masks), *_ = spec.restrictions.items()
    keeper = reduction_of(settings)
    groups = set_up(short, name, masks, plan(short, masks, [0], "sequential"))
    with closing(groups):  # type: ignore[type-var]
        group, _ = next(groups)
        records = run_chains(group, restriction=0, chains=[0])
        return [keeper.reduce(record) for record in records if isinstance(record, Draw)]


def _seconds(spec: RunSpec, mode: str) -> float:
    """Return the time of all chains, from timed steps and evaluations under up to four of the restrictions."""
    settings = spec.settings
    names = list(spec.restrictions)
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MAX_TIMED_RESTRICTIONS)).astype(int))
    total = 0.0
    for name in (names[place] for place in places):
        masks = spec.restrictions[name]
        plans = plan(spec, masks, range(settings.num_chains), mode)
        groups = set_up(replace(spec, paths={}), name, masks, plans)
        with closing(groups):  # type: ignore[type-var]
            group, members = next(groups)
            step, evaluation = _time_group(group, members.chains)
        total += len(plans) * (settings.num_steps * step + settings.num_draws * evaluation)
    return total * len(names) / len(places)


def _time_group(group: Engine, chains: Iterable[int]) -> tuple[float, float]:
    """Return the seconds of a step and of evaluating all observables once, the least of a few."""
    spec, chains = group.spec, list(chains)
    walker = Stepper(spec.transition(), group.weights, spec.settings, chains=chains)
    rows = [step_rows(spec.settings, spec.num_rows, 0)] * len(chains)

    def clock() -> float:
        if spec.device.type == "cuda":
            torch.cuda.synchronize(spec.device)
        return time.perf_counter()

    steps, evaluations = [], []
    for n in range(_TIMED_STEPS):
        started = clock()
        group.add_gradient([one[n % len(one)] for one in rows])
        walker.step()
        middle = clock()
        for name in spec.observables:
            group.evaluate(name)
        steps.append(middle - started)
        evaluations.append(clock() - middle)
    group.weights.reset()
    return min(steps), min(evaluations)


def _array_bytes(spec: RunSpec, loss_dims: tuple[str, ...], draws: list[Draw]) -> dict[str, int]:
    """Return the compressed size of each array: written into memory, what comes later by one block made of trial draws."""
    store = MemoryStore()
    shape = draws_shape(spec, loss_dims)
    pair: tuple[int, ...] = (spec.settings.num_chains,)
    if spec.settings.init_noise is not None:
        pair = (len(spec.restrictions), *pair)
    empty = np.zeros((*pair, *shape), np.float32)
    start = InitialLoss(empty, empty, np.zeros(pair), np.zeros(pair))
    planned = layout(spec, loss_dims, start)
    attrs = {
        "config": json.dumps(identity.config(spec, loss_dims)),
        "provenance": json.dumps(identity.provenance(spec, identity.fingerprints(spec))),
    }
    root = create_run(store, planned, attrs)
    before = _sizes(store)
    generator = np.random.default_rng(0)
    sizes = {"metadata": sum(size for key, size in before.items() if key.endswith("zarr.json"))}
    for array in array_specs(planned):
        written = sum(size for key, size in before.items() if _is_chunk_of(key, array.path))
        sizes[array.path] = written if array.data is not None else _extrapolate(store, root, array, draws, generator)
    return sizes


def draws_shape(spec: RunSpec, loss_dims: tuple[str, ...]) -> tuple[int, ...]:
    """Return the shape of one sample's loss on the sampling dataset."""
    batch, mask = spec.rows.batch(spec.rows.ids[:1])
    with torch.no_grad():
        losses = spec.loss.losses(spec.model, batch, mask)
    return tuple(losses.shape[1 : 1 + len(loss_dims)])


def _extrapolate(
    store: MemoryStore, root: zarr.Group, spec: ArraySpec, draws: list[Draw], generator: np.random.Generator
) -> int:
    """Write the first chunk's rows of one chain, and return what all of the array would take."""
    array = root[spec.path]
    assert isinstance(array, zarr.Array)
    rows = spec.shape[2] if len(spec.shape) > 2 else 1
    block = min(spec.chunks[2], rows) if len(spec.shape) > 2 else 1
    array[_first(spec, block)] = _example(spec, draws, block, generator)
    written = sum(size for key, size in _sizes(store).items() if _is_chunk_of(key, spec.path))
    # Chunks that the last draws leave part empty cost little, so length counts rather than chunks.
    return round(written * spec.shape[0] * spec.shape[1] * (rows / block if _grows(spec) else 1))


def _grows(spec: ArraySpec) -> bool:
    return len(spec.dims) > 2 and spec.dims[2] in (schema.STEP, schema.DRAW)


def _first(spec: ArraySpec, block: int) -> tuple[int | slice, ...]:
    return (0, 0, slice(0, block)) if _grows(spec) else (0, 0)


def _example(spec: ArraySpec, draws: list[Draw], block: int, generator: np.random.Generator) -> Any:
    """Return values like those that would be written, with fresh digits so that repeats do not compress."""
    group, _, name = spec.path.rpartition("/")
    if group == schema.STATUS:
        return {"steps_done": 1, "state": schema.FINISHED, "error": ""}[name]
    if not _grows(spec):
        return draws[-1].summaries[spec.path]
    if group == schema.TRACE:
        rows = np.concatenate([draw.loss for draw in draws])
    elif group == schema.METRICS:
        rows = np.concatenate([draw.metrics[name] for draw in draws])
    else:
        rows = np.stack([draw.observables[group.split("/")[1]] for draw in draws])
    repeated = rows[np.arange(block) % len(rows)]
    # One factor for each draw: values that are equal within a draw, as those of equal contexts, stay so.
    factors = 1 + 0.01 * generator.standard_normal(block)
    if spec.dtype == np.float64:
        # Means of float32 numbers have few binary digits, and compress for it.
        factors = np.round(factors * 1024) / 1024
    return repeated * factors.reshape(-1, *[1] * (repeated.ndim - 1))


def _sizes(store: MemoryStore) -> dict[str, int]:
    async def read() -> dict[str, int]:
        return {key: await store.getsize(key) async for key in store.list()}

    return sync(read())


def _is_chunk_of(key: str, path: str) -> bool:
    return key.startswith(f"{path}/c/") or key == f"{path}/c"
