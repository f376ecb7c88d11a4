"""The whole path once, for a newcomer: sample parts of a language model, estimate their learning coefficients, draw pictures.

`recipes` says what is sampled and how, `run` samples, `report` says what came out and what to type next.
"""

from devinterp.quickstart.run import quickstart

__all__ = ["quickstart"]
