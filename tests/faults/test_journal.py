"""A record counts once it is on disk, and comes back as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults import journal
from tests.faults.journal import Attempt, Confirmed, Journal, Observed, read

ATTEMPT = Attempt("1", "poison", bytes(range(256)), reason="INVALID_JSON", trace="t")
EVENT = Observed("id", "OrderFailed", "order.failed", b"\x00\xff{}", {"n": 1}, persistent=False)


async def test_records_are_on_disk_in_their_order_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    async with Journal[Confirmed].open(path) as confirmed:
        await asyncio.gather(*(confirmed.append(Confirmed(str(n))) for n in range(100)))
        assert [each.attempt_id for each in read(path, Confirmed)] == [str(n) for n in range(100)]
        assert confirmed.records == list(read(path, Confirmed))
        await confirmed.append(Confirmed("last"))
        assert list(read(path, Confirmed))[-1] == Confirmed("last")


async def test_any_bytes_come_back_as_they_were(tmp_path: Path) -> None:
    async with Journal[Attempt].open(tmp_path / "attempts") as attempts:
        await attempts.append(ATTEMPT)
    async with Journal[Observed].open(tmp_path / "observed") as observed:
        await observed.append(EVENT)
    assert list(read(tmp_path / "attempts", Attempt)) == [ATTEMPT]
    assert list(read(tmp_path / "observed", Observed)) == [EVENT]


async def test_a_record_that_cannot_be_written_is_told_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    async with Journal[Confirmed].open(tmp_path / "journal") as confirmed:
        monkeypatch.setattr(journal, "_append_durably", full)
        for _ in range(2):
            with pytest.raises(OSError, match="no space left"):
                await confirmed.append(Confirmed("1"))
        assert confirmed.records == []
