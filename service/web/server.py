"""What uvicorn is told, however FastStream starts it.

`faststream run` hands the options of its command line to uvicorn as texts, in one place for a
single process and in another for `--workers`. Both make a `uvicorn.Config`, after they have
imported the application.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import uvicorn
from pydantic import TypeAdapter, ValidationError

from service.web.connections import BoundedConnection, Limits

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

# Of the files that a process may have open, connections to the web port take this part at most.
WEB_SHARE = 0.5
# Connections that wait in the kernel: what is taken in at once is open before anything is cut.
BACKLOG = 128
# Then the parts behind the web port end, which have a deadline of their own.
GRACEFUL_SECONDS = 5

_KINDS: dict[str, Any] = {"int": int, "float": float, "bool": bool}
_plain_init = uvicorn.Config.__init__
_annotations = {
    name: str(parameter.annotation).removesuffix(" | None")
    for name, parameter in inspect.signature(uvicorn.Config).parameters.items()
}


def serve_with(limits: Limits) -> None:
    """Have uvicorn keep these limits, in this process and in the workers that it starts."""
    BoundedConnection.limits = Limits(min(limits.most, _bearable()), limits.exchange_seconds)
    uvicorn.Config.__init__ = _init  # type: ignore[method-assign]


@functools.wraps(_plain_init)
def _init(self: uvicorn.Config, *arguments: Any, **options: Any) -> None:
    ours = {"http": BoundedConnection, "http2": False, "ws": "none"}
    defaults = {"backlog": BACKLOG, "timeout_graceful_shutdown": GRACEFUL_SECONDS}
    _plain_init(self, *arguments, **defaults | typed(options) | ours)


def typed(options: dict[str, Any]) -> dict[str, Any]:
    """The options with numbers and switches made of texts.

    Raises:
        SystemExit: with a sentence, where a text is none.
    """
    return {name: _typed(name, value) for name, value in options.items()}


def _typed(name: str, value: Any) -> Any:
    kind = _annotations.get(name)
    if kind not in _KINDS or type(value) is _KINDS[kind] or value is None:
        return value
    try:
        return TypeAdapter(_KINDS[kind]).validate_python(None if value is True else value)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise SystemExit(f"--{name.replace('_', '-')}: {why}") from None


def _bearable() -> int:
    if resource is None:
        return 2**31
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else max(8, int(soft * WEB_SHARE))
