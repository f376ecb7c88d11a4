"""Our side of the comparison with canonical-interp: the same work, and a store written."""

from __future__ import annotations

import tempfile

from linear_networks import BATCH, LOCALIZATION, N_BETA, NUM_BURNIN, NUM_CHAINS, NUM_DRAWS, NUM_POINTS, STEP, problem
from serve import serve
from torch import Tensor, nn

import devinterp


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error of each point."""
    return (model(batch[0]) - batch[1]).pow(2).mean(1)


def sample(name: str) -> dict[str, float]:
    """Return the mean loss along the chains, and its error from their spread."""
    model, inputs, targets = problem(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = devinterp.sample(
            model,
            (inputs, targets),
            loss_fn=squared_error,
            lr=STEP[name],
            n_beta=N_BETA,
            localization=LOCALIZATION,
            num_chains=NUM_CHAINS,
            num_burnin_steps=NUM_BURNIN,
            num_draws=NUM_DRAWS,
            batch_size=BATCH,
            num_init_loss_batches=NUM_POINTS // BATCH,
            output_path=f"{folder}/run.zarr",
            progress=False,
        )
        llc = tree.slt.llc().compute()
    means = llc["llc_per_chain"] / N_BETA + llc["init_loss"]
    return {"mean": float(means.mean()), "error": float(means.std(ddof=1) / len(means) ** 0.5)}


if __name__ == "__main__":
    serve({"sample": sample})
