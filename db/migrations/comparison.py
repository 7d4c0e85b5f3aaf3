"""What counts as a difference between the models and a database."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import mysql
from sqlmodel import SQLModel

import db.models  # noqa: F401 - fills the metadata

OURS = frozenset(SQLModel.metadata.tables)


def include_name(name: str | None, kind: str, _: Any) -> bool:
    """Other people's tables in the same database are none of our business."""
    return kind != "table" or name in OURS


def compare_type(
    migration: Any, column: Any, metadata_column: Any, found: Any, expected: Any
) -> bool | None:
    """MariaDB's JSON is a LONGTEXT with a check: no difference. All else: Alembic's own rule."""
    json_on_mariadb = isinstance(found, mysql.LONGTEXT) and "JSON" in str(expected).upper()
    return False if json_on_mariadb else None
