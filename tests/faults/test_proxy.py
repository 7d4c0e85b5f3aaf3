"""The proxy in front of a server that says OK to everything: what passes, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.faults.bytes_on_the_wire import packet, query
from tests.faults.framing import FramingError, Moment, MySQLFraming, Unit
from tests.faults.proxied_link import Action
from tests.faults.proxy import Proxy, Trap
from tests.patience import PATIENCE_SECONDS
from tests.servers.process import free_ports

OK = packet(b"\x00\x00\x00\x02\x00\x00\x00", sequence=1)
INSERT = query("INSERT INTO orders (order_id) VALUES ('o')")
COMMIT = query("COMMIT")


class Server:
    """Answers each packet with OK, and keeps what it got and how each of its links ended."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ends: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Server]:
        self = cls()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end: Exception | None = None
        try:
            while True:
                header = await reader.readexactly(4)
                length = int.from_bytes(header[:3], "little")
                self.got.append(header + await reader.readexactly(length))
                writer.write(OK)
        except asyncio.IncompleteReadError:
            pass
        except ConnectionError as error:
            end = error
        writer.close()
        self.ends.put_nowait(end)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def of(cls, proxy: Proxy) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        yield cls(reader, writer)
        writer.close()

    async def ask(self, *packets: bytes) -> None:
        for each in packets:
            self.writer.write(each)
            assert await self.reader.readexactly(len(OK)) == OK


def armed(proxy: Proxy, moment: Moment, action: Action, **more: Any) -> Trap:
    trap = Trap(moment, action, **more)
    proxy.arm(trap)
    return trap


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server.running() as server:
        yield server


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with Proxy(MySQLFraming, "127.0.0.1", server.port) as proxy:
            yield proxy


async def test_what_is_said_passes_both_ways_and_is_counted(server: Server, proxy: Proxy) -> None:
    async with Client.of(proxy) as client:
        await client.ask(INSERT, COMMIT, INSERT, COMMIT)
    assert server.got == [INSERT, COMMIT, INSERT, COMMIT]
    assert proxy.met == {Moment.INTAKE_COMMIT: 2, Moment.INTAKE_COMMITTED: 2}
    assert await server.ends.get() is None


async def test_a_cut_link_is_reset_on_both_sides_and_new_ones_are_let_in(
    server: Server, proxy: Proxy
) -> None:
    async with Client.of(proxy) as client:
        await client.ask(INSERT)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)
    assert isinstance(await server.ends.get(), ConnectionResetError)
    async with Client.of(proxy) as client:
        await client.ask(INSERT)


async def test_a_commit_can_be_cut_before_it_reaches_the_server(
    server: Server, proxy: Proxy
) -> None:
    trap = armed(proxy, Moment.INTAKE_COMMIT, Action.CUT)
    async with Client.of(proxy) as client:
        client.writer.write(INSERT + COMMIT)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(2 * len(OK))
    assert isinstance(await server.ends.get(), ConnectionResetError)
    assert COMMIT not in server.got
    assert trap.fired.is_set()


async def test_a_commit_can_be_cut_after_it_before_its_ok(server: Server, proxy: Proxy) -> None:
    armed(proxy, Moment.INTAKE_COMMITTED, Action.CUT)
    async with Client.of(proxy) as client:
        await client.ask(INSERT)
        client.writer.write(COMMIT)
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(len(OK))
    await server.ends.get()
    assert server.got == [INSERT, COMMIT]


async def test_a_trap_fires_at_the_nth_time_from_its_arming_on_and_only_once(proxy: Proxy) -> None:
    async with Client.of(proxy) as before:
        await before.ask(INSERT, COMMIT)
    trap = armed(proxy, Moment.INTAKE_COMMITTED, Action.CUT, nth=2)
    async with Client.of(proxy) as client, Client.of(proxy) as other:
        await client.ask(INSERT, COMMIT, INSERT)
        assert not trap.fired.is_set()
        client.writer.write(COMMIT)
        await trap.fired.wait()
        for _ in range(3):
            await other.ask(INSERT, COMMIT)
    assert (trap.met, proxy.met[Moment.INTAKE_COMMITTED]) == (2, 6)


async def test_a_trap_that_was_disarmed_does_not_fire(proxy: Proxy) -> None:
    trap = armed(proxy, Moment.INTAKE_COMMIT, Action.CUT)
    proxy.disarm(trap)
    async with Client.of(proxy) as client:
        await client.ask(INSERT, COMMIT)
    assert not trap.fired.is_set()


