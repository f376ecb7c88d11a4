"""The application: which address gives which page or which numbers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import dask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from devinterp.errors import DevinterpError, InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view.budget import Limits
from devinterp_view.html import view_policy
from devinterp_view.recorded import recorded_task
from devinterp_view.server import answers
from devinterp_view.server.cache import Cache
from devinterp_view.server.guard import Guard
from devinterp_view.server.jobs import Job, Jobs, Progress, Stopped, scheduler
from devinterp_view.server.opened import ITSELF, Library, Opened, StoreGoneError
from devinterp_view.server.problem_page import problem_page
from devinterp_view.server.run_list import run_list
from devinterp_view.server.run_page import PARTS, RUN, RUNS, brief, part, restriction_of, run_page
from devinterp_view.server.search import search
from devinterp_view.text import embedded, name

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


def make_app(viewer: Viewer, token: str) -> Starlette:
    """Return the application.

    Parameters
    ----------
    viewer : Viewer
        What it shows.
    token : str
        First part of the path of every address; whoever knows it may look.
    """
    pages = {"": _list, "run": _run}
    streams = {"part": _part, "layer": _layer, "influence": _influence, "search": _search, "brief": _brief}
    states = {"state": _state, "states": _states}
    routes = [Route(f"/{token}/{path}", _page(viewer, make)) for path, make in pages.items()]
    routes += [Route(f"/{token}/{path}", _stream(viewer, prepare)) for path, prepare in streams.items()]
    routes += [Route(f"/{token}/{path}", _json(viewer, make)) for path, make in states.items()]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with dask.config.set(scheduler=scheduler):
            yield
        viewer.asked.close()
        viewer.background.close()

    app = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Guard, token=token)])
    app.router.redirect_slashes = False
    return app


def _integer(request: Request, key: str, default: int | None = None) -> int:
    text = request.query_params.get(key, "" if default is None else str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidInputError(f"`{key}` (={text!r:.80}) must be a whole number.")
    return int(text)


def _optional(request: Request, key: str) -> int | None:
    return _integer(request, key) if key in request.query_params else None


def _open(viewer: Viewer, request: Request) -> Opened:
    return viewer.library.open(request.query_params.get("run", ITSELF))


# Pages.


def _page(viewer: Viewer, make: Callable[[Viewer, Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            return await asyncio.to_thread(make, viewer, request)
        except Exception as error:
            status, text = await asyncio.to_thread(_explained, viewer, error)
            return HTMLResponse(problem_page(text, viewer.library.name), status, _policy(RUNS))

    return respond


def _list(viewer: Viewer, request: Request) -> Response:
    if set(viewer.library.table().runs) == {ITSELF}:
        return RedirectResponse(f"run?{urlencode({'run': ITSELF})}", 307)
    return HTMLResponse(run_list(viewer.library), headers=_policy(RUNS))


def _run(viewer: Viewer, request: Request) -> Response:
    html = run_page(
        _open(viewer, request),
        _integer(request, "observable", 0),
        _integer(request, "page", 0),
        _optional(request, "restriction"),
        tokenizer=viewer.tokenizer,
        source=viewer.library.name,
        text_note=viewer.text_note,
    )
    return HTMLResponse(html, headers=_policy(RUN))


def _policy(scripts: tuple[str, ...]) -> dict[str, str]:
    return {"Content-Security-Policy": view_policy(scripts)}


def _explained(viewer: Viewer, error: BaseException) -> tuple[int, str]:
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


# Numbers: a line of JSON for each piece of news, the answer last.


@dataclass(frozen=True)
class _Work:
    """What is computed for a request: its key among all that is kept, the run, and the computation."""

    key: tuple[Hashable, ...]
    opened: Opened
    compute: Callable[[Job], dict[str, Any]]
    is_background: bool = False


def _stream(viewer: Viewer, prepare: Callable[[Viewer, Request], _Work]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        return StreamingResponse(_lines(viewer, prepare, request), media_type="application/x-ndjson")

    return respond


async def _lines(viewer: Viewer, prepare: Callable[[Viewer, Request], _Work], request: Request) -> AsyncIterator[str]:
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
                yield _line({"hits": news})
    except Stopped:
        yield _line({"error": "stopped"})
    except Exception as error:
        status, text = await asyncio.to_thread(_explained, viewer, error)
        yield _line({"error": text, "gone": status == 503})


def _line(value: dict[str, Any]) -> str:
    return embedded(value) + "\n"


def _part(viewer: Viewer, request: Request) -> _Work:
    opened, which = _open(viewer, request), request.query_params.get("name", "")
    if which not in PARTS:
        raise InvalidInputError(f"`name` (={which!r:.80}) must be one of {', '.join(PARTS)}.")
    task = viewer.task_of(opened)
    return _Work((which, task), opened, lambda job: part(opened, which, task, viewer.cache), is_background=True)


def _brief(viewer: Viewer, request: Request) -> _Work:
    opened = _open(viewer, request)
    return _Work((), opened, lambda job: brief(opened, viewer.cache), is_background=True)


def _layer(viewer: Viewer, request: Request) -> _Work:
    opened, kind = _open(viewer, request), request.query_params.get("kind", "")
    observable, number = _integer(request, "observable"), _integer(request, "page")
    restriction = opened.subject.restriction_number(_integer(request, "restriction"))
    passages = answers.passages_of(opened.subject, observable, number, None)
    task = viewer.task_of(opened)
    return _Work(
        (kind, observable, number, restriction, task),
        opened,
        lambda job: answers.layer(opened, passages, kind, restriction, task),
    )


def _influence(viewer: Viewer, request: Request) -> _Work:
    opened = _open(viewer, request)
    place = answers.Place(*(_integer(request, key) for key in ("observable", "sequence", "token")))
    answers.check_place(opened.subject, place)
    restriction = opened.subject.restrictions[restriction_of(opened.subject, _optional(request, "restriction"))]
    return _Work(
        (place, restriction),
        opened,
        lambda job: answers.influence(
            opened,
            place,
            answers.passage_of(opened.subject, place),
            restriction,
            viewer.tokenizer,
            viewer.limits,
            viewer.cache,
            job.hits.append,
        ),
    )


def _search(viewer: Viewer, request: Request) -> _Work:
    opened, wanted = _open(viewer, request), request.query_params.get("text", "")

    def compute(job: Job) -> dict[str, Any]:
        hits: list[dict[str, Any]] = []

        def hand_out(hit: dict[str, Any]) -> None:
            hits.append(hit)
            job.hits.append(hit)

        result = search(opened, wanted, viewer.tokenizer, tell=job.tell, hand_out=hand_out)
        return {**result, "hits": hits}

    return _Work((wanted,), opened, compute)


# How far runs are.


def _json(viewer: Viewer, make: Callable[[Viewer, Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            return JSONResponse(await asyncio.to_thread(make, viewer, request))
        except Exception as error:
            status, text = await asyncio.to_thread(_explained, viewer, error)
            # Not as a failed request: browsers would report an error where the page says what happened.
            return JSONResponse({"error": text, "gone": status == 503})

    return respond


def _state(viewer: Viewer, request: Request) -> dict[str, Any]:
    path = request.query_params.get("run", ITSELF)
    # The stamp first: a state that is newer than its stamp is asked for again, one that is older would stay.
    stamp = viewer.library.stamp(path)
    return {**viewer.library.state(path), "stamp": stamp}


def _states(viewer: Viewer, request: Request) -> dict[str, Any]:
    return {"runs": [{"path": path, **viewer.library.state(path)} for path in viewer.library.table().runs]}
