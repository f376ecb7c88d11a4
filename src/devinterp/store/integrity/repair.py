"""Remove damaged data from a store, so that they are sampled or written again."""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.store import Store

from devinterp.store import keys
from devinterp.store.arrays.create import consolidate, create_arrays
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.arrays.specs import array_specs
from devinterp.store.integrity.damage import Damage
from devinterp.store.writing.reopen import reopen


def discard(store: Store, damages: Iterable[Damage]) -> set[str]:
    """Remove chunks that cannot be used, and mark their chains to be sampled again from their start.

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
    paths, chains = set(), set()
    for damage in damages:
        for key in damage.keys:
            keys.delete(store, key)
        if damage.chain is None:
            paths.add(damage.path)
        else:
            chains.add(damage.chain)
    if chains:
        reopen(store, chains, from_start=True)
    return paths


def rewrite(store: Store, layout: RunLayout, paths: Iterable[str]) -> None:
    """Write the arrays at some paths again, whose data are known beforehand."""
    paths = set(paths)
    create_arrays(store, [spec for spec in array_specs(layout) if spec.path in paths and spec.data is not None])
    # An array of a run that was extended has smaller chunks than the same data in a new one.
    consolidate(store)
