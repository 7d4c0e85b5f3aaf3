"""One broker for many stages at once, with vhosts that are made and deleted together."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tests.servers import GivenRabbit, RabbitServer
from tests.servers.server import USER

EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


class LentBroker(GivenRabbit):
    """No stage ends or freezes it. Each call of rabbitmqctl that it spares is a second saved."""

    def __init__(self, broker: RabbitServer, vhosts: list[str]) -> None:
        super().__init__(broker.url(), broker.host, broker.port, broker.version)
        self._broker = broker
        self._free = vhosts
        self._real: dict[str, str] = {}

    @classmethod
    @contextmanager
    def lend(cls, broker: RabbitServer, stages: int) -> Iterator[Self]:
        names = [f"lent_{secrets.token_hex(4)}" for _ in range(stages)]
        broker.import_definitions(
            {
                "vhosts": [{"name": name} for name in names],
                "permissions": [{"user": USER, "vhost": name, **EVERYTHING} for name in names],
            }
        )
        try:
            yield cls(broker, list(names))
        finally:
            quoted = ", ".join(f'<<"{name}">>' for name in names)
            broker.evaluate(f'[rabbit_vhost:delete(Name, <<"tests">>) || Name <- [{quoted}]]')

    def create_vhost(self, name: str) -> str:
        self._real[name] = self._free.pop()
        return self._broker.url(self._real[name])

    def ctl(self, *arguments: str) -> str:
        return self._broker.ctl(*(self._real.get(each, each) for each in arguments))
