"""The embedded mode on files and disks that fail it: an answer is the truth, and says why."""

from __future__ import annotations

import json
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from faststream.exceptions import RejectMessage

from tests.factories import order_created_json
from tests.harness import running, settings_for
from tests.patience import PATIENCE_SECONDS
from tests.processes import HOST, ServiceProcess, service_process

AT_ONCE = 20
ANSWER_SECONDS = 30.0
IN_A_NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def on_mount(folder: Path, mount: str) -> list[str]:
    """What starts a command that alone sees this mount; `$1` is the folder."""
    script = f'set -e\n{mount}\nshift; exec "$@"'
    return [*IN_A_NAMESPACE, "sh", "-c", script, "sh", str(folder)]


def seen_by(service: ServiceProcess, path: Path) -> Path:
    """A path in the mounts that the service sees."""
    return Path(f"/proc/{service.pid}/root") / path.relative_to("/")


def asked(service: ServiceProcess, path: str, body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://{HOST}:{service.port}{path}", data=body)
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def send(service: ServiceProcess, name: str) -> tuple[int, Any]:
    body = order_created_json(orderId=name, idempotencyKey=name, userId="u" * 255)
    return asked(service, "/console/send", body)


def stored(path: Path) -> set[str]:
    """The orders in the file, from a copy: SQLite would look for the path in our mounts."""
    with TemporaryDirectory() as copies:
        copy = Path(copies) / path.name
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(
                path.with_name(path.name + suffix).read_bytes()
            )
        with closing(sqlite3.connect(copy)) as link:
            return {name for (name,) in link.execute("SELECT order_id FROM orders")}


def fill(path: Path, *, leave: int) -> None:
    """Fill the disk up to some bytes."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - leave))


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[ServiceProcess]:
    small = on_mount(tmp_path, 'mount -t tmpfs -o size=2m tmpfs "$1"')
    environment = {"SQLITE_PATH": str(tmp_path / "orders.db")}
    with service_process(environment, started_by=small) as service:
        service.wait_for_status("/health", 200)
        yield service


@pytest.mark.parametrize("leave", [0, 4096, 65536])
def test_on_a_full_disk_what_is_accepted_is_stored_and_health_says_why(
    on_a_small_disk: ServiceProcess, tmp_path: Path, leave: int
) -> None:
    service = on_a_small_disk
    filler = seen_by(service, tmp_path / "filler")
    fill(filler, leave=leave)

    names = [f"o-{number}" for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as senders:
        answers = dict(zip(names, senders.map(partial(send, service), names), strict=True))
    answers |= {f"p-{number}": send(service, f"p-{number}") for number in range(AT_ONCE)}
    accepted = {name for name, (status, _) in answers.items() if status == 202}
    refused = [said for status, said in answers.values() if status != 202]
    kept = stored(seen_by(service, tmp_path / "orders.db"))
    why = "its disk is full: make room on it"

    assert {status for status, _ in answers.values()} <= {202, 503}
    assert refused
    assert all(why in said["error"] for said in refused)
    assert accepted <= kept
    status, health = asked(service, "/health")
    assert (status, health["status"], health["db"]) == (503, "DEGRADED", "disconnected")
    assert health["why"] == {"db": why}
    assert service.status("/health/live") == 200

    filler.unlink()
    service.wait_for_status("/health", 200)
    assert send(service, "afterwards")[0] == 202
    assert "afterwards" in stored(seen_by(service, tmp_path / "orders.db"))
    assert not any("Traceback" in line for line in service.lines)


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (remove, "the file was moved or removed"),
        (replace, "the file was moved or removed"),
    ],
)
def test_a_file_that_goes_bad_meanwhile_is_answered_with_503(
    tmp_path: Path, fault: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "orders.db"
    with service_process({"SQLITE_PATH": str(path)}) as service:
        service.wait_for_status("/health", 200)
        assert send(service, "before")[0] == 202
        fault(path)
        service.wait_for_status("/health", 503)
        status, said = send(service, "after")
        assert status == 503
        assert why in said["error"]
        assert why in asked(service, "/health")[1]["why"]["db"]
        assert not any("Traceback" in line for line in service.lines)
        assert not path.exists() or not path.stat().st_size, "it made itself a new one"


def test_a_lock_of_another_program_is_named_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with service_process({"SQLITE_PATH": str(path)}) as service:
        service.wait_for_status("/health", 200)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, said = send(service, "locked")
            assert status == 503
            assert "another program holds its lock" in said["error"]
            service.wait_for_status("/health", 503)
            _, health = asked(service, "/health")
            assert "another program holds its lock" in health["why"]["db"]
        service.wait_for_status("/health", 200)
        assert send(service, "unlocked")[0] == 202
        assert stored(path) == {"unlocked"}


async def test_a_message_that_cannot_be_stored_is_its_senders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: the in-process broker keeps nothing that a handler gives back."""

    async def defect(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.consumer.batcher.plan_batch", defect)
    async with running(settings_for(sqlite_path=tmp_path / "orders.db")) as app:
        with pytest.raises(RejectMessage):
            await app.service.broker.publish(order_created_json(), queue="order_created_queue")


# At start


def not_a_database(path: Path) -> None:
    path.write_bytes(b"a shopping list\n" * 100)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as link:
        link.execute("CREATE TABLE bookmarks (url TEXT)")
        link.commit()


def foreign_with_migrations(path: Path) -> None:
    with closing(sqlite3.connect(path)) as link:
        link.execute("CREATE TABLE orders (id INTEGER)")
        link.execute("CREATE TABLE alembic_version (version_num TEXT)")
        link.execute("INSERT INTO alembic_version VALUES ('8d3f0c1a')")
        link.commit()


def damaged(path: Path) -> None:
    with closing(sqlite3.connect(path)) as link:
        link.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")
        link.executemany("INSERT INTO orders VALUES (?)", [(f"{n:>900}",) for n in range(100)])
        link.commit()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 16384)


def cut_off(path: Path) -> None:
    damaged(path)
    os.truncate(path, 9000)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def good(path: Path) -> None:
    pass


FULL = 'mount -t tmpfs -o size=64k tmpfs "$1"'
READ_ONLY = 'mount -t tmpfs -o ro,size=64k tmpfs "$1"'


@pytest.mark.parametrize(
    ("make", "name", "mount", "why"),
    [
        (not_a_database, "orders.db", "", "it is no SQLite database: name another file"),
        (foreign, "orders.db", "", "it is another program's database: name another file"),
        (foreign_with_migrations, "orders.db", "", "it is another program's database"),
        (damaged, "orders.db", "", "it is damaged: bring a backup back"),
        (cut_off, "orders.db", "", "it is damaged: bring a backup back"),
        (pipe, "orders.db", "", "it is no ordinary file: name another one"),
        (good, "orders.db", FULL, "its disk is full: make room on it"),
        (good, "orders.db", READ_ONLY, "may this user write to the file and its folder?"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], name: str, mount: str, why: str
) -> None:
    make(tmp_path / "orders.db")
    environment = {"SQLITE_PATH": str(tmp_path / name)}
    started_by = on_mount(tmp_path, mount) if mount else ()
    with service_process(environment, started_by=started_by) as service:
        assert service.wait(within=PATIENCE_SECONDS) > 0
        said = [line for line in service.lines if "The service cannot start" in line]
        assert len(said) == 1
        assert f"SQLite file {tmp_path / name}: " in said[0]
        assert why in said[0]
        assert "(SQLITE_PATH)" in said[0]
        assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [(folder, "orders.db", "a folder, not a file"), (good, "nowhere/orders.db", "no such folder")],
)
def test_a_file_that_cannot_be_there_is_refused_with_the_configuration(
    tmp_path: Path, make: Callable[[Path], None], name: str, why: str
) -> None:
    make(tmp_path / "orders.db")
    with service_process({"SQLITE_PATH": str(tmp_path / name)}) as service:
        assert service.wait(within=PATIENCE_SECONDS) > 0
        (said,) = [line for line in service.lines if "SQLITE_PATH: " in line]
        assert why in said
        assert not any("Traceback" in line for line in service.lines)


def test_a_locked_file_ends_the_start_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with service_process({"SQLITE_PATH": str(path)}) as service:
            assert service.wait(within=PATIENCE_SECONDS) > 0
            (said,) = [line for line in service.lines if "The service cannot start" in line]
            assert "another program holds its lock" in said
            assert not any("Traceback" in line for line in service.lines)


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    foreign(path)
    before = path.read_bytes()
    with service_process({"SQLITE_PATH": str(path)}) as service:
        assert service.wait(within=PATIENCE_SECONDS) > 0
    assert path.read_bytes() == before


async def test_a_file_of_ours_is_used_again(tmp_path: Path) -> None:
    settings = settings_for(sqlite_path=tmp_path / "orders.db")
    for number in range(2):
        async with running(settings) as app:
            name = f"o-{number}"
            body = order_created_json(orderId=name, idempotencyKey=name)
            await app.service.broker.publish(body, queue="order_created_queue")
            assert stored(tmp_path / "orders.db") == {f"o-{n}" for n in range(number + 1)}
