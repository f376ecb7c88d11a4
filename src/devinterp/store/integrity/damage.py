"""What is wrong with one part of a stored run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """Something that is wrong with a run.

    Parameters
    ----------
    path : str
        Path of the array in the run; ``""`` for the run itself.
    what : str
        What is wrong with it.
    chain : tuple of int, optional
        The restriction and chain it belongs to, for data of one chain.
    keys : tuple of str
        Chunks in the store that cannot be used.
    """

    path: str
    what: str
    chain: tuple[int, int] | None = None
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = "" if self.chain is None else f", restriction {self.chain[0]}, chain {self.chain[1]}"
        return f"{self.path or 'the run'}{who}: {self.what}"
