"""Numbers that are computed when they are asked for: a line of JSON for each piece of news, the answer last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from devinterp.errors import InvalidInputError
from devinterp_view.job import Job, Progress, Stopped
from devinterp_view.server import answers, places
from devinterp_view.server.opened import Opened
from devinterp_view.server.query import integer, open_run, optional_integer
from devinterp_view.server.run_page import PARTS, brief, part, restriction_of
from devinterp_view.server.search import search
from devinterp_view.server.viewer import Viewer, explained
from devinterp_view.text import embedded


@dataclass(frozen=True)
class Work:
    """What is computed for a request.

    Parameters
    ----------
    key : tuple
        What tells it apart from others of this address and run.
    opened : Opened
        The run.
    compute : callable
        Computes it, given the job.
    is_background : bool, default: False
        Whether it waits while something that somebody asked for is computed.
    """

    key: tuple[Hashable, ...]
    opened: Opened
    compute: Callable[[Job], dict[str, Any]]
    is_background: bool = False


def stream(viewer: Viewer, prepare: Callable[[Viewer, Request], Work]) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers an address, given what prepares the work for a request."""

    async def respond(request: Request) -> Response:
        return StreamingResponse(_lines(viewer, prepare, request), media_type="application/x-ndjson")

    return respond


async def _lines(viewer: Viewer, prepare: Callable[[Viewer, Request], Work], request: Request) -> AsyncIterator[str]:
    try:
        work = await asyncio.to_thread(prepare, viewer, request)
        key = (prepare.__name__, work.opened.path, work.opened.stamp, *work.key)
        kept: str | None = viewer.cache.get(key)
        if kept is not None:
            yield kept
            return
        jobs = viewer.background if work.is_background else viewer.asked
        async for news in jobs.follow(key, work.compute):
            if isinstance(news, Progress):
                yield _line({"progress": news.text, "share": round(news.share, 4)})
            elif isinstance(news, Future):
                line = _line({"result": news.result()})
                if await asyncio.to_thread(viewer.library.check, work.opened):
                    viewer.cache.put(key, line, len(line))
                yield line
            elif news:
                yield _line({"pieces": news})
    except Stopped:
        yield _line({"error": "stopped"})
    except Exception as error:
        status, text = await asyncio.to_thread(explained, viewer, error)
        yield _line({"error": text, "gone": status == 503})


def _line(value: dict[str, Any]) -> str:
    return embedded(value) + "\n"


def _part(viewer: Viewer, request: Request) -> Work:
    opened, which = open_run(viewer, request), request.query_params.get("name", "")
    if which not in PARTS:
        raise InvalidInputError(f"`name` (={which!r:.80}) must be one of {', '.join(PARTS)}.")
    task = viewer.task_of(opened)
    return Work((which, task), opened, lambda job: part(opened, which, task, viewer.cache), is_background=True)


def _brief(viewer: Viewer, request: Request) -> Work:
    opened = open_run(viewer, request)
    return Work((), opened, lambda job: brief(opened, viewer.cache), is_background=True)


def _layer(viewer: Viewer, request: Request) -> Work:
    opened, kind = open_run(viewer, request), request.query_params.get("kind", "")
    observable, number = integer(request, "observable"), integer(request, "page")
    restriction = opened.subject.restriction_number(integer(request, "restriction"))
    passages = places.passages_of(opened.subject, observable, number, None)
    task = viewer.task_of(opened)
    return Work(
        (kind, observable, number, restriction, task),
        opened,
        lambda job: answers.layer(opened, passages, kind, restriction, task),
    )


def _influence(viewer: Viewer, request: Request) -> Work:
    opened = open_run(viewer, request)
    place = places.Place(*(integer(request, key) for key in ("observable", "sequence", "token")))
    places.check_place(opened.subject, place)
    restriction = opened.subject.restrictions[restriction_of(opened.subject, optional_integer(request, "restriction"))]
    return Work(
        (place, restriction),
        opened,
        lambda job: answers.influence(
            opened,
            place,
            places.passage_of(opened.subject, place),
            restriction,
            viewer.tokenizer,
            viewer.limits,
            viewer.cache,
            job.pieces.append,
        ),
    )


def _search(viewer: Viewer, request: Request) -> Work:
    opened, wanted = open_run(viewer, request), request.query_params.get("text", "")

    def compute(job: Job) -> dict[str, Any]:
        hits: list[dict[str, Any]] = []

        def hand_out(hit: dict[str, Any]) -> None:
            hits.append(hit)
            job.pieces.append(hit)

        result = search(opened, wanted, viewer.tokenizer, tell=job.tell, hand_out=hand_out)
        return {**result, "hits": hits}

    return Work((wanted,), opened, compute)


#: What can be asked for, by its address.
STREAMS = {"part": _part, "layer": _layer, "influence": _influence, "search": _search, "brief": _brief}
