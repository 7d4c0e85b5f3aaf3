"""docs/contract/boundary-cases.json: the service and the published schema, case by case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from pydantic import ValidationError

from service.consumer.codec import decode
from service.consumer.subscriber import refusal_of
from service.domain.errors import Refusal
from service.domain.fingerprint import fingerprint
from tests.factories import order_created
from tests.faults.mutator import Arguments
from tests.processes import ROOT

FEWEST = 117
CASES: list[dict[str, Any]] = json.loads(
    (ROOT / "docs/contract/boundary-cases.json").read_text(encoding="utf-8")
)["cases"]


@pytest.fixture(scope="module")
def published() -> Draft7Validator:
    document = yaml.safe_load((Path(ROOT) / "asyncapi.yaml").read_text(encoding="utf-8"))
    schema = {"$ref": "#/components/schemas/OrderCreated", "components": document["components"]}
    return Draft7Validator(schema)


def by_name(case: dict[str, Any]) -> str:
    return str(case["name"]).replace(" ", "-")


def test_there_are_enough_cases_each_with_a_name_of_its_own() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= FEWEST


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_service_does_with_a_boundary_case_what_the_file_says(case: dict[str, Any]) -> None:
    refusal: Refusal | None = None
    try:
        Arguments.model_validate({"order": decode(case["body"].encode())})
    except Refusal as error:
        refusal = error
    except ValidationError as error:
        refusal = refusal_of(error)
    assert case["verdict"] == ("accepted" if refusal is None else "refused")
    if refusal is not None:
        assert refusal.reason == case["reason"]
        assert refusal.details.partition(":")[0] == case["field"], refusal.details


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_schema_says_the_same_unless_the_file_says_why_it_cannot(
    case: dict[str, Any], published: Draft7Validator
) -> None:
    """As other teams use it: read by an ordinary parser, numbers as floating point."""
    try:
        value = json.loads(case["body"])
    except ValueError:
        valid = False
    else:
        valid = published.is_valid(value)
    agrees = valid == (case["verdict"] == "accepted")
    assert agrees == ("schema" not in case)


def test_an_integer_that_is_written_with_a_point_is_the_same_order() -> None:
    def of(quantity: str) -> bytes:
        line = f'[{{"sku":"a","quantity":{quantity},"unitPrice":1}}]'
        fields = json.loads(order_created().model_dump_json(by_alias=True))
        body = json.dumps(fields | {"items": 0}).replace('"items": 0', f'"items": {line}')
        return fingerprint(Arguments.model_validate({"order": decode(body.encode())}).order)

    assert of("2") == of("2.0") == of("2e0") != of("3")
