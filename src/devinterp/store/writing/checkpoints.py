"""States of chains on their way: what a run needs to go on as if it had never stopped. Plain arrays, no pickle.

Each group of chains that advance together has two slots, written in turn. A slot is marked with its step only when all of
it is written, so that whenever the writer is killed one slot is whole.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp.store import keys as raw
from devinterp.types import Checkpoint

#: Group of the states, which is no part of the tree: consolidated metadata leave it out.
RESUME = "resume"
_SLOTS = ("slot0", "slot1")
_CHUNK_BYTES = 16 * 2**20


class CheckpointSlots:
    """The two slots of one group of chains in a store.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The run's store.
    restriction : int
        Number of the restriction.
    chains : sequence of int
        The group.
    """

    def __init__(self, store: Store, restriction: int, chains: Sequence[int]) -> None:
        self._store, self._restriction, self._chains = store, restriction, tuple(chains)
        self._path = f"{RESUME}/r{restriction}-c{'-'.join(map(str, _ranges(chains)))}"
        self._next = 0
        self._made: dict[str, Any] = {}  # arrays by path, so that a later save only writes chunks

    def save(self, state: Checkpoint) -> None:
        """Write a state into the slot whose turn it is."""
        path = f"{self._path}/{_SLOTS[self._next]}"
        self._next = 1 - self._next
        for group in (RESUME, self._path, path):
            if raw.get(self._store, f"{group}/{raw.METADATA}") is None:
                raw.update_attrs(self._store, group, {})
        raw.update_attrs(self._store, path, {"step": None})  # from here on until the end the slot is not whole
        shapes, sums, dtypes = {}, {}, {}
        for name, arrays in state.arrays.items():
            flat = _flatten(arrays)
            dtypes[name] = [array.dtype.str for array in arrays]
            self._array(f"{path}/{name}", flat)[...] = flat
            shapes[name], sums[name] = [list(array.shape) for array in arrays], zlib.crc32(flat.data)
        mark = {"step": state.step, "chains": list(state.chains), "shapes": shapes, "dtypes": dtypes, "crc32": sums}
        raw.update_attrs(self._store, path, mark)

    def load(self, *, most: int) -> Checkpoint | None:
        """Return the latest whole state of at most so many steps, or None.

        What cannot be read, or is not of this group, is passed over: a chain can always start again.
        """
        marks = {slot: raw.get_attrs(self._store, f"{self._path}/{slot}") for slot in _SLOTS}
        steps = {
            slot: step for slot, attrs in marks.items() if (step := self._step(attrs)) is not None and step <= most
        }
        for slot in sorted(steps, key=lambda slot: -steps[slot]):
            try:
                arrays = self._read(f"{self._path}/{slot}", marks[slot])
            except Exception:  # damaged in whatever way: zarr raises errors of many kinds
                continue
            self._next = 1 - _SLOTS.index(slot)
            return Checkpoint(self._restriction, self._chains, steps[slot], arrays)
        return None

    def remove(self) -> None:
        """Remove both slots."""
        raw.delete_below(self._store, self._path)
        self._made.clear()

    def _step(self, attrs: Mapping[str, Any]) -> int | None:
        step = attrs.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 1:
            return None
        return step if attrs.get("chains") == list(self._chains) and isinstance(attrs.get("shapes"), dict) else None

    def _read(self, path: str, mark: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
        arrays = {}
        for name, shapes in mark["shapes"].items():
            dtypes = [np.dtype(dtype) for dtype in mark["dtypes"][name]]
            flat = np.ascontiguousarray(zarr.open_array(self._store, path=f"{path}/{name}", mode="r")[...])
            if zlib.crc32(flat.data) != mark["crc32"][name]:
                raise ValueError(f"{path}/{name} is not what was written")
            sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
            content, ends = flat.view(np.uint8), np.cumsum(sizes)
            arrays[name] = [
                content[end - size : end].view(dtype).reshape(shape)
                for end, size, dtype, shape in zip(ends, sizes, dtypes, shapes, strict=True)
            ]
        return arrays

    def _array(self, path: str, flat: np.ndarray) -> Any:
        made = self._made.get(path)
        if made is None or made.shape != flat.shape or made.dtype != flat.dtype:
            made = zarr.create_array(
                self._store,
                name=path,
                shape=flat.shape,
                dtype=flat.dtype,
                chunks=(max(1, min(len(flat), _CHUNK_BYTES // flat.itemsize)),),
                compressors=None,  # weights do not compress
                dimension_names=(f"{path.rpartition('/')[2]}_element",),
                overwrite=True,
            )
            self._made[path] = made
        return made


def remove_all(store: Store) -> None:
    """Remove the states of all chains."""
    raw.delete_below(store, RESUME)


def _flatten(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays behind each other: in their dtype if they share it, else as bytes."""
    if not arrays:
        return np.empty(0, np.uint8)
    if len({array.dtype for array in arrays}) == 1:
        return np.concatenate([array.reshape(-1) for array in arrays])
    return np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays])


def _ranges(chains: Sequence[int]) -> tuple[int, ...]:
    """Return first and last chain: groups of one restriction share none, so that this names one."""
    return tuple(dict.fromkeys((chains[0], chains[-1])))
