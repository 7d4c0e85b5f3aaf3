"""`orders send` and the other commands, whatever they are given and wherever they write."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import aio_pika
import pytest

from service.config.settings import Settings
from tests.commands import END_SECONDS, command_line, orders
from tests.factories import order_created_json
from tests.harness import Wire
from tests.integration.steps import INCOMING
from tests.processes import ROOT, environment_of

BLANKS = order_created_json() + b"\n\n\nnonsense\n" + order_created_json() + b"\n"
BOM = b"\xef\xbb\xbf"


@pytest.fixture
async def queue(wire: Wire) -> aio_pika.abc.AbstractQueue:
    return await wire.channel.declare_queue(INCOMING, durable=True)


@pytest.fixture
def environment(settings: Settings, queue: aio_pika.abc.AbstractQueue) -> dict[str, str]:
    return environment_of(settings)


def started(
    *arguments: str, environment: Mapping[str, str], stdin: int | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line(*arguments),
        cwd=ROOT,
        env={"PATH": os.defpath, "COLUMNS": "500", "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=stdin,
    )


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Accepts every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in kept:
            each.close()


# Lines


def test_a_refused_line_has_the_number_that_it_has_in_the_file(environment: dict[str, str]) -> None:
    for given in (BLANKS, BLANKS.replace(b"\n", b"\r\n"), gzip.compress(BLANKS)):
        ended = orders("send", "-", environment=environment, given=given)
        assert ended.returncode == 1
        assert ended.stdout == "2 confirmed, 1 refused locally, 0 unroutable\n"
        assert "  line 4: " in ended.stderr


@pytest.mark.parametrize("mark", [BOM, b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_named(
    environment: dict[str, str], tmp_path: Path, mark: bytes
) -> None:
    (tmp_path / "bom.jsonl").write_bytes(mark + order_created_json() + b"\n" + order_created_json())
    ended = orders("send", str(tmp_path / "bom.jsonl"), environment=environment)
    assert ended.returncode == 1
    assert ended.stdout.startswith("1 confirmed, 1 refused locally")
    assert "line 1: begins with a byte order mark (BOM): save the file as UTF-8" in ended.stderr


def test_a_line_that_no_broker_takes_is_refused_and_the_rest_is_sent(
    environment: dict[str, str],
) -> None:
    given = b"{" + b" " * (20 << 20) + b"}\n" + order_created_json() + b"\n"
    ended = orders("send", "-", environment=environment, given=given)
    assert ended.stdout.startswith("1 confirmed, 1 refused locally")
    assert "line 1: longer than 16 MiB" in ended.stderr


async def test_a_large_file_is_not_held_in_memory(
    environment: dict[str, str], tmp_path: Path
) -> None:
    line = b'"' + b"x" * 65_000 + b'"\n'  # refused locally: nothing but reading costs
    with (tmp_path / "large.jsonl").open("wb") as file:
        for _ in range(6_000):
            file.write(line)
    # A child's peak counts from its fork, so its parent has to be small: not this process.
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:])\n"
        "print('KiB', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = command_line("send", str(tmp_path / "large.jsonl"))
    ended = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=ROOT,
        env={"PATH": os.defpath, "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout.startswith("0 confirmed, 6000 refused locally")
    peak = int(ended.stdout.rpartition("KiB")[2])
    assert peak < 200 * 1024, "the file has 390 MB"


# Standard input


def test_a_gzipped_pipe_may_be_slow(environment: dict[str, str]) -> None:
    packed = gzip.compress(order_created_json() + b"\n")
    sending = started("send", "-", environment=environment, stdin=subprocess.PIPE)
    assert sending.stdin is not None
    for byte in packed:
        sending.stdin.buffer.write(bytes([byte]))  # type: ignore[attr-defined]
        sending.stdin.flush()
    said, _ = sending.communicate(timeout=END_SECONDS)
    assert (sending.returncode, said.partition(",")[0]) == (0, "1 confirmed")


async def test_a_line_of_a_pipe_is_sent_before_the_next_one_comes(
    environment: dict[str, str], wire: Wire
) -> None:
    await wire.listen(INCOMING)
    sending = started("send", "-", environment=environment, stdin=subprocess.PIPE)
    assert sending.stdin is not None
    sending.stdin.write(order_created_json().decode() + "\n")
    sending.stdin.flush()
    await wire.hear(INCOMING, 1)
    sending.communicate(timeout=END_SECONDS)
    assert sending.returncode == 0


def test_standard_input_that_is_closed_is_named(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command_line("send", "-")],
        cwd=ROOT,
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        "Standard input cannot be read: it is closed.\n",
    )


@pytest.mark.parametrize(
    "damage",
    [lambda packed: packed[:-20], lambda packed: packed[:40] + b"\0" * 40 + packed[80:]],
    ids=["cut off", "corrupt"],
)
def test_a_damaged_archive_is_named_and_what_came_before_is_sent(
    environment: dict[str, str], tmp_path: Path, damage: object
) -> None:
    lines = b"".join(order_created_json(orderId=f"o-{each}") + b"\n" for each in range(200))
    path = tmp_path / "orders.jsonl.gz"
    path.write_bytes(damage(gzip.compress(lines)))  # type: ignore[operator]
    ended = orders("send", str(path), environment=environment)
    assert ended.returncode == 1
    assert " confirmed, " in ended.stdout
    assert f"{path} cannot be read to its end: it is damaged, or cut off." in ended.stderr


def test_a_file_that_is_not_there_is_named_before_anything_is_done(
    environment: dict[str, str], tmp_path: Path
) -> None:
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        ended = orders("send", str(path), environment=environment)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert f"{path} cannot be read: {why}" in ended.stderr


# Its end


async def test_interrupted_it_says_how_many_were_confirmed(
    environment: dict[str, str], wire: Wire
) -> None:
    await wire.listen(INCOMING)
    sending = started("send", "-", environment=environment, stdin=subprocess.PIPE)
    assert sending.stdin is not None
    for each in range(3):
        sending.stdin.write(order_created_json(orderId=f"o-{each}").decode() + "\n")
    sending.stdin.flush()
    await wire.hear(INCOMING, 3)
    sending.send_signal(signal.SIGINT)
    # Its standard input stays open: it does not wait for that.
    assert sending.wait(END_SECONDS) == 130
    said, errors = sending.communicate()
    pairs = [each.partition(" ") for each in said.strip().split(", ")]
    counts = {what: int(number) for number, _, what in pairs}
    assert counts["confirmed"] + counts.get("sent and not confirmed", 0) == 3
    assert "Interrupted. Sending the same file again is safe" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [("send", "--sample", "1"), ("migrate",), ("check",)])
def test_a_server_that_never_answers_is_not_waited_for_without_end(
    silent_server: int, arguments: tuple[str, ...]
) -> None:
    address = {"HOST": "127.0.0.1", "PORT": str(silent_server), "PASSWORD": "s"}
    environment = {
        f"{kind}_{name}": value for kind in ("DB", "MQ") for name, value in address.items()
    }
    deadlines = {"MQ_CONNECT_TIMEOUT_SECONDS": "1", "DB_TIMEOUT_SECONDS": "4"}
    ended = orders(*arguments, environment=environment | deadlines | {"ENVIRONMENT": "development"})
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert f"127.0.0.1:{silent_server}" in said
    assert "did not answer in time" in said or "for an answer to the login, in vain" in said
    if arguments == ("migrate",):
        assert "Waiting for the database" in ended.stderr
    assert "Traceback" not in said


def test_migrate_says_that_it_waits_for_another_migration(
    settings: Settings, database_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(settings)
    holding = started_holding_the_lock(environment)
    try:
        ended = orders("migrate", "--timeout", "5", environment=environment)
    finally:
        holding.kill()
        holding.communicate()
    assert ended.returncode == 1
    assert "Waiting for the database" in ended.stderr
    assert "another migration to end, in vain" in ended.stderr


def started_holding_the_lock(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    program = (
        "import asyncio; from sqlalchemy import func, select; from db import schema\n"
        "from service.config.settings import load_settings\n"
        "from service.database import open_database\n"
        "async def hold():\n"
        "    async with open_database(load_settings()).migrating(60) as link:\n"
        "        await link.scalar(select(func.get_lock(schema.LOCK, 1)))\n"
        "        print('held', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(hold())"
    )
    holding = subprocess.Popen(
        [*command_line()[:1], "-c", program],
        cwd=ROOT,
        env={"PATH": os.defpath, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holding.stdout is not None
    assert holding.stdout.readline() == "held\n"
    return holding


# Where it writes


@pytest.mark.parametrize("arguments", [("check",), ("send", "-"), ("--help",), ("send", "--no")])
def test_a_terminal_that_knows_only_ascii_is_enough(
    environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "DLQ_QUEUE": "d"}
    ended = orders(
        *arguments,
        environment=environment | ascii_only,
        given=BOM + "€\n".encode(),
        encoding="ascii",
    )
    assert "Traceback" not in ended.stderr
    assert "UnicodeEncodeError" not in ended.stderr
    assert ended.stdout + ended.stderr


@pytest.mark.parametrize("arguments", ["check", "send --sample 5", "migrate", "--help"])
@pytest.mark.parametrize("output", ["| true", ">&-", "> /dev/full"])
def test_an_output_that_takes_nothing_ends_without_a_traceback(
    environment: dict[str, str], arguments: str, output: str
) -> None:
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {arguments} {output}', "bash", *command_line()],
        cwd=ROOT,
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr
    assert "defect" not in ended.stderr
