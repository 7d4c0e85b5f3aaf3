"""Who sent a message: a service like this one, told by the properties that it alone sets.

Never by the body, which anyone may write. A dead letter is this installation's where its id is
found in `dead_letters`.
"""

from __future__ import annotations

import re
from typing import Any

from order_contracts import FailureReason

APP_ID = "order-service"
PROCESSED, FAILED, DEAD_LETTER = "OrderProcessed", "OrderFailed", "DeadLetter"
DEAD_LETTER_IDS = "x-dead-letter-id"
ORIGINAL_ENCODING = "x-original-content-encoding"
ORIGINAL_CONTENT_TYPE = "x-original-content-type"
ORIGINAL_TYPE = "x-original-type"
ORIGINAL_HEADERS = "x-original-headers"
ORIGINAL = "x-original-"
REASON = "x-failure-reason"
UNSUPPORTED_TYPE = str(FailureReason.UNSUPPORTED_TYPE)
# Of the CloudEvents headers, the prefixes of the AMQP binding. A dead letter is an event of ours:
# those of the original message stand in it behind `x-original-`.
CLOUD_EVENTS = ("cloudEvents_", "cloudEvents:")
# One for each installation that a message went through.
MOST_IDS = 16
_ORIGINAL_EVENT = tuple(ORIGINAL + prefix for prefix in CLOUD_EVENTS)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def own_event(raw: Any) -> tuple[str, str] | None:
    """Type and id of the event that this message is; None where it is none of an order service.

    Another installation's counts too: two that record and answer each other's never end.
    """
    kind = _sent_as(raw)
    return (kind, raw.message_id) if kind in {PROCESSED, FAILED} else None


def dead_letter_ids(raw: Any) -> list[str]:
    """The dead letters that this message claims to be the copy of, the latest last."""
    said = raw.headers.get(DEAD_LETTER_IDS)
    named = said.split(",", MOST_IDS) if isinstance(said, str) else []
    if _sent_as(raw) == DEAD_LETTER:
        named.append(raw.message_id)  # all that there is where too many headers were not decoded
    return list(dict.fromkeys(each for each in named if _ID.fullmatch(each)))[:MOST_IDS]


def content_encoding(raw: Any) -> str | None:
    """The encoding of the body; of a copy in the dead-letter queue, the original message's."""
    if raw.content_encoding or not dead_letter_ids(raw):
        return raw.content_encoding or None
    original = raw.headers.get(ORIGINAL_ENCODING)
    return original if isinstance(original, str) else None


def content_type(raw: Any) -> str | None:
    """The content type of the body; of a copy in the dead-letter queue, the original message's."""
    said = raw.headers.get(ORIGINAL_CONTENT_TYPE) if dead_letter_ids(raw) else None
    return said if isinstance(said, str) else raw.content_type


def named_types(raw: Any) -> tuple[Any, dict[str, Any]]:
    """The property `type` and the headers, where a type may be named; of a copy in the dead-letter
    queue, the original message's."""
    kind = getattr(raw, "type", None)
    if not dead_letter_ids(raw):
        return kind, raw.headers
    if ORIGINAL_HEADERS in raw.headers and raw.headers.get(REASON) == UNSUPPORTED_TYPE:
        return UNSUPPORTED_TYPE, {}  # the header that named the type may not have fitted
    headers = {
        name.removeprefix(ORIGINAL) if name.startswith(_ORIGINAL_EVENT) else name: value
        for name, value in raw.headers.items()
        if not name.startswith(CLOUD_EVENTS)
    }
    return raw.headers.get(ORIGINAL_TYPE) if kind == DEAD_LETTER else kind, headers


def _sent_as(raw: Any) -> str | None:
    """The type under which an order service sent it; None where the sender is another."""
    if getattr(raw, "app_id", None) != APP_ID or not _ID.fullmatch(raw.message_id or ""):
        return None
    kind: str | None = getattr(raw, "type", None)
    return kind
