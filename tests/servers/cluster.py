"""Three private RabbitMQ nodes in one cluster, and a load balancer in front of them.

    with RabbitCluster.find(chosen_place()) as cluster:
        url = cluster.create_vhost("orders")
        leader = cluster.leader_of("orders", "order_created_queue")
        cluster.isolate(leader, silently=True)
        cluster.heal()
        cluster.nodes[leader].kill()

Clients know one address, the load balancer's. It hands each new connection to the next node whose
port is open, as one does that checks ports: it knows nothing of majorities and of queues.

Nodes reach each other only by ports that can be blocked, each direction by its own. So a partition
touches nothing but these nodes, needs no rights, and ends with the test at the latest.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlsplit

from .cluster_node import ClusterNode
from .epmd import Epmd, Registry
from .errors import ServerFailed
from .forwarder import HOST, Address, Forwarders
from .place import Place
from .process import wait_until

SIZE = 3
AGAIN_SECONDS = 120.0
# Erlang, for `RabbitServer.evaluate`.
LEADER = """\
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
{{Name, _}} = amqqueue:get_pid(Queue),
ra_leaderboard:lookup_leader(Name)"""


class RabbitCluster:
    """Looks to clients, and to whoever starts and ends servers, like one broker."""

    title: ClassVar[str] = "the RabbitMQ cluster"
    private: ClassVar[bool] = True

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        self.nodes = tuple(nodes)
        self.host = HOST
        self.port = 0
        self._registry = Registry()
        self._forwarders = Forwarders()
        self._peer_ports: dict[tuple[int, int], int] = {}
        self._turns = itertools.count()
        self._apart: set[int] = set()
        self._life = ExitStack()

    @classmethod
    def find(cls, place: Place) -> Self:
        nodes = [ClusterNode.find(place) for _ in range(SIZE)]
        cookie = secrets.token_hex(16)
        for node in nodes:
            node.cookie = cookie
            node.seeds = [each.name for each in dict.fromkeys((nodes[0], node))]
        return cls(nodes)

    # Life.

    @property
    def version(self) -> str:
        return self.nodes[0].version

    @property
    def running(self) -> bool:
        return any(node.running for node in self.nodes)

    def start(self) -> None:
        """Start the nodes that are down."""
        if not self.port:
            self._open_ports()
            self.nodes[0].start()  # the one that the others join
        self._each(ClusterNode.start, [node for node in self.nodes if not node.running])

    def stop(self) -> None:
        """The orderly end of all."""
        self._each(ClusterNode.stop, self.nodes)

    def kill(self) -> None:
        """The end of all without warning."""
        self._each(ClusterNode.kill, self._running)

    def restart(self) -> None:
        self.stop()
        self.start()

    def revive(self) -> None:
        """Whatever was done to it, all nodes run again, see each other and take connections."""
        self.heal()
        self.thaw()
        self.start()
        for node in self.nodes:
            wait_until(node.takes_connections, AGAIN_SECONDS, f"connections to {node.name}")

    def freeze(self) -> None:
        self._each(ClusterNode.freeze, self._running)

    def thaw(self) -> None:
        self._each(ClusterNode.thaw, self._running)

    def close(self) -> None:
        """End all nodes and remove their data."""
        for node in self.nodes:
            node.close()
        self._life.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Partitions.

    def isolate(self, *numbers: int, silently: bool) -> None:
        """Cut these nodes off from all others, and from each other; clients reach them still.

        Silently: all packets are dropped, and the nodes find out. Else connections are reset.
        """
        self._apart |= set(numbers)
        block = self._forwarders.hold if silently else self._forwarders.refuse
        block(*self._between(numbers))

    def heal(self) -> None:
        """All nodes reach each other again."""
        if self._apart:
            self._forwarders.let_pass(*self._peer_ports.values())
        self._apart.clear()

    def _between(self, numbers: Collection[int]) -> list[int]:
        return [port for pair, port in self._peer_ports.items() if set(pair) & set(numbers)]

    @property
    def pauses_minority(self) -> bool:
        """Whether nodes without a majority close their ports; from 4.3 on they go on, and wait."""
        return [int(part) for part in self.version.split(".")[:2]] < [4, 3]

    # What a broker can be asked.

    def url(self, vhost: str = "/") -> str:
        """By the load balancer."""
        return self._balanced(self.nodes[0].url(vhost))

    def create_vhost(self, name: str) -> str:
        return self._balanced(self._spokesman.create_vhost(name))

    def delete_vhost(self, name: str) -> None:
        self._spokesman.delete_vhost(name)

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl on a node that runs and is not cut off."""
        return self._spokesman.ctl(*arguments)

    def settle(self) -> None:
        """Before killing nodes of a cluster whose queues are new; see `RabbitServer.settle`."""
        for node in self.nodes:
            node.settle()

    def leader_of(self, vhost: str, queue: str) -> int:
        """The number of the node that leads this queue.

        Raises:
            LookupError: there is no such queue, or none leads it.
        """
        said = self._spokesman.evaluate(LEADER.format(vhost=vhost, queue=queue))
        for number, node in enumerate(self.nodes):
            if node.name in said:
                return number
        raise LookupError(f"nobody leads {queue!r}: {said}")

    def keep_logs(self, folder: Path) -> None:
        for number, node in enumerate(self.nodes):
            with contextlib.suppress(ServerFailed, FileNotFoundError):
                shutil.copy(node.log, folder / f"node-{number}.log")

    @property
    def _spokesman(self) -> ClusterNode:
        for number, node in enumerate(self.nodes):
            if number not in self._apart and node.takes_connections():
                return node
        raise ServerFailed(f"no node of {self.title} takes connections")

    @property
    def _running(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.running]

    def _balanced(self, url: str) -> str:
        parts = urlsplit(url)
        return parts._replace(
            netloc=f"{parts.username}:{parts.password}@{self.host}:{self.port}"
        ).geturl()

    # Its ports.

    def _open_ports(self) -> None:
        forwarders = self._life.enter_context(self._forwarders)
        self.port = forwarders.open(self._next_nodes)
        for here, there in itertools.permutations(range(SIZE), 2):
            self._peer_ports[here, there] = forwarders.open(self._way_to(self.nodes[there]))
        for here, node in enumerate(self.nodes):
            detours = {
                peer.name.partition("@")[0]: self._peer_ports[here, there]
                for there, peer in enumerate(self.nodes)
                if there != here
            }
            epmd = Epmd(node.epmd_port, self._registry, detours)
            forwarders.serve(node.epmd_port, epmd.serve)

    def _next_nodes(self) -> list[Address]:
        """The nodes in turn, those that are down last in line: whoever refuses is passed over."""
        first = next(self._turns)
        return [self.nodes[(first + step) % SIZE].address for step in range(SIZE)]

    def _way_to(self, node: ClusterNode) -> Callable[[], list[Address]]:
        return lambda: [(node.host, node.peer_port)]

    def _each(self, what: Callable[[ClusterNode], None], nodes: Iterable[ClusterNode]) -> None:
        """At once."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(what, node) for node in nodes]:
                done.result()
