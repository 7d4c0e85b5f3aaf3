"""The rules of `orders check`, and how its findings read."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

from db.inspection import ClockOffset, ColumnCollation
from db.schema import needed_version
from service.app import Service
from service.config.settings import Settings
from service.database import migrate, open_database
from service.doctor import Finding, Level, check_all, exit_code, render, rules
from service.doctor.management import check_management, neighbours
from service.observability import Action
from service.rabbitmq.topology import Topology
from tests.harness import logged

SAFE = {
    "innodb_flush_log_at_trx_commit": "1",
    "sync_binlog": "1",
    "log_bin": "ON",
    "binlog_format": "ROW",
    "max_allowed_packet": str(16 * 1024 * 1024),
    "read_only": "OFF",
    "wsrep_on": "OFF",
}
CLUSTER = "rabbit@here"
ALL_BOUND = [
    {"destination_type": "queue", "destination": queue, "routing_key": key}
    for queue, key in (
        ("order_created_queue", "order.created"),
        ("order_processed_queue", "order.processed"),
        ("order_failed_queue", "order.failed"),
        ("order_dlq", "order.dead_letter"),
    )
]


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in findings}


def not_ok(findings: list[Finding]) -> dict[str, Level]:
    return {name: level for name, level in levels(findings).items() if level is not Level.OK}


# The database's settings.


def test_safe_settings_are_right() -> None:
    assert not_ok(rules.settings(SAFE)) == {}


@pytest.mark.parametrize(
    ("variable", "value", "name", "level"),
    [
        ("innodb_flush_log_at_trx_commit", "0", "flush at commit", Level.WRONG),
        ("innodb_flush_log_at_trx_commit", "2", "flush at commit", Level.WRONG),
        ("sync_binlog", "0", "binary log", Level.WRONG),
        ("sync_binlog", "100", "binary log", Level.WRONG),
        ("binlog_format", "STATEMENT", "binary log", Level.WRONG),
        ("max_allowed_packet", str(16 * 1024 * 1024 - 1), "largest packet", Level.WRONG),
        ("read_only", "ON", "takes writes", Level.WRONG),
        ("read_only", "NO_LOCK", "takes writes", Level.WRONG),
        ("wsrep_on", "ON", "cluster", Level.WARNING),
    ],
)
def test_one_unsafe_setting_is_named_and_nothing_else(
    variable: str, value: str, name: str, level: Level
) -> None:
    findings = rules.settings(SAFE | {variable: value})
    assert not_ok(findings) == {name: level}
    [named] = [finding for finding in findings if finding.name == name]
    assert named.advice


def test_without_a_binary_log_its_syncing_does_not_matter() -> None:
    assert not_ok(rules.settings(SAFE | {"log_bin": "OFF", "sync_binlog": "0"})) == {}


def test_a_server_that_tells_no_settings_is_unknown_not_right() -> None:
    assert not_ok(rules.settings({})) == {
        "flush at commit": Level.UNKNOWN,
        "largest packet": Level.UNKNOWN,
    }


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("9.7.4", Level.OK),
        ("8.4.0", Level.OK),
        ("8.0.36", Level.WARNING),
        ("5.7.44-log", Level.WRONG),
        ("10.11.19-MariaDB-0+deb12u1-log", Level.OK),
        ("11.8.2-MariaDB", Level.OK),
        ("10.6.1-MariaDB", Level.WARNING),
        ("10.5.9-MariaDB", Level.WRONG),
        ("who knows", Level.UNKNOWN),
    ],
)
def test_versions(text: str, level: Level) -> None:
    assert rules.version(text).level is level


def test_a_newer_schema_is_right_because_migrations_only_add() -> None:
    assert rules.schema_version(needed_version()).level is Level.OK
    assert rules.schema_version("9999").level is Level.OK
    assert rules.schema_version(None).level is Level.WRONG


def test_a_table_without_transactions_is_wrong() -> None:
    assert rules.engines({"orders": "InnoDB"}).level is Level.OK
    found = rules.engines({"orders": "MyISAM", "outbox": "InnoDB"})
    assert (found.level, found.found) == (Level.WRONG, "orders: MyISAM")


@pytest.mark.parametrize(
    ("collation", "level"),
    [
        ("ascii_bin", Level.OK),
        ("utf8mb4_bin", Level.OK),
        ("utf8mb4_0900_ai_ci", Level.WRONG),
        (None, Level.WRONG),
    ],
)
def test_ids_have_to_compare_byte_for_byte(collation: str | None, level: Level) -> None:
    column = ColumnCollation("orders.order_id", "ascii_bin", collation)
    assert rules.collations([column]).level is level


@pytest.mark.parametrize(
    ("ahead_ms", "error_ms", "level"),
    [
        (0, 1, Level.OK),
        (-900, 1, Level.OK),
        (1500, 1, Level.WARNING),
        (-1500, 1, Level.WARNING),
        (1500, 800, Level.OK),
    ],
)
def test_a_clock_is_off_only_by_more_than_a_second_and_the_error_of_measuring(
    ahead_ms: float, error_ms: float, level: Level
) -> None:
    assert rules.clock(ClockOffset(ahead_ms, error_ms)).level is level


# The embedded mode.


async def test_checking_the_embedded_mode_makes_no_file(tmp_path: Path) -> None:
    findings = await check_all(Settings(sqlite_path=tmp_path / "orders.db"))
    assert not_ok(findings) == {"file": Level.WARNING}
    assert list(tmp_path.iterdir()) == []


async def test_a_migrated_file_is_right_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    settings = Settings(sqlite_path=tmp_path / "orders.db")
    database = open_database(settings)
    await migrate(database)
    await database.dispose()

    findings = await check_all(settings)
    assert not_ok(findings) == {}
    assert levels(findings)["journal"] is Level.OK
    assert [path.name for path in tmp_path.iterdir()] == ["orders.db"]


async def test_a_file_in_use_is_read_with_what_its_log_holds(tmp_path: Path) -> None:
    settings = Settings(sqlite_path=tmp_path / "orders.db")
    database = open_database(settings)
    try:
        await migrate(database)
        assert not_ok(await check_all(settings)) == {}
    finally:
        await database.dispose()


async def test_another_file_of_that_name_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    path.write_bytes(b"not a database at all" * 100)
    assert not_ok(await check_all(Settings(sqlite_path=path))) == {"file": Level.WRONG}


async def test_what_production_would_refuse_is_said_in_development() -> None:
    settings = Settings(
        environment="development",
        database_url="sqlite+aiosqlite:///nowhere/orders.db",
        mq_url="amqp://guest:guest@127.0.0.1:1/",
        mq_connect_timeout_seconds=1,
    )
    texts = [each.found for each in await check_all(settings) if each.name == "production"]
    assert any("MQ_USER is guest" in text for text in texts)


# Bindings, from a management API.


@contextmanager
def management(
    cluster: str, bindings: object, status: int = 200, **others: object
) -> Iterator[str]:
    """`others`: answers by the last part of their path; an empty list where not given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("/api/")[2]
            known = {"overview": {"cluster_name": cluster}, **others}
            name = path.partition("/")[0]
            answer = bindings if name == "exchanges" else known.get(name, [])
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def bindings_at(url: str) -> list[Finding]:
    settings = Settings(
        environment="development", mq_url="amqp://a:b@127.0.0.1/", mq_management_url=url
    )
    topology = Topology.of(settings)
    return await check_management(settings, topology, topology.queues, CLUSTER)


