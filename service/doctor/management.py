"""Bindings, policies and connections, as RabbitMQ's management HTTP API tells them."""

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

from service.config.settings import Settings
from service.doctor.findings import Finding, Level
from service.rabbitmq.compatibility import Found, Harm, queue_effects
from service.rabbitmq.topology import CONSUMER_NAME, Queue, Topology

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


async def check_management(
    settings: Settings, topology: Topology, queues: Sequence[Queue], cluster: str
) -> list[Finding]:
    """Bindings, policies and other services, which AMQP cannot list; or why they are unknown.

    Args:
        queues: those that are there.
        cluster: the name that the broker itself gave: what listens on the usual port of its host
            may be another broker's management.
    """
    try:
        management = Management.of(settings)
    except OSError as error:
        return [_unknown("MQ_TLS_CA", str(error))]
    vhost = quote(_vhost(settings), safe="")
    exchange = quote(topology.exchange, safe="")
    names = {queue.name for queue in queues}

    def ask() -> tuple[Any, Any, Any]:
        overview = management.get("/api/overview")
        there = overview.get("cluster_name") if isinstance(overview, dict) else None
        if there != cluster:
            raise ManagementError(f"it belongs to another broker, {there}")
        return (
            management.get(f"/api/exchanges/{vhost}/{exchange}/bindings/source"),
            management.get(f"/api/queues/{vhost}"),
            management.get("/api/connections"),
        )

    try:
        async with asyncio.timeout(5 * ANSWER_SECONDS):
            bindings, found, connections = await asyncio.to_thread(ask)
    except ManagementError as error:
        return [_unknown(management.address, str(error))]
    except TimeoutError:
        return [_unknown(management.address, "it did not answer in time")]
    bound = _bound(bindings)
    return [
        *(_binding(topology, queue, bound.get(queue.name, [])) for queue in queues),
        *(_policy(topology, each) for each in _objects(found) if each.get("name") in names),
        *(_neighbour(settings, name) for name in neighbours(settings, connections)),
    ]


async def find_neighbours(settings: Settings) -> list[str]:
    """The databases of other services in this vhost; empty if nobody can be asked."""
    try:
        management = Management.of(settings)
        async with asyncio.timeout(ANSWER_SECONDS):
            connections = await asyncio.to_thread(management.get, "/api/connections")
    except (OSError, ManagementError, TimeoutError):
        return []
    return neighbours(settings, connections)


def neighbours(settings: Settings, connections: Any) -> list[str]:
    """The databases of other services among the broker's connections, in this vhost."""
    found = set[str]()
    for each in _objects(connections):
        name = str(each.get("user_provided_name", ""))
        if each.get("vhost") == _vhost(settings) and name.startswith(CONSUMER_NAME):
            found.add(name.removeprefix(CONSUMER_NAME))
    return sorted(found - {settings.database_name})


def _objects(answer: Any) -> list[dict[str, Any]]:
    return [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []


def _vhost(settings: Settings) -> str:
    return unquote(urlsplit(settings.broker).path[1:]) or "/"


def _neighbour(settings: Settings, database: str) -> Finding:
    found = f"a service with the database {database} consumes in this vhost as well"
    advice = (
        f"give each a vhost, or queues and an exchange, of its own: else they take each other's \
orders and events (this one's database: {settings.database_name})"
    )
    return Finding(SUBJECT, "other services", Level.WARNING, found, advice)


def _policy(topology: Topology, found: dict[str, Any]) -> Finding:
    """What a policy changes about a queue of ours."""
    name = f"policy of {found['name']}"
    definition = found.get("effective_policy_definition")
    if not isinstance(definition, dict) or not definition:
        return Finding(SUBJECT, name, Level.OK, "none")
    arguments = found.get("arguments")
    plain = Found(arguments=dict(arguments) if isinstance(arguments, dict) else {})
    under = plain.under_policy(definition)
    before = queue_effects(topology, found["name"], plain)
    effects = [each for each in queue_effects(topology, found["name"], under) if each not in before]
    policies = [found.get(key) for key in ("policy", "operator_policy") if found.get(key)]
    told = f"{' and '.join(map(str, policies)) or 'some policy'}: {', '.join(sorted(definition))}"
    if not effects:
        return Finding(SUBJECT, name, Level.OK, told)
    broken = max(each.harm for each in effects) > Harm.LESS
    level = Level.WRONG if broken else Level.WARNING
    return Finding(SUBJECT, name, level, told, "; ".join(each.text for each in effects))


def _bound(answer: Any) -> dict[str, list[str]]:
    """Routing keys by queue."""
    keys: dict[str, list[str]] = {}
    for each in answer if isinstance(answer, list) else []:
        if isinstance(each, dict) and each.get("destination_type") == "queue":
            keys.setdefault(str(each.get("destination")), []).append(str(each.get("routing_key")))
    return keys


def _binding(topology: Topology, queue: Queue, keys: list[str]) -> Finding:
    name, exchange = f"binding {queue.name}", topology.exchange
    events = (topology.processed_key, topology.failed_key, topology.dead_letter_key)
    if queue.name == topology.incoming.name and (
        back := sorted(key for key in keys if any(_matches(key, event) for event in events))
    ):
        found = f"{exchange} → {', '.join(back)}: events come back as work"
        advice = "unbind it; each event that comes back adds a record that says so"
        return Finding(SUBJECT, name, Level.WRONG, found, advice)
    if queue.binding_key in keys:
        others = sorted(set(keys) - {queue.binding_key})
        more = f"; also to {', '.join(others)}" if others else ""
        found = f"{exchange} → {queue.binding_key}{more}"
        return Finding(SUBJECT, name, Level.OK, found)
    found = f"not bound to {exchange} with {queue.binding_key}"
    return Finding(SUBJECT, name, Level.WARNING, found, "done when the service starts")


def _matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange sends what has this key to a queue with this binding."""

    def match(words: list[str], parts: list[str]) -> bool:
        if not words:
            return not parts
        if words[0] == "#":
            return any(match(words[1:], parts[skipped:]) for skipped in range(len(parts) + 1))
        return bool(parts) and words[0] in {"*", parts[0]} and match(words[1:], parts[1:])

    return match(pattern.split("."), key.split("."))


def _unknown(where: str, why: str) -> Finding:
    found = f"management API {where}: {why}"
    advice = f"{BINDS_ITSELF}enable the plugin rabbitmq_management or set MQ_MANAGEMENT_URL"
    return Finding(SUBJECT, "bindings", Level.UNKNOWN, found, advice)
