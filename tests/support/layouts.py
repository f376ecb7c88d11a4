"""Layouts of runs, stores that fail, and the dims of the schema, for tests of what a store holds."""

from __future__ import annotations

import errno
from fnmatch import fnmatchcase

import numpy as np
import xarray as xr
from zarr.storage import MemoryStore, WrapperStore

from devinterp import schema
from devinterp.store.arrays.create import create_run
from devinterp.store.arrays.layout import ObservableLayout, RunLayout

#: Paths of the schema that only runs with ``record="moments"`` have, instead of losses.
MOMENTS = {
    path for path in schema.DIMS if path.split("/")[-1] in (schema.MEAN_LOSS, schema.LOSS_MEAN, schema.LOSS_COMOMENT)
}
#: Paths that only some runs have: losses at w0 of their rows, and those of ``init_noise``.
AT_W0 = {path for path in schema.DIMS if path.split("/")[-1].startswith(("row_", "w0_"))}

#: Paths of metrics of draws, and those of them that only runs in a bounding box have.
VIRIAL = {path for path in schema.DIMS if path.startswith("metrics/")} - {"metrics/*"}
#: Paths of what recorders store.
RECORDED = {path for path in schema.DIMS if path.startswith("recordings/")}
IN_BOX = {path for path in VIRIAL if path.endswith("_volume")}
#: Those of them that only runs with ``curvature_directions`` have.
ALONG = {path for path in VIRIAL if path.startswith("metrics/direction")}


def paths_of_schema(tree: xr.DataTree) -> set[str]:
    """Assert that every variable has the dims that the schema gives it; return which paths of the schema there are."""
    paths = set()
    for path in schema.variable_paths(tree):
        known = [p for p in schema.DIMS if p.count("/") == path.count("/") and fnmatchcase(path, p)]
        for pattern in known[:1]:
            assert tree[path].dims == schema.DIMS[pattern], path
            paths.add(pattern)
    return paths


def layout(
    *,
    num_restrictions: int = 1,
    num_chains: int = 2,
    num_steps: int = 6,
    draw_steps: tuple[int, ...] = (1, 3, 5),
    batch: int = 3,
    positions: int = 4,
    observables: dict[str, int] | None = None,
    metrics: tuple[str, ...] = (),
) -> RunLayout:
    """Return the layout of a run of which only the sizes matter; its losses at the start are random."""
    rng = np.random.default_rng(0)
    start = rng.random((num_chains, positions), dtype=np.float32)
    return RunLayout(
        restrictions={f"part{n}": n + 1 for n in range(num_restrictions)},
        num_chains=num_chains,
        num_steps=num_steps,
        draw_steps=np.array(draw_steps, dtype=np.int64),
        sequence_id=rng.integers(0, 100, (num_chains, num_steps, batch)),
        init_loss=start,
        init_loss_se=start / 10,
        init_loss_mean=start.mean(1, dtype=np.float64),
        init_loss_mean_se=start.mean(1),
        observables={
            name: ObservableLayout(
                rng.random((num, positions), dtype=np.float32),
                np.arange(num),
                rng.integers(0, 50, (num, positions + 1)),
            )
            for name, num in ({"code": 5} if observables is None else observables).items()
        },
        metrics=metrics,
    )


def make(store, wanted=None, **sizes):
    """Create a run without losses in a store, of that layout or of these sizes; return its group."""
    return create_run(store, layout(**sizes) if wanted is None else wanted, {"config": "{}", "provenance": "{}"})


class FullStore(WrapperStore):
    """A store that has no space left after so many bytes of chunks, and counts what was written."""

    def __init__(self, store, capacity=10**9):
        super().__init__(store)
        self.capacity, self.written, self.writes = capacity, 0, 0

    def with_read_only(self, read_only=False):  # which wrapped stores of zarr 3.1.3 do not have
        return type(self)(self._store.with_read_only(read_only))

    async def set(self, key, value, *args, **kwargs):
        if "/c/" in key:
            self.writes += 1
            if self.written + len(value) > self.capacity:
                raise OSError(errno.ENOSPC, "No space left on device", key)
            self.written += len(value)
        await super().set(key, value, *args, **kwargs)


def full_store(**sizes):
    """Return a store that can be filled, and the run in it."""
    store = FullStore(MemoryStore())
    return store, make(store, **sizes)
