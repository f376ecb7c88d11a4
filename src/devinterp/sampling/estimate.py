"""What a run would cost, before it is paid for: bytes, model evaluations, and time from a few timed steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from rich.console import Console, ConsoleOptions
from rich.table import Table

from devinterp import schema
from devinterp.sampling.chains.initial_loss import InitialLoss
from devinterp.sampling.chains.recordings import Recordings
from devinterp.sampling.chains.row_losses import RowLosses, row_losses
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.chains.stiff_directions import NUM_GRADIENTS, with_stiff_directions
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.engines.plan import ChainBatch, engines_of, plan
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.stacked_weights import alike
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.run_tasks import CheckpointOptions, TaskRunner
from devinterp.sampling.execution.tasks import Task
from devinterp.sampling.run_store import fingerprint
from devinterp.sampling.run_store.array_layout import planned_layout
from devinterp.sampling.run_store.compare import RequestedRun
from devinterp.sampling.spec import RunSpec
from devinterp.store.arrays.create import stored_size
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.arrays.specs import ArraySpec, array_specs
from devinterp.store.run_store import RunStore

_TIMED_STEPS, _TRIAL_DRAWS, _MAX_TIMED_RESTRICTIONS = 3, 8, 4


@final
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


def estimate(spec: RunSpec, *, mode: str = "auto", paired: bool | None = None) -> DryRun:
    """Return what a run would cost. Takes a few steps and evaluations; writes nothing.

    Parameters
    ----------
    spec : RunSpec
        The run.
    mode : {"auto", "sequential", "vectorized", "fastest"}, default: "auto"
        How chains would run.
    paired : bool or None
        Whether losses at w0 of all rows would be stored; see `devinterp.slt.sampling.sample`.
    """
    gradients, evaluations = _passes(spec)
    spec = with_stiff_directions(spec, iterate=False)
    measures_rows = RequestedRun(spec, {}, paired).measures_rows
    if measures_rows:
        evaluations += len(spec.batches_of(spec.schedule.step_rows()))
    return DryRun(_array_bytes(spec, measures_rows), gradients, evaluations, _seconds(spec, mode))


def _passes(spec: RunSpec) -> tuple[int, int]:
    settings = spec.settings
    chains = settings.num_chains * len(spec.restrictions)
    per_draw = sum(len(spec.batches_of(o.sequence_id)) for o in spec.observables.values())
    at_start = settings.num_init_loss_batches * settings.batches_per_step
    if settings.init_noise is not None:
        at_start *= chains
    elif not settings.match_sampling_input_ids_across_chains:
        at_start *= settings.num_chains
    steps = chains * settings.num_steps + len(spec.restrictions) * spec.num_directions * NUM_GRADIENTS
    gradients = steps * settings.batches_per_step
    return gradients, at_start + per_draw * (1 + chains * settings.num_draws)


def _array_bytes(spec: RunSpec, measures_rows: bool) -> dict[str, int]:
    """Return the compressed size of each array of a run.

    Fixed data are written into memory. What comes later is measured on a run of a few steps, and scaled by its length.
    """
    layout = _planned(spec, measures_rows)
    stored = _stored_sizes(_created(spec, layout))
    trial = _trial(spec)
    sizes = {"metadata": stored["metadata"]}
    for each in array_specs(layout):
        if each.data is not None:
            sizes[each.path] = stored.get(each.path, 0)
        else:
            rows = each.shape[2] if each.dims[2:3] in ((schema.STEP,), (schema.DRAW,)) else None
            chain = _bytes_of_chain(each, trial.read_array(each.path), rows)
            sizes[each.path] = int(each.shape[0] * each.shape[1]) * chain
    return sizes


def _bytes_of_chain(array: ArraySpec, values: np.ndarray, num_rows: int | None) -> int:
    """Return the compressed size of one chain's part of an array, from the values of a trial chain.

    Parameters
    ----------
    array : ArraySpec
        The array.
    values : numpy.ndarray
        Of the trial, ``(1, 1, ...)``.
    num_rows : int or None
        Steps or draws of the array; None where it has none, and the trial's values are as large as the run's.
    """
    if num_rows is None:
        return stored_size(values, array)
    half = values.shape[2] // 2
    few, many = (stored_size(values[:, :, :n].astype(array.dtype), array) for n in (half, 2 * half))
    slope = max(0.0, (many - few) / half)  # bytes of a row; what is beyond that belongs to a chunk, however long
    return int(num_rows * slope + (few - half * slope) * math.ceil(num_rows / array.chunks[2]))


def _created(spec: RunSpec, layout: RunLayout) -> RunStore:
    store = RunStore.memory()
    provenance = fingerprint.provenance(spec, fingerprint.fingerprints(spec))
    store.create(layout, {"config": json.dumps(fingerprint.config(spec)), "provenance": json.dumps(provenance)})
    return store


def _trial(spec: RunSpec) -> RunStore:
    """Run a few draws of one chain of the first restriction into memory."""
    settings = replace(
        spec.settings,
        num_chains=1,
        num_draws=_TRIAL_DRAWS,
        num_burnin_steps=0,
        num_steps_bw_draws=1,
        init_noise=None,
    )
    (name, masks), *_ = spec.restrictions.items()
    short = replace(spec, settings=settings, restrictions={name: masks})
    store = _created(short, _planned(short, measures_rows=False))
    task = Task((0,), ChainBatch((name,), (0,), False, "trial"), ((0, 0),), 0)
    TaskRunner(short, store, CheckpointOptions()).run([task], RunMonitor(_ignore))
    return store


def _ignore(_: Update) -> None:
    """Show nothing."""


def _planned(spec: RunSpec, measures_rows: bool) -> RunLayout:
    """Return the layout of a run with stand-ins for the losses of its dataset, which take many evaluations."""
    at_w0, start = LossesAtW0(spec), _no_initial_loss(spec)
    w0_loss = {} if spec.settings.init_noise is None else {"w0_loss": start.mean[0], "w0_loss_se": start.se[0]}
    rows = None
    if measures_rows:
        ids = np.sort(spec.schedule.step_rows())
        few = row_losses(at_w0, ids[: spec.settings.batch_size])
        # Repeated with fresh digits, so that repeats do not compress.
        digits = np.random.default_rng(0).uniform(0.9, 1.1, (len(ids), *few.loss.shape[1:]))
        repeat = np.arange(len(ids)) % len(few.ids)
        loss = (few.loss[repeat] * digits).astype(few.loss.dtype)
        rows = RowLosses(ids, loss, None if few.count is None else few.count[repeat])
    return planned_layout(at_w0, start, rows, w0_loss)


def _no_initial_loss(spec: RunSpec) -> InitialLoss:
    """Return zeros of the right shape in place of the loss before the first step."""
    chains: tuple[int, ...] = (spec.settings.num_chains,)
    if spec.settings.init_noise is not None:
        chains = (len(spec.restrictions), *chains)
    zeros = np.zeros((*chains, *_loss_shape(spec)), np.float32)
    return InitialLoss(zeros, zeros, np.zeros(chains), np.zeros(chains))


@torch.no_grad()
def _loss_shape(spec: RunSpec) -> tuple[int, ...]:
    """Return the shape of one sample's loss on the sampling dataset."""
    batch, attention_mask, _ = spec.rows.batch(spec.rows.ids[:1])
    return tuple(spec.loss.losses(spec.model, batch, attention_mask).shape[1:])


