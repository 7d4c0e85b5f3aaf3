"""What compose.yml runs before the service, on real servers: its users, and exactly their rights.

That the service needs these rights and can do nothing else with them is in test_rights.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import pytest

from tests.composed import ComposedBroker, ComposedDatabase, SecretFiles, environment_of
from tests.harness import Wire
from tests.integration.steps import PROCESSED, send
from tests.least_rights import BROKER_RIGHTS, MIGRATIONS_SQL, SERVICE_SQL
from tests.processes import ROOT, service_process
from tests.servers import ServerFailed
from tests.servers.conftest_fixtures import _or_do_without
from tests.servers.place import chosen_place


@dataclass(frozen=True)
class Stack:
    """Both servers as compose starts them, and what runs beside them."""

    database: ComposedDatabase
    broker: ComposedBroker
    files: SecretFiles
    folder: Path

    def migrate(self) -> None:
        """The service `migrate`: the real command, with nothing but what compose gives it."""
        command = [sys.executable, "-m", "service.cli", "migrate"]
        subprocess.run(command, cwd=ROOT, env=self._environment("migrate"), check=True, timeout=60)

    def service(self) -> dict[str, str]:
        broker = {"MQ_HOST": self.broker.host, "MQ_PORT": str(self.broker.port)}
        return self._environment("service", **broker)

    def _environment(self, name: str, **here: str) -> dict[str, str]:
        folder = self.folder / name
        self.files.mount(name, folder)
        database = {"DB_HOST": self.database.host, "DB_PORT": str(self.database.port)}
        return environment_of(name, folder, **database, **here)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Stack]:
    """accounts, migrate, grants, in the order of compose.yml."""
    folder = tmp_path_factory.mktemp("composed")
    make = ROOT / "deploy/make_secrets.sh"
    subprocess.run([make, folder / "secrets"], check=True, capture_output=True)
    files = SecretFiles(folder / "secrets")
    database = _or_do_without(lambda: ComposedDatabase.find(chosen_place()), pytestconfig)
    broker = _or_do_without(lambda: ComposedBroker.find(chosen_place()), pytestconfig)
    broker.files = files
    with database, broker:
        stack = Stack(database, broker, files, folder)
        database.set_up(files)
        assert "no table" in database.set_up_users(files)
        stack.migrate()
        assert "rights are as they should be" in database.set_up_users(files)
        yield stack


@pytest.mark.parametrize("user", ["orders_migrations", "orders_service"])
def test_each_user_of_the_database_has_exactly_the_rights_of_its_file(
    stack: Stack, user: str
) -> None:
    meant = {"orders_migrations": MIGRATIONS_SQL, "orders_service": SERVICE_SQL}[user]
    has = granted(stack.database.ask(f"SHOW GRANTS FOR '{user}'@'%'"))

    assert has.pop("*.*") == {"USAGE"}
    assert has == granted(meant)


def test_the_database_lets_nobody_else_in_from_the_network(stack: Stack) -> None:
    users = stack.database.ask("SELECT user FROM mysql.user WHERE host = '%'")

    assert sorted(users.split()) == ["orders_migrations", "orders_service"]


def test_the_broker_has_the_service_without_a_tag_an_administrator_and_nobody_else(
    stack: Stack,
) -> None:
    users = json.loads(stack.broker.ctl("list_users", "--formatter", "json"))

    assert {each["user"]: each["tags"] for each in users} == {
        "orders_service": [],
        "admin": ["administrator"],
    }


def test_the_services_user_has_exactly_the_permissions_of_its_file_at_the_broker(
    stack: Stack,
) -> None:
    for kind in ("permissions", "topic_permissions"):
        rows = json.loads(
            stack.broker.ctl(f"list_user_{kind}", "orders_service", "--formatter", "json")
        )
        meant = [
            {name: value for name, value in each.items() if name != "user"}
            for each in BROKER_RIGHTS[kind]
        ]
        assert rows == meant, kind


async def test_the_service_of_compose_is_ready_and_processes_an_order(stack: Stack) -> None:
    admin = stack.broker.login("admin", stack.files["mq_admin_password"])
    with service_process(stack.service()) as service:
        service.wait_for_status("/health/ready", 200)
        async with Wire.connected(admin) as wire:
            await wire.listen(PROCESSED)
            await send(wire, [0])
            (event,) = await wire.hear(PROCESSED, 1)

    assert json.loads(event.body)["orderId"] == "o-0"


async def test_a_password_that_changes_in_its_file_is_changed_by_the_next_start(
    stack: Stack,
) -> None:
    before = stack.files.change("mq_password")
    stack.files.change("db_password")
    stack.files.change("db_migrations_password")

    stack.database.set_up_users(stack.files)
    stack.migrate()
    stack.broker.restart()
    with service_process(stack.service()) as service:
        service.wait_for_status("/health/ready", 200)
    with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError):
        await aio_pika.connect(stack.broker.login("orders_service", before))


@pytest.mark.parametrize("password", ["", "it's", "two words"])
def test_a_password_that_would_not_survive_sql_is_refused_by_the_name_of_its_file(
    stack: Stack, tmp_path: Path, password: str
) -> None:
    for name in ("db_root_password", "db_migrations_password", "db_password"):
        (tmp_path / name).write_text(stack.files[name])
    (tmp_path / "db_password").write_text(password)

    with pytest.raises(ServerFailed, match="db_password: a password of letters and digits"):
        stack.database.set_up_users(SecretFiles(tmp_path))


# Steps


def granted(sql: str) -> dict[str, set[str]]:
    """What GRANT statements give, by the name of what they give it on."""
    rights: dict[str, set[str]] = {}
    for verbs, subject in re.findall(r"^GRANT ([A-Z, ]+) ON (\S+) TO", sql, re.M):
        rights.setdefault(subject.replace("`", ""), set()).update(verbs.split(", "))
    return rights
