"""The contract for people and programs: a page, and the AsyncAPI document as JSON and YAML.

Everything the page loads is served here, so it works with no internet, and its
Content-Security-Policy lets it load nothing else.
"""

from __future__ import annotations

import hashlib
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faststream.asgi import AsgiFastStream
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from service.web.asyncapi.contract import ContractDocument

if TYPE_CHECKING:
    import os

    from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
VIEWER = "asyncapi-react-component"
# Every build of the viewer compiles JSON schemas to functions, hence 'unsafe-eval'; all scripts and
# the document they read are our own.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http%3A%2F%2Fwww.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%230f766e'/%3E"
    "%3Cpath d='M4 8h6m-2.5-3 3 3-3 3' stroke='%23fff' stroke-width='2' fill='none'/%3E%3C/svg%3E"
)
PAGE = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}: messages</title>
  <link rel="icon" href="{icon}">
  <link rel="stylesheet" href="{viewer_css}">
  <link rel="stylesheet" href="{page_css}">
</head>
<body>
  <nav aria-label="The same contract for programs">
    <a href="asyncapi.yaml">asyncapi.yaml</a>
    <a href="asyncapi.json">asyncapi.json</a>
  </nav>
  <main id="asyncapi" data-document="asyncapi.json">
    <p class="waiting">Loading the contract. Without JavaScript, read it as
      <a href="asyncapi.yaml">YAML</a> or <a href="asyncapi.json">JSON</a>.</p>
  </main>
  <script src="{viewer_js}"></script>
  <script src="{page_js}"></script>
</body>
</html>
"""


def document_routes(app: AsgiFastStream, server: dict[str, Any] | None) -> list[BaseRoute]:
    """`/docs/asyncapi` (also `.json` and `.yaml`) and the files the page needs.

    Args:
        server: this deployment's, as an AsyncAPI server object; None: as in the committed file.

    The documents are made here and now: once an in-process broker runs, FastStream's own helpers
    are among its subscribers, and a document would have them too.
    """
    contract = app.schema.to_specification()
    if server is not None and isinstance(contract, ContractDocument):
        contract = contract.on(server)
    page = PAGE.format(
        title=escape(contract.title),
        icon=ICON,
        viewer_css=_asset(f"{VIEWER}/default.min.css"),
        viewer_js=_asset(f"{VIEWER}/index.js"),
        page_css=_asset("page.css"),
        page_js=_asset("page.js"),
    )
    return [
        _document("/docs/asyncapi", page, "text/html", {"content-security-policy": POLICY}),
        _document("/docs/asyncapi.json", contract.to_json(), "application/json"),
        _document("/docs/asyncapi.yaml", contract.to_yaml(), "application/yaml"),
        Mount("/docs/static", _Assets(directory=STATIC)),
    ]


class _Assets(StaticFiles):
    """Files whose URL on the page changes when they do, so a browser may keep them."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if isinstance(response, FileResponse):
            response.headers["x-content-type-options"] = "nosniff"
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def _asset(path: str) -> str:
    """Relative, so that the page also works below a prefix."""
    return f"static/{path}?v={hashlib.sha256((STATIC / path).read_bytes()).hexdigest()[:12]}"


def _document(
    path: str, text: str, media_type: str, more_headers: dict[str, str] | None = None
) -> Route:
    body = text.encode()
    headers = {
        # Asked again each time, and not sent again while it is the same.
        "cache-control": "no-cache",
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        **(more_headers or {}),
    }

    async def document(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)

    return Route(path, document)
