"""CloudEvents 1.0 in structured mode: an envelope of JSON around an OrderCreated.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import base64
import re
from typing import Any, Never

from order_contracts import FailureReason
from service.domain.errors import Refusal
from service.domain.message_type import is_order_created

STRUCTURED = "application/cloudevents+json"
REQUIRED = ("specversion", "id", "source", "type")
OPTIONAL = ("subject", "dataschema", "time", "datacontenttype")
_JSON = re.compile(r"[^/;\s]+/(?:[^/;\s]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)


def is_structured(content_type: str | None) -> bool:
    """Whether a content type, with or without parameters, is that of an envelope."""
    return (content_type or "").partition(";")[0].strip().lower() == STRUCTURED


def data_of(envelope: Any) -> Any:
    """The `data` of an envelope: a JSON value, or bytes that are to be read as JSON.

    Raises:
        Refusal: INVALID_PAYLOAD where it is no CloudEvent 1.0 with JSON in it, UNSUPPORTED_TYPE
            where its type is another than OrderCreated.
    """
    if not isinstance(envelope, dict):
        _refuse("body: a CloudEvent should be an object")
    for name in REQUIRED:
        if not (isinstance(envelope.get(name), str) and envelope[name]):
            _refuse(f"{name}: a CloudEvent has a text here that is not empty")
    for name in OPTIONAL:
        found = envelope.get(name)
        if found is not None and not (isinstance(found, str) and found):
            _refuse(f"{name}: where it is given, a text that is not empty")
    if envelope["specversion"] != "1.0":
        _refuse("specversion: must be 1.0")
    if not is_order_created(envelope["type"]):
        raise Refusal(FailureReason.UNSUPPORTED_TYPE, "type: must name OrderCreated")
    if not _JSON.fullmatch(envelope.get("datacontenttype") or "application/json"):
        _refuse("datacontenttype: must be a JSON media type, or be absent")
    if ("data" in envelope) == ("data_base64" in envelope):
        _refuse("data: either this or data_base64 is required")
    return envelope["data"] if "data" in envelope else _bytes(envelope["data_base64"])


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, ValueError):
        _refuse("data_base64: must be a text in Base64")


def _refuse(details: str) -> Never:
    raise Refusal(FailureReason.INVALID_PAYLOAD, details) from None
