"""What must not be, and what is worth a warning, in settings that are each valid by themselves."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from service.config import addresses

# Passwords that stand in tutorials and examples: public, hence no passwords.
EXAMPLE_PASSWORDS = frozenset(
    {"", "admin", "change-me", "changeme", "example", "guest", "mysql", "order", "orders"}
    | {"pass", "passwd", "password", "rabbitmq", "root", "secret", "test", "user"}
)
# None: a socket, or what the driver takes for none, which is localhost.
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", None})
SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"


class Configured(Protocol):
    """The settings that are looked at together."""

    @property
    def production(self) -> bool: ...
    @property
    def database_url(self) -> SecretStr | None: ...
    @property
    def database(self) -> URL: ...
    @property
    def database_name(self) -> str: ...
    @property
    def embedded_database(self) -> bool: ...
    @property
    def mq_url(self) -> SecretStr | None: ...
    @property
    def mq_tls(self) -> bool: ...
    @property
    def mq_tls_ca(self) -> Path | None: ...
    @property
    def mq_management_url(self) -> SecretStr | None: ...
    @property
    def broker(self) -> str: ...
    @property
    def broker_name(self) -> str: ...
    @property
    def embedded_broker(self) -> bool: ...
    def database_tls(self) -> ssl.SSLContext | None: ...
    def broker_tls(self) -> ssl.SSLContext | None: ...


def warnings_of(settings: Configured) -> list[str]:
    """What is allowed and yet worth a line at start."""
    found = []
    if settings.database_url is not None:
        asked = make_url(settings.database_url.get_secret_value()).query.get("charset", "utf8mb4")
        if str(asked).lower() != "utf8mb4":
            found.append("DATABASE_URL asks for a charset: the connection always uses utf8mb4")
    mysql = settings.database.get_backend_name() == "mysql"
    if mysql and settings.database_tls() is None and settings.database.host not in LOCAL_HOSTS:
        found.append(f"the link to the database {settings.database_name} is not encrypted: DB_TLS")
    if (
        not settings.embedded_broker
        and settings.broker_tls() is None
        and urlsplit(settings.broker).hostname not in LOCAL_HOSTS
    ):
        found.append(f"the link to RabbitMQ {settings.broker_name} is not encrypted: MQ_TLS")
    return found


def url_faults(settings: Configured) -> list[str]:
    """What cannot be read, or contradicts itself, in the addresses of the servers."""
    faults = []
    try:
        given = settings.database_url
        if settings.database.drivername not in {"mysql+aiomysql", "sqlite+aiosqlite"}:
            faults.append(
                "DATABASE_URL must start with mysql+aiomysql:// or sqlite+aiosqlite://, "
                f"not {settings.database.drivername}://"
            )
        # What follows an unescaped @ or / of a password would be taken for host and name.
        elif settings.database.host and "@" in (settings.database.database or ""):
            faults.append("DATABASE_URL has an @ too many: write one in a password as %40")
        elif given is not None:
            mysql = settings.database.get_backend_name() == "mysql"
            look = addresses.database_faults if mysql else addresses.sqlite_faults
            faults += look(given.get_secret_value())
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        faults.append(
            "DATABASE_URL cannot be read; write mysql+aiomysql://USER:PASSWORD@HOST:3306/NAME"
        )
    try:
        parts = urlsplit(settings.broker)
        readable = parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        faults.append("MQ_URL cannot be read; write amqp://USER:PASSWORD@HOST:5672/VHOST")
    elif "@" in parts.path:
        faults.append("MQ_URL has an @ too many: write one in a password as %40")
    elif wrong := addresses.broker_faults(parts):
        faults += wrong
    elif (
        settings.mq_url is not None
        and (settings.mq_tls or settings.mq_tls_ca)
        and parts.scheme == "amqp"
    ):
        faults.append("MQ_TLS is set, and MQ_URL says no TLS: write amqps://")
    if settings.mq_management_url is not None:
        faults += _management_faults(settings.mq_management_url.get_secret_value())
    return faults


def production_faults(settings: Configured) -> list[str]:
    """Why these settings must not run in production; empty outside of it."""
    if not settings.production:
        return []
    if settings.embedded_database or settings.embedded_broker:
        missing = " and ".join(
            name
            for name, absent in (
                ("DB_HOST or DATABASE_URL", settings.embedded_database),
                ("MQ_HOST or MQ_URL", settings.embedded_broker),
            )
            if absent
        )
        return [
            f"production needs real servers: set {missing} "
            "(or ENVIRONMENT=development to try the service out)"
        ]
    try:
        database, broker = settings.database, urlsplit(settings.broker)
    except (ArgumentError, ValueError):
        return []  # named by url_faults
    faults = []
    if (database.password or "").lower() in EXAMPLE_PASSWORDS and database.host:
        faults.append("DB_PASSWORD is empty or an example: set a real one")
    if broker.username in {None, "", "guest"}:
        faults.append("MQ_USER is guest, which everyone knows: create a user for the service")
    if (broker.password or "").lower() in EXAMPLE_PASSWORDS:
        faults.append("MQ_PASSWORD is empty or an example: set a real one")
    if addresses.verification_is_off(broker):
        faults.append("MQ_URL turns TLS verification off (no_verify_ssl): give MQ_TLS_CA")
    return [f"{fault} (ENVIRONMENT=development allows it)" for fault in faults]


def folder_faults() -> list[str]:
    """What prometheus_client, which reads its variable by itself, would stumble over later."""
    name = os.environ.get(SHARED_METRICS)
    if name is None:
        return []
    if not name:
        return [f"{SHARED_METRICS}: unset it, or name an empty folder"]
    if not Path(name).is_dir():
        return [f"{SHARED_METRICS}: no such folder: {name}"]
    try:
        with tempfile.TemporaryFile(dir=name):
            return []
    except OSError as error:
        return [f"{SHARED_METRICS}: {name} cannot be written to: {error.strerror}"]


def _management_faults(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        readable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        readable = False
    return [] if readable else ["MQ_MANAGEMENT_URL cannot be read; write http://HOST:15672"]
