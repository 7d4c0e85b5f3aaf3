"""How a stage is set up: its options, its servers, and its place on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from tests.faults.workload import USUAL_MIX, Mix
from tests.processes import ROOT
from tests.servers import AnyDatabase, AnyRabbit, private_database, private_rabbitmq

INCOMING = "order_created_queue"
OUTPUTS = ("order_processed_queue", "order_failed_queue", "order_dlq")
EXCHANGE = "order_events"
LEASE_SECONDS = 5
# What a dead relay has claimed waits for its lease: a short one makes a short campaign.
USUAL_ENVIRONMENT = {
    "ENVIRONMENT": "development",
    "RELAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "PUBLISH_TIMEOUT_SECONDS": str(LEASE_SECONDS - 1),
    "RELAY_POLL_SECONDS": "0.5",
}

Entered = TypeVar("Entered")


class Address(NamedTuple):
    host: str
    port: int


class Addresses(NamedTuple):
    """Where the two servers are reached."""

    database: Address
    broker: Address


# Given where the servers are, says where the services shall look for them: a proxy's place.
Links = Callable[[Addresses], AbstractAsyncContextManager[Addresses]]


@dataclass(frozen=True)
class StageOptions:
    """How a stage is set up.

    `environment` wins over the usual one of the services. `folder` is where the services' code is
    taken from. `links` may put something between the services and the servers; producer, observer
    and checker keep to the servers themselves. `rate` is in messages per second.
    """

    processes: int = 2
    rate: float = 100.0
    seed: int = 0
    mix: Mix = USUAL_MIX
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    folder: Path = ROOT
    links: Links = nullcontext


@dataclass(frozen=True)
class Servers:
    """A database server and a broker of the tests' own, to be broken."""

    database: AnyDatabase
    broker: AnyRabbit

    @classmethod
    @contextmanager
    def private(cls) -> Iterator[Self]:
        servers = cls(private_database(), private_rabbitmq())
        with ExitStack() as running:
            with ThreadPoolExecutor() as pool:
                both = (servers.database, servers.broker)
                for started in [pool.submit(running.enter_context, each) for each in both]:
                    started.result()
            yield servers


class Urls(NamedTuple):
    database: str
    broker: str


@contextmanager
def home(servers: Servers, name: str) -> Iterator[Urls]:
    """A database and a vhost of this name; gone afterwards."""
    urls = Urls(servers.database.create_database(name), servers.broker.create_vhost(name))
    try:
        yield urls
    finally:
        for server in (servers.database, servers.broker):
            server.revive()
        servers.database.drop_database(name)
        servers.broker.delete_vhost(name)


@asynccontextmanager
async def in_thread(manager: AbstractContextManager[Entered]) -> AsyncIterator[Entered]:
    """Enter and leave what takes seconds of waiting without holding up this thread."""
    entered = await asyncio.to_thread(manager.__enter__)
    try:
        yield entered
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
