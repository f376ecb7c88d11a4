"""Memory of one run of SmolLM2-135M, in a process of its own. Prints a line of JSON, in bytes.

``python peak_memory.py [RESTRICTION]``
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from devinterp import sources
from devinterp.models.restrictions import as_param_masks
from devinterp.slt.sampling import sample


def resident(peak: bool = False) -> int:
    """Return the memory of this process, now or at most since `forget_peak`."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak() -> None:
    """Let the peak be what is resident now: loading a model takes more than running it."""
    Path("/proc/self/clear_refs").write_text("5")


def main(restriction: str = "full") -> None:
    """Sample a few steps, and print what the process held at most besides what it held without the model."""
    model = sources.load_model()[0].eval()
    masks = as_param_masks(model, restriction)
    rows = torch.randint(40_000, (32, 128), generator=torch.Generator().manual_seed(0))
    size = sum(p.nbytes for p in model.parameters())
    forget_peak()
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        sample(
            model,
            rows,
            {"rows": (rows, 2)},
            param_masks=masks,
            lr=1e-6,
            n_beta=30.0,
            localization=100.0,
            num_chains=2,
            num_draws=2,
            batch_size=4,
            num_init_loss_batches=1,
            output_path=f"{folder}/run.zarr",
            progress=False,
        )
    moving = 4 * masks.num_elements
    print(json.dumps({"model": size, "moving": moving, "more": resident(peak=True) - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
