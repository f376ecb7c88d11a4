"""What the runs of a calibration are called, what tells them apart, and their seeds."""

from __future__ import annotations

import zlib
from collections.abc import Collection

from devinterp.calibration.grid import Point
from devinterp.calibration.request import Request


def run_name(point: Point, checkpoint: str) -> str:
    """Return the name of the group that holds the run of a point at a checkpoint."""
    return f"{checkpoint}-{point.name}" if checkpoint else point.name


def dims_of(checkpoints: Collection[str]) -> dict[str, list[str]]:
    """Return the dimensions along which results of the runs are joined, and what varies along each."""
    point = {"point": ["kernel", "lr", "n_beta", "localization", "batch_size"]}
    return point if list(checkpoints) == [""] else {"checkpoint": [], **point}


def labels_of(point: Point, checkpoint: str) -> dict[str, str | float]:
    """Return what tells the run of a point at a checkpoint apart."""
    own: dict[str, str | float] = {
        "point": point.name,
        "kernel": point.kernel,
        "lr": point.lr,
        "n_beta": point.n_beta,
        "localization": point.localization,
        "batch_size": point.batch_size,
    }
    return {"checkpoint": checkpoint, **own} if checkpoint else own


def seed_of(request: Request, run: str) -> int:
    """Return the seed of a run: no two runs share noise, or a point and half its step would agree too well."""
    return request.init_seed + request.num_chains * (zlib.crc32(run.encode()) % 100_000)
