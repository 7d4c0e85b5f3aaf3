"""The operators' page: the way of an order with its numbers, what came last, what went wrong.

It only reads, except that in front of the in-process broker it can send a test order.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from db.engine import Database
from service.config.settings import Settings
from service.observability import Metrics
from service.rabbitmq.broker import ServiceBroker
from service.web.console.sample_orders import SampleOrders
from service.web.console.snapshot import Snapshots
from service.web.health import Health

STATIC = files("service.web.console") / "static"
# Everything comes from here and nothing is inline, so text that came with a message cannot run.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def console_routes(
    settings: Settings,
    database: Database,
    broker: ServiceBroker,
    health: Health,
    metrics: Metrics,
) -> list[Route]:
    """The page, its parts and its data; with the in-process broker, the way to send to it too."""
    snapshots = Snapshots(settings, database, broker, health, metrics)
    routes = [
        Route("/", _to_console),
        _static("/console", "console.html", "text/html"),
        _static("/console/console.css", "console.css", "text/css"),
        _static("/console/console.js", "console.js", "text/javascript"),
        Route("/console/data.json", snapshots.data),
    ]
    if settings.embedded_broker:
        orders = SampleOrders(broker, settings.incoming_order_queue, sent=snapshots.expire)
        routes += [
            Route("/console/sample.json", orders.sample),
            Route("/console/send", orders.send, methods=["POST"]),
        ]
    return routes


async def _to_console(_: Request) -> Response:
    return RedirectResponse("console")


def _static(path: str, name: str, media_type: str) -> Route:
    content = (STATIC / name).read_bytes()

    async def asset(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=SECURITY_HEADERS)

    return Route(path, asset)
