"""One thing that was looked at, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """WRONG: the service cannot run, or a promise does not hold. WARNING: it runs, and somebody
    should know. UNKNOWN: it could not be found out."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "WRONG"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` is what is so; `advice`, where there is any, what follows and what to do."""

    subject: str
    name: str
    level: Level
    found: str
    advice: str = ""
