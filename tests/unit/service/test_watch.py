from __future__ import annotations

from service.watchdog import MAX_RESTARTS, Watch, Watched


class Part:
    """Something that moves as it is told to, and counts how often it was started again."""

    def __init__(self, *, heals_after: int | None = None) -> None:
        self.at: object = 0
        self.restarts = 0
        self._heals_after = heals_after

    async def restart(self) -> None:
        self.restarts += 1
        if self.restarts == self._heals_after:
            self.at = "moved"

    def watched(self, limit_seconds: float = 3) -> Watched:
        return Watched("part", limit_seconds, lambda: self.at, self.restart)


async def turns(watch: Watch, count: int) -> list[str]:
    return [name for _ in range(count) for name in await watch.run_once()]


async def test_a_part_that_moves_or_has_nothing_to_do_is_left_alone() -> None:
    moving, idle = Part(), Part()
    idle.at = None
    watch = Watch([moving.watched(), idle.watched()])
    for number in range(20):
        moving.at = number
        await watch.run_once()
    assert (moving.restarts, idle.restarts) == (0, 0)
    assert watch.stalled == {}


async def test_a_part_that_stands_still_for_its_limit_is_started_again_and_named() -> None:
    part = Part()
    watch = Watch([part.watched(limit_seconds=3)])
    assert await turns(watch, 3) == [], "the first turn only learns where it stands"
    assert await turns(watch, 1) == ["part"]
    assert watch.stalled == {"part": "stalled: no progress for 3 s"}
    assert watch.hopeless == []


async def test_a_part_that_moves_again_is_well_again() -> None:
    part = Part(heals_after=1)
    watch = Watch([part.watched(limit_seconds=3)])
    assert await turns(watch, 5) == ["part"]
    assert watch.stalled == {}


async def test_a_part_that_no_restart_heals_is_hopeless() -> None:
    part = Part()
    watch = Watch([part.watched(limit_seconds=3)])
    await turns(watch, 1 + 3 * MAX_RESTARTS)
    assert watch.hopeless == []
    await turns(watch, 3)
    assert watch.hopeless == ["part"]
    part.at = "moved"
    await watch.run_once()
    assert watch.hopeless == []


async def test_a_turn_that_comes_late_is_one_turn_so_a_blocked_loop_blames_no_part() -> None:
    part = Part()
    watch = Watch([part.watched(limit_seconds=3)])
    await watch.run_once()
    # However long the loop was blocked, the next turn is the second one.
    await watch.run_once()
    assert part.restarts == 0
