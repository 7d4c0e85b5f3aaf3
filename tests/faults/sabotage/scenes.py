"""What a service goes through, sabotaged or not, until it is to come to rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.faults.commit_faults import refuse
from tests.faults.framing import Moment
from tests.faults.interference import operators_channel
from tests.faults.observer import EVERYTHING
from tests.faults.observer import QUEUE as OBSERVER_QUEUE
from tests.faults.proxied_link import Action, Link
from tests.faults.sabotage.play import Play
from tests.faults.setting import EXCHANGE
from tests.faults.topology_faults import all_comes_back
from tests.faults.workload import ONLY_NEW, Kind, Mix

INTAKE_COMMIT, INTAKE_COMMITTED = Moment.INTAKE_COMMIT, Moment.INTAKE_COMMITTED
CLAIM_COMMIT, CLAIM_COMMITTED = Moment.CLAIM_COMMIT, Moment.CLAIM_COMMITTED
COMPLETION_COMMITTED = Moment.COMPLETION_COMMITTED
PUBLISH, CONFIRM, ACK = Moment.PUBLISH, Moment.CONFIRM, Moment.ACK
POLL_SECONDS = 0.05
SETTLED_SECONDS = 150.0
RETURNS_SECONDS = 8.0
PROCESSED_QUEUE = "order_processed_queue"
CLOCK_AHEAD = "CLOCK_AHEAD_SECONDS"
"""Read by a sabotaged process alone."""
NARROW_BYTES_PER_SECOND = 540_000.0
# Many times as long as it takes; after that it is widened, whatever was published.
NARROW_SECONDS = 120.0
BESIDE_A_STALLED_CLAIM = "orders-beside-a-stalled-claim"
BESIDE_A_STALLED_CLAIM_SECONDS = 6.0


@dataclass(frozen=True)
class Scene:
    """`parks`: events may be set aside in it. The other fields are those of a stage's options."""

    name: str
    play: Callable[[Play], Awaitable[None]]
    mix: Mix
    rate: float = 30
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    parks: bool = False


async def _load(play: Play) -> None:
    await play.load(120)


UNDER_LOAD = Scene(
    "under-load", _load, Mix(duplicates=0.1, conflicts=0.1, poison=0.07, lookalikes=0.08)
)
"""Nothing goes wrong but what producers send."""


async def _cut_links(play: Play) -> None:
    await play.load(20)
    for _ in range(2):
        await _cut_a_large_batch(play, INTAKE_COMMIT)
        await _cut_a_large_batch(play, INTAKE_COMMITTED)
    for _ in range(3):
        await play.strike(PUBLISH, Action.CUT)
    frozen = await play.strike(INTAKE_COMMIT, Action.FREEZE)
    await frozen.left.wait()
    frozen.thaw()
    await play.load(10)


async def _cut_a_large_batch(play: Play, moment: Moment) -> None:
    """Of what gathers while the database stands still for a moment."""
    await _until_all_is_decided(play)
    play.links.database.freeze()
    await play.load(12)
    # The first batch is the message that came first; the second is all that came after it.
    cut = play.arm(moment, Action.CUT, nth=2)
    play.links.database.thaw()
    await play.fired(cut)


CUT_LINKS = Scene(
    "cut-links",
    _cut_links,
    Mix(duplicates=0.05, conflicts=0.4, poison=0.01, lookalikes=0),
    environment={"DB_TIMEOUT_SECONDS": "2", "PUBLISH_TIMEOUT_SECONDS": "2"},
)
"""Links are cut before a COMMIT, before its OK, and before an event is published; one stands still
before a COMMIT until the service gives it up."""


