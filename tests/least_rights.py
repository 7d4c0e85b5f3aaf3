"""Users with the rights that deploy/ gives them and no others, on private servers.

Nothing of those files is repeated here: what the tests prove, they prove of what users apply.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from service.config.settings import Settings
from tests.harness import settings_for
from tests.processes import ROOT
from tests.servers import DatabaseServer, RabbitServer

SERVICE_SQL = (ROOT / "deploy/database/service_user.sql").read_text()
MIGRATIONS_SQL = (ROOT / "deploy/database/migrations_user.sql").read_text()
BROKER_RIGHTS = json.loads((ROOT / "deploy/rabbitmq/service_user.json").read_text())
SERVICE_USER = "orders_service"
MIGRATIONS_USER = "orders_migrations"
# Nobody listens there: what the tests expect does not hang on what this machine runs besides.
NO_MANAGEMENT = "http://127.0.0.1:1"


def table_rights() -> list[tuple[str, str]]:
    """Each right of the service's user as (verb, table)."""
    return [
        (verb, table)
        for verbs, table in re.findall(r"^GRANT ([A-Z, ]+) ON order_db\.(\w+)", SERVICE_SQL, re.M)
        for verb in verbs.split(", ")
    ]


@dataclass(frozen=True)
class Users:
    """One user for the service and one for migrations, known to both servers, with no rights."""

    database: DatabaseServer
    rabbit: RabbitServer
    password: str

    @classmethod
    def create(cls, database: DatabaseServer, rabbit: RabbitServer) -> Users:
        password = secrets.token_hex(16)
        for user in (SERVICE_USER, MIGRATIONS_USER):
            database.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'")
        rabbit.add_user(SERVICE_USER, password)
        return cls(database, rabbit, password)

    def drop(self) -> None:
        for user in (SERVICE_USER, MIGRATIONS_USER):
            self.database.execute(f"DROP USER '{user}'@'%'")
        self.rabbit.delete_user(SERVICE_USER)


@dataclass(frozen=True)
class LeastRights:
    """Those users' rights on one database and one vhost, given and taken away."""

    users: Users
    database_name: str
    vhost: str

    def settings(self, **overrides: Any) -> Settings:
        """The service as its own user, as in production."""
        database, rabbit = self.users.database, self.users.rabbit
        least: dict[str, Any] = {
            "environment": "production",
            "db_host": database.host,
            "db_port": database.port,
            "db_user": SERVICE_USER,
            "db_password": self.users.password,
            "db_name": self.database_name,
            "mq_host": rabbit.host,
            "mq_port": rabbit.port,
            "mq_user": SERVICE_USER,
            "mq_password": self.users.password,
            "mq_vhost": self.vhost,
            "mq_management_url": NO_MANAGEMENT,
        }
        return settings_for(**least | overrides)

    def migrations_url(self) -> str:
        database = self.users.database
        return (
            f"mysql+aiomysql://{MIGRATIONS_USER}:{self.users.password}"
            f"@{database.host}:{database.port}/{quote(self.database_name, safe='')}"
        )

    def grant_migrations(self) -> None:
        self._execute(MIGRATIONS_SQL)

    def grant_tables(self) -> None:
        self._execute(SERVICE_SQL)

    def revoke_table(self, verb: str, table: str) -> None:
        self._execute(f"REVOKE {verb} ON order_db.{table} FROM '{SERVICE_USER}'@'%'")

    def permit(self, **changes: str) -> None:
        """Give the service's user its permissions at the broker, some of them changed."""
        here = {"vhost": self.vhost}
        self.users.rabbit.import_definitions(
            {
                "permissions": [each | here | changes for each in BROKER_RIGHTS["permissions"]],
                "topic_permissions": [each | here for each in BROKER_RIGHTS["topic_permissions"]],
            }
        )

    def _execute(self, sql: str) -> None:
        self.users.database.execute(sql.replace("order_db.", f"`{self.database_name}`."))
