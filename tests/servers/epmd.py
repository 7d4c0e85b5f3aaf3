"""Erlang's port mapper, answered by the tests: each node gets a view of the others of its own.

Erlang nodes ask it by which port another node is reached. The real one has one answer for all; this
one lets a node reach its peers by ports that can be blocked, and their tools reach all as usual.
The protocol: https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

REGISTER, REGISTERED = 120, 118
PORT_PLEASE, PORT = 122, 119
NAMES = 110
NOT_FOUND = 1
NORMAL_NODE, TCP = 77, 0
HIGHEST_VERSION, LOWEST_VERSION = 6, 5


@dataclass
class Registry:
    """The names of all nodes and tools that are up, and their own ports."""

    ports: dict[str, int] = field(default_factory=dict)
    creation: int = 0


class Epmd:
    """The mapper of one node. `detours` are the ports by which it reaches its peers."""

    def __init__(self, port: int, registry: Registry, detours: Mapping[str, int]) -> None:
        self._port = port
        self._registry = registry
        self._detours = detours

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question; a registration lasts as long as its connection."""
        try:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            request = await reader.readexactly(size)
            match request[0]:
                case code if code == REGISTER:
                    await self._register(request, reader, writer)
                case code if code == PORT_PLEASE:
                    writer.write(self._port_of(request[1:].decode()))
                case code if code == NAMES:
                    writer.write(struct.pack(">I", self._port) + self._names())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            writer.close()

    async def _register(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port, _kind, _protocol, _highest, _lowest, length = struct.unpack_from(
            ">HBBHHH", request, 1
        )
        name = request[11 : 11 + length].decode()
        self._registry.creation += 1
        self._registry.ports[name] = port
        writer.write(struct.pack(">BBI", REGISTERED, 0, self._registry.creation))
        try:
            await reader.read()
        finally:
            if self._registry.ports.get(name) == port:
                del self._registry.ports[name]

    def _port_of(self, name: str) -> bytes:
        port = self._detours.get(name) or self._registry.ports.get(name)
        if port is None or name not in self._registry.ports:
            return bytes([PORT, NOT_FOUND])
        written = name.encode()
        fields = (PORT, 0, port, NORMAL_NODE, TCP, HIGHEST_VERSION, LOWEST_VERSION, len(written))
        return struct.pack(">BBHBBHHH", *fields) + written + b"\x00\x00"

    def _names(self) -> bytes:
        ports = self._registry.ports.items()
        return "".join(f"name {name} at port {port}\n" for name, port in ports).encode()
