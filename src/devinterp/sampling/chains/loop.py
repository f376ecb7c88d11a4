"""The chain loop: a generator of draws and checkpoints. It knows nothing of storage."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.chains.checkpointing import CheckpointSchedule, Disabled
from devinterp.sampling.chains.draw_metrics import DrawMetrics
from devinterp.sampling.chains.recordings import Recordings, why_broken
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.spec import RunSpec
from devinterp.types import ChainKey, Checkpoint, Draw

#: Steps without a draw are handed over at least this often: by size, so that memory is bounded, and by time, so that a
#: reader sees progress.
_MAX_BLOCK_BYTES, _MAX_BLOCK_SECONDS = 16 * 2**20, 1.0

_LARGEST = torch.finfo(torch.float32).max


@final
@dataclass(frozen=True)
class Start:
    """Where chains that advance together begin, and how much of them is stored already.

    Parameters
    ----------
    checkpoint : Checkpoint, optional
        What to go on from; None begins at w0.
    steps_done : int
        Steps that are stored: they are taken again where `checkpoint` is earlier, but nothing is evaluated or yielded.
    active : tuple of (int, int), optional
        Restriction and number of the chains whose draws are wanted; None: all. The others diverged before, and only keep their
        place.
    """

    checkpoint: Checkpoint | None = None
    steps_done: int = 0
    active: tuple[ChainKey, ...] | None = None


def run_chains(
    engine: Engine,
    *,
    restrictions: Sequence[int],
    chains: Sequence[int],
    start: Start | None = None,
    checkpoints: CheckpointSchedule | None = None,
) -> Iterator[Draw | Checkpoint]:
    """Run chains side by side and yield their draws, and now and then a checkpoint to go on from.

    Parameters
    ----------
    engine : Engine
        Computes losses and gradients; its weights are left where the chains end.
    restrictions : sequence of int
        Numbers of the restrictions they are under, in the order of the engine.
    chains : sequence of int
        Which chains of each restriction they are. The noise of each comes from a generator seeded ``init_seed + chain``.
    start : Start, optional
        Where they begin; default: at w0.
    checkpoints : CheckpointSchedule, optional
        When a checkpoint is due; default: never.

    Yields
    ------
    Draw or Checkpoint
        A run of steps of one chain, ended by a draw or handed over before one (long burn-ins). The last of a chain has an
        `error` if it diverged; the others go on. A checkpoint comes after the draws of all its steps.
    """
    start, checkpoints = start or Start(), checkpoints or Disabled()
    spec, settings = engine.spec, engine.spec.settings
    stepper = Stepper(spec.transition(), engine.weights, settings, chains=chains)
    rows = [spec.schedule.steps(chain) for chain in chains]
    first = _go_on(engine, stepper, start, rows)
    keys = list(itertools.product(restrictions, chains))
    active = [start.active is None or key in start.active for key in keys]
    names = list(spec.restrictions)
    measures = DrawMetrics(engine, [names[number] for number in restrictions]) if spec.virial else None
    recordings = Recordings(engine) if spec.recorders else None
    block = _Block(keys, first_step=first, spec=spec)
    for step in range(first, settings.num_steps):
        batch = [rows_of_chain[step] for rows_of_chain in rows]
        losses, finite = engine.add_gradient(batch)
        due = settings.draw_after(step)
        measured = measures if due is not None else None
        metrics = stepper.step(losses, partial(_losses_again, engine, batch), measured and measured.before)
        block.add_step(losses, finite, metrics)
        if due is not None and measured is not None:
            block.add_draw(due, measured.after())
        if step + 1 < settings.num_steps:
            engine.prefetch([rows_of_chain[step + 1] for rows_of_chain in rows])
        index = due if spec.observables or recordings is not None else None  # else a draw holds nothing of its own
        if index is not None:
            for name, evaluated in engine.evaluate_all().items():
                block.add_observable(name, *evaluated)
            if recordings is not None:
                block.recorded = recordings.at_draw([a and b for a, b in zip(active, block.finite(), strict=True)])
        is_last = step == settings.num_steps - 1
        is_due = checkpoints.is_due(last=is_last)
        if index is not None or block.is_full or is_last or is_due:
            for n, draw in enumerate(block.finish(index)):
                if active[n]:
                    yield draw
                    active[n] = draw.error is None
            if not any(active):
                return
            block = _Block(keys, first_step=step + 1, spec=spec)
        if is_due:
            began = time.monotonic()
            checkpoint = Checkpoint(tuple(restrictions), tuple(chains), step + 1, stepper.save())
            checkpoints.copied(time.monotonic() - began)
            yield checkpoint


def _go_on(engine: Engine, stepper: Stepper, start: Start, rows: Sequence[Sequence[np.ndarray]]) -> int:
    """Bring chains to the first step that is not stored, and return it."""
    first = 0
    if start.checkpoint is not None:
        stepper.restore(start.checkpoint.arrays)
        first = start.checkpoint.step
    for step in range(first, start.steps_done):
        engine.add_gradient([rows_of_chain[step] for rows_of_chain in rows])
        stepper.step()
        if engine.weights.in_training and engine.spec.settings.draw_after(step) is not None:
            engine.evaluate_all()  # which draws random numbers, and may change buffers, as it did the first time
    return max(first, start.steps_done)


def _losses_again(engine: Engine, batch: Sequence[np.ndarray]) -> Tensor:
    """Compute the gradients of a step's minibatches anew, at the weights it led to; return the losses there."""
    losses, _ = engine.add_gradient(batch)
    return losses


