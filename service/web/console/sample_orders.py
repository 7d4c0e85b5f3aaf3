"""Test orders to the in-process broker, which nobody outside of this process can reach."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from service.driver_errors import explain_database
from service.observability import Action, log
from service.outbox.envelope import new_id
from service.rabbitmq.broker import ServiceBroker
from service.sender import sample_lines

# Above what an order may have (256 KiB), so that a body that is too large can be tried as well.
MAX_SENT_BYTES = 1024 * 1024
SEND_SECONDS = 15.0
# Of this many samples the shortest is offered: it is read by a person.
SAMPLES = 12


class SampleOrders:
    """Offers a plausible order, and publishes what was made of it, valid or not."""

    def __init__(self, broker: ServiceBroker, queue: str, *, sent: Callable[[], None]) -> None:
        self._broker = broker
        self._queue = queue
        self._sent = sent

    async def sample(self, _: Request) -> Response:
        order = min(sample_lines(SAMPLES), key=len)
        headers = {"cache-control": "no-store"}
        return Response(order, media_type="application/json", headers=headers)

    async def send(self, request: Request) -> Response:
        """Publish the body as it is, and answer once its message was decided and stored."""
        if not _same_origin(request):
            return _refused(403, "Test orders are sent from the console's own page.")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _refused(415, "The content type must be application/json.")
        try:
            body = await _read(request)
        except ClientDisconnect:
            return _refused(400, "The body ended before it was whole.")
        if body is None:
            return _refused(413, f"At most {MAX_SENT_BYTES:,} bytes can be sent.")
        message_id = new_id()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._broker.publish(
                    body,
                    queue=self._queue,
                    message_id=message_id,
                    content_type="application/json",
                    message_type="OrderCreated",
                )
        except Exception as error:  # noqa: BLE001 - this broker raises whatever a handler raised
            why = explain_database(error)
            log(Action.MESSAGE_FAILED, logging.ERROR, error=type(error).__name__, why=why)
            return _refused(503, f"It may not be stored: {why}. Sending it again is safe.")
        finally:
            self._sent()
        return JSONResponse({"messageId": message_id}, 202)


def _same_origin(request: Request) -> bool:
    """Whether a page of this very origin sends this, or no page at all.

    Browsers say where a request comes from and let no page change that.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origins = [origin.lower() for origin in request.headers.getlist("origin")]
    own = request.headers.get("host", "").lower()
    return site == "same-origin" and origins in ([], [f"http://{own}"], [f"https://{own}"])


async def _read(request: Request) -> bytes | None:
    """The body; None where it is larger than may be sent."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_SENT_BYTES:
            return None
    return bytes(body)


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
