"""What a run says of the fast paths that it does not take: one line each, with the reason, once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import final

from devinterp.notes import LOGGER

#: By the first part of a choice's key and of its value: what is told, and how loudly. Only what was refused is a warning:
#: chains that run one after the other because that takes less work are as fast as they can be.
_LINES = {
    ("loss", "plain"): (logging.WARNING, "losses are computed from all logits rather than in chunks"),
    ("prefix", "nothing reused"): (logging.WARNING, "layers below {name!r} are computed anew at every step"),
    ("chains", "sequential"): (logging.INFO, "chains of {name!r} run one after the other"),
    ("compile", "not compiled"): (logging.WARNING, "layers are not compiled under {name!r}"),
}
#: What needs no word, because it was asked for or there is no choice.
_SILENT = ("asked for", "one chain")
_NUMBER = re.compile(r"[\d.,]+(e[+-]?\d+)?")


@final
class Notices:
    """Tells which fast paths a run does not take: to the logger ``devinterp``, and to whoever watches.

    Parameters
    ----------
    show : callable
        Is given each line, beside the logger.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._told: set[tuple[str, str]] = set()

    def tell(self, choices: Mapping[str, str]) -> None:
        """Say what of some choices is no fast path and was not said before.

        Parameters
        ----------
        choices : mapping of str to str
            As in the provenance: ``"prefix/l11h3"`` to ``"nothing reused: in train mode dropout is active ..."``.
        """
        for key, choice in choices.items():
            kind, _, name = key.partition("/")
            chosen, _, reason = choice.partition(": ")
            line = _LINES.get((kind, chosen))
            # Restrictions whose reasons differ in numbers alone are told of once.
            same = (kind, _NUMBER.sub("", reason))
            if line is None or not reason or reason in _SILENT or same in self._told:
                continue
            self._told.add(same)
            level, text = line
            message = f"{text.format(name=name)}: {reason}"
            LOGGER.log(level, message)
            self._show(message)
