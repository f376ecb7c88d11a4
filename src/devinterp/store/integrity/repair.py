"""Take damaged data out of a store, so that they are sampled again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.store import keys as raw
from devinterp.store.arrays.create import create_array
from devinterp.store.arrays.layout import RunLayout, array_specs
from devinterp.store.integrity.verify import Damage


def discard(store: Store, damages: Iterable[Damage]) -> set[str]:
    """Remove chunks that cannot be used, and mark their chains to be sampled anew, from their start.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store of a run.
    damages : iterable of Damage
        From `devinterp.store.integrity.verify.check`.

    Returns
    -------
    set of str
        Paths of damaged arrays that belong to no chain; see `rewrite`.
    """
    fixed, chains = set(), set()
    for damage in damages:
        for key in damage.keys:
            raw.delete(store, key)
        if damage.chain is None:
            fixed.add(damage.path)
        else:
            chains.add(damage.chain)
    if chains:
        state = zarr.open_array(store, path=f"{schema.STATUS}/state", mode="r+")
        done = zarr.open_array(store, path=f"{schema.STATUS}/steps_done", mode="r+")
        error = zarr.open_array(store, path=f"{schema.STATUS}/error", mode="r+")
        for chain in chains:
            done[chain], state[chain], error[chain] = np.int64(0), schema.PENDING, ""
    return fixed


def rewrite(store: Store, layout: RunLayout, paths: Iterable[str]) -> None:
    """Write fixed data again."""
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    wanted = set(paths)
    for spec in array_specs(layout):
        if spec.path in wanted and spec.data is not None:
            create_array(root, spec)
