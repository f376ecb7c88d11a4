"""Writing a run into its store: draws, status and checkpoints, by one background thread.

Draws go to `writer`, are gathered in `buffers` until they fill chunks, and are written by `thread`. `checkpoints` stores what
unfinished chains need to go on, `transactions` commits where a store collects writes, and `reopen` marks chains that are to
be sampled again or to go on.
"""

from devinterp.store.writing.checkpoints import CheckpointSlots
from devinterp.store.writing.transactions import Committing
from devinterp.store.writing.writer import TraceWriter

__all__ = ["CheckpointSlots", "Committing", "TraceWriter"]
