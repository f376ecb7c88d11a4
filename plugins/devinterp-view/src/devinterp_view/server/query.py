"""What a request asks for: whole numbers and a run of the store."""

from __future__ import annotations

from starlette.requests import Request

from devinterp.errors import InvalidInputError
from devinterp_view.server.opened import ITSELF, Opened
from devinterp_view.server.viewer import Viewer


def integer(request: Request, key: str, default: int | None = None) -> int:
    """Return a whole number of the address.

    Raises
    ------
    InvalidInputError
        If it is none, or missing where there is no default.
    """
    text = request.query_params.get(key, "" if default is None else str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidInputError(f"`{key}` (={text!r:.80}) must be a whole number.")
    return int(text)


def optional_integer(request: Request, key: str) -> int | None:
    """Return a whole number of the address, None where it is not there."""
    return integer(request, key) if key in request.query_params else None


def open_run(viewer: Viewer, request: Request) -> Opened:
    """Return the run that is asked for; that of the store itself where none is named."""
    return viewer.library.open(request.query_params.get("run", ITSELF))