async def _kill(play: Play) -> None:
    await play.load(20)
    # A body that is passed on without the outbox, for ever; the messages behind it are quick.
    known = max(link.number for link in play.links.broker.links)
    slow = play.hold(PUBLISH, on=lambda link: link.number > known)
    await play.send(Kind.FAR_TOO_LARGE)
    await play.fired(slow)
    await play.strike(ACK, Action.PASS, nth=2)
    # Nothing can be published of what is stored while more waits; it is given back, and claimed.
    await _until_all_is_decided(play)
    play.links.database.freeze()
    await play.load(12)
    play.hold(PUBLISH)
    play.links.database.thaw()
    await play.load(6)
    await play.strike(CLAIM_COMMITTED, Action.PASS)
    # Nothing can be stored: messages are at hand, and wait.
    play.links.database.freeze()
    await play.load(20)
    await play.stage.services.kill(0)
    play.cut_everything()
    play.stage.services.environment.pop(CLOCK_AHEAD, None)
    await play.stage.services.start(0)


KILLED = Scene(
    "killed",
    _kill,
    Mix(duplicates=0.05, conflicts=0.1, poison=0, lookalikes=0),
    environment={"PUBLISH_TIMEOUT_SECONDS": "2"},
)
"""Links stand still, so that everything is at hand and nothing is done; then the process dies."""


async def _take_routes_away(play: Play) -> None:
    async with _no_route(play):
        await play.send(Kind.NEW, 3)
        await _until_nothing_is_pending(play, orders=3)
    await play.load(20)


NO_ROUTE = Scene(
    "no-route",
    _take_routes_away,
    ONLY_NEW,
    environment={"RELAY_MAX_ATTEMPTS": "1"},
    parks=True,
)
"""No queue is bound for the first orders' events, and each has one attempt."""


async def _stall(play: Play) -> None:
    await play.load(40)
    unpublished = await play.strike(PUBLISH, Action.FREEZE)
    await play.load(80)
    unpublished.cut()
    claim = await play.strike(CLAIM_COMMIT, Action.FREEZE)
    await play.measure(
        BESIDE_A_STALLED_CLAIM,
        play.stage.first_order_after(time.time()),
        BESIDE_A_STALLED_CLAIM_SECONDS,
    )
    claim.thaw()
    await play.stage.at_rest()
    await _oversleep(play)


async def _oversleep(play: Play) -> None:
    """One relay is refused events, and writes that down when another one has published them."""
    stage, database = play.stage, play.links.database
    # The other process stands still: what is stored and published now is by this one.
    stage.services.freeze(1)
    stored = play.arm(INTAKE_COMMIT, Action.PASS)

    def is_sleepers(link: Link) -> bool:
        return stored.link is not None and link.process == stored.link.process

    def freeze_its_database() -> None:
        for link in filter(is_sleepers, database.links):
            link.freeze()

    play.arm(PUBLISH, Action.PASS, then=freeze_its_database)
    # What is returned is confirmed after that.
    returned = play.arm(CONFIRM, Action.PASS)
    async with _no_route(play):
        await play.send(Kind.NEW, 6)
        await play.fired(returned)
    stage.services.thaw(1)
    await _until_nothing_is_pending(play)
    for link in filter(is_sleepers, list(database.links)):
        link.thaw()
    stage.producer.resume()
    await play.strike(COMPLETION_COMMITTED, Action.PASS, on=is_sleepers)


STALLED_RELAY = Scene(
    "stalled-relay",
    _stall,
    Mix(duplicates=0.05, conflicts=0.35, poison=0, lookalikes=0),
    rate=40,
    processes=2,
    environment={"RELAY_MAX_ATTEMPTS": "1", "DB_TIMEOUT_SECONDS": "40"},
)
"""Of two relays one stands still: before it publishes, in its claim, and past its lease."""


async def _leave_links(play: Play) -> None:
    """The consumer leaves its link with messages at hand, and the broker does not hear of it."""
    await play.load(20)
    left = play.arm(Moment.CLOSE, Action.DROP)
    play.links.database.freeze()
    await play.load(20)
    await play.fired(left)
    play.links.database.thaw()
    await play.load(10)


LEFT_LINKS = Scene(
    "left-links",
    _leave_links,
    Mix(duplicates=0.05, conflicts=0.1, poison=0.05, lookalikes=0),
    environment={
        "OUTAGE_HOLD_SECONDS": "1",
        "DB_TIMEOUT_SECONDS": "2",
        "PUBLISH_TIMEOUT_SECONDS": "2",
    },
)
"""The database stands still until the consumer leaves its link, and the close frame is lost."""


