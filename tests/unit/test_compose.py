"""compose.yml, the Dockerfile and deploy/: valid, closed to the outside, in step with the service.

No container engine is needed: these are the promises that can be read off the files.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.config.settings import Settings
from service.observability import Metrics
from service.rabbitmq.topology import Topology

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DEFINITIONS = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
RABBITMQ_CONF = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

SERVERS = ("db", "rabbitmq")
JOBS = ("accounts", "migrate", "grants")
LONG_RUNNING = sorted(set(SERVICES) - set(JOBS))
# Variables that mean something without compose only: compose.yml has its own servers and names.
NOT_IN_COMPOSE = {
    *("database_url", "db_tls", "db_tls_ca", "mq_url", "mq_tls", "mq_tls_ca"),
    *("incoming_order_queue", "outgoing_processed_queue", "outgoing_failed_queue", "dlq_queue"),
    *("events_exchange", "delivery_limit", "mq_management_url", "sqlite_path"),
    # Files in /run/secrets.
    *("db_password", "mq_password"),
}
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of an empty environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Settings()


def example_variables() -> dict[str, str]:
    """Name and value of every line of .env.example, commented out or not."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z_]*)=(.*)$", ENV_EXAMPLE, re.MULTILINE))


def test_the_compose_file_follows_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "data/compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.check_schema(schema)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(COMPOSE))] == []


def test_every_port_is_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert {"127.0.0.1:8000:8000", "127.0.0.1:15672:15672"} <= set(ports)
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def size(text: str) -> int:
    """Bytes of "512m", "600MB", "1g"; near enough for comparing."""
    number, unit = re.fullmatch(r"(\d+)([kmg])b?", text.lower(), re.ASCII).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def secrets_of(name: str) -> dict[str, str]:
    """A service's secrets: the file's name in /run/secrets, and the secret it holds."""
    given = SERVICES[name].get("secrets", [])
    long = [{"source": each, "target": each} if isinstance(each, str) else each for each in given]
    return {each["target"]: each["source"] for each in long}


def test_no_password_is_in_an_environment_a_configuration_or_a_definition() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if name.endswith(("PASSWORD", "PASS", "SECRET")):
                pytest.fail(f"{name} is a secret in an environment")
            if name.endswith("_FILE"):
                assert value.startswith("/run/secrets/"), name
    assert "password" not in re.sub("(?m)^#.*", "", RABBITMQ_CONF)
    assert "users" not in DEFINITIONS
    assert "password" not in json.dumps(DEFINITIONS)


def test_every_secret_is_a_file_that_the_script_makes_and_git_ignores() -> None:
    made = re.findall(r"\b(?:db|mq)_\w*password\b", (ROOT / "deploy/make_secrets.sh").read_text())
    assert FILE["secrets"] == {name: {"file": f"./secrets/{name}"} for name in sorted(made)}
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_each_service_sees_the_secrets_it_logs_in_with_and_no_other() -> None:
    assert secrets_of("service") == {"db_password": "db_password", "mq_password": "mq_password"}
    assert secrets_of("migrate") == {"db_password": "db_migrations_password"}
    assert set(secrets_of("db")) == {"db_root_password"}
    assert set(secrets_of("rabbitmq")) == {"mq_password", "mq_admin_password"}
    for name in ("accounts", "grants"):
        assert not [each for each in secrets_of(name) if each.startswith("mq_")]


def test_the_secrets_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        subprocess.run([ROOT / "deploy/make_secrets.sh", folder], check=True, capture_output=True)
        made = {each.name: each.read_text() for each in folder.iterdir()}
        assert set(made) == set(FILE["secrets"])
        (folder / "db_password").chmod(0o644)
        (folder / "db_password").write_text("kept")
    assert (folder / "db_password").read_text() == "kept"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(re.fullmatch("[0-9a-f]{48}", text) for text in made.values() if text != "kept")
    assert len(set(made.values())) == len(made)


