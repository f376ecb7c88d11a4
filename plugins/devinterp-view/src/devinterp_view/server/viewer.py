"""What all requests to a viewer share, and how an answer that cannot be given is explained."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from devinterp.errors import DevinterpError, InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view.budget import Limits
from devinterp_view.recorded import recorded_task
from devinterp_view.server.cache import Cache
from devinterp_view.server.jobs import Jobs
from devinterp_view.server.opened import Library, Opened, StoreGoneError
from devinterp_view.text import name

_LOG = logging.getLogger("devinterp_view")
#: Bytes of all that is kept of what was computed.
CACHE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Viewer:
    """What all requests share.

    Parameters
    ----------
    library : Library
        The store.
    tokenizer : Tokenizer or None
        Decodes token ids.
    text_note : str
        What is to be known of the text of tokens.
    sampling_task : str or None
        The observable made of the data that runs were sampled on; None: as each run's notes say.
    limits : Limits
        How many candidates of a token are shown.
    cache : Cache
        What was computed.
    asked, background : Jobs
        What somebody waits for, and what fills a page; the second yields to the first.
    """

    library: Library
    tokenizer: Tokenizer | None = None
    text_note: str = ""
    sampling_task: str | None = None
    limits: Limits = field(default_factory=Limits)
    cache: Cache = field(default_factory=lambda: Cache(CACHE_BYTES))
    asked: Jobs = field(default_factory=Jobs)
    background: Jobs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "background", Jobs(1, yields_to=self.asked))

    def task_of(self, opened: Opened) -> str | None:
        """Return the observable made of the data that a run was sampled on, None where it is not known."""
        return self.sampling_task if self.sampling_task is not None else recorded_task(opened.subject.run)


def explained(viewer: Viewer, error: BaseException) -> tuple[int, str]:
    """Return the status and the text of an answer that cannot be given; never a traceback."""
    if not isinstance(error, StoreGoneError | InvalidInputError):
        try:
            viewer.library.check_there()  # whatever went wrong may have done so because the store is gone
        except StoreGoneError as gone:
            error = gone
        except DevinterpError:
            pass
    if isinstance(error, StoreGoneError):
        return 503, str(error)
    if isinstance(error, InvalidInputError):
        return 400, name(error, 600)
    if isinstance(error, DevinterpError):
        return 422, name(error, 600)
    _LOG.error("cannot answer", exc_info=error)
    return 500, f"This could not be computed ({type(error).__name__}); the terminal of `devinterp view` says more."
