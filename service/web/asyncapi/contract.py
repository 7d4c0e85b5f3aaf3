"""The AsyncAPI document: FastStream's own, one declarative overlay, and the queues' arguments.

FastStream gives channels, operations and payload schemas. `overlay.yaml` says what it has no place
for. Nothing comes from the environment but the names of queues and exchange.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

import yaml
from faststream.specification import AsyncAPI, Specification

from service.rabbitmq.topology import Topology

OVERLAY = Path(__file__).parent / "overlay.yaml"

Document = dict[str, Any]


class Contract(AsyncAPI):
    """FastStream's AsyncAPI factory; `faststream docs gen` and the page both ask it."""

    topology: Topology

    @cached_property
    def _finished(self) -> Specification:
        document = merged(super().to_specification().to_jsonable(), overlay(self.topology))
        document = merged(document, queues(self.topology))
        # FastStream gives these in another order each time.
        for part in (document, document["components"]):
            for name in {"channels", "operations", "schemas"} & part.keys():
                part[name] = dict(sorted(part[name].items()))
        return ContractDocument(document)

    def to_specification(self) -> Specification:
        """The same document for the life of the application."""
        return self._finished


@dataclass(frozen=True, slots=True)
class ContractDocument:
    """A finished document, in FastStream's `Specification` protocol."""

    document: Document

    @property
    def title(self) -> str:
        return str(self.document["info"]["title"])

    def to_jsonable(self) -> Document:
        return self.document

    def to_json(self) -> str:
        return json.dumps(self.document, indent=2, ensure_ascii=False)

    def to_yaml(self) -> str:
        return yaml.dump(
            self.document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )

    def on(self, server: Document) -> ContractDocument:
        """The same with the server of this deployment, in place of the one in the file."""
        return ContractDocument(self.document | {"servers": {"deployment": server}})


class _Dumper(yaml.SafeDumper):
    """No aliases: for people to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def merged(target: Any, patch: Any) -> Any:
    """`target` with a JSON Merge Patch (RFC 7396) applied."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def overlay(topology: Topology) -> Document:
    """`overlay.yaml` with the names of this topology."""
    names = {
        "exchange": topology.exchange,
        "incoming": topology.incoming.name,
        "processed": topology.processed.name,
        "failed": topology.failed.name,
        "dead_letters": topology.dead_letters.name,
    }
    filled: Document = _filled(yaml.safe_load(OVERLAY.read_text(encoding="utf-8")), names)
    return filled


def queues(topology: Topology) -> Document:
    """The queues with their arguments, for which the AMQP binding has no place: `x-arguments`."""
    found = {
        "OrderCreated": topology.incoming,
        "OrderProcessedQueue": topology.processed,
        "OrderFailedQueue": topology.failed,
        "DeadLetterQueue": topology.dead_letters,
    }
    return {
        "channels": {
            name: {
                "bindings": {
                    "amqp": {
                        "is": "queue",
                        "bindingVersion": "0.3.0",
                        "queue": {
                            "name": queue.name,
                            "durable": True,
                            "exclusive": False,
                            "autoDelete": False,
                            # The virtual host is the deployment's.
                            "vhost": "/",
                            "x-arguments": queue.arguments,
                        },
                    }
                }
            }
            for name, queue in found.items()
        }
    }


def _filled(value: Any, names: dict[str, str]) -> Any:
    match value:
        case str():
            return Template(value).safe_substitute(names)
        case dict():
            return {name: _filled(each, names) for name, each in value.items()}
        case list():
            return [_filled(each, names) for each in value]
        case _:
            return value
