"""Both sides of the comparison with DevInterp 2.0.1 in ``make bench-peers``: one script, in either environment."""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve import serve
from torch import nn

NUM_SEQUENCES, NUM_TOKENS, BATCH = 128, 65, 32
SAMPLING = {"lr": 1e-3, "n_beta": 30.0, "localization": 100.0, "num_chains": 4, "num_draws": 200, "batch_size": BATCH}


def sample(folder: str) -> str:
    """Sample a small model, and return where its minibatch losses are."""
    from datasets import Dataset

    from devinterp.slt.sampling import sample as sample_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)).eval()
    ids = torch.randint(50, (NUM_SEQUENCES, NUM_TOKENS))
    data = Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch")
    _tree.cache_clear()
    shutil.rmtree(f"{folder}/run.zarr", ignore_errors=True)
    observables = {"pool": (data, NUM_SEQUENCES // BATCH)}
    sample_model(model, data, observables, device="cpu", output_path=f"{folder}/run.zarr", **SAMPLING)
    return save(folder, "trace", trace(_tree(folder)))


@functools.cache
def _tree(folder: str) -> Any:
    """Return the tree of a store, opened once, as each package opens it."""
    path = f"{folder}/run.zarr"
    if is_ours():
        import devinterp

        return devinterp.open(path)
    import xarray as xr

    return xr.open_datatree(path, engine="zarr", consolidated=False)


def is_ours() -> bool:
    """Say whether the installed package is this one."""
    import devinterp

    return hasattr(devinterp, "open")


def trace(tree: Any) -> np.ndarray:
    """Return the mean minibatch loss of each chain and step."""
    loss = np.asarray(tree["trace/loss"])[0] if is_ours() else np.asarray(tree["sampling_loss_micro"])
    return loss.mean((2, 3), dtype=np.float64)


def llc(folder: str) -> str:
    """Compute the learning coefficient of each chain."""
    from devinterp.slt.llc import compute_llc

    return save(folder, "llc", compute_llc(_tree(folder))["llc_per_chain"])


def token(folder: str) -> str:
    """Compute influences between all tokens."""
    return save(folder, "token", _influences(folder))


def averaged(folder: str) -> str:
    """Compute influences averaged over tokens."""
    return save(folder, "averaged", _influences(folder, average_tokenwise_bif=True))


def _influences(folder: str, **options: Any) -> Any:
    from devinterp.slt.bif import compute_bif

    return compute_bif(_tree(folder), correlation_method="token", **options)["influences"].load()


def save(folder: str, name: str, values: Any) -> str:
    """Write an array once, for the comparison, and return its path."""
    path = Path(folder) / f"{name}.npy"
    if not path.exists():
        np.save(path, np.asarray(values))
    return str(path)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    serve({"sample": sample, "llc": llc, "token": token, "averaged": averaged})
