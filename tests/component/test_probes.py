"""What an orchestrator asks: may this process have work, and does it have to be replaced?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from service import supervisor
from service.app import ServiceApp
from service.config.settings import Settings
from tests.harness import eventually, running, settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(sqlite_path=tmp_path / "orders.db")


async def test_a_service_that_works_is_alive_and_ready(settings: Settings) -> None:
    async with running(settings) as app:
        await eventually(lambda: answers(app, "ready", 200))
        assert (await probe(app, "ready"))[1] == {
            "status": "READY",
            "broker": "consuming",
            "database": "answering",
            "intake": "alive",
            "relay": "alive",
        }
        assert await probe(app, "live") == (200, {"status": "ALIVE", "dead": []})


@pytest.mark.parametrize("task", ["intake", "relay"])
async def test_a_task_that_cannot_be_healed_makes_the_process_neither_ready_nor_alive(
    settings: Settings, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def defect() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "MAX_FAILURES", 1)
    async with running(settings) as app:
        await eventually(lambda: answers(app, "ready", 200))
        await app.service.supervisor.stop(task)
        app.service.supervisor.start(task, defect)
        await eventually(lambda: answers(app, "live", 503))

        assert await probe(app, "live") == (503, {"status": "DEAD", "dead": [task]})
        status, said = await probe(app, "ready")
        assert (status, said["status"], said[task]) == (503, "NOT_READY", "dead")


async def answers(app: ServiceApp, name: str, status: int) -> bool:
    return (await probe(app, name))[0] == status


async def probe(app: ServiceApp, name: str) -> tuple[int, dict[str, Any]]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.get(f"/health/{name}")
        return answer.status_code, answer.json()


async def test_an_embedded_service_without_a_message_is_left_alone_by_the_watch(
    settings: Settings,
) -> None:
    async with running(settings) as app:
        await eventually(lambda: answers(app, "ready", 200))
        for _ in range(300):  # five minutes of the watch's turns, without waiting for them
            assert "consumer" not in await app.service.watch.run_once()
        assert (await probe(app, "live"))[0] == 200
