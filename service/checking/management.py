"""Bindings. AMQP cannot list them; RabbitMQ's management HTTP API can, where it is reachable."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from service.checking.findings import Finding, Level
from service.settings import Settings
from service.topology import Queue

SUBJECT = "broker"
ANSWER_SECONDS = 3.0
LARGEST_ANSWER_BYTES = 4 * 1024 * 1024
BINDS_ITSELF = "the service binds its queues at every start; to see them here, "


class ManagementError(Exception):
    """The management API could not be asked. The message says why."""


@dataclass(frozen=True, slots=True)
class Management:
    """Where the management API is, and who asks."""

    secure: bool
    host: str
    port: int
    prefix: str
    user: str
    password: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: Settings) -> Management:
        """As MQ_MANAGEMENT_URL says; else the usual port of the broker's host, the same login."""
        broker = urlsplit(settings.broker)
        tls = settings.broker_tls()
        given = settings.mq_management_url
        guess = f"{'https' if tls else 'http'}://placeholder:{15671 if tls else 15672}"
        url = urlsplit(given.get_secret_value() if given else guess)
        secure = url.scheme == "https"
        login = url if url.username else broker
        return cls(
            secure=secure,
            host=(url.hostname if given else broker.hostname) or "localhost",
            port=url.port or (443 if secure else 80),
            prefix=url.path.rstrip("/"),
            user=unquote(login.username or "guest"),
            password=unquote(login.password or "guest"),
            tls=(tls or ssl.create_default_context(cafile=settings.mq_tls_ca)) if secure else None,
        )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def get(self, path: str) -> Any:
        """The answer, read from JSON. Blocks, each wait on the network for a few seconds at most.

        Raises:
            ManagementError: with the reason.
        """
        link = self._link()
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        try:
            link.request("GET", self.prefix + path, headers={"Authorization": f"Basic {login}"})
            answer = link.getresponse()
            body = answer.read(LARGEST_ANSWER_BYTES)
        except TimeoutError as error:
            raise ManagementError("it did not answer in time") from error
        except ConnectionRefusedError as error:
            raise ManagementError("nobody listens there") from error
        except (OSError, http.client.HTTPException) as error:
            raise ManagementError(str(error) or type(error).__name__) from error
        finally:
            link.close()
        if answer.status in {401, 403}:
            raise ManagementError("it refused the login: the user needs the tag `management`")
        try:
            if answer.status != http.client.OK:
                raise ManagementError(f"it answered with status {answer.status}")
            return json.loads(body)
        except ValueError as error:
            raise ManagementError("its answer is not of RabbitMQ's management") from error

    def _link(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_SECONDS)
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=ANSWER_SECONDS, context=self.tls
        )


async def check_bindings(
    settings: Settings, exchange: str, queues: Sequence[Queue], cluster: str
) -> list[Finding]:
    """One finding per queue, or one that says why they are not known.

    `cluster` is the name that the broker itself gave: what listens on the usual port of its host
    may be another broker's management.
    """
    try:
        management = Management.of(settings)
    except OSError as error:
        return [_unknown("MQ_TLS_CA", str(error))]
    vhost = quote(unquote(urlsplit(settings.broker).path[1:]) or "/", safe="")
    path = f"/api/exchanges/{vhost}/{quote(exchange, safe='')}/bindings/source"

    def ask() -> Any:
        overview = management.get("/api/overview")
        there = overview.get("cluster_name") if isinstance(overview, dict) else None
        if there != cluster:
            raise ManagementError(f"it belongs to another broker, {there}")
        return management.get(path)

    try:
        async with asyncio.timeout(3 * ANSWER_SECONDS):
            answer = await asyncio.to_thread(ask)
    except ManagementError as error:
        return [_unknown(management.address, str(error))]
    except TimeoutError:
        return [_unknown(management.address, "it did not answer in time")]
    bound = _bound(answer)
    return [_binding(queue, bound.get(queue.name, []), exchange) for queue in queues]


def _bound(answer: Any) -> dict[str, list[str]]:
    """Routing keys by queue."""
    keys: dict[str, list[str]] = {}
    for each in answer if isinstance(answer, list) else []:
        if isinstance(each, dict) and each.get("destination_type") == "queue":
            keys.setdefault(str(each.get("destination")), []).append(str(each.get("routing_key")))
    return keys


def _binding(queue: Queue, keys: list[str], exchange: str) -> Finding:
    name = f"binding {queue.name}"
    if queue.binding_key in keys:
        others = sorted(set(keys) - {queue.binding_key})
        more = f"; also to {', '.join(others)}" if others else ""
        found = f"{exchange} → {queue.binding_key}{more}"
        return Finding(SUBJECT, name, Level.OK, found)
    found = f"not bound to {exchange} with {queue.binding_key}"
    return Finding(SUBJECT, name, Level.WARNING, found, "done when the service starts")


def _unknown(where: str, why: str) -> Finding:
    found = f"management API {where}: {why}"
    advice = f"{BINDS_ITSELF}enable the plugin rabbitmq_management or set MQ_MANAGEMENT_URL"
    return Finding(SUBJECT, "bindings", Level.UNKNOWN, found, advice)