async def _narrow_the_uplink(play: Play) -> None:
    """Large messages are refused; to publish what comes of them takes longer than the deadline."""
    await play.load(10)
    play.links.broker.narrow(NARROW_BYTES_PER_SECOND)
    await play.send(Kind.TOO_LARGE, 24)
    play.stage.producer.pause()
    with suppress(TimeoutError):
        async with asyncio.timeout(NARROW_SECONDS):
            await _until_nothing_is_pending(play)
    play.links.broker.narrow(None)
    await play.load(10)


NARROW_UPLINK = Scene(
    "narrow-uplink",
    _narrow_the_uplink,
    ONLY_NEW,
    rate=10,
    environment={"PUBLISH_TIMEOUT_SECONDS": "2", "RELAY_LEASE_SECONDS": "60"},
)
"""The link to the broker passes half a megabyte per second, and 7 MB are to be published."""


async def _lose_answers(play: Play) -> None:
    await play.load(20)
    for _ in range(3):
        await play.strike(INTAKE_COMMITTED, Action.CUT, nth=2)
    await play.load(10)


LOST_ANSWERS = Scene(
    "lost-answers",
    _lose_answers,
    ONLY_NEW,
    environment={"RELAY_LEASE_SECONDS": "3600"},
)
"""COMMITs take effect and are not answered; the lease is longer than anybody waits."""


async def _lead_events_back(play: Play) -> None:
    """All that is published comes back for a while; what is refused then, again and again."""
    await play.load(10)
    async with all_comes_back(play.stage):
        await play.load(30)
        play.stage.producer.pause()
        await asyncio.sleep(RETURNS_SECONDS)


RETURNS = Scene(
    "returns",
    _lead_events_back,
    Mix(duplicates=0.05, conflicts=0.1, poison=0.1, lookalikes=0),
    environment={"PREFETCH_COUNT": "5"},
)
"""The incoming queue is bound to the events, and the dead-letter queue returns its messages."""


async def _refuse_commits(play: Play) -> None:
    """As often as a batch may fail before it is suspected; then what comes of it is committed."""
    await play.load(20)
    for _ in range(3):
        await _until_all_is_decided(play)
        refusing = asyncio.create_task(refuse(play.links, 3))
        await play.send(Kind.NEW)
        await refusing
        await play.load(5)


REFUSED_COMMITS = Scene("refused-commits", _refuse_commits, ONLY_NEW)
"""The server refuses COMMITs, as with a full disk, and takes everything until then."""

SCENES = (
    *(UNDER_LOAD, CUT_LINKS, KILLED, NO_ROUTE, STALLED_RELAY, LEFT_LINKS),
    *(NARROW_UPLINK, LOST_ANSWERS, REFUSED_COMMITS, RETURNS),
)


@asynccontextmanager
async def _no_route(play: Play) -> AsyncIterator[None]:
    """No queue is bound for the events of orders."""
    async with operators_channel(play.stage) as channel:
        # Taken by somebody for himself, the name is nothing that the service could bind again.
        await channel.queue_delete(PROCESSED_QUEUE)
        await channel.declare_queue(PROCESSED_QUEUE, exclusive=True)
        observer = await channel.get_queue(OBSERVER_QUEUE, ensure=False)
        await observer.unbind(EXCHANGE, EVERYTHING)
        try:
            yield
        finally:
            await observer.bind(EXCHANGE, EVERYTHING)


async def _until_nothing_is_pending(play: Play, orders: int = 0) -> None:
    """Returns once so many orders are stored, and each event is published, parked or gone."""
    tables = play.stage.tables
    await _until(lambda: len(tables.order_ids()) >= orders and not tables.backlog().pending)


async def _until_all_is_decided(play: Play) -> None:
    """Pause the load; returns once each message was decided, and nothing is at hand."""
    producer, service = play.stage.producer, play.stage.services[0]
    producer.pause()
    await producer.all_confirmed()
    await _until(lambda: service.decided() >= producer.produced)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SETTLED_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(POLL_SECONDS)
