"""What is refused of addresses and names when the environment is read, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config.settings import Settings, load_settings
from service.domain.errors import ConfigurationError

DATABASE = "mysql+aiomysql://u:s3cret@h/shop"
BROKER = "amqps://u:s3cret@h/shop"


@pytest.fixture(autouse=True)
def _production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    monkeypatch.setenv("MQ_URL", BROKER)


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def fault(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """The one line that says what is wrong; it never holds a value."""
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, **environment)
    head, line = str(caught.value).splitlines()
    assert head == "The configuration cannot be used:"
    assert "s3cret" not in line
    return line.removeprefix("  - ")


# Arguments of DATABASE_URL


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        *(
            (argument, "DB_TLS")
            for argument in (
                "ssl-mode=REQUIRED",
                "sslmode=require",
                "sslMode=VERIFY_IDENTITY",
                "ssl=true",
                "ssl",
                "ssl_key=",
                "ssl_ca=/etc/ca.pem",
                "ssl_check_hostname=false",
                "useSSL=false",
                "requireSSL=true",
                "tls=skip-verify",
                "verifyServerCertificate=false",
                "trustCertificateKeyStoreUrl=file:s3cret",
                "allowPublicKeyRetrieval=true",
            )
        ),
        ("connect_timeout=abc", "DB_CONNECT_TIMEOUT_SECONDS"),
        ("connect_timeout=5", "DB_CONNECT_TIMEOUT_SECONDS"),
        ("connectTimeout=5000", "DB_CONNECT_TIMEOUT_SECONDS"),
        ("read_timeout=5", "DB_TIMEOUT_SECONDS"),
        ("socketTimeout=5000", "DB_TIMEOUT_SECONDS"),
        ("pool_size=5", "DB_POOL_SIZE"),
        ("connection_limit=5", "DB_POOL_SIZE"),
        ("serverTimezone=Europe/Berlin", "time zone"),
        ("loc=Local", "time zone"),
        ("time_zone=SYSTEM", "time zone"),
        ("sql_mode=ANSI", "SQL mode"),
        ("init_command=SET%20NAMES%20latin1", "session"),
        ("parseTime=true", "remove it"),
        ("autocommit=true", "remove it"),
        ("local_infile=1", "remove it"),
        ("s3=", "remove it"),
        ("unix_socket=mysqld.sock", "absolute path"),
    ],
)
@pytest.mark.parametrize("environment", ["production", "development"])
def test_an_argument_of_a_database_url_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, argument: str, remedy: str, environment: str
) -> None:
    line = fault(monkeypatch, DATABASE_URL=f"{DATABASE}?{argument}", ENVIRONMENT=environment)
    assert line.startswith(f"DATABASE_URL: {argument.partition('=')[0]}: ")
    assert remedy in line


def test_each_argument_of_a_url_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, DATABASE_URL=f"{DATABASE}?useSSL=false&serverTimezone=UTC&s=s3cret")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(": ")[1] for line in lines] == ["useSSL", "serverTimezone", "s"]
    assert "s3cret" not in str(lines)


@pytest.mark.parametrize("charset", ["utf8", "latin1", "gbk", "nonsense"])
def test_the_character_set_of_a_database_url_changes_nothing_and_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, charset: str
) -> None:
    settings = load(monkeypatch, DATABASE_URL=f"{DATABASE}?charset={charset}")
    assert settings.database.query == {}
    assert any("utf8mb4" in warning for warning in settings.warnings())


@pytest.mark.parametrize("argument", ["charset=utf8mb4", "charset=UTF8MB4"])
def test_the_character_set_that_is_used_anyway_may_be_named(
    monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    settings = load(monkeypatch, DATABASE_URL=f"{DATABASE}?{argument}", DB_TLS="1")
    assert settings.warnings() == []


def test_a_socket_of_the_database_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "mysql://u:s3cret@/shop?unix_socket=/run/mysqld/mysqld.sock"
    settings = load(monkeypatch, DATABASE_URL=url)
    assert settings.database.query == {"unix_socket": "/run/mysqld/mysqld.sock"}
    assert settings.database_name == "/run/mysqld/mysqld.sock/shop"
    assert settings.warnings() == []


@pytest.mark.parametrize(
    "url", ["sqlite:///orders.db?timeout=5", "sqlite:///orders.db?mode=ro&uri=true"]
)
def test_the_file_of_the_embedded_database_takes_no_arguments(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: \w+: .*: remove it"):
        load(monkeypatch, DATABASE_URL=url, ENVIRONMENT="development")


def test_the_file_of_the_embedded_database_has_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    line = fault(
        monkeypatch, DATABASE_URL="sqlite://u:s3cret@h/orders.db", ENVIRONMENT="development"
    )
    assert line.startswith("DATABASE_URL names a host")


# Arguments of MQ_URL


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("heartbeat=abc", "MQ_HEARTBEAT_SECONDS"),
        ("heartbeat=30", "MQ_HEARTBEAT_SECONDS"),
        ("connection_timeout=30000", "MQ_CONNECT_TIMEOUT_SECONDS"),
        ("connection_timeout", "MQ_CONNECT_TIMEOUT_SECONDS"),
        ("timeout=5", "MQ_CONNECT_TIMEOUT_SECONDS"),
        ("ssl=true", "MQ_TLS"),
        ("ssl_options=x", "MQ_TLS"),
        ("verify=verify_none", "MQ_TLS"),
        ("cacertfile=/etc/ca.pem", "MQ_TLS"),
        ("cafile=/etc/ca.pem", "MQ_TLS"),
        ("certfile=/etc/me.pem", "MQ_TLS"),
        ("vhost=shop", "MQ_VHOST"),
        ("auth=EXTERNAL", "remove it"),
        ("channel_max=5", "remove it"),
        ("name=me", "remove it"),
        ("frame_max=5", "remove it"),
    ],
)
@pytest.mark.parametrize("environment", ["production", "development"])
def test_an_argument_of_a_broker_url_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, argument: str, remedy: str, environment: str
) -> None:
    line = fault(monkeypatch, MQ_URL=f"{BROKER}?{argument}", ENVIRONMENT=environment)
    assert line.startswith(f"MQ_URL: {argument.partition('=')[0]}: ")
    assert remedy in line


@pytest.mark.parametrize(
    "url", ["amqp://u:5?s3cret@h/", "amqp://u:x@h/shop#s3cret", "amqp://u:x@h/?a=b#s3cret"]
)
def test_a_broker_url_with_an_unescaped_sign_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert fault(monkeypatch, MQ_URL=url, ENVIRONMENT="development").startswith("MQ_URL has a")


def test_development_may_turn_verification_off_and_it_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(monkeypatch, MQ_URL=f"{BROKER}?no_verify_ssl=1", ENVIRONMENT="development")
    context = settings.broker_tls()
    assert context is not None
    assert not context.check_hostname
    assert fault(monkeypatch, ENVIRONMENT="production").startswith("MQ_URL turns TLS verification")


# Names


def test_a_database_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("mysql://u:s3cret@h", "mysql://u:s3cret@h/", "mysql://u:s3cret@h/?charset=utf8mb4"):
        line = fault(monkeypatch, DATABASE_URL=url)
        assert line.startswith("DATABASE_URL names no database")


NAMES = (
    "INCOMING_ORDER_QUEUE",
    "OUTGOING_PROCESSED_QUEUE",
    "OUTGOING_FAILED_QUEUE",
    "DLQ_QUEUE",
    "EVENTS_EXCHANGE",
)


@pytest.mark.parametrize("variable", NAMES)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bestellungen_für_köln", "cannot send"),
        ("заказы", "cannot send"),
        ("orders\n", "cannot send"),
        ("orders*", "cannot send"),
        ("orders{prod}", "cannot send"),
        ("amq.orders", "RabbitMQ's own"),
        ("amq.topic", "RabbitMQ's own"),
    ],
)
def test_a_name_that_the_broker_will_never_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, why: str
) -> None:
    line = fault(monkeypatch, **{variable: name})
    assert line.startswith(f"{variable}: ")
    assert why in line


def test_names_are_as_long_as_the_client_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, INCOMING_ORDER_QUEUE="q" * 255, EVENTS_EXCHANGE="e" * 127)
    assert "255" in fault(monkeypatch, INCOMING_ORDER_QUEUE="q" * 256)
    monkeypatch.delenv("INCOMING_ORDER_QUEUE")
    assert "127" in fault(monkeypatch, EVENTS_EXCHANGE="e" * 128)


@pytest.mark.parametrize("name", ["orders prod", "orders.prod:eu-1/a,b+c@d#e", "amqp.orders"])
def test_a_name_that_the_broker_takes_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    load(monkeypatch, INCOMING_ORDER_QUEUE=name, EVENTS_EXCHANGE=name)


def test_a_vhost_is_as_long_as_the_client_can_send(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, sign in ((127, "v"), (63, "\u20ac")):
        monkeypatch.setenv("MQ_URL", f"amqps://u:s3cret@h/{sign * length}")
        load_settings()
        line = fault(monkeypatch, MQ_URL=f"amqps://u:s3cret@h/{sign * (length * 2)}")
        assert line.startswith("the vhost (MQ_VHOST) is too long")


# Hosts


@pytest.mark.parametrize(
    ("variable", "host", "why"),
    [
        ("DB_HOST", "db:3306", "DB_PORT"),
        ("MQ_HOST", "rabbitmq:5672", "MQ_PORT"),
        ("DB_HOST", "mysql://db", "DATABASE_URL"),
        ("MQ_HOST", "amqp://rabbitmq", "MQ_URL"),
        ("DB_HOST", "a..b", "no host name"),
        ("MQ_HOST", "h" * 64, "no host name"),
        ("MQ_HOST", "rabbit mq", "no host name"),
    ],
)
def test_what_is_no_host_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, host: str, why: str
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("MQ_URL")
    servers = {"DB_HOST": "db", "DB_PASSWORD": "x1", "MQ_HOST": "mq", "MQ_USER": "o"}
    line = fault(monkeypatch, **servers | {"MQ_PASSWORD": "x2", variable: host})
    assert line.startswith(f"{variable}: ")
    assert why in line


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@a..b/shop"),
        ("DATABASE_URL", "mysql://u:s3cret@h:99999/shop"),
        ("DATABASE_URL", "mysql://u:s3cret@h:0/shop"),
        ("MQ_URL", "amqps://u:s3cret@a..b/shop"),
    ],
)
def test_a_url_names_a_host_and_a_port(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    assert fault(monkeypatch, **{variable: url}).startswith(f"{variable}")


# Folders


def test_a_folder_of_shared_metrics_has_to_be_there_and_writable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load(monkeypatch, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    for path in (tmp_path / "missing", Path(__file__), Path("/proc")):
        line = fault(monkeypatch, PROMETHEUS_MULTIPROC_DIR=str(path))
        assert line.startswith("PROMETHEUS_MULTIPROC_DIR: ")
        assert str(path) in line
    assert "unset it" in fault(monkeypatch, PROMETHEUS_MULTIPROC_DIR="")


def test_the_file_of_the_embedded_database_is_in_a_folder_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("MQ_URL")
    load(monkeypatch, SQLITE_PATH=str(tmp_path / "orders.db"))
    for path in (tmp_path / "missing" / "orders.db", tmp_path):
        assert fault(monkeypatch, SQLITE_PATH=str(path)).startswith("SQLITE_PATH: ")


def test_a_value_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line = fault(monkeypatch, DLQ_QUEUE="\udcff")
    assert line.startswith("DLQ_QUEUE: ")
