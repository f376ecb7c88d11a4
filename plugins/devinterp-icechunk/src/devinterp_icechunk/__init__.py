"""Store devinterp runs in Icechunk repositories: one commit per flush, every past state readable."""

from devinterp_icechunk.store import Commit, IcechunkRun

__all__ = ["Commit", "IcechunkRun"]