async def test_bindings_are_right_where_the_management_api_lists_them() -> None:
    with management(CLUSTER, ALL_BOUND) as url:
        findings = await bindings_at(url)
    assert len(findings) == 4
    assert not_ok(findings) == {}


async def test_a_missing_binding_is_a_warning_that_names_its_queue() -> None:
    with management(CLUSTER, ALL_BOUND[:-1]) as url:
        findings = await bindings_at(url)
    assert not_ok(findings) == {"binding order_dlq": Level.WARNING}


@pytest.mark.parametrize(
    ("answering", "why"),
    [
        (lambda: management("rabbit@elsewhere", ALL_BOUND), "another broker"),
        (lambda: management(CLUSTER, ALL_BOUND, status=401), "refused the login"),
        (lambda: management(CLUSTER, ALL_BOUND, status=500), "status 500"),
    ],
)
async def test_where_the_management_api_does_not_tell_bindings_are_unknown(
    answering: Callable[[], AbstractContextManager[str]], why: str
) -> None:
    with answering() as url:
        [finding] = await bindings_at(url)
    assert finding.level is Level.UNKNOWN
    assert why in finding.found
    assert "binds its queues at every start" in finding.advice


@pytest.mark.parametrize("pattern", ["order.*", "#", "*.failed", "order.#", "order.dead_letter"])
async def test_an_incoming_queue_that_gets_the_events_back_is_wrong(pattern: str) -> None:
    back = {"destination_type": "queue", "destination": "order_created_queue"}
    with management(CLUSTER, [*ALL_BOUND, back | {"routing_key": pattern}]) as url:
        findings = await bindings_at(url)
    assert not_ok(findings) == {"binding order_created_queue": Level.WRONG}


@pytest.mark.parametrize("pattern", ["order.created", "orders.*", "order", "*", "*.*.*"])
async def test_a_binding_that_takes_no_event_is_somebodys_business(pattern: str) -> None:
    more = {"destination_type": "queue", "destination": "order_created_queue"}
    with management(CLUSTER, [*ALL_BOUND, more | {"routing_key": pattern}]) as url:
        assert not_ok(await bindings_at(url)) == {}


