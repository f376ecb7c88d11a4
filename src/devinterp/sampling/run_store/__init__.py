"""What the store of a run must hold, and whether one holds it already.

`fingerprint` identifies a run; `compare` says what it asks for beyond its store; `array_layout` plans the arrays with the data
that are known beforehand; `prepare_store` creates, extends or repairs the store.
"""

from devinterp.sampling.run_store.compare import Extension, RequestedRun
from devinterp.sampling.run_store.prepare_store import prepare_store

__all__ = ["Extension", "RequestedRun", "prepare_store"]
