"""Who may ask: whoever has the address that was printed, through a name of this machine, and only to read."""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Names under which a browser on this machine reaches the server. Under any other, a page from elsewhere has had its own name
#: point here.
HOSTS = ("127.0.0.1", "localhost")
#: What every answer says.
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
#: What answers that are no page say.
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"


class Guard:
    """Lets requests through that have the token, a known host and a method that changes nothing.

    Parameters
    ----------
    app : callable
        The application behind it.
    token : str
        First part of every path.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers[key] = value
                headers.setdefault("Content-Security-Policy", NOTHING_RUNS)
            await send(message)

        refused = self._refused(scope)
        await (refused or self._app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> PlainTextResponse | None:
        host = Headers(scope=scope).get("host", "")
        name, _, port = host.partition(":")
        if name not in HOSTS or not (port.isdecimal() or host == name):
            return PlainTextResponse(f"This server answers to {' and '.join(HOSTS)} only.\n", 421)
        first = scope["path"].lstrip("/").partition("/")[0].encode("utf-8", "surrogatepass")
        if not secrets.compare_digest(first, self._token):
            return PlainTextResponse("The address lacks the token that `devinterp view` printed.\n", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Nothing can be changed here.\n", 405, {"Allow": "GET, HEAD"})
        return None
