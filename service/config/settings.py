"""What the environment says, read once, checked at start.

Every variable has a safe default, a bound and its unit in its name or description. Secrets may
also come from files named like the variable in /run/secrets (or `SECRETS_DIR`).
"""

from __future__ import annotations

import os
import ssl
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError
from sqlalchemy.engine import URL, make_url

from service.config import addresses
from service.config.hosts import parse_names
from service.config.validation import folder_faults, production_faults, url_faults, warnings_of
from service.domain.errors import ConfigurationError

Port = Annotated[int, Field(ge=1, le=addresses.MAX_PORT)]
Host = Annotated[str | None, AfterValidator(addresses.host_name)]
QueueName = Annotated[str, Field(min_length=1), AfterValidator(addresses.queue_name)]
ExchangeName = Annotated[str, Field(min_length=1), AfterValidator(addresses.exchange_name)]


class Settings(BaseSettings):
    """The whole configuration, frozen. Build it with `load_settings()` for readable errors."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        validate_default=True,
    )

    environment: Literal["production", "development"] | None = Field(
        None, description="production, or development (the default of the embedded mode)"
    )

    database_url: SecretStr | None = Field(None, description="wins over the DB_ parts")
    db_host: Host = Field(None, description="set: MySQL or MariaDB through aiomysql")
    db_port: Port = 3306
    db_user: str = "user"
    db_password: SecretStr = SecretStr("")
    db_name: str = "order_db"
    db_tls: bool = Field(False, description="verified TLS to the database")
    db_tls_ca: Path | None = Field(None, description="PEM file of the authority to trust")
    db_pool_size: int = Field(5, ge=1, le=50, description="connections a process keeps")
    db_connect_timeout_seconds: float = Field(5, ge=1, le=60)
    db_timeout_seconds: float = Field(15, ge=1, le=120, description="deadline of a transaction")
    sqlite_path: Path = Field(Path("orders.db"), description="file of the embedded database")

    mq_url: SecretStr | None = Field(None, description="wins over the MQ_ parts")
    mq_host: Host = Field(None, description="set: RabbitMQ; unset: in-process broker")
    mq_port: Port = 5672
    mq_user: str = "guest"
    mq_password: SecretStr = SecretStr("")
    mq_vhost: str = "/"
    mq_tls: bool = Field(False, description="verified TLS to the broker (amqps)")
    mq_tls_ca: Path | None = Field(None, description="PEM file of the authority to trust")
    mq_management_url: SecretStr | None = Field(
        None, description="RabbitMQ's management API, for `orders check`; unset: MQ_HOST:15672"
    )
    mq_connect_timeout_seconds: float = Field(10, ge=1, le=60)
    # Not below 6: a delivery is believed to be ours alone for 10 s, which two missed ones outlast.
    mq_heartbeat_seconds: int = Field(8, ge=6, le=60, description="three missed ones end a link")

    incoming_order_queue: QueueName = "order_created_queue"
    outgoing_processed_queue: QueueName = "order_processed_queue"
    outgoing_failed_queue: QueueName = "order_failed_queue"
    dlq_queue: QueueName = "order_dlq"
    events_exchange: ExchangeName = "order_events"
    delivery_limit: int = Field(
        20, ge=2, le=1000, description="deliveries before the broker dead-letters a crash loop"
    )

    prefetch_count: int = Field(200, ge=1, le=5000, description="messages in flight per process")
    prefetch_mebibytes: int = Field(
        8, ge=1, le=1024, description="bodies in flight per process; a larger one goes alone"
    )
    intake_batch_size: int = Field(200, ge=1, le=500, description="most orders per transaction")
    outage_hold_seconds: float = Field(
        60, ge=1, le=900, description="how long messages are held while the database is away"
    )

    relay_batch_size: int = Field(200, ge=1, le=1000, description="most events per claim")
    relay_lease_seconds: int = Field(
        30, ge=5, le=3600, description="what a dead relay had is taken over after this"
    )
    relay_poll_seconds: float = Field(2, ge=0.1, le=60, description="longest wait when idle")
    relay_max_attempts: int = Field(10, ge=1, le=100, description="then the event is parked")
    publish_timeout_seconds: float = Field(15, ge=1, le=60)

    outbox_retention_hours: float = Field(168, ge=0, le=8760, description="of published events")
    purge_interval_seconds: float = Field(60, ge=1, le=86400)
    purge_batch_size: int = Field(1000, ge=1, le=10000)

    web_hosts: str = Field(
        "", description="further names by which the web port may be asked for, with commas"
    )
    web_connections: int = Field(
        256, ge=16, le=10000, description="most connections to the web port; then the oldest goes"
    )
    web_exchange_seconds: float = Field(
        30, ge=1, le=300, description="a request that is not sent and answered by then is cut"
    )

    shutdown_timeout_seconds: float = Field(20, ge=1, le=300, description="to drain at SIGTERM")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("not UTF-8") from None
        return value

    @field_validator("db_tls_ca", "mq_tls_ca")
    @classmethod
    def _certificates_are_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"no such file: {path}")
        try:
            ssl.create_default_context(cafile=path)
        except OSError:
            raise ValueError(f"not a PEM file of certificates: {path}") from None
        return path

    @field_validator("web_hosts")
    @classmethod
    def _hosts_are_names(cls, text: str) -> str:
        parse_names(text)
        return text

    @model_validator(mode="after")
    def _lease_outlives_publishing(self) -> Self:
        if self.relay_lease_seconds <= self.publish_timeout_seconds:
            raise ValueError(
                "RELAY_LEASE_SECONDS must be longer than PUBLISH_TIMEOUT_SECONDS: "
                "a batch still being published must not be claimed by another relay"
            )
        return self

    @model_validator(mode="after")
    def _has_a_place_for_its_file(self) -> Self:
        if self.embedded_database:
            if not self.sqlite_path.parent.is_dir():
                raise ValueError(f"SQLITE_PATH: no such folder: {self.sqlite_path.parent}")
            if self.sqlite_path.is_dir():
                raise ValueError(f"SQLITE_PATH: a folder, not a file: {self.sqlite_path}")
        return self

    @model_validator(mode="after")
    def _eats_nothing_of_its_own(self) -> Self:
        for name in ("outgoing_processed_queue", "outgoing_failed_queue", "dlq_queue"):
            if getattr(self, name) == self.incoming_order_queue:
                raise ValueError(
                    f"{name.upper()} must not be INCOMING_ORDER_QUEUE: "
                    "the service would take in what it publishes, without end"
                )
        return self

    @model_validator(mode="after")
    def _safe_for_its_environment(self) -> Self:
        if faults := [*url_faults(self), *production_faults(self)]:
            raise ValueError("\n".join(faults))
        return self

    @property
    def embedded_database(self) -> bool:
        return self.database_url is None and self.db_host is None

    @property
    def embedded_broker(self) -> bool:
        return self.mq_url is None and self.mq_host is None

    @property
    def embedded(self) -> bool:
        """Nothing is configured: SQLite and the in-process broker, for trying it out."""
        return self.embedded_database and self.embedded_broker

    @property
    def production(self) -> bool:
        return (self.environment or ("development" if self.embedded else "production")) == (
            "production"
        )

    @cached_property
    def database(self) -> URL:
        """SQLAlchemy URL of the database, password included: never log it, log `database_name`."""
        if self.database_url is not None:
            url = make_url(self.database_url.get_secret_value())
            drivers = {"mysql": "mysql+aiomysql", "mariadb": "mysql+aiomysql"}
            drivers |= {"mariadb+aiomysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}
            # What else a URL may say of the connection, the service says itself.
            kept = {key: value for key, value in url.query.items() if key == "unix_socket"}
            return url.set(drivername=drivers.get(url.drivername, url.drivername), query=kept)
        if self.db_host is not None:
            return URL.create(
                "mysql+aiomysql",
                username=self.db_user,
                password=self.db_password.get_secret_value(),
                host=self.db_host,
                port=self.db_port,
                database=self.db_name,
            )
        return URL.create("sqlite+aiosqlite", database=str(self.sqlite_path))

    @cached_property
    def broker(self) -> str:
        """AMQP URL of the broker, password included: never log it, log `broker_name`."""
        if self.mq_url is not None:
            return self.mq_url.get_secret_value()
        host = self.mq_host or "localhost"
        host = f"[{host}]" if ":" in host else host
        return (
            f"{'amqps' if self.mq_tls or self.mq_tls_ca else 'amqp'}://"
            f"{quote(self.mq_user, safe='')}:{quote(self.mq_password.get_secret_value(), safe='')}"
            f"@{host}:{self.mq_port}/{quote(self.mq_vhost, safe='')}"
        )

    @property
    def database_name(self) -> str:
        """The database as logs and errors name it: host, port and name, no credentials."""
        url = self.database
        if url.get_backend_name() == "sqlite":
            return f"SQLite file {url.database}"
        if (socket := url.query.get("unix_socket")) is not None:
            return f"{socket}/{url.database}"
        return f"{url.host or 'localhost'}:{url.port or 3306}/{url.database}"

    @property
    def broker_name(self) -> str:
        """The broker as logs and errors name it: host, port and vhost, no credentials."""
        if self.embedded_broker:
            return "in-process broker"
        parts = urlsplit(self.broker)
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        vhost = unquote(parts.path.removeprefix("/"))
        return f"{parts.hostname}:{port}/{vhost.removeprefix('/')}"

    def database_tls(self) -> ssl.SSLContext | None:
        """A verifying TLS context for the database, or None where TLS is off."""
        if not (self.db_tls or self.db_tls_ca):
            return None
        return ssl.create_default_context(cafile=self.db_tls_ca)

    def broker_tls(self) -> ssl.SSLContext | None:
        """A verifying TLS context for the broker, or None where TLS is off."""
        parts = urlsplit(self.broker)
        if parts.scheme != "amqps":
            return None
        context = ssl.create_default_context(cafile=self.mq_tls_ca)
        if addresses.verification_is_off(parts):  # refused in production
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def warnings(self) -> list[str]:
        """What is allowed and yet worth a line at start."""
        return warnings_of(self)


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: one line per fault, each naming its variable and what to do.
    """
    chosen = os.environ.get("SECRETS_DIR")
    secrets = Path(chosen or "/run/secrets")
    if chosen and not secrets.is_dir():
        raise ConfigurationError(f"SECRETS_DIR: no such directory: {chosen}")
    lines = folder_faults()
    try:
        settings = Settings(_secrets_dir=secrets if secrets.is_dir() else None)
    except ValidationError as error:
        for fault in error.errors():
            variable = ".".join(str(part) for part in fault["loc"]).upper()
            message = fault["msg"].removeprefix("Value error, ")
            lines += [f"{variable}: {message}" if variable else line for line in [message]]
    except SettingsError as error:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) else "not UTF-8"
        raise ConfigurationError(f"A file in {secrets} cannot be read: {why}") from None
    if lines:
        raise ConfigurationError(
            "The configuration cannot be used:\n"
            + "\n".join(f"  - {line}" for text in lines for line in text.splitlines())
        ) from None
    return settings
