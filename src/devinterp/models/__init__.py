"""Models: how to run them, where their parts are, and which of their weights a restriction selects.

An adapter (`adapters`) runs a model (`forward`) and finds its parts (`structure`); a text such as ``l0h1`` is then
resolved (`restrictions`) into `masks` of the parameters that are sampled. Imports go one way: ``masks`` imports none of
the others, ``structure`` imports ``masks``, ``restrictions`` and ``adapters`` import ``structure``.
"""

__all__ = ["adapters", "forward", "masks", "restrictions", "structure"]
