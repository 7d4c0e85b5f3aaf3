"""Passwords come from files, are read once, and are told to the servers alone."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from db.engine import Database
from service.config.settings import Settings, load_settings
from service.domain.errors import ConfigurationError
from tests.harness import Wire, eventually
from tests.integration.steps import all_published, send
from tests.patience import PATIENCE_SECONDS
from tests.processes import HOST, ROOT, ServiceProcess, service_process
from tests.servers import AnyDatabase, AnyRabbit, DatabaseServer, RabbitServer

NOBODY = 65534
PAGES = (
    *("/health", "/health/live", "/health/ready", "/metrics", "/console", "/console/data.json"),
    *("/docs/asyncapi", "/docs/asyncapi.json", "/docs/asyncapi.yaml"),
)


@dataclass
class Secrets:
    """A user at both servers, and a folder that holds its passwords and what they are part of."""

    database: DatabaseServer
    rabbit: RabbitServer
    name: str
    vhost: str
    folder: Path
    user: str
    passwords: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        """What is no secret, in development so that nothing is refused for its own sake."""
        return {
            "ENVIRONMENT": "development",
            "SECRETS_DIR": str(self.folder),
            "LOG_LEVEL": "DEBUG",
            "DB_HOST": self.database.host,
            "DB_PORT": str(self.database.port),
            "DB_USER": self.user,
            "DB_NAME": self.name,
            "MQ_HOST": self.rabbit.host,
            "MQ_PORT": str(self.rabbit.port),
            "MQ_USER": self.user,
            "MQ_VHOST": self.vhost,
        }

    def write(self, **files: str) -> None:
        """Files that only their owner may read, each with the line's end that editors leave."""
        for name, text in files.items():
            (self.folder / name).write_text(f"{text}\n")
            (self.folder / name).chmod(0o400)

    def write_passwords(self) -> None:
        self.write(**self.passwords)

    def write_urls(self) -> None:
        """The same logins as whole addresses."""
        database, broker = (quote(each, safe="") for each in self.passwords.values())
        self.write(
            DATABASE_URL=f"mysql://{self.user}:{database}@{HOST}:{self.database.port}/{self.name}",
            MQ_URL=f"amqp://{self.user}:{broker}@{HOST}:{self.rabbit.port}/{self.vhost}",
        )

    def told_in(self, text: str) -> list[str]:
        """The passwords that stand in the text: bare, quoted for a URL, or as in a basic login."""
        return [
            name
            for name, password in self.passwords.items()
            if password in text
            or quote(password, safe="") in text
            or base64.b64encode(f"{self.user}:{password}".encode()).decode() in text
        ]


@pytest.fixture
def canary(
    settings: Settings,
    database: Database,
    database_server: AnyDatabase,
    rabbit_server: AnyRabbit,
    tmp_path: Path,
) -> Iterator[Secrets]:
    """Passwords that would be known again wherever they turn up; the schema is there."""
    if not isinstance(database_server, DatabaseServer):
        pytest.skip("the database server is not ours to make users in")
    if not isinstance(rabbit_server, RabbitServer):
        pytest.skip("the broker is not ours to make users in")
    user = f"canary_{secrets.token_hex(4)}"
    passwords = {name: f"{secrets.token_hex(12)}/@:%" for name in ("DB_PASSWORD", "MQ_PASSWORD")}
    name, vhost = str(settings.database.database), settings.broker_name.partition("/")[2]
    database_server.execute(
        f"CREATE USER '{user}'@'%' IDENTIFIED BY '{passwords['DB_PASSWORD']}';"
        f"GRANT ALL ON `{name}`.* TO '{user}'@'%'"
    )
    rabbit_server.add_user(user, passwords["MQ_PASSWORD"])
    rabbit_server.permit(user, vhost)
    yield Secrets(database_server, rabbit_server, name, vhost, tmp_path, user, passwords)
    database_server.execute(f"DROP USER '{user}'@'%'")
    rabbit_server.delete_user(user)


