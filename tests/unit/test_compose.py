"""compose.yml, the Dockerfile and deploy/: valid, closed to the outside, in step with the service.

No container engine is needed: these are the promises that can be read off the files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.settings import Settings
from service.telemetry import Metrics
from service.topology import Topology

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
DEFINITIONS = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
RABBITMQ_CONF = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()

# Variables that mean something without compose only: compose.yml has its own servers and names.
NOT_IN_COMPOSE = {
    *("database_url", "db_tls", "db_tls_ca", "mq_url", "mq_tls", "mq_tls_ca"),
    *("incoming_order_queue", "outgoing_processed_queue", "outgoing_failed_queue", "dlq_queue"),
    *("events_exchange", "delivery_limit", "mq_management_url", "sqlite_path"),
}


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


def test_no_password_is_written_down_and_none_has_a_default() -> None:
    asked_for = r"\$\{[A-Z_]+_PASSWORD:\?[^}]+\}"
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASS" in name or "SECRET" in name:
                assert re.fullmatch(asked_for, value), name
    for line in RABBITMQ_CONF.splitlines():
        if ".password" in line:
            assert re.search(r"= \$\([A-Z_]+_PASSWORD\)$", line), line
    assert "users" not in DEFINITIONS
    assert "password" not in json.dumps(DEFINITIONS)


def test_every_variable_of_the_compose_file_is_in_the_example_and_empty_there() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE))
    example = example_variables()
    assert {"DB_PASSWORD", "MQ_PASSWORD"} <= used <= set(example)
    set_there = dict(re.findall(r"^([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE))
    assert set_there == dict.fromkeys(used, "")


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
    assert SERVICES["migrate"]["environment"] == SERVICES["service"]["environment"]


def test_the_images_are_the_pinned_ones() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images["db"] == "mysql:9.7"
    assert images["rabbitmq"] == "rabbitmq:4.3-management"
    assert images["migrate"] == images["service"]
    assert [image for image in images.values() if not re.search(r":[\w.-]*\d|:local$", image)] == []
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert bases == ["python:3.13-slim"] * 2


def test_the_start_is_ordered_by_health() -> None:
    assert SERVICES["service"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "rabbitmq": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert SERVICES["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "--protocol=tcp" in SERVICES["db"]["healthcheck"]["test"][1]
    assert "check_running" in SERVICES["rabbitmq"]["healthcheck"]["test"][1]
    assert SERVICES["migrate"]["healthcheck"] == {"disable": True}
    assert "/health/ready" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["migrate", "service"])
def test_our_image_runs_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [path.split(":")[0] for path in service["tmpfs"]] == ["/tmp"]
    assert not {"volumes", "privileged", "cap_add", "user"} & set(service)


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


def test_the_servers_know_the_users_that_the_service_logs_in_as() -> None:
    service, database = SERVICES["service"]["environment"], SERVICES["db"]["environment"]
    assert database["MYSQL_USER"] == service["DB_USER"]
    assert database["MYSQL_PASSWORD"] == service["DB_PASSWORD"]
    assert database["MYSQL_DATABASE"] == service["DB_NAME"]
    assert f"default_users.{service['MQ_USER']}.password = $(MQ_PASSWORD)" in RABBITMQ_CONF
    assert {"name": service["MQ_VHOST"]} in DEFINITIONS["vhosts"]
    read_by_the_broker = set(re.findall(r"\$\((\w+)\)", re.sub("(?m)^#.*", "", RABBITMQ_CONF)))
    assert read_by_the_broker == set(SERVICES["rabbitmq"]["environment"])


def test_every_mounted_file_is_there_and_every_volume_declared() -> None:
    declared = set(yaml.safe_load(COMPOSE)["volumes"])
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