@final
class _Block:
    """Consecutive steps on the device, not yet looked at: reading a value synchronises."""

    def __init__(self, keys: Sequence[ChainKey], *, first_step: int, spec: RunSpec) -> None:
        self._keys, self._first_step, self._recorders = keys, first_step, spec.recorders
        self._largest = spec.settings.largest_loss
        self.recorded: list[dict[str, np.ndarray]] = [{} for _ in keys]
        self._losses: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._metrics: list[dict[str, Tensor]] = []
        self._observables: dict[str, tuple[Tensor, Tensor]] = {}
        self._draws: list[tuple[int, dict[str, Tensor]]] = []  # how many steps there were, draw included
        self._first_draw = 0
        self._began = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Return whether it is time to hand the steps over."""
        size = len(self._losses) * self._losses[0].nbytes if self._losses else 0
        return size >= _MAX_BLOCK_BYTES or time.monotonic() - self._began >= _MAX_BLOCK_SECONDS

    def add_step(self, losses: Tensor, finite: Tensor, metrics: dict[str, Tensor]) -> None:
        self._losses.append(losses)
        self._finite.append(finite)
        self._metrics.append(metrics)

    def add_draw(self, index: int, metrics: dict[str, Tensor]) -> None:
        """Add metrics of the draw at the last step, ``(chain, ...)`` each."""
        if not self._draws:
            self._first_draw = index
        self._draws.append((len(self._losses), metrics))

    def add_observable(self, name: str, losses: Tensor, finite: Tensor) -> None:
        self._observables[name] = (losses, finite)

    def finite(self) -> list[bool]:
        """Return which chains have had finite losses only; synchronises."""
        flags = torch.stack([*self._finite, *(flags for _, flags in self._observables.values())], 1)
        return [bool(flag) for flag in flags.all(1).cpu()]

    def finish(self, index: int | None) -> list[Draw]:
        """Copy everything to the host and return a record of each chain."""
        finite = torch.stack(self._finite, 1).cpu().numpy()  # (chain, step)
        losses = _to_host(torch.stack(self._losses, 1))
        # Weights can be beyond float32 while a bounded loss is finite; infinite values would be taken for damage.
        metrics = {
            name: _to_host(torch.stack([m[name] for m in self._metrics], 1).clamp(-_LARGEST, _LARGEST))
            for name in self._metrics[0]
        }
        observables = {name: _to_host(values) for name, (values, _) in self._observables.items()}
        draw_steps = [num for num, _ in self._draws]
        draw_metrics = {
            name: _to_host(torch.stack([metrics[name] for _, metrics in self._draws], 1).clamp(-_LARGEST, _LARGEST))
            for name in (self._draws[0][1] if self._draws else ())
        }
        are_finite = {name: flags.cpu().numpy() for name, (_, flags) in self._observables.items()}
        draws = []
        for n, (restriction, chain) in enumerate(self._keys):
            num, error = self._judge(finite[n], {name: bool(flags[n]) for name, flags in are_finite.items()}, index, n)
            num_draws = sum(step <= num for step in draw_steps)
            draws.append(
                Draw(
                    restriction=restriction,
                    chain=chain,
                    first_step=self._first_step,
                    loss=losses[n, :num],
                    metrics={name: values[n, :num] for name, values in metrics.items()},
                    index=index if error is None else None,
                    observables={name: values[n] for name, values in observables.items()} if error is None else {},
                    error=error,
                    draw_metrics={name: values[n, :num_draws] for name, values in draw_metrics.items()},
                    first_draw=self._first_draw,
                    recordings=self.recorded[n] if error is None else {},
                )
            )
        return draws

    def _judge(
        self, finite: np.ndarray, are_finite: dict[str, bool], index: int | None, number: int
    ) -> tuple[int, str | None]:
        """Return how many steps of a chain are good, and what ended it if not all are."""
        if not finite.all():
            num = int(np.argmin(finite))
            reason = _why_broken(self._losses[num][number], self._largest)
            return num, f"step {self._first_step + num}: the minibatch loss {reason}"
        for name, is_finite in are_finite.items():
            if not is_finite:
                last = self._first_step + len(finite) - 1
                reason = _why_broken(self._observables[name][0][number], self._largest)
                return len(finite), f"step {last}, draw {index}: the loss of observable {name!r} {reason}"
        broken = why_broken(self._recorders, self.recorded[number])
        if broken is not None:
            return len(finite), f"step {self._first_step + len(finite) - 1}, draw {index}: {broken}"
        return len(finite), None


def _why_broken(losses: Tensor, largest: float) -> str:
    """Return what is wrong with losses that a store cannot hold."""
    is_larger = losses.isfinite() & (losses.abs() > largest)
    if not bool(is_larger.any()):
        return "is not finite"
    return f"is {float(losses[is_larger].abs().max()):.3g}, beyond the largest number that is stored ({largest:.3g})"


def _to_host(tensor: Tensor) -> np.ndarray:
    return tensor.to("cpu", torch.float32).numpy()
