"""What the environment may say: defaults, precedence, refusals, and no secret in any text."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import quote

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from yarl import URL

from service.config.settings import Settings, load_settings
from service.config.validation import EXAMPLE_PASSWORDS
from service.domain.errors import ConfigurationError

PASSWORD = "p@ss/w:rd%2F+ #?é"
REAL = {
    "DB_HOST": "db",
    "DB_PASSWORD": "s3cret-db",
    "MQ_HOST": "rabbitmq",
    "MQ_USER": "orders",
    "MQ_PASSWORD": "s3cret-mq",
}


@pytest.fixture(autouse=True)
def _no_secrets_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def faults(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    """The lines that say what is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, **environment)
    head, *lines = str(caught.value).splitlines()
    assert head == "The configuration cannot be used:"
    assert caught.value.__suppress_context__
    return [line.removeprefix("  - ") for line in lines]


def test_an_empty_environment_is_the_embedded_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.embedded
    assert not settings.production
    assert settings.database.drivername == "sqlite+aiosqlite"
    assert (settings.database_name, settings.broker_name) == (
        "SQLite file orders.db",
        "in-process broker",
    )
    assert settings.warnings() == []


def test_the_defaults_are_those_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert (settings.db_port, settings.db_user, settings.db_name) == (3306, "user", "order_db")
    assert (settings.mq_port, settings.mq_user, settings.mq_vhost) == (5672, "guest", "/")
    assert [
        settings.incoming_order_queue,
        settings.outgoing_processed_queue,
        settings.outgoing_failed_queue,
        settings.dlq_queue,
        settings.events_exchange,
    ] == [
        "order_created_queue",
        "order_processed_queue",
        "order_failed_queue",
        "order_dlq",
        "order_events",
    ]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DB_HOST="", MQ_URL="", DB_PORT="", ENVIRONMENT="")
    assert settings.embedded


def test_the_parts_make_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **REAL, DB_PORT="3307", DB_NAME="shop", MQ_VHOST="orders")
    assert settings.production
    assert settings.database_name == "db:3307/shop"
    assert settings.broker == "amqp://orders:s3cret-mq@rabbitmq:5672/orders"
    assert settings.broker_name == "rabbitmq:5672/orders"


def test_a_url_wins_over_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        **REAL,
        DATABASE_URL="mysql+aiomysql://u:other-s3cret@elsewhere:3308/shop",
        MQ_URL="amqps://u:other-s3cret@elsewhere:5673/shop",
    )
    assert settings.database_name == "elsewhere:3308/shop"
    assert settings.database.password == "other-s3cret"
    assert settings.broker_name == "elsewhere:5673/shop"


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("mysql://u:s3cret@h/n", "mysql+aiomysql"),
        ("mariadb://u:s3cret@h/n", "mysql+aiomysql"),
        ("mariadb+aiomysql://u:s3cret@h/n", "mysql+aiomysql"),
        ("sqlite:///orders.db", "sqlite+aiosqlite"),
    ],
)
def test_a_database_url_needs_no_driver(
    monkeypatch: pytest.MonkeyPatch, url: str, driver: str
) -> None:
    settings = load(monkeypatch, DATABASE_URL=url, ENVIRONMENT="development")
    assert settings.database.drivername == driver


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20))
def test_any_password_user_and_vhost_arrives_at_the_servers_as_it_is(text: str) -> None:
    settings = Settings.model_construct(
        db_host="db",
        db_user=text,
        db_password=Settings.model_fields["db_password"].default.__class__(text),
        mq_host="mq",
        mq_user=text,
        mq_password=Settings.model_fields["mq_password"].default.__class__(text),
        mq_vhost=f"v{text}",
    )
    assert (settings.database.username, settings.database.password) == (text, text)
    broker = URL(settings.broker).update_query(heartbeat="10")
    assert (broker.user, broker.password) == (text, text)
    assert broker.path == f"/v{text}"
    assert broker.host == "mq"


@pytest.mark.parametrize("vhost", ["/", "a/b", "/a", "é", "a b", "%2F", "a?b#c"])
def test_a_vhost_may_have_any_name(monkeypatch: pytest.MonkeyPatch, vhost: str) -> None:
    settings = load(monkeypatch, **REAL, MQ_VHOST=vhost)
    assert settings.broker.endswith("/" + quote(vhost, safe=""))
    assert URL(settings.broker).path == f"/{vhost}"


