"""The servers of compose.yml without a container engine: private ones, set up by deploy/'s scripts.

What the scripts get from compose (secret files, the server's socket, a folder in memory) they get
here from the server's own folder. The passwords are random.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT
from tests.servers import DatabaseServer, RabbitServer
from tests.servers.database import GivenDatabase
from tests.servers.server import PrivateServer

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yml").read_text())["services"]
DATABASE = "order_db"
DEPLOYED_CONFIGURATION = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
# RabbitMQ 3 knows neither and would not start; compose.yml has 4.3.
NEW_IN_4 = ("anonymous_login_user",)


class SecretFiles:
    """The folder that deploy/make_secrets.sh makes, and what each service sees of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> str:
        return (self.folder / name).read_text()

    def change(self, name: str) -> str:
        """A new password in the same file, as an editor would leave it; the old one is returned."""
        before = self[name]
        (self.folder / name).chmod(0o644)
        (self.folder / name).write_text(secrets.token_hex(16))
        return before

    def mount(self, service: str, folder: Path) -> None:
        """Fill the folder with what compose.yml puts into the service's /run/secrets."""
        folder.mkdir(exist_ok=True)
        for each in SERVICES[service]["secrets"]:
            known = {"source": each, "target": each} if isinstance(each, str) else each
            (folder / known["target"]).write_text(self[known["source"]])


def environment_of(service: str, folder: Path, **here: str) -> dict[str, str]:
    """A service's environment in compose.yml, with the secrets' folder and other addresses."""
    given: Mapping[str, str | None] = SERVICES[service]["environment"]
    known = {name: value for name, value in given.items() if value is not None}
    return {**known, "SECRETS_DIR": str(folder), **here}


class ComposedDatabase(DatabaseServer):
    """Set up as the image sets it up: an empty database, and root with its password."""

    def set_up(self, files: SecretFiles) -> None:
        self.execute(
            f"CREATE DATABASE {DATABASE};"
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{files['db_root_password']}'"
        )

    def set_up_users(self, files: SecretFiles) -> str:
        """What the services `accounts` and `grants` do."""
        _bring(self, "database")
        files.mount("grants", self.folder / "secrets")
        return self._place.run(
            "sh",
            self._inside("deployed/users.sh"),
            environment={
                "SECRETS_DIR": self._inside("secrets"),
                "DB_SOCKET": self._inside("socket"),
                "HOME": self._inside(""),
            },
        )

    def ask(self, sql: str) -> str:
        """One statement as the tests' own administrator: root's password is not for them."""
        return GivenDatabase.at(self.url("")).execute(sql)


class ComposedBroker(RabbitServer):
    """Starts by deploy/rabbitmq/start.sh, from the folder of definitions that this makes."""

    files: SecretFiles

    def _prepare(self) -> None:
        super()._prepare()
        _bring(self, "rabbitmq")
        for name in ("conf.d", "definitions"):
            (self.folder / name).mkdir()
        # Even this command wants an epmd.
        self._launch_epmd()
        old = self.ctl("version") < "4"
        configuration = DEPLOYED_CONFIGURATION.replace("/run/orders", self._inside("definitions"))
        if old:
            lines = configuration.splitlines(keepends=True)
            configuration = "".join(each for each in lines if not each.startswith(NEW_IN_4))
            topology = self.folder / "deployed/definitions.json"
            known = {**json.loads(topology.read_text()), "policies": []}
            topology.write_text(json.dumps(known))
        (self.folder / "conf.d/90-orders.conf").write_text(configuration)

    def _launch(self) -> Any:
        self.files.mount("rabbitmq", self.folder / "secrets")
        self._place.run(
            *("sh", self._inside("deployed/start.sh"), "true"),
            environment={
                "SECRETS_DIR": self._inside("secrets"),
                "DEFINITIONS_DIR": self._inside("definitions"),
            },
        )
        return super()._launch()

    def login(self, user: str, password: str) -> str:
        return f"amqp://{user}:{password}@{self.host}:{self.port}/%2F"


def _bring(server: PrivateServer, part: str) -> None:
    """A copy of deploy/PART where the server sees it: it may live in a root of its own."""
    shutil.copytree(ROOT / "deploy" / part, server.folder / "deployed", dirs_exist_ok=True)
