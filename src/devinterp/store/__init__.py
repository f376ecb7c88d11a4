"""Stores of runs: creating, writing, reading and checking them. The only room that imports zarr; it needs no torch.

A run passes `location` (the zarr store at a path), `lock` (one process at a time writes; `owner` says which), `arrays` (what
the store holds, and creating it), `writing` (draws and checkpoints), and `reading` (opening it as a tree). `integrity`
finds damaged data and removes them. `run_store` offers all of this to sampling as one object, and `keys` reads and writes
single keys for the others.
"""

from devinterp.store.location import StoreLike, describe, resolve
from devinterp.store.lock import Lock, holder
from devinterp.store.owner import Owner
from devinterp.store.run_store import RunStore

__all__ = ["Lock", "Owner", "RunStore", "StoreLike", "describe", "holder", "resolve"]