@pytest.mark.parametrize(
    ("queue", "definition", "level", "said"),
    [
        ("order_created_queue", {"message-ttl": 60000}, Level.WRONG, "waits for 60 s"),
        ("order_created_queue", {"max-length": 9, "overflow": "drop-head"}, Level.OK, ""),
        ("order_created_queue", {"expires": 1000}, Level.WRONG, "deleted with its orders"),
        ("order_dlq", {"max-length": 1000}, Level.WARNING, "beyond 1000 messages"),
        (
            "order_dlq",
            {"dead-letter-exchange": "", "dead-letter-routing-key": "order_created_queue"},
            Level.WARNING,
            "decided anew",
        ),
        ("order_processed_queue", {"message-ttl": 1000}, Level.WARNING, "nobody reads for 1 s"),
        ("order_processed_queue", {"queue-master-locator": "min-masters"}, Level.OK, ""),
    ],
)
async def test_a_policy_is_judged_by_what_it_costs(
    queue: str, definition: dict[str, object], level: Level, said: str
) -> None:
    arguments = {each.name: each.arguments for each in Topology.of(Settings()).queues}[queue]
    found = {
        "name": queue,
        "policy": "theirs",
        "arguments": arguments,
        "effective_policy_definition": definition,
    }
    with management(CLUSTER, ALL_BOUND, queues=[found]) as url:
        (finding,) = [each for each in await bindings_at(url) if each.name.startswith("policy")]
    assert (finding.level, finding.name) == (level, f"policy of {queue}")
    assert finding.found.startswith("theirs: ")
    assert said in finding.advice


def connection(name: str, vhost: str = "/") -> dict[str, str]:
    return {"user_provided_name": name, "vhost": vhost}


async def test_another_service_in_the_vhost_is_a_warning_that_names_its_database() -> None:
    own = Settings(environment="development", mq_url="amqp://a:b@127.0.0.1/").database_name
    there = [
        connection(f"orders consumer of {own}"),
        connection("orders consumer of db2:3306/order_db"),
        connection("orders consumer of db3:3306/order_db", vhost="other"),
        connection("orders relay"),
        {"vhost": "/"},
    ]
    with management(CLUSTER, ALL_BOUND, connections=there) as url:
        findings = await bindings_at(url)
    (finding,) = [each for each in findings if each.name == "other services"]
    assert finding.level is Level.WARNING
    assert "db2:3306/order_db" in finding.found
    settings = Settings(environment="development", mq_url="amqp://a:b@127.0.0.1/")
    assert neighbours(settings, {"not": "a list"}) == []


@pytest.mark.parametrize(("status", "found"), [(200, ["db2:3306/order_db"]), (401, [])])
async def test_the_start_tells_of_another_service_where_somebody_tells_it(
    status: int, found: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    there = [connection("orders consumer of db2:3306/order_db")]
    with management(CLUSTER, ALL_BOUND, status, connections=there) as url:
        settings = Settings(
            environment="development", mq_url="amqp://a:b@127.0.0.1/", mq_management_url=url
        )
        await Service(settings)._tell_neighbours()
    assert [each["database"] for each in logged(caplog, Action.NEIGHBOUR)] == found


# How it reads.

FINDINGS = [
    Finding("database", "login", Level.OK, "as orders"),
    Finding("database", "flush at commit", Level.WRONG, "= 2", "set it to 1 " + "and again " * 12),
    Finding("broker", "queue [bold]x[/bold]", Level.WARNING, "evil \x1b[31m text"),
    Finding("broker", "bindings", Level.UNKNOWN, "nobody listens there"),
]


def printed(findings: list[Finding], *, color: bool = False) -> str:
    out = StringIO()
    console = Console(
        file=out, width=80, color_system="standard" if color else None, force_terminal=color
    )
    console.print(render(findings))
    return out.getvalue()


def test_without_colour_each_level_is_a_word_and_lines_fit_80_columns() -> None:
    text = printed(FINDINGS)
    for word in ("ok", "WRONG", "warning", "unknown"):
        assert any(line.startswith(f"{word} ") for line in text.splitlines())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.rstrip().endswith("1 wrong, 1 warning, 1 unknown, 1 ok")


def test_findings_are_grouped_by_subject_in_their_order() -> None:
    lines = [line.strip() for line in printed(FINDINGS).splitlines()]
    assert lines.index("database") < lines.index("broker")
    assert lines.count("database") == 1


def test_what_a_server_says_is_neither_markup_nor_a_control_character() -> None:
    assert "[bold]x[/bold]" in printed(FINDINGS)
    assert "evil ?[31m text" in printed(FINDINGS)
    assert "evil ?[31m text" in printed(FINDINGS, color=True)


def test_only_what_is_wrong_fails_the_command() -> None:
    assert exit_code(FINDINGS) == 1
    assert exit_code([each for each in FINDINGS if each.level is not Level.WRONG]) == 0
