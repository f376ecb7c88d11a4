"""The arrays of a run: their paths, dims, shapes and chunks, and creating them in a store.

`layout` holds the sizes of a run and the data known before its first step, `specs` turns them into a description of every
array, and `create` makes these in a store, or enlarges them.
"""

from devinterp.store.arrays.create import create_run, grow_run, is_empty
from devinterp.store.arrays.layout import ObservableLayout, RunLayout
from devinterp.store.arrays.specs import ArraySpec, array_specs

__all__ = ["ArraySpec", "ObservableLayout", "RunLayout", "array_specs", "create_run", "grow_run", "is_empty"]
