"""canonical-interp's side of ``make bench-peers``, in its own environment."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from linear_networks import BATCH, LOCALIZATION, N_BETA, NUM_BURNIN, NUM_CHAINS, NUM_DRAWS, STEP, problem
from serve import serve
from torch.utils.data import DataLoader, TensorDataset

if sys.version_info < (3, 12):  # it asks for Python 3.12 for this function alone

    def batched(iterable: Iterable[Any], n: int) -> Iterator[tuple[Any, ...]]:
        """Yield tuples of n items, the last one shorter, as `itertools.batched` does from Python 3.12 on."""
        iterator = iter(iterable)
        while part := tuple(itertools.islice(iterator, n)):
            yield part

    itertools.batched = batched

from canonical_interp import LLCEstimator  # needs what is above

logging.disable(logging.WARNING)


def sample(name: str, compiled: bool) -> dict[str, float]:
    """Return the mean loss along the chains, and its error from their spread."""
    model, inputs, targets = problem(name)
    estimator = LLCEstimator(
        draws=NUM_DRAWS,
        chains=NUM_CHAINS,
        burnin_steps=NUM_BURNIN,
        learning_rate=STEP[name],
        localization=LOCALIZATION,
        nbeta=N_BETA,
    )
    estimator.estimate_llc(
        model,
        DataLoader(TensorDataset(inputs, targets), batch_size=BATCH, shuffle=True),
        criterion_fn=torch.nn.functional.mse_loss,
        seed=0,
        compile="default" if compiled else False,
        show_progress=False,
    )
    means = estimator.get_metrics()["losses"].mean(1)
    return {"mean": float(means.mean()), "error": float(means.std() / len(means) ** 0.5)}


if __name__ == "__main__":
    serve({"sample": sample})