def _stored_sizes(store: RunStore) -> dict[str, int]:
    """Return the bytes of each array in a store, by its path; those of all metadata together under ``"metadata"``."""
    sizes: dict[str, int] = {"metadata": 0}
    for key, size in store.key_sizes().items():
        path = "metadata" if key.endswith("zarr.json") else key.partition("/c/")[0].removesuffix("/c")
        sizes[path] = sizes.get(path, 0) + size
    return sizes


def _seconds(spec: RunSpec, mode: str) -> float:
    """Return the time of all chains, from timed steps and evaluations under up to four kinds of restriction."""
    settings, kinds = spec.settings, _kinds(spec, mode)
    numbers = np.unique(np.linspace(0, len(kinds) - 1, min(len(kinds), _MAX_TIMED_RESTRICTIONS)).astype(int))
    total, num, shared = 0.0, 0, SharedPrefix()
    for names in (kinds[number] for number in numbers):
        batches = plan(spec, names, range(settings.num_chains), mode, shared)
        with closing(engines_of(spec, batches, shared)) as engines:  # type: ignore[type-var]
            engine, batch = next(engines)
            step, evaluation = _time(engine, batch.chains)
        total += len(batches) * (settings.num_steps * step + settings.num_draws * evaluation)
        num += len(names)
    return total * len(spec.restrictions) / num


def _kinds(spec: RunSpec, mode: str) -> list[list[str]]:
    """Return the names of the restrictions, those together whose chains may run together."""
    kinds: list[list[str]] = []
    for name, masks in spec.restrictions.items():
        kin = (each for each in kinds if mode != "sequential" and alike(spec.restrictions[each[0]], masks))
        kind = next(kin, None)
        if kind is None:
            kinds.append([name])
        else:
            kind.append(name)
    return kinds


def _time(engine: Engine, chains: Iterable[int]) -> tuple[float, float]:
    """Return the seconds of a step and of evaluating all observables and recorders once, the least of a few."""
    spec, chains = engine.spec, list(chains)
    stepper = Stepper(spec.transition(), engine.weights, spec.settings, chains=chains)
    rows = [spec.schedule.steps(chain) for chain in chains]

    def clock() -> float:
        if spec.device.type == "cuda":
            torch.cuda.synchronize(spec.device)
        return time.perf_counter()

    steps, evaluations = [], []
    for n in range(_TIMED_STEPS):
        began = clock()
        engine.add_gradient([rows_of_chain[n % len(rows_of_chain)] for rows_of_chain in rows])
        stepper.step()
        middle = clock()
        engine.evaluate_all()
        if spec.recorders:
            Recordings(engine).at_draw([True] * len(engine.weights.values[0]))
        steps.append(middle - began)
        evaluations.append(clock() - middle)
    engine.weights.reset()
    return min(steps), min(evaluations)
