"""Finding damaged data in a store, and removing them so that they are sampled again.

`verify` checks a run end to end, with `chunks` for the chunks of one array; each `Damage` that it yields goes to `repair`.
"""

from devinterp.store.integrity.damage import Damage
from devinterp.store.integrity.repair import discard, rewrite
from devinterp.store.integrity.verify import check

__all__ = ["Damage", "check", "discard", "rewrite"]
