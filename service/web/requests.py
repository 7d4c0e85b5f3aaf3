"""What every request passes, and every answer: checks of the head, and headers on what goes out."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.config.hosts import Hosts, host_of

MAX_HEAD_BYTES = 16 * 1024


class Gate:
    """An ASGI application in front of another one.

    A refusal is a fixed text: it repeats nothing of the request. Every answer tells browsers not to
    guess its type, and, where the route says nothing else, not to keep it.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._refusal(Headers(scope=scope)) or self._app
        await answer(scope, receive, send_marked)

    def _refusal(self, headers: Headers) -> Response | None:
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy may have taken the other one for the end of the request.
            return _refused(400, "A request has one length: Content-Length or Transfer-Encoding.")
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEAD_BYTES:
            return _refused(431, "The headers of a request have 16 KiB at most.")
        hosts = headers.getlist("host")
        host = host_of(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return _refused(400, "A request has one Host header: a name or an address.")
        if not self._hosts.accept(host):
            return _refused(403, "The service is not asked for by this name: see WEB_HOSTS.")
        return None


def _refused(status: int, why: str) -> Response:
    # What follows on this connection may be the rest of this request.
    return PlainTextResponse(f"{why}\n", status, headers={"connection": "close"})