@pytest.mark.parametrize("host", ["::1", "fe80::1"])
def test_an_ipv6_host_is_a_host(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    settings = load(monkeypatch, **REAL | {"DB_HOST": host, "MQ_HOST": host})
    assert (settings.database.host, URL(settings.broker).host) == (host, host)
    assert len(settings.warnings()) == (0 if host == "::1" else 2)


def test_a_password_with_special_characters_arrives_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(monkeypatch, **REAL | {"DB_PASSWORD": PASSWORD, "MQ_PASSWORD": PASSWORD})
    assert settings.database.password == PASSWORD
    assert URL(settings.broker).password == PASSWORD
    assert make_url(settings.database.render_as_string(hide_password=False)).password == PASSWORD


@pytest.mark.parametrize("name", ["DB_PASSWORD", "db_password"])
def test_secrets_come_from_files_too(
    monkeypatch: pytest.MonkeyPatch, secrets: Path, name: str
) -> None:
    (secrets / name).write_text(f"{PASSWORD}\n")
    environment = {key: value for key, value in REAL.items() if key != "DB_PASSWORD"}
    assert load(monkeypatch, **environment).database.password == PASSWORD


def test_the_environment_wins_over_a_file(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    (secrets / "DB_PASSWORD").write_text("from-the-file")
    assert load(monkeypatch, **REAL).database.password == "s3cret-db"


def test_a_secret_file_that_cannot_be_read_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, secrets: Path
) -> None:
    (secrets / "DB_PASSWORD").write_bytes(b"s3cret\xff")
    with pytest.raises(ConfigurationError, match="cannot be read: not UTF-8") as caught:
        load(monkeypatch)
    assert "s3cret" not in str(caught.value)


def test_a_folder_of_secrets_that_is_not_there_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="SECRETS_DIR: no such directory"):
        load(monkeypatch, SECRETS_DIR="/no/such/folder")


def test_an_empty_secrets_dir_does_not_mean_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "DB_HOST").write_text("elsewhere")
    monkeypatch.chdir(tmp_path)
    assert load(monkeypatch, SECRETS_DIR="").db_host is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DB_PORT", "s3cret"),
        ("DB_PORT", "0"),
        ("MQ_PORT", "65536"),
        ("DB_POOL_SIZE", "0"),
        ("DB_TIMEOUT_SECONDS", "nan"),
        ("DB_TIMEOUT_SECONDS", "inf"),
        ("DB_TIMEOUT_SECONDS", "-1"),
        ("MQ_HEARTBEAT_SECONDS", "5"),
        ("PREFETCH_COUNT", "0"),
        ("OUTBOX_RETENTION_HOURS", "-1"),
        ("DB_TLS", "perhaps"),
        ("DB_TLS_CA", "/no/such/file"),
        ("ENVIRONMENT", "staging"),
        ("LOG_LEVEL", "loud"),
        ("INCOMING_ORDER_QUEUE", "q" * 256),
    ],
)
def test_a_fault_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (line,) = faults(monkeypatch, **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert "s3cret" not in line


def test_each_fault_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = faults(monkeypatch, DB_PORT="x", MQ_PORT="y", PREFETCH_COUNT="0")
    assert [line.split(":")[0] for line in lines] == ["DB_PORT", "MQ_PORT", "PREFETCH_COUNT"]


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "mysql://u:a@b:s3cret@host/db",
        "mysql://u:p@ss/w:s3cret%@host/db",
        "mysql://u:s3cret@host:port/db",
        "mysql+pymysql://u:s3cret@host/db",
        "postgresql://u:s3cret@host/db",
    ],
)
def test_a_database_url_that_cannot_be_used_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    lines = faults(monkeypatch, DATABASE_URL=url, ENVIRONMENT="development")
    assert [line.split()[0] for line in lines] == ["DATABASE_URL"]
    assert "s3cret" not in str(lines)


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "http://u:s3cret@host/",
        "amqp://",
        "amqp:///s3cret",
        "amqp://u:s3cret@host:port/",
        "amqp://u:s3cret@host:99999/",
        "amqp://u:s3cret@[host/",
        "amqp://u:p@ss/w:s3cret%@host/",
        "amqp://u:p#s3cret@host/",
    ],
)
def test_a_broker_url_that_cannot_be_used_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    lines = faults(monkeypatch, MQ_URL=url, ENVIRONMENT="development")
    assert [line.split()[0] for line in lines] == ["MQ_URL"]
    assert "s3cret" not in str(lines)


