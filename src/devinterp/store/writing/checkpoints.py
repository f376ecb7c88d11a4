"""Store checkpoints of unfinished chains, from which a run goes on as if it had not stopped. Plain arrays, no pickle.

Chains that advance together have two slots, written in turn. A slot is marked with its step only after everything in it is
written, so that one slot is complete whenever the writer is killed.
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp.store import keys
from devinterp.types import Checkpoint

#: Group of the checkpoints, which is no part of the tree: consolidated metadata leave it out.
RESUME = "resume"
_SLOTS = ("slot0", "slot1")
_CHUNK_BYTES = 16 * 2**20


class CheckpointSlots:
    """The two slots in which chains that advance together store their checkpoints.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The run's store.
    restrictions : sequence of int
        Numbers of the restrictions.
    chains : sequence of int
        Numbers of the chains of each.
    """

    def __init__(self, store: Store, restrictions: Sequence[int], chains: Sequence[int]) -> None:
        self._store, self._restrictions, self._chains = store, tuple(restrictions), tuple(chains)
        self._path = f"{RESUME}/r{_range(restrictions)}-c{_range(chains)}"
        self._next_slot = 0
        self._arrays: dict[str, Any] = {}  # by path, so that a later save only writes chunks

    def save(self, state: Checkpoint) -> None:
        """Write a checkpoint into the slot whose turn it is."""
        path = f"{self._path}/{_SLOTS[self._next_slot]}"
        self._next_slot = 1 - self._next_slot
        for group in (RESUME, self._path, path):
            if keys.get(self._store, keys.metadata_key(group)) is None:
                keys.update_attrs(self._store, group, {})
        keys.update_attrs(self._store, path, {"step": None})  # until the last write the slot is incomplete
        shapes, sums, dtypes = {}, {}, {}
        for name, arrays in state.arrays.items():
            flat = _flatten(arrays)
            dtypes[name] = [array.dtype.str for array in arrays]
            self._get_array(f"{path}/{name}", flat)[...] = flat
            shapes[name], sums[name] = [list(array.shape) for array in arrays], zlib.crc32(flat.data)
        members = {"restrictions": list(state.restrictions), "chains": list(state.chains)}
        mark = {"step": state.step, **members, "shapes": shapes, "dtypes": dtypes, "crc32": sums}
        keys.update_attrs(self._store, path, mark)

    def load(self, *, most: int) -> Checkpoint | None:
        """Return the latest complete checkpoint of at most so many steps, or None.

        One that cannot be read, or is of other chains, is passed over: chains can always start again.
        """
        marks = {slot: keys.get_attrs(self._store, f"{self._path}/{slot}") for slot in _SLOTS}
        steps = {
            slot: step for slot, attrs in marks.items() if (step := self._step(attrs)) is not None and step <= most
        }
        for slot in sorted(steps, key=lambda slot: -steps[slot]):
            try:
                arrays = self._read(f"{self._path}/{slot}", marks[slot])
            except Exception:  # damaged in whatever way: zarr raises errors of many kinds
                continue
            self._next_slot = 1 - _SLOTS.index(slot)
            return Checkpoint(self._restrictions, self._chains, steps[slot], arrays)
        return None

    def remove(self) -> None:
        """Remove both slots."""
        keys.delete_below(self._store, self._path)
        self._arrays.clear()

    def _step(self, attrs: Mapping[str, Any]) -> int | None:
        step = attrs.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 1:
            return None
        # Older stores name no restrictions: they ran those of one together.
        ours = attrs.get("restrictions", list(self._restrictions[:1])) == list(self._restrictions)
        ours &= attrs.get("chains") == list(self._chains)
        return step if ours and isinstance(attrs.get("shapes"), dict) else None

    def _read(self, path: str, mark: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
        arrays = {}
        for name, shapes in mark["shapes"].items():
            dtypes = [np.dtype(dtype) for dtype in mark["dtypes"][name]]
            flat = np.ascontiguousarray(
                zarr.open_array(self._store, path=f"{path}/{name}", mode="r", zarr_format=3)[...]
            )
            if zlib.crc32(flat.data) != mark["crc32"][name]:
                raise ValueError(f"{path}/{name} is not what was written")
            sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
            content, ends = flat.view(np.uint8), np.cumsum(sizes)
            arrays[name] = [
                content[end - size : end].view(dtype).reshape(shape)
                for end, size, dtype, shape in zip(ends, sizes, dtypes, shapes, strict=True)
            ]
        return arrays

    def _get_array(self, path: str, flat: np.ndarray) -> Any:
        """Return the array at a path, made anew where its shape or dtype is another."""
        array = self._arrays.get(path)
        if array is None or array.shape != flat.shape or array.dtype != flat.dtype:
            array = self._arrays[path] = zarr.create_array(
                self._store,
                name=path,
                shape=flat.shape,
                dtype=flat.dtype,
                chunks=(max(1, min(len(flat), _CHUNK_BYTES // flat.itemsize)),),
                compressors=None,  # weights do not compress
                dimension_names=(f"{path.rpartition('/')[2]}_element",),
                overwrite=True,
            )
        return array


def load_all(store: Store) -> list[Checkpoint]:
    """Return the latest complete checkpoint of all chains of a run that have one, those that advanced together as one."""
    loaded = []
    for name in keys.children(store, RESUME):
        marks = [keys.get_attrs(store, f"{RESUME}/{name}/{slot}") for slot in _SLOTS]
        members = next((mark for mark in marks if isinstance(mark.get("restrictions"), list)), None)
        if members is not None:
            loaded.append(CheckpointSlots(store, members["restrictions"], members["chains"]).load(most=sys.maxsize))
    return [each for each in loaded if each is not None]


def remove_all(store: Store) -> None:
    """Remove the checkpoints of all chains."""
    keys.delete_below(store, RESUME)


def _flatten(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays joined into one dimension: in their dtype if they share it, else as bytes."""
    if not arrays:
        return np.empty(0, np.uint8)
    if len({array.dtype for array in arrays}) == 1:
        return np.concatenate([array.reshape(-1) for array in arrays])
    return np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays])


def _range(numbers: Sequence[int]) -> str:
    """Return first and last number, which name the slots: no chain of a restriction has two."""
    return "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
