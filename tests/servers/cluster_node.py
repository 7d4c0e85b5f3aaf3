"""One node of a private RabbitMQ cluster; its ports stay its own while it is down."""

from __future__ import annotations

from collections.abc import Sequence

from .forwarder import Address
from .rabbitmq import RabbitServer

# Peers that fall silent are given up after 3/4 to 5/4 of it; RabbitMQ's default is 60.
SILENCE_SECONDS = 8
CONFIGURATION = """\
cluster_partition_handling = pause_minority
net_ticktime = {silence}
cluster_formation.peer_discovery_backend = classic_config
log.console.level = info
vm_memory_high_watermark.relative = 0.2
"""
SEED = "cluster_formation.classic_config.nodes.{number} = {name}\n"
# One thread of each kind: three nodes share a machine with the service and its tests.
SMALL = "+S 1:1 +SDcpu 1:1 +SDio 2 +A 1"


class ClusterNode(RabbitServer):
    """One node. Where `seeds` are, it joins them when it starts for the first time."""

    seeds: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self._node

    @property
    def address(self) -> Address:
        return (self.host, self.port)

    @property
    def peer_port(self) -> int:
        """Its own port for other nodes, and for its tools."""
        return self._dist_port

    @property
    def epmd_port(self) -> int:
        return self._epmd_port

    def takes_connections(self) -> bool:
        """Whether it lets clients in: one that has paused does not."""
        return self.running and self._ask_version() is not None

    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "conf.d").mkdir()
        seeds = [SEED.format(number=n, name=name) for n, name in enumerate(self.seeds, 1)]
        configuration = CONFIGURATION.format(silence=SILENCE_SECONDS) + "".join(seeds)
        (self.folder / "conf.d/10-cluster.conf").write_text(configuration)

    def _launch_epmd(self) -> None:
        """The cluster's own answers at that port."""

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += f" {SMALL}"
        environment["RABBITMQ_CTL_ERL_ARGS"] += f" {SMALL}"
        return environment
