"""TLS that is asked for is had, or there is no connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from service.explain import explain_database
from service.storage import check_schema, open_database
from tests.harness import settings_for


async def test_a_server_without_tls_is_refused_when_tls_is_asked_for(database_url: str) -> None:
    database = open_database(settings_for(database_url=database_url, db_tls=True))

    with pytest.raises(OperationalError) as refused:
        await check_schema(database)

    assert "TLS" in explain_database(refused.value)
    await database.dispose()


def test_a_missing_authority_file_is_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        settings_for(db_tls_ca=tmp_path / "missing.pem")
