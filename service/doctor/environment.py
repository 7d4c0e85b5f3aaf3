"""What the settings alone tell."""

from __future__ import annotations

from pydantic import ValidationError

from service.config.settings import Settings
from service.doctor.findings import Finding, Level

SUBJECT = "settings"


def check_settings(settings: Settings) -> list[Finding]:
    environment = "production" if settings.production else "development"
    found = "embedded mode, for trying out" if settings.embedded else environment
    return [
        Finding(SUBJECT, "environment", Level.OK, found),
        *(Finding(SUBJECT, "safety", Level.WARNING, text) for text in settings.warnings()),
        *(
            Finding(SUBJECT, "production", Level.WARNING, text, "ENVIRONMENT=production refuses it")
            for text in _refused_in_production(settings)
        ),
    ]


def _refused_in_production(settings: Settings) -> list[str]:
    """What only `development` allows. The embedded mode is not held up to it."""
    if settings.production or settings.embedded:
        return []
    try:
        type(settings)(**(dict(settings) | {"environment": "production"}))
    except ValidationError as error:
        texts = [fault["msg"].removeprefix("Value error, ") for fault in error.errors()]
        return [
            line.removesuffix(" (ENVIRONMENT=development allows it)")
            for text in texts
            for line in text.splitlines()
        ]
    return []
