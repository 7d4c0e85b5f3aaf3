"""The AsyncAPI document: what FastStream knows of the application, and what it has no place for.

FastStream gives channels, operations, payload schemas and the server; added here are the names, the
headers, the AMQP properties and the examples, and an order that is the same every time. Nothing in
it comes from the environment but the names of queues and exchange.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from faststream.specification import AsyncAPI, Specification

from service.web.asyncapi.messages import MESSAGES, MessageNotes

SERVER = "rabbitmq"
SECURITY = "userPassword"
BINDING = "0.3.0"
SCHEMAS = "#/components/schemas/"

Document = dict[str, Any]


class Contract(AsyncAPI):
    """FastStream's AsyncAPI factory; `faststream docs gen` and the page both ask it."""

    @cached_property
    def _finished(self) -> Specification:
        return ContractDocument(_completed(super().to_specification().to_jsonable()))

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


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, no aliases: for people to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _completed(raw: Document) -> Document:
    if undescribed := raw["channels"].keys() ^ MESSAGES.keys():
        raise LookupError(f"not both wired and described: {', '.join(sorted(undescribed))}")
    found = raw["components"]["schemas"]
    (server,) = raw["servers"].values()
    (security,) = raw["components"]["securitySchemes"].values()
    headers = {notes.headers.__name__: _headers(notes) for notes in MESSAGES.values()}
    return {
        "asyncapi": raw["asyncapi"],
        "info": {**raw["info"], "description": raw["info"]["description"].strip()},
        "defaultContentType": raw["defaultContentType"],
        "servers": {
            SERVER: {**server, "security": [{"$ref": f"#/components/securitySchemes/{SECURITY}"}]}
        },
        "channels": {name: _channel(name, raw["channels"][name]) for name in MESSAGES},
        "operations": dict(_operation(name, raw["operations"][name]) for name in MESSAGES),
        "components": {
            "messages": {name: _message(name, notes) for name, notes in MESSAGES.items()},
            "schemas": {
                name: _schema({"title": name} | schema)
                for name, schema in sorted((found | headers).items(), key=_payloads_first)
            },
            "securitySchemes": {
                SECURITY: {
                    **security,
                    "description": "A RabbitMQ user, named by the login of the connection (PLAIN).",
                }
            },
        },
    }


def _payloads_first(schema: tuple[str, Any]) -> tuple[int, str]:
    """Payloads in the order of their messages, then their parts, then headers."""
    name, _ = schema
    order = [*MESSAGES, "OrderItem", "FailureReason"]
    return (order.index(name) if name in order else len(order), "")


def _channel(name: str, raw: Document) -> Document:
    amqp = raw["bindings"]["amqp"]
    for part in ("queue", "exchange"):
        if part in amqp:
            # The virtual host is the deployment's.
            amqp[part] = {**amqp[part], "vhost": "/"}
    return {
        "address": raw["address"],
        "title": name,
        "description": raw["description"],
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"amqp": amqp},
    }


def _operation(name: str, raw: Document) -> tuple[str, Document]:
    action = raw["action"]
    amqp = raw["bindings"]["amqp"]
    # The binding has some fields for receiving and the others for sending only.
    binding = (
        {"ack": True}
        if action == "receive"
        else {key: amqp[key] for key in ("cc", "deliveryMode", "mandatory")} | {"timestamp": True}
    )
    verb = "Receive" if action == "receive" else "Publish"
    return f"{action}{name}", {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "title": f"{verb} {name}",
        "summary": MESSAGES[name].operation,
        "bindings": {"amqp": {**binding, "bindingVersion": BINDING}},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _message(name: str, notes: MessageNotes) -> Document:
    typed = {"bindings": {"amqp": {"messageType": name, "bindingVersion": BINDING}}}
    return {
        "name": name,
        "title": name,
        "summary": notes.summary,
        "description": notes.description,
        "contentType": notes.content_type,
        "correlationId": {
            "description": "The AMQP property `correlation_id`.",
            "location": "$message.header#/correlation_id",
        },
        "headers": {"$ref": SCHEMAS + notes.headers.__name__},
        "payload": {"$ref": SCHEMAS + name},
        **(typed if notes.type_property else {}),
        "examples": [
            {
                "name": example.name,
                "summary": example.summary,
                **({"headers": example.headers} if example.headers else {}),
                "payload": example.payload,
            }
            for example in notes.examples
        ],
    }


def _headers(notes: MessageNotes) -> Document:
    schema = notes.headers.model_json_schema(ref_template=SCHEMAS + "{model}")
    schema.pop("$defs", None)  # FastStream has them from the payloads
    return schema


def _schema(raw: Document) -> Document:
    """A schema without what Pydantic makes up: titles of properties, defaults, null for absent."""
    properties = {name: _property(each) for name, each in raw.get("properties", {}).items()}
    head = {key: raw[key] for key in ("title", "description", "type") if key in raw}
    rest = {key: value for key, value in raw.items() if key not in {*head, "properties"}}
    if "required" in rest and not rest["required"]:
        del rest["required"]
    return head | ({"properties": properties} if properties else {}) | rest


def _property(raw: Document) -> Document:
    if "$ref" in raw:
        return raw
    flat = {key: value for key, value in raw.items() if key not in {"title", "default"}}
    kinds = flat.get("anyOf", [])
    if {"type": "null"} in kinds:
        (kind,) = (kind for kind in kinds if kind != {"type": "null"})
        del flat["anyOf"]
        flat |= kind
    head = {key: flat.pop(key) for key in ("type", "description") if key in flat}
    return head | flat
