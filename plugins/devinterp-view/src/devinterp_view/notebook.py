"""The page of a report as a widget, whose kernel may look in all data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anywidget
import traitlets
import xarray as xr

from devinterp import arguments
from devinterp.errors import DevinterpError, InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view.budget import Limits
from devinterp_view.html import NOTEBOOK, read
from devinterp_view.job import Job, Progress, Stopped, at_work
from devinterp_view.recorded import recorded_task
from devinterp_view.report import render
from devinterp_view.server import answers, places
from devinterp_view.server.cache import Cache
from devinterp_view.server.opened import ITSELF, Opened
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: Bytes of the strongest candidates that are kept.
_CACHE_BYTES = 32 * 2**20
#: Seconds between two words on how far an answer is.
_TELL = 0.2


class Explorer(anywidget.AnyWidget):
    """A run in a notebook.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    tokenizer : Tokenizer, optional
        Decodes token ids.
    restriction, sampling_task : str, optional
        As for `devinterp_view.report.render`.
    height : int, default: 720
        In pixels of the screen, from 100 to 10,000.
    **options
        Passed to `devinterp_view.report.render`.
    """

    _esm = read("explorer.mjs")
    html = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(720).tag(sync=True)

    def __init__(
        self,
        tree: xr.DataTree,
        *,
        tokenizer: Tokenizer | None = None,
        restriction: str | None = None,
        sampling_task: str | None = None,
        height: int = 720,
        **options: Any,
    ) -> None:
        if arguments.count("height", height, least=100) > 10_000:
            raise InvalidInputError(f"`height` (={height}) must be 100 to 10,000 pixels.")
        subject = Subject.of(tree, needed_by="view")
        html = render(
            tree,
            tokenizer=tokenizer,
            restriction=restriction,
            sampling_task=sampling_task if sampling_task is not None else recorded_task(subject.run),
            scripts=NOTEBOOK,
            **options,
        )
        super().__init__(html=html, height=height)
        self._opened, self._tokenizer = Opened(ITSELF, subject, ""), tokenizer
        self._restriction = subject.restriction_of_influences(restriction)
        self._cache, self._thread = Cache(_CACHE_BYTES), ThreadPoolExecutor(1, thread_name_prefix="devinterp-view")
        self._jobs: dict[Any, Job] = {}
        self.on_msg(self._receive)

    def _receive(self, widget: Any, content: Any, buffers: Any) -> None:
        """Answer the page: that somebody is here, what moves with a token in all data, or that nobody waits for it any more."""
        kind, asked = (content.get("kind"), content.get("id")) if isinstance(content, dict) else (None, None)
        if kind == "hello":
            self.send({"kind": "alive"})
        elif kind == "influence" and isinstance(asked, int):
            job = self._jobs[asked] = Job(told=_sparing(partial(self._tell, asked)))
            # In a thread, so that cells can run meanwhile.
            self._thread.submit(self._work, job, content)
        elif kind == "stop" and asked in self._jobs:
            self._jobs[asked].stop()

    def _tell(self, asked: int, progress: Progress) -> None:
        self.send({"kind": "progress", "id": asked, "text": progress.text, "share": progress.share})

    def _work(self, job: Job, asked: dict[str, Any]) -> None:
        try:
            with at_work(job):
                job.tell("at work", 0.0)
                self.send(
                    self.answer(asked, lambda part: self.send({"kind": "part", "id": asked["id"], "answer": part}))
                )
        except Stopped:
            pass  # the page has said so
        finally:
            self._jobs.pop(asked["id"], None)

    def answer(self, asked: dict[str, Any], hand_out: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Return what moves with a token in all data, or why it cannot be said, as the page understands it.

        Parameters
        ----------
        asked : dict
            ``id`` of the question, and the numbers of the ``observable``, its ``sequence`` and its ``token``.
        hand_out : callable, optional
            Is given the answer without the errors of the strongest, as soon as it is known.
        """
        reply = {"kind": "answer", "id": asked.get("id")}
        try:
            numbers = [each for each in map(asked.get, ("observable", "sequence", "token")) if isinstance(each, int)]
            if len(numbers) != 3:
                raise InvalidInputError(f"a token is three whole numbers; got {asked!r:.200}.")
            place, subject = places.Place(*numbers), self._opened.subject
            places.check_place(subject, place)
            passage = places.passage_of(subject, place)
            made = answers.influence(
                self._opened, place, passage, self._restriction, self._tokenizer, Limits(), self._cache, hand_out
            )
            return {**reply, "answer": made}
        except DevinterpError as error:
            return {**reply, "error": name(error, 600)}


def _sparing(tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return the same at most a few times a second."""
    last = -math.inf

    def told(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _TELL:
            last = now
            tell(progress)

    return told
