"""Looking at RabbitMQ as the service would use it. Declares nothing that is not there already."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aio_pika.exceptions import (
    AMQPError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from service.config.settings import Settings
from service.doctor import management, refusals
from service.doctor.findings import Finding, Level
from service.rabbitmq.compatibility import (
    Difference,
    Found,
    Harm,
    difference_of,
    refusal_of,
)
from service.rabbitmq.connection import LINK_FAILURES, loss_as_error
from service.rabbitmq.declaration import (
    Learned,
    declare_exchange,
    declare_queue,
    learn,
    server_properties,
)
from service.rabbitmq.topology import Queue, Topology

BROKER = "broker"
ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 2.0
NOT_THERE = "not there: made when the service starts"
OLDEST_TESTED = (3, 10)


async def check_broker(settings: Settings) -> list[Finding]:
    """Never longer than the connect timeout, and then some seconds for each question."""
    if settings.embedded_broker:
        found = "in this process: for trying out, messages end with it"
        return [_finding("kind", Level.OK, found)]
    with refusals.silent_driver():
        try:
            connection = await _connect(settings)
        except LINK_FAILURES as error:
            return _no_connection(settings, error)
        findings = _connected(settings, connection)
        try:
            with loss_as_error():
                findings += await _look(settings, connection)
        except LINK_FAILURES as error:
            why = refusals.explain(error)
            findings.append(_finding("stopped answering", Level.WRONG, why))
        finally:
            with contextlib.suppress(*LINK_FAILURES):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()
    return findings


async def _connect(settings: Settings) -> AbstractConnection:
    seconds = settings.mq_connect_timeout_seconds
    async with asyncio.timeout(seconds):
        with loss_as_error():
            return await aio_pika.connect(
                settings.broker, timeout=seconds, ssl_context=settings.broker_tls()
            )


def _connected(settings: Settings, connection: AbstractConnection) -> list[Finding]:
    tls = "without TLS" if settings.broker_tls() is None else "TLS, certificate verified"
    version = str(server_properties(connection).get("version", ""))
    product = str(server_properties(connection).get("product", "unknown"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    tested = ".".join(str(part) for part in OLDEST_TESTED)
    old = product == "RabbitMQ" and numbers < OLDEST_TESTED
    advice = f"older than what this service is tested with: {tested}" if old else ""
    level = Level.WARNING if old else Level.OK
    return [
        _finding("reachable", Level.OK, _address(settings)),
        _finding("login", Level.OK, f"as {_user(settings)}, {tls}"),
        _finding("vhost", Level.OK, _vhost(settings)),
        _finding("version", level, f"{product} {version}", advice),
    ]


async def _look(settings: Settings, connection: AbstractConnection) -> list[Finding]:
    topology = Topology.of(settings)
    exchange = await _exchange(connection, topology)
    # One after the other: a refusal closes its channel, and the broker's word has one owner.
    queues = [(queue, await _queue(connection, topology, queue)) for queue in topology.queues]
    findings = [exchange, *(finding for _, finding in queues)]
    there = [queue for queue, finding in queues if finding.found != NOT_THERE]
    if exchange.found == NOT_THERE or not there:
        return findings
    cluster = str(server_properties(connection).get("cluster_name", ""))
    return findings + await management.check_management(settings, topology, there, cluster)


async def _exchange(connection: AbstractConnection, topology: Topology) -> Finding:
    name = f"exchange {topology.exchange}"
    refused = await _ask(connection, lambda channel: channel.get_exchange(topology.exchange))
    if isinstance(refused, ChannelNotFoundEntity):
        return _missing(name)
    if refused is not None:
        return _finding(name, Level.UNKNOWN, refusals.explain(refused))
    try:
        words, found = await _learn(
            connection, lambda found: declare_exchange(topology.exchange, found), Found()
        )
    except ChannelAccessRefused:
        text = "there; its type is not told to a user without the right to configure"
        return _finding(name, Level.UNKNOWN, text)
    if words is None:
        return _finding(name, Level.OK, "topic, durable")
    return _different(
        topology, difference_of(topology, "exchange", topology.exchange, words, found)
    )


async def _queue(connection: AbstractConnection, topology: Topology, queue: Queue) -> Finding:
    name = f"queue {queue.name}"
    there: list[AbstractQueue] = []

    async def look(channel: AbstractChannel) -> None:
        there.append(await channel.declare_queue(queue.name, passive=True))

    match await _ask(connection, look):
        case None:
            pass
        case ChannelNotFoundEntity():
            return _missing(name)
        case ChannelLockedResource():
            text = "another connection holds it for itself alone (exclusive)"
            return _finding(name, Level.WRONG, text, "end that one, or name another queue")
        case error:
            return _finding(name, Level.UNKNOWN, refusals.explain(error))
    counts = there[0].declaration_result
    traffic = f"{counts.message_count} ready, {counts.consumer_count} consuming"
    try:
        words, found = await _learn(
            connection,
            lambda found: declare_queue(queue.name, found),
            Found(arguments=queue.arguments),
        )
    except ChannelAccessRefused:
        text = f"there; its type is not told to a user without the right to configure; {traffic}"
        return _finding(name, Level.UNKNOWN, text)
    if words is None:
        return _finding(name, Level.OK, f"quorum as declared, {traffic}")
    found = found.by(str(server_properties(connection).get("version", "")))
    return _different(topology, difference_of(topology, "queue", queue.name, words, found), traffic)


async def _learn(
    connection: AbstractConnection,
    declare: Callable[[Found], Callable[[AbstractChannel], Awaitable[Any]]],
    expected: Found,
) -> Learned:
    """Declare what is there: equal changes nothing, different is refused in words.

    Raises:
        ChannelAccessRefused: the user lacks the configure permission.
    """

    async def ask(found: Found) -> str | None:
        refused = await _ask(connection, declare(found))
        if refused is None or isinstance(refused, ChannelPreconditionFailed):
            return str(refused) if refused else None
        raise refused

    return await learn(ask, expected)


def _different(topology: Topology, difference: Difference, traffic: str = "") -> Finding:
    name = f"{difference.kind} {difference.name}"
    words = refusals.without_name(difference.words)
    found = f"{words}; {traffic}" if traffic else words
    match difference.harm:
        case Harm.REFUSED:
            refusal = refusal_of(difference)
            return _finding(name, Level.WRONG, found, f"the service does not start: {refusal}")
        case Harm.BROKEN:
            return _finding(name, Level.WRONG, found, difference.lost)
        case _:
            advice = f"used as it is; what is lost: {difference.lost}"
            return _finding(name, Level.WARNING, found, advice)


async def _ask(
    connection: AbstractConnection, question: Callable[[AbstractChannel], Awaitable[Any]]
) -> AMQPError | None:
    """Ask on a channel of its own, which the broker closes when it refuses; returns its refusal."""
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            async with connection.channel(publisher_confirms=False) as channel:
                await question(channel)
        except (
            ChannelAccessRefused,
            ChannelLockedResource,
            ChannelNotFoundEntity,
            ChannelPreconditionFailed,
        ) as refusal:
            return refusal
    return None


def _missing(name: str) -> Finding:
    return _finding(name, Level.WARNING, NOT_THERE)


def _no_connection(settings: Settings, error: Exception) -> list[Finding]:
    why = refusals.explain(error)
    reached = _finding("reachable", Level.OK, _address(settings))
    match refusals.stage(error):
        case refusals.Stage.LOGIN:
            found = [reached, _finding("login", Level.WRONG, why)]
        case refusals.Stage.VHOST:
            login = _finding("login", Level.OK, f"as {_user(settings)}")
            vhost = _finding("vhost", Level.WRONG, f"{_vhost(settings)}: {why}")
            found = [reached, login, vhost]
        case refusals.Stage.REACHING:
            found = [_finding("reachable", Level.WRONG, f"{_address(settings)}: {why}")]
    return [*found, _finding("the rest", Level.UNKNOWN, "cannot be asked")]


def _address(settings: Settings) -> str:
    return settings.broker_name.partition("/")[0]


def _user(settings: Settings) -> str:
    return unquote(urlsplit(settings.broker).username or "guest")


def _vhost(settings: Settings) -> str:
    return unquote(urlsplit(settings.broker).path[1:]) or "/"


def _finding(name: str, level: Level, found: str, advice: str = "") -> Finding:
    return Finding(BROKER, name, level, found, advice)
