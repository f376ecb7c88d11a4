"""One chain: a generator of draws. It knows nothing of storage."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.order import step_rows
from devinterp.sampling.problem import Problem
from devinterp.sampling.walker import Walker
from devinterp.sampling.weights import MovingWeights
from devinterp.types import Draw

#: Steps without a draw are handed over at least this often: by size, so that memory is bounded, and by time, so that a
#: reader sees progress.
_MAX_BLOCK_BYTES, _MAX_BLOCK_SECONDS = 16 * 2**20, 1.0


def run_chain(problem: Problem, weights: MovingWeights, *, restriction: int, chain: int) -> Iterator[Draw]:
    """Run one chain from the starting weights and yield its draws.

    Parameters
    ----------
    problem : Problem
        The run.
    weights : MovingWeights
        What moves; left where the chain ends.
    restriction, chain : int
        Which chain of the run this is. Its noise comes from a generator seeded ``init_seed + chain``.

    Yields
    ------
    Draw
        A run of steps, ended by a draw or handed over before one (long burn-ins). The last has an `error` if the chain
        diverged.
    """
    settings = problem.settings
    walker = Walker(problem.transition(), weights, settings, chain=chain)
    batches = step_rows(settings, problem.num_rows, chain)
    block = _Block(restriction, chain, first_step=0)
    for step in range(settings.num_steps):
        losses, finite = problem.add_gradient(batches[step])
        measured = walker.step()
        block.add_step(losses, finite, measured)
        index = settings.draw_after(step)
        if index is not None:
            for name, observable in problem.observables.items():
                block.add_observable(name, *problem.evaluate(observable.rows, observable.sequence_id))
        if index is not None or block.is_full or step == settings.num_steps - 1:
            draw = block.finish(index)
            yield draw
            if draw.error is not None:
                return
            block = _Block(restriction, chain, first_step=step + 1)


class _Block:
    """Consecutive steps on the device, not yet looked at: looking at a value makes the device wait."""

    def __init__(self, restriction: int, chain: int, *, first_step: int) -> None:
        self._restriction, self._chain, self._first_step = restriction, chain, first_step
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

    def finish(self, index: int | None) -> Draw:
        """Bring everything to the host and say whether the chain is still sound."""
        finite = torch.stack(self._finite).cpu().numpy()
        num = len(finite) if finite.all() else int(np.argmin(finite))
        error = None
        if num < len(finite):
            error = f"step {self._first_step + num}: the minibatch loss is not finite"
        observables = {name: _host(losses) for name, (losses, _) in self._observables.items()}
        unsound = [name for name, (_, sound) in self._observables.items() if not bool(sound)]
        if error is None and unsound:
            step = self._first_step + num - 1
            error = f"step {step}, draw {index}: the loss of observable {unsound[0]!r} is not finite"
        return Draw(
            restriction=self._restriction,
            chain=self._chain,
            first_step=self._first_step,
            loss=_host(torch.stack(self._losses))[:num],
            metrics={name: _host(torch.cat([step[name] for step in self._metrics]))[:num] for name in self._metrics[0]},
            index=index if error is None else None,
            observables=observables if error is None else {},
            error=error,
        )


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.to("cpu", torch.float32).numpy()