@pytest.mark.parametrize("form", ["passwords", "urls"])
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_secret_from_a_file_opens_both_servers_and_is_told_to_nobody_else(
    canary: Secrets, database: Database, wire: Wire, form: str, log_format: str
) -> None:
    canary.write_passwords() if form == "passwords" else canary.write_urls()
    environment = canary.environment | {"LOG_FORMAT": log_format}
    with service_process(environment) as service:
        service.wait_for_status("/health/ready", 200)
        await send(wire, [0])
        await wire.send(b"{")
        await eventually(lambda: all_published(database, 3))
        shown = [page(service, path) for path in PAGES]
        shown += [seen_by_the_system(service)]
        service.terminate()
        service.wait()
    shown += [*service.lines, orders("check", environment), orders("migrate", environment)]

    assert all(shown), "each of them shows something"
    assert canary.told_in("\n".join(shown)) == []


def test_a_secret_that_was_told_would_be_found(canary: Secrets) -> None:
    password = canary.passwords["MQ_PASSWORD"]
    login = base64.b64encode(f"{canary.user}:{password}".encode()).decode()
    for text in (password, f"amqp://u:{quote(password, safe='')}@h/", f"Basic {login}"):
        assert canary.told_in(f"before {text} after") == ["MQ_PASSWORD"]


@pytest.mark.parametrize(
    ("name", "action"), [("DB_PASSWORD", "database-waiting"), ("MQ_PASSWORD", "broker-waiting")]
)
def test_a_secret_that_is_refused_is_not_told_either(
    canary: Secrets, name: str, action: str
) -> None:
    canary.passwords[name] = f"wrong {canary.passwords[name]}"
    canary.write_passwords()
    with service_process(canary.environment) as service:
        (wait, *_) = service.wait_until_told(action, times=3)
        assert "wrong user or password" in wait["why"]
        shown = [page(service, path) for path in ("/health", "/metrics", "/console/data.json")]
    shown += [*service.lines, orders("check", canary.environment)]

    assert canary.told_in("\n".join(shown)) == []


def test_a_secret_that_changes_is_used_from_the_next_start_on(canary: Secrets) -> None:
    canary.write_passwords()
    with service_process(canary.environment) as before:
        before.wait_for_status("/health/ready", 200)
        canary.passwords["MQ_PASSWORD"] = changed = secrets.token_hex(12)
        canary.rabbit.change_password(canary.user, changed)
        canary.folder.joinpath("MQ_PASSWORD").unlink()
        canary.write_passwords()

        with service_process(canary.environment) as after:
            after.wait_for_status("/health/ready", 200)
        assert before.status("/health/ready") == 200, "a link that is open stays open"


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_secret_that_may_not_be_read_is_a_fault_that_says_so(
    monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "DB_PASSWORD").write_text("secret")
        folder.chmod(0o755)
        (folder / "DB_PASSWORD" if closed == "file" else folder).chmod(0)
        monkeypatch.setenv("SECRETS_DIR", name)
        with without_privileges(), pytest.raises(ConfigurationError) as fault:
            load_settings()
        folder.chmod(0o700)

    assert str(fault.value) == f"A file in {name} cannot be read: Permission denied"


# Steps


def page(service: ServiceProcess, path: str) -> str:
    """What is served there, headers included, with any status."""
    opener = urllib.request.build_opener(AnyStatus)
    with opener.open(f"http://{HOST}:{service.port}{path}", timeout=PATIENCE_SECONDS) as answer:
        return f"{answer.headers}{answer.read().decode()}"


class AnyStatus(urllib.request.HTTPErrorProcessor):
    """An answer is an answer, whatever its status."""

    def http_response(self, request: object, response: object) -> object:
        return response


def seen_by_the_system(service: ServiceProcess) -> str:
    """Command line and environment, which other programs of the same user can read."""
    folder = Path("/proc") / str(service._popen.pid)
    if not folder.is_dir():
        return "this system shows neither"
    return "".join((folder / name).read_text() for name in ("cmdline", "environ"))


def orders(command: str, environment: dict[str, str]) -> str:
    """All that the command line says."""
    ran = subprocess.run(
        [sys.executable, "-m", "service.cli", command],
        cwd=ROOT,
        env={"PATH": os.defpath, "COLUMNS": "500", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return f"{ran.stdout}{ran.stderr}"


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root reads every file, whatever its permissions."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
