"""The application: which address gives which page or which numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import dask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from devinterp_view.html import view_policy
from devinterp_view.job import scheduler
from devinterp_view.server.guard import Guard
from devinterp_view.server.opened import ITSELF
from devinterp_view.server.problem_page import problem_page
from devinterp_view.server.query import integer, open_run, optional_integer
from devinterp_view.server.run_list import run_list
from devinterp_view.server.run_page import RUN, RUNS, run_page
from devinterp_view.server.streams import STREAMS, stream
from devinterp_view.server.viewer import Viewer, explained


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
    states = {"state": _state, "states": _states}
    routes = [Route(f"/{token}/{path}", _page(viewer, make)) for path, make in pages.items()]
    routes += [Route(f"/{token}/{path}", stream(viewer, prepare)) for path, prepare in STREAMS.items()]
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


# Pages.


def _page(viewer: Viewer, make: Callable[[Viewer, Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            return await asyncio.to_thread(make, viewer, request)
        except Exception as error:
            status, text = await asyncio.to_thread(explained, viewer, error)
            return HTMLResponse(problem_page(text, viewer.library.name), status, _policy(RUNS))

    return respond


def _list(viewer: Viewer, request: Request) -> Response:
    if set(viewer.library.table().runs) == {ITSELF}:
        return RedirectResponse(f"run?{urlencode({'run': ITSELF})}", 307)
    return HTMLResponse(run_list(viewer.library), headers=_policy(RUNS))


def _run(viewer: Viewer, request: Request) -> Response:
    html = run_page(
        open_run(viewer, request),
        integer(request, "observable", 0),
        integer(request, "page", 0),
        optional_integer(request, "restriction"),
        tokenizer=viewer.tokenizer,
        source=viewer.library.name,
        text_note=viewer.text_note,
    )
    return HTMLResponse(html, headers=_policy(RUN))


def _policy(scripts: tuple[str, ...]) -> dict[str, str]:
    return {"Content-Security-Policy": view_policy(scripts)}


# How far runs are.


def _json(viewer: Viewer, make: Callable[[Viewer, Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            return JSONResponse(await asyncio.to_thread(make, viewer, request))
        except Exception as error:
            status, text = await asyncio.to_thread(explained, viewer, error)
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