@pytest.mark.parametrize("name", ["OUTGOING_PROCESSED_QUEUE", "OUTGOING_FAILED_QUEUE", "DLQ_QUEUE"])
def test_the_service_does_not_take_in_what_it_publishes(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (line,) = faults(monkeypatch, **{name: "order_created_queue"})
    assert line.startswith(f"{name} must not be INCOMING_ORDER_QUEUE")


def test_a_lease_outlives_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = faults(monkeypatch, RELAY_LEASE_SECONDS="15", PUBLISH_TIMEOUT_SECONDS="15")
    assert line.startswith("RELAY_LEASE_SECONDS must be longer than PUBLISH_TIMEOUT_SECONDS")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"DB_PASSWORD": ""}, "DB_PASSWORD"),
        ({"MQ_PASSWORD": ""}, "MQ_PASSWORD"),
        ({"MQ_USER": "guest"}, "MQ_USER"),
        ({"MQ_USER": ""}, "MQ_USER"),
        ({"MQ_URL": "amqp://guest:s3cret@h/"}, "MQ_USER"),
        ({"MQ_URL": "amqp://u:guest@h/"}, "MQ_PASSWORD"),
        ({"MQ_URL": "amqp://u@h/"}, "MQ_PASSWORD"),
        ({"MQ_URL": "amqps://u:s3cret@h/?no_verify_ssl=1"}, "MQ_URL"),
        ({"DATABASE_URL": "mysql://u:root@h/n"}, "DB_PASSWORD"),
        ({"DATABASE_URL": "mysql://u@h/n"}, "DB_PASSWORD"),
        *(({"DB_PASSWORD": each}, "DB_PASSWORD") for each in sorted(EXAMPLE_PASSWORDS)[1::6]),
        *(
            ({"MQ_PASSWORD": each.upper()}, "MQ_PASSWORD")
            for each in sorted(EXAMPLE_PASSWORDS)[1::6]
        ),
    ],
)
def test_production_refuses_what_everyone_knows_and_unverified_tls(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], named: str
) -> None:
    (line,) = faults(monkeypatch, **REAL | change)
    assert line.split()[0] == named
    assert line.endswith("(ENVIRONMENT=development allows it)")
    assert "s3cret" not in line
    settings = load(monkeypatch, ENVIRONMENT="development")
    assert not settings.production


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({"ENVIRONMENT": "production"}, "DB_HOST or DATABASE_URL and MQ_HOST or MQ_URL"),
        ({"DB_HOST": "db", "DB_PASSWORD": "s3cret"}, "MQ_HOST or MQ_URL"),
        ({"MQ_URL": "amqp://u:s3cret@h/"}, "DB_HOST or DATABASE_URL"),
    ],
)
def test_production_needs_real_servers(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], missing: str
) -> None:
    (line,) = faults(monkeypatch, **environment)
    assert line.startswith(f"production needs real servers: set {missing} (")


def test_plain_text_to_a_host_that_is_not_local_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, broker = load(monkeypatch, **REAL).warnings()
    assert "db:3306" in database
    assert "DB_TLS" in database
    assert "rabbitmq:5672" in broker
    assert "MQ_TLS" in broker
    assert "s3cret" not in database + broker


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_plain_text_to_a_local_host_is_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    assert load(monkeypatch, **REAL | {"DB_HOST": host, "MQ_HOST": host}).warnings() == []


@pytest.mark.parametrize(
    "environment",
    [
        {"DB_TLS": "true", "MQ_TLS": "true"},
        {"DB_TLS_CA": certifi.where(), "MQ_TLS_CA": certifi.where()},
        {"DB_TLS": "true", "MQ_URL": "AMQPS://u:s3cret@h/"},
    ],
)
def test_tls_is_verified(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    settings = load(monkeypatch, **REAL | environment)
    for context in (settings.database_tls(), settings.broker_tls()):
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
    assert settings.warnings() == []


def test_without_tls_there_is_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **REAL)
    assert (settings.database_tls(), settings.broker_tls()) == (None, None)


def test_tls_that_a_url_would_drop_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = faults(monkeypatch, **REAL, MQ_URL="amqp://u:s3cret@h/", MQ_TLS="true")
    assert line == "MQ_TLS is set, and MQ_URL says no TLS: write amqps://"


def test_a_file_that_holds_no_certificates_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    (line,) = faults(monkeypatch, DB_TLS_CA=str(tmp_path / "ca.pem"))
    assert line.startswith("DB_TLS_CA: not a PEM file of certificates: ")


def test_no_text_of_the_settings_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in (
        REAL,
        REAL | {"DATABASE_URL": "mysql://u:s3cret@h/n", "MQ_URL": "amqp://u:s3cret@h/v"},
    ):
        settings = load(monkeypatch, **environment)
        assert "s3cret" in settings.broker
        texts = (
            *(repr(settings), str(settings), str(settings.model_dump())),
            *(settings.model_dump_json(), str(settings.database), repr(settings.database)),
            *(settings.database_name, settings.broker_name, *settings.warnings()),
        )
        assert all("s3cret" not in text for text in texts)


def test_an_error_of_the_settings_themselves_hides_what_was_given() -> None:
    with pytest.raises(ValueError, match="db_port") as caught:
        Settings.model_validate({"db_port": "s3cret", "mq_url": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_settings_never_change(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    with pytest.raises(ValueError, match="frozen"):
        settings.db_host = "elsewhere"  # type: ignore[misc]
