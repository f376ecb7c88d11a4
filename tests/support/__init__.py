"""What tests share: small models and runs, stores that fail, recorded results, the run-time type checker."""

from support import typecheck

__all__ = ["typecheck"]
