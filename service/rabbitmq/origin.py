"""Who sent a message: a service like this one, told by the properties that it alone sets.

Never by the body, which anyone may write. A dead letter is this installation's where its id is
found in `dead_letters`.
"""

from __future__ import annotations

import re
from typing import Any

APP_ID = "order-service"
PROCESSED, FAILED, DEAD_LETTER = "OrderProcessed", "OrderFailed", "DeadLetter"
DEAD_LETTER_IDS = "x-dead-letter-id"
ORIGINAL_ENCODING = "x-original-content-encoding"
# One for each installation that a message went through.
MOST_IDS = 16
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


def _sent_as(raw: Any) -> str | None:
    """The type under which an order service sent it; None where the sender is another."""
    if getattr(raw, "app_id", None) != APP_ID or not _ID.fullmatch(raw.message_id or ""):
        return None
    kind: str | None = getattr(raw, "type", None)
    return kind