def test_compose_asks_for_no_variable_and_the_example_sets_none() -> None:
    assert re.findall(r"(?<!\$)\$\{?([A-Z_]+)", COMPOSE) == []
    assert re.findall(r"^([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE) == []


def test_the_example_names_every_setting_with_its_default(
    defaults: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = example_variables()
    fields = {name.upper() for name in Settings.model_fields}
    assert fields <= set(example)
    for name in fields - {"DATABASE_URL", "MQ_URL", "ENVIRONMENT"}:
        monkeypatch.setenv(name, example[name])
    assert Settings() == defaults


def test_every_setting_reaches_the_service_in_compose_or_is_meant_not_to() -> None:
    given = {name.lower() for name in SERVICES["service"]["environment"]}
    assert given == set(Settings.model_fields) - NOT_IN_COMPOSE
    shared = {"DB_HOST", "DB_PORT", "DB_NAME"}
    service, migrate = (SERVICES[name]["environment"] for name in ("service", "migrate"))
    assert {name: migrate[name] for name in shared} == {name: service[name] for name in shared}


def test_the_images_are_the_pinned_ones() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images["db"] == "mysql:9.7"
    assert images["rabbitmq"] == "rabbitmq:4.3-management"
    assert images["migrate"] == images["service"]
    assert images["accounts"] == images["grants"] == images["db"]
    assert [image for image in images.values() if not re.search(r":[\w.-]*\d|:local$", image)] == []
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "ARG BASE=python:3.13-slim\n" in dockerfile
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${BASE}"] * 2


def test_the_start_is_ordered_by_health() -> None:
    assert SERVICES["service"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "rabbitmq": {"condition": "service_healthy"},
        "grants": {"condition": "service_completed_successfully"},
    }
    ended = {"condition": "service_completed_successfully"}
    assert SERVICES["grants"]["depends_on"] == {"migrate": ended}
    assert SERVICES["migrate"]["depends_on"] == {"accounts": ended}
    assert SERVICES["accounts"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "--protocol=tcp" in SERVICES["db"]["healthcheck"]["test"]
    assert "check_running" in SERVICES["rabbitmq"]["healthcheck"]["test"][1]
    assert SERVICES["migrate"]["healthcheck"] == {"disable": True}
    assert '"/app/healthcheck.py", "8000"' in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_everything_runs_without_rights_and_within_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add"} & set(service)
    # More cores than a machine has are refused there.
    assert service["cpus"] == 1
    assert size(service["mem_limit"]) <= UNITS["g"]
    assert 0 < service["pids_limit"] <= 1000


@pytest.mark.parametrize("name", ["migrate", "service"])
def test_our_image_has_nothing_but_memory_to_write_to(name: str) -> None:
    service = SERVICES[name]
    assert [path.split(":")[0] for path in service["tmpfs"]] == ["/tmp"]
    assert not {"volumes", "user"} & set(service)
    assert service["init"] is True


def test_the_servers_are_never_root() -> None:
    users = {name: SERVICES[name]["user"] for name in (*SERVERS, "accounts", "grants")}
    assert users == dict.fromkeys(("db", "accounts", "grants"), "mysql") | {"rabbitmq": "rabbitmq"}


def test_what_ends_is_started_again_and_what_is_done_is_not() -> None:
    assert {SERVICES[name]["restart"] for name in LONG_RUNNING} == {"unless-stopped"}
    assert {SERVICES[name]["restart"] for name in JOBS} == {"no"}


def test_database_and_broker_do_not_see_each_other_and_the_database_not_the_outside() -> None:
    networks = {name: set(each.get("networks", ())) for name, each in SERVICES.items()}
    assert networks["service"] == {"database", "broker", "front"}
    assert networks["db"] == networks["migrate"] == {"database"}
    assert networks["rabbitmq"] == {"broker"}
    assert not [
        name
        for name in networks
        if name not in JOBS and "database" in networks[name] and name not in {"db", "service"}
    ]
    assert FILE["networks"]["database"] == {"internal": True}
    assert "ports" not in SERVICES["db"]
    for name in ("accounts", "grants"):
        assert SERVICES[name]["network_mode"] == "none"


def test_the_broker_holds_publishers_back_well_before_its_memory_ends() -> None:
    (watermark,) = re.findall(r"^vm_memory_high_watermark.absolute = (\w+)$", RABBITMQ_CONF, re.M)
    assert size(watermark) <= 0.6 * size(SERVICES["rabbitmq"]["mem_limit"])


def test_the_service_gets_the_time_it_takes_to_drain() -> None:
    grace = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_timeout_seconds"].default


def test_the_database_is_durable_and_reads_committed() -> None:
    assert {
        "--innodb-flush-log-at-trx-commit=1",
        "--sync-binlog=1",
        "--transaction-isolation=READ-COMMITTED",
        "--character-set-server=utf8mb4",
    } <= set(SERVICES["db"]["command"])


def test_each_side_names_the_same_users_database_and_vhost() -> None:
    service = SERVICES["service"]["environment"]
    assert SERVICES["db"]["environment"]["MYSQL_DATABASE"] == service["DB_NAME"]
    for name, file in (("service", "service_user"), ("migrate", "migrations_user")):
        user = SERVICES[name]["environment"]["DB_USER"]
        sql = (ROOT / f"deploy/database/{file}.sql").read_text()
        assert set(re.findall(r"^GRANT .+ ON (\w+)\.\S+ TO '(\w+)'", sql, re.M)) == {
            (service["DB_NAME"], user)
        }
        assert f"account {user} " in (ROOT / "deploy/database/users.sh").read_text()
    start = (ROOT / "deploy/rabbitmq/start.sh").read_text()
    rights = json.loads((ROOT / "deploy/rabbitmq/service_user.json").read_text())
    assert f'"name": "{service["MQ_USER"]}"' in start
    assert {each["user"] for each in rights["permissions"]} == {service["MQ_USER"]}
    assert {"name": service["MQ_VHOST"]} in DEFINITIONS["vhosts"]


def test_every_mounted_file_is_there_and_every_volume_declared() -> None:
    declared = set(FILE["volumes"])
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in declared


def test_the_broker_is_given_the_queues_and_bindings_that_the_service_declares(
    defaults: Settings,
) -> None:
    topology = Topology.of(defaults)
    assert {(exchange["name"], exchange["type"]) for exchange in DEFINITIONS["exchanges"]} == {
        (topology.exchange, "topic")
    }
    assert {queue["name"]: queue["arguments"] for queue in DEFINITIONS["queues"]} == {
        queue.name: queue.arguments for queue in topology.queues
    }
    assert {(b["source"], b["routing_key"], b["destination"]) for b in DEFINITIONS["bindings"]} == {
        (topology.exchange, queue.binding_key, queue.name) for queue in topology.queues
    }


def test_exactly_one_policy_applies_to_each_queue_and_none_drops_a_message() -> None:
    for queue in DEFINITIONS["queues"]:
        policies = [p for p in DEFINITIONS["policies"] if re.search(p["pattern"], queue["name"])]
        assert len(policies) == 1, queue["name"]
        dead_lettered = "x-dead-letter-exchange" in queue["arguments"]
        definition = policies[0]["definition"]
        assert dead_lettered or definition["delivery-limit"] == -1
        assert not {"max-length", "max-length-bytes", "message-ttl", "expires"} & set(definition)


def test_alerts_and_dashboard_ask_for_metrics_that_the_service_has() -> None:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    has = {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in suffixes.get(family.type, [])
    }
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/orders.json").read_text())
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert set(re.findall(r"\borders_\w+", " ".join(asked))) - has == set()
