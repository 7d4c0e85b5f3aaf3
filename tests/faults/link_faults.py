"""Links that are cut or frozen at chosen points, as faults of the campaign."""

from __future__ import annotations

import random

from tests.faults.points import POINTS, Point, ProxiedLinks, name_of
from tests.faults.proxied_link import Action
from tests.faults.registry import Inject, Measurement, fault
from tests.faults.setting import StageOptions
from tests.faults.stage import Stage

# A frozen link lasts until the service gives it up by itself: the least that its settings allow,
# but for the database and the confirms, where a busy machine alone may take a second. New links are
# not frozen, so the deadlines of connecting stay what they are.
IMPATIENT = {
    "DB_TIMEOUT_SECONDS": "2",
    "MQ_HEARTBEAT_SECONDS": "6",
    "PUBLISH_TIMEOUT_SECONDS": "2",
    "RELAY_LEASE_SECONDS": "5",
}
LINKS = ProxiedLinks()
LINKED = StageOptions(environment=IMPATIENT, links=LINKS)
HITS = {Action.CUT: 5, Action.FREEZE: 1}
"""How often a fault strikes in one cycle of the campaign."""
LATEST_HIT = 20


def strikes_of(point: Point, action: Action) -> Inject:
    async def inject(stage: Stage, rng: random.Random) -> list[Measurement]:
        found: list[Measurement] = []
        for _ in range(HITS[action]):
            found += await LINKS.strike(point, action, nth=rng.randint(1, LATEST_HIT))
        return found

    return inject


for each_point in POINTS:
    for each_action in HITS:
        fault(name_of(each_point, each_action), options=LINKED)(strikes_of(each_point, each_action))
