"""One-line notes on what is done otherwise than a script may expect: each is said once, through Python's logging."""

from __future__ import annotations

import logging

#: ``logging.getLogger("devinterp").setLevel(logging.ERROR)`` silences the notes.
LOGGER = logging.getLogger("devinterp")
_SAID: set[str] = set()


def note_once(topic: str, text: str) -> None:
    """Log a note, once in a process for each topic."""
    if topic not in _SAID:
        _SAID.add(topic)
        LOGGER.warning(text)
