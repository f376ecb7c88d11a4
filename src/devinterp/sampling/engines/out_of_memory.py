"""Out of memory on a device: which batch size would fit."""

from __future__ import annotations

import numpy as np
import torch

from devinterp.errors import OutOfMemoryError
from devinterp.sampling.engines.engine import Engine


def explain(engine: Engine, message: str) -> OutOfMemoryError:
    """Return what to raise in place of torch's out-of-memory error: it says which batch size would fit.

    Call it outside the handler of that error, whose traceback holds the tensors of the step that failed.

    Parameters
    ----------
    engine : Engine
        What was running.
    message : str
        What torch said.
    """
    settings = engine.spec.settings
    fits = largest_batch(engine)
    if fits is None:
        advice = "not even one sequence fits: use shorter sequences, a smaller dtype, or chains='sequential'"
    else:
        times = -(-settings.batch_size // fits) * settings.gradient_accumulation_steps
        advice = (
            f"batch_size={fits} fits at present; with gradient_accumulation_steps={times} a step has as many sequences"
        )
    return OutOfMemoryError(
        f"{engine.spec.device} has not enough memory for batch_size={settings.batch_size} "
        f"({message.partition('.')[0]}): {advice}."
    )


def largest_batch(engine: Engine) -> int | None:
    """Return the largest batch, halving from the run's, whose gradient fits into memory; None if none does."""
    settings = engine.spec.settings
    rows = engine.spec.schedule.steps(0)[0][: settings.batch_size]
    num = settings.batch_size
    while num >= 1:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            engine.weights.gradients()
            step = np.tile(rows[:num], settings.batches_per_step)
            engine.add_gradient([step] * engine.num_chains)
            engine.weights.gradients()
        except torch.cuda.OutOfMemoryError:
            num //= 2
        else:
            return num
    return None
