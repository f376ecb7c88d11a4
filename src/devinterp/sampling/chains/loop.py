"""The chain loop: a generator of draws. It knows nothing of storage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.chains.checkpointing import CheckpointSchedule, Disabled
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.data.schedule import step_rows
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.spec import RunSpec
from devinterp.types import Checkpoint, Draw

#: Steps without a draw are handed over at least this often: by size, so that memory is bounded, and by time, so that a
#: reader sees progress.
_MAX_BLOCK_BYTES, _MAX_BLOCK_SECONDS = 16 * 2**20, 1.0


@dataclass(frozen=True)
class Start:
    """Where chains of a group begin, and what of them is in the store already.

    Parameters
    ----------
    state : Checkpoint, optional
        What to go on from; None begins at the starting weights.
    recorded : int
        Steps that are in the store: they are taken again where `state` is earlier, but nothing is evaluated or handed on.
    live : tuple of int, optional
        Chains whose draws are wanted; None: all. The others diverged before, and only keep their place.
    """

    state: Checkpoint | None = None
    recorded: int = 0
    live: tuple[int, ...] | None = None


def run_chains(
    group: Engine,
    *,
    restriction: int,
    chains: Sequence[int],
    start: Start | None = None,
    pacer: CheckpointSchedule | None = None,
) -> Iterator[Draw | Checkpoint]:
    """Run chains side by side and yield their draws, and now and then the state to go on from.

    Parameters
    ----------
    group : Engine
        The model and what moves; left where the chains end.
    restriction : int
        Number of the restriction they are under.
    chains : sequence of int
        Which chains of the run they are. The noise of each comes from a generator seeded ``init_seed + chain``.
    start : Start, optional
        Where they begin; default: at the starting weights.
    pacer : CheckpointSchedule, optional
        Says when a state is wanted; default: never.

    Yields
    ------
    Draw or Checkpoint
        A run of steps of one chain, ended by a draw or handed over before one (long burn-ins). The last of a chain has an
        `error` if it diverged; the others go on. A state comes after the draws of all its steps.
    """
    start, pacer = start or Start(), pacer or Disabled()
    spec, settings = group.spec, group.spec.settings
    walker = Stepper(spec.transition(), group.weights, settings, chains=chains)
    first = 0
    if start.state is not None:
        walker.restore(start.state.arrays)
        first = start.state.step
    batches = _batches(spec, chains)
    for step in range(first, start.recorded):
        group.add_gradient([batches[chain][step] for chain in chains])
        walker.step()
    alive = [start.live is None or chain in start.live for chain in chains]
    first = max(first, start.recorded)
    block = _Block(restriction, chains, first_step=first)
    for step in range(first, settings.num_steps):
        rows = [batches[chain][step] for chain in chains]
        losses, finite = group.add_gradient(rows)
        block.add_step(losses, finite, walker.step(losses, lambda rows=rows: group.add_gradient(rows)[0]))  # type: ignore[misc]
        index = settings.draw_after(step) if spec.observables else None  # else a draw holds nothing
        if index is not None:
            for name in spec.observables:
                block.add_observable(name, *group.evaluate(name))
        is_last = step == settings.num_steps - 1
        wants_state = pacer.is_due(last=is_last)
        if index is not None or block.is_full or is_last or wants_state:
            for n, draw in enumerate(block.finish(index)):
                if alive[n]:
                    yield draw
                    alive[n] = draw.error is None
            if not any(alive):
                return
            block = _Block(restriction, chains, first_step=step + 1)
        if wants_state:
            began = time.monotonic()
            state = Checkpoint(restriction, tuple(chains), step + 1, walker.save())
            pacer.copied(time.monotonic() - began)
            yield state


def _batches(spec: RunSpec, chains: Sequence[int]) -> dict[int, list[np.ndarray]]:
    """Return the rows of each step for each chain; the very same arrays where all chains share their data."""
    if spec.settings.match_sampling_input_ids_across_chains:
        shared = list(step_rows(spec.settings, spec.num_rows, 0))
        return {chain: shared for chain in chains}  # noqa: C420  # meant to be the same
    return {chain: list(step_rows(spec.settings, spec.num_rows, chain)) for chain in chains}


class _Block:
    """Consecutive steps on the device, not yet looked at: looking at a value makes the device wait."""

    def __init__(self, restriction: int, chains: Sequence[int], *, first_step: int) -> None:
        self._restriction, self._chains, self._first_step = restriction, chains, first_step
        self._losses: list[Tensor] = []
        self._finite: list[Tensor] = []
        self._metrics: list[dict[str, Tensor]] = []
        self._observables: dict[str, tuple[Tensor, Tensor]] = {}
        self._began = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Return whether it is time to hand the steps over."""
        size = len(self._losses) * self._losses[0].nbytes if self._losses else 0
        return size >= _MAX_BLOCK_BYTES or time.monotonic() - self._began >= _MAX_BLOCK_SECONDS

    def add_step(self, losses: Tensor, finite: Tensor, measured: dict[str, Tensor]) -> None:
        self._losses.append(losses)
        self._finite.append(finite)
        self._metrics.append(measured)

    def add_observable(self, name: str, losses: Tensor, finite: Tensor) -> None:
        self._observables[name] = (losses, finite)

    def finish(self, index: int | None) -> list[Draw]:
        """Bring everything to the host and say which chains are still sound."""
        finite = torch.stack(self._finite, 1).cpu().numpy()  # (chain, step)
        losses = _host(torch.stack(self._losses, 1))
        measured = {name: _host(torch.stack([m[name] for m in self._metrics], 1)) for name in self._metrics[0]}
        observables = {name: _host(found) for name, (found, _) in self._observables.items()}
        sound = {name: good.cpu().numpy() for name, (_, good) in self._observables.items()}
        draws = []
        for n, chain in enumerate(self._chains):
            num, error = self._judge(finite[n], {name: bool(good[n]) for name, good in sound.items()}, index)
            draws.append(
                Draw(
                    restriction=self._restriction,
                    chain=chain,
                    first_step=self._first_step,
                    loss=losses[n, :num],
                    metrics={name: values[n, :num] for name, values in measured.items()},
                    index=index if error is None else None,
                    observables={name: found[n] for name, found in observables.items()} if error is None else {},
                    error=error,
                )
            )
        return draws

    def _judge(self, finite: np.ndarray, sound: dict[str, bool], index: int | None) -> tuple[int, str | None]:
        """Return how many steps of a chain are good, and what ended it if not all are."""
        if not finite.all():
            num = int(np.argmin(finite))
            return num, f"step {self._first_step + num}: the minibatch loss is not finite"
        for name, good in sound.items():
            if not good:
                last = self._first_step + len(finite) - 1
                return len(finite), f"step {last}, draw {index}: the loss of observable {name!r} is not finite"
        return len(finite), None


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.to("cpu", torch.float32).numpy()
