"""The chain loop: a generator of draws. It knows nothing of storage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.groups import ChainGroup
from devinterp.sampling.order import step_rows
from devinterp.sampling.problem import Problem
from devinterp.sampling.walker import Walker
from devinterp.types import Draw

#: Steps without a draw are handed over at least this often: by size, so that memory is bounded, and by time, so that a
#: reader sees progress.
_MAX_BLOCK_BYTES, _MAX_BLOCK_SECONDS = 16 * 2**20, 1.0


def run_chains(group: ChainGroup, *, restriction: int, chains: Sequence[int]) -> Iterator[Draw]:
    """Run chains side by side from the starting weights and yield their draws.

    Parameters
    ----------
    group : ChainGroup
        The model and what moves; left where the chains end.
    restriction : int
        Number of the restriction they are under.
    chains : sequence of int
        Which chains of the run they are. The noise of each comes from a generator seeded ``init_seed + chain``.

    Yields
    ------
    Draw
        A run of steps of one chain, ended by a draw or handed over before one (long burn-ins). The last of a chain has an
        `error` if it diverged; the others go on.
    """
    problem = group.problem
    settings = problem.settings
    walker = Walker(problem.transition(), group.weights, settings, chains=chains)
    batches = _batches(problem, chains)
    alive = [True] * len(chains)
    block = _Block(restriction, chains, first_step=0)
    for step in range(settings.num_steps):
        losses, finite = group.add_gradient([batches[chain][step] for chain in chains])
        block.add_step(losses, finite, walker.step())
        index = settings.draw_after(step)
        if index is not None:
            for name in problem.observables:
                block.add_observable(name, *group.evaluate(name))
        if index is not None or block.is_full or step == settings.num_steps - 1:
            for n, draw in enumerate(block.finish(index)):
                if alive[n]:
                    yield draw
                    alive[n] = draw.error is None
            if not any(alive):
                return
            block = _Block(restriction, chains, first_step=step + 1)


def _batches(problem: Problem, chains: Sequence[int]) -> dict[int, list[np.ndarray]]:
    """Return the rows of each step for each chain; the very same arrays where all chains share their data."""
    if problem.settings.match_sampling_input_ids_across_chains:
        shared = list(step_rows(problem.settings, problem.num_rows, 0))
        return {chain: shared for chain in chains}  # noqa: C420  # meant to be the same
    return {chain: list(step_rows(problem.settings, problem.num_rows, chain)) for chain in chains}


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