async def test_a_trap_that_lets_pass_can_arm_another_before_anything_else_passes(
    server: Server, proxy: Proxy
) -> None:
    armed(
        proxy,
        Moment.INTAKE_COMMIT,
        Action.PASS,
        then=lambda: armed(proxy, Moment.INTAKE_COMMIT, Action.CUT),
    )
    async with Client.of(proxy) as client:
        client.writer.write(INSERT + COMMIT + INSERT + COMMIT)
        await server.ends.get()
    assert server.got.count(COMMIT) <= 1
    assert proxy.met[Moment.INTAKE_COMMIT] == 2


async def test_a_trap_that_waits_for_what_passes_does_not_fire_on_what_another_one_stops(
    proxy: Proxy,
) -> None:
    passes = armed(proxy, Moment.INTAKE_COMMITTED, Action.PASS)
    stops = armed(proxy, Moment.INTAKE_COMMITTED, Action.CUT)
    async with Client.of(proxy) as client, Client.of(proxy) as other:
        await client.ask(INSERT)
        client.writer.write(COMMIT)
        await stops.fired.wait()
        assert not passes.fired.is_set()
        await other.ask(INSERT, COMMIT)
        assert passes.fired.is_set()


async def test_a_frozen_link_holds_what_comes_and_passes_it_on_when_it_thaws(
    server: Server, proxy: Proxy
) -> None:
    trap = armed(proxy, Moment.INTAKE_COMMIT, Action.FREEZE)
    async with Client.of(proxy) as client, Client.of(proxy) as other:
        await client.ask(INSERT)
        client.writer.write(COMMIT + INSERT)
        await trap.fired.wait()
        await other.ask(INSERT, COMMIT)  # only the one link stands still
        assert trap.link is not None
        assert not trap.link.left.is_set()
        assert server.got == [INSERT, INSERT, COMMIT]
        trap.link.thaw()
        assert await client.reader.readexactly(2 * len(OK)) == OK + OK
    assert server.got == [INSERT, INSERT, COMMIT, COMMIT, INSERT]


async def test_a_client_that_leaves_a_frozen_link_is_noticed_and_the_server_told_at_the_thaw(
    server: Server, proxy: Proxy
) -> None:
    trap = armed(proxy, Moment.INTAKE_COMMIT, Action.FREEZE)
    async with Client.of(proxy) as client:
        await client.ask(INSERT)
        client.writer.write(COMMIT)
        await trap.fired.wait()
    assert trap.link is not None
    await trap.link.left.wait()
    assert server.ends.empty()
    assert server.got == [INSERT]
    trap.link.thaw()
    assert await server.ends.get() is None
    assert server.got == [INSERT, COMMIT]


async def test_a_frozen_proxy_answers_nobody_new_either_until_it_thaws(
    server: Server, proxy: Proxy
) -> None:
    async with Client.of(proxy) as before:
        await before.ask(INSERT)
        proxy.freeze()
        async with Client.of(proxy) as client:
            before.writer.write(INSERT)
            answers = [asyncio.create_task(each.ask(INSERT)) for each in (client, before)]
            done, _ = await asyncio.wait(answers, timeout=0.1)
            assert not done
            assert server.got == [INSERT]
            proxy.thaw()
            await asyncio.gather(*answers)


async def test_a_proxy_that_refuses_keeps_its_links_and_its_port(proxy: Proxy) -> None:
    async with Client.of(proxy) as client:
        await client.ask(INSERT)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        await client.ask(INSERT)
    await proxy.accept()
    async with Client.of(proxy) as client:
        await client.ask(INSERT)


async def test_a_client_whose_server_is_away_is_reset() -> None:
    (gone,) = free_ports(1)
    async with Proxy(MySQLFraming, "127.0.0.1", gone) as proxy, Client.of(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)


async def test_more_than_buffers_hold_passes_whole(server: Server, proxy: Proxy) -> None:
    large = packet(b"\x03" + bytes(8 * 1024 * 1024))
    async with Client.of(proxy) as client:
        await client.ask(large, large)
    assert server.got == [large, large]


async def test_what_is_not_the_protocol_is_reported_at_the_end() -> None:
    class Nonsense(MySQLFraming):
        def from_client(self, buffer: bytearray) -> Unit | None:
            raise FramingError("nonsense")

    async with Server.running() as server:
        proxy = Proxy(Nonsense, "127.0.0.1", server.port)
        await proxy.accept()
        async with Client.of(proxy) as client:
            client.writer.write(INSERT)
            with pytest.raises(ConnectionResetError):
                await client.reader.readexactly(1)
        with pytest.raises(FramingError):
            await proxy.close()
