"""The sabotages: what each breaks, the scene that brings it out, and what must turn red."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faults.sabotage.patch import Edit
from tests.faults.sabotage.scenes import (
    BESIDE_A_STALLED_CLAIM,
    CLOCK_AHEAD,
    CUT_LINKS,
    KILLED,
    LEFT_LINKS,
    LOST_ANSWERS,
    NARROW_UPLINK,
    NO_ROUTE,
    REFUSED_COMMITS,
    RETURNS,
    STALLED_RELAY,
    UNDER_LOAD,
    Scene,
)
from tests.faults.verdict import Invariant

# Where one of these is broken, something is still awaited when it is judged.
NEVER_AT_REST = {Invariant.NOTHING_WAITS, Invariant.EVERY_EVENT_OBSERVED, BESIDE_A_STALLED_CLAIM}


@dataclass(frozen=True)
class Sabotage:
    """`seen_by` is an invariant, or something measured that takes too long."""

    name: str
    breaks: str
    scene: Scene
    seen_by: str
    edits: tuple[Edit, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def comes_to_rest(self) -> bool:
        return self.seen_by not in NEVER_AT_REST


SABOTAGES = (
    # Under load.
    Sabotage(
        "no-fingerprint",
        "the same key with other content counts as a repetition",
        UNDER_LOAD,
        Invariant.NOTHING_LOST,
        (
            Edit(
                "service/domain/decision.py",
                "if same_key.fingerprint == fingerprint:",
                "if same_key:",
            ),
        ),
    ),
    Sabotage(
        "case-insensitive-ids",
        "ids and keys that differ in upper and lower case are the same to the database",
        UNDER_LOAD,
        Invariant.NOTHING_WAITS,
        (Edit("db/types.py", 'collation="ascii_bin"', 'collation="ascii_general_ci"'),),
    ),
    Sabotage(
        "transient-events",
        "events are published without being persistent",
        UNDER_LOAD,
        Invariant.EVENT_IS_WELL_FORMED,
        (Edit("service/outbox/publisher.py", "PERSISTENT = 2", "PERSISTENT = 1"),),
    ),
    Sabotage(
        "payload-written-anew",
        "an event is serialised again as it is published, instead of sending the row's bytes",
        UNDER_LOAD,
        Invariant.SAME_EVENT_SAME_PAYLOAD,
        (
            Edit(
                "service/outbox/publisher.py",
                "        event.payload,\n",
                "        event.payload.replace(b'\":', b'\": '),\n",
            ),
        ),
    ),
    Sabotage(
        "new-id-each-time",
        "an event gets its message id as it is published",
        UNDER_LOAD,
        Invariant.NO_EVENT_WITHOUT_CAUSE,
        (
            Edit(
                "service/outbox/publisher.py",
                '"message_id": event.event_id',
                '"message_id": new_id()',
            ),
            Edit("service/outbox/publisher.py", "OWN_HEADERS, cloud", "OWN_HEADERS, new_id, cloud"),
        ),
    ),
    Sabotage(
        "poison-requeued",
        "what cannot be read goes back to the queue, until the broker sets it aside",
        UNDER_LOAD,
        Invariant.NOTHING_LOST,
        (
            Edit(
                "service/consumer/subscriber.py",
                "return Refused(refusal.without_origin(), delivery)",
                "raise RejectMessage(requeue=True) from refusal",
            ),
        ),
    ),
    Sabotage(
        "poison-dropped",
        "what is no valid order is acknowledged and forgotten",
        UNDER_LOAD,
        Invariant.NOTHING_LOST,
        (
            Edit(
                "service/consumer/subscriber.py",
                "                await submit(await _read(call_next, msg, delivery))\n",
                "                read = await _read(call_next, msg, delivery)\n"
                "                if isinstance(read, Candidate) or "
                'read.refusal.reason != "INVALID_PAYLOAD":\n'
                "                    await submit(read)\n",
            ),
        ),
    ),
    # While links are cut and stand still.
    Sabotage(
        "confirms-off",
        "an event counts as published when it is sent, without the broker's confirm",
        CUT_LINKS,
        Invariant.EVERY_EVENT_OBSERVED,
        (
            Edit(
                "service/outbox/publisher.py",
                "channel(on_return_raises=True)",
                "channel(publisher_confirms=False)",
            ),
        ),
    ),
    Sabotage(
        "handed-over-early",
        "events are handed to the relay before the transaction commits",
        CUT_LINKS,
        Invariant.SAME_EVENT_SAME_PAYLOAD,
        (
            Edit(
                "service/consumer/batcher.py",
                "        if lease and leased:\n            self._handover.give(leased, lease)\n",
                "",
            ),
            Edit(
                "service/consumer/batcher.py",
                "                await outbox.add_events(connection, plan.events)\n",
                "                await outbox.add_events(connection, plan.events)\n"
                "            if lease and leased:\n"
                "                self._handover.give(leased, lease)\n"
                "                await asyncio.sleep(0.1)\n",
            ),
        ),
    ),
    Sabotage(
        "no-read-back",
        "after a COMMIT whose outcome is unknown it is all done again, and nothing looked up",
        CUT_LINKS,
        Invariant.ONE_DEAD_LETTER_PER_MESSAGE,
        (
            Edit("service/consumer/batcher.py", "first_attempt=attempt == 0", "first_attempt=True"),
            Edit(
                "service/consumer/unit_of_work.py",
                "letter_id = entry.dead_letter_id",
                "letter_id = new_id()",
            ),
        ),
    ),
    Sabotage(
        "events-apart",
        "dead letters and orders are committed first, their events in a transaction after that",
        CUT_LINKS,
        Invariant.ONE_FAILURE_PER_DEAD_LETTER,
        (
            Edit(
                "service/consumer/batcher.py",
                "            if plan.events:\n                leased = ",
                "        async with self._database.transaction() as connection:\n"
                "            if plan.events:\n                leased = ",
            ),
        ),
    ),
    Sabotage(
        "watermark-polling",
        "the relay looks only for events with a higher id than the last published one",
        CUT_LINKS,
        Invariant.NOTHING_WAITS,
        (
            Edit(
                "db/outbox.py",
                "_free(), ~_EARLIER)",
                "_free(), ~_EARLIER, col(OutboxEvent.id) > _published())",
            ),
            Edit(
                "db/outbox.py",
                "def _claimable()",
                "def _published() -> Any:\n"
                "    other = aliased(OutboxEvent)\n"
                "    last = func.coalesce(func.max(col(other.id)), 0)\n"
                "    return select(last).where(col(other.published_at).is_not(None))"
                ".scalar_subquery()\n\n\n"
                "def _claimable()",
            ),
        ),
    ),
    Sabotage(
        "no-deadline",
        "a database that does not answer is waited for without end",
        CUT_LINKS,
        Invariant.NOTHING_WAITS,
        (
            Edit("db/engine.py", "asyncio.timeout(self.timeout_seconds)", "asyncio.timeout(None)"),
            Edit("db/engine.py", "seconds or self.timeout_seconds", "3600"),
        ),
    ),
    # With links that stand still, and then kill -9.
    Sabotage(
        "ack-before-commit",
        "a message is acknowledged when it is received",
        KILLED,
        Invariant.NOTHING_LOST,
        (
            Edit(
                "service/consumer/acknowledgements.py",
                "    async def on_receive(self) -> None:\n",
                "    async def on_receive(self) -> None:\n        await self.msg.ack()\n",
            ),
            Edit(
                "service/consumer/acknowledgements.py",
                "await acknowledgements.acknowledge(received)",
                "pass",
            ),
        ),
    ),
    Sabotage(
        "acks-to-the-highest",
        "an acknowledgement covers all messages before it, those at hand too",
        KILLED,
        Invariant.ONE_COPY_PER_DEAD_LETTER,
        (
            Edit(
                "service/consumer/acknowledgements.py",
                "run = [message for message in finished "
                "if message.delivery_tag <= self._settled_to]",
                "run = list(finished)",
            ),
        ),
    ),
    Sabotage(
        "published-at-birth",
        "an event that is handed over is stored as published",
        KILLED,
        Invariant.EVERY_EVENT_OBSERVED,
        (
            Edit(
                "service/consumer/unit_of_work.py",
                "        leased: list[ClaimedEvent] = []\n",
                "        leased: list[ClaimedEvent] = []\n"
                "        for row in self.events:\n"
                '            row["published_at"] = None\n',
            ),
            Edit(
                "service/consumer/unit_of_work.py",
                '                row["lease_token"] = token\n',
                '                row["lease_token"] = token\n'
                '                row["published_at"] = datetime.now(UTC)\n',
            ),
        ),
    ),
    Sabotage(
        "written-down-early",
        "events are given to the completer as published before the broker's confirms",
        KILLED,
        Invariant.EVERY_EVENT_OBSERVED,
        (
            Edit(
                "service/outbox/relay.py",
                "        try:\n            outcomes = await self._publish_in_order(events)\n",
                "        early = [Confirmed(event) for event in events]\n"
                "        self._completer.add(Batch(token, early))\n"
                "        try:\n            outcomes = await self._publish_in_order(events)\n",
            ),
        ),
    ),
    Sabotage(
        "lease-by-own-clock",
        "a lease ends by the clock of the process, which here is an hour ahead",
        KILLED,
        Invariant.NOTHING_WAITS,
        (
            Edit(
                "db/outbox.py",
                "from datetime import datetime, timedelta\n",
                "import os\nfrom datetime import UTC, datetime, timedelta\n",
            ),
            Edit(
                "db/outbox.py",
                'lease_until=database_now(bindparam("lease"))',
                'lease_until=bindparam("lease")',
            ),
            Edit(
                "db/outbox.py",
                '"lease": microseconds(seconds)',
                '"lease": datetime.now(UTC) + timedelta('
                f'seconds=seconds + float(os.environ.get("{CLOCK_AHEAD}", "0")))',
            ),
        ),
        environment={CLOCK_AHEAD: "3600"},
    ),
    # With nowhere to publish to.
    Sabotage(
        "returns-ignored",
        "an event that no queue takes is returned, and counts as published",
        NO_ROUTE,
        Invariant.EVERY_EVENT_OBSERVED,
        (Edit("service/outbox/publisher.py", "on_return_raises=True", "on_return_raises=False"),),
    ),
    Sabotage(
        "deleted-instead-of-parked",
        "an event whose attempts are used up is deleted",
        NO_ROUTE,
        Invariant.ONE_EVENT_PER_ORDER,
        (
            Edit(
                "db/outbox.py",
                "        _FAIL.values(parked_at=database_now()),\n"
                '        {"these": [event_id], "holder": token, "error": error},\n',
                "        delete(OutboxEvent).where(*_HELD),\n"
                '        {"these": [event_id], "holder": token},\n',
            ),
        ),
    ),
    # Beside a relay that stands still.
    Sabotage(
        "fence-dropped",
        "a relay writes down what became of an event without asking whether it still has the lease",
        STALLED_RELAY,
        Invariant.NOTHING_PARKED,
        (
            Edit(
                "db/outbox.py",
                'col(OutboxEvent.lease_token) == bindparam("holder")',
                'bindparam("holder").is_not(None)',
            ),
        ),
    ),
    Sabotage(
        "overtaking",
        "an event is claimed while an earlier one of its order is not published",
        STALLED_RELAY,
        Invariant.EVENTS_IN_ORDER,
        (
            Edit(
                "db/outbox.py",
                "_EARLIER, _LATER = _another(operator.lt),",
                "_EARLIER, _LATER = _another(lambda other, _: other < 0),",
            ),
        ),
    ),
    Sabotage(
        "repeatable-read",
        "transactions are REPEATABLE READ: a claim locks the gap in which new events are stored",
        STALLED_RELAY,
        BESIDE_A_STALLED_CLAIM,
        (Edit("db/engine.py", '"READ COMMITTED"', '"REPEATABLE READ"'),),
    ),
    # With links that the service has left.
    Sabotage(
        "old-link-used-again",
        "a link whose closing was given up is started again instead of a new one",
        LEFT_LINKS,
        Invariant.NOTHING_WAITS,
        (
            Edit(
                "service/rabbitmq/broker.py",
                "        link = self._forget()\n"
                "        if link is not None:\n"
                "            await link.end(within_seconds)\n",
                "        self.consuming = False\n"
                "        with contextlib.suppress(*LINK_FAILURES):\n"
                "            if self._link is not None:\n"
                "                async with asyncio.timeout(0.0):\n"
                "                    await self._link.close()\n"
                "        with contextlib.suppress(*LINK_FAILURES, ExceptionGroup):\n"
                "            async with asyncio.timeout(0.0):\n"
                "                await super().stop()\n",
            ),
        ),
    ),
    # With an uplink that is too narrow for a batch.
    Sabotage(
        "whole-batch-again",
        "a batch that is not confirmed in time is given back whole, and comes again as it was",
        NARROW_UPLINK,
        Invariant.REPEATS_ARE_BOUNDED,
        (
            Edit(
                "service/outbox/relay.py",
                "MAX_ROUND_BYTES = 1024 * 1024",
                "MAX_ROUND_BYTES = 2**40",
            ),
            Edit("service/outbox/relay.py", "if error.timed_out:", "if False:"),
            Edit(
                "service/outbox/relay.py",
                "self._completer.add(Batch(token, error.outcomes, held_back))",
                "self._completer.add(Batch(token, (), events))",
            ),
            Edit(
                "service/outbox/publisher.py",
                "        yield progress\n",
                "        yield lambda: None\n",
            ),
        ),
    ),
    # With COMMITs that are not answered.
    Sabotage(
        "own-rows-unknown",
        "what an unanswered COMMIT has stored is taken for another's, and left to its lease",
        LOST_ANSWERS,
        Invariant.NOTHING_WAITS,
        (Edit("service/consumer/batcher.py", "if plan.ours:", "if False:"),),
    ),
    # With COMMITs that are refused.
    Sabotage(
        "commit-refusal-blames",
        "a database that refuses COMMITs is taken for one that refuses the message",
        REFUSED_COMMITS,
        Invariant.DEAD_LETTER_HAS_ITS_REASON,
        (
            Edit(
                "service/consumer/batcher.py",
                "if not self._storing or isinstance(",
                "if isinstance(",
            ),
            Edit(
                "service/consumer/batcher.py", "RIGHT_ERRORS | SERVER_ERRORS or", "RIGHT_ERRORS or"
            ),
        ),
    ),
    # With a topology that leads back what is published.
    Sabotage(
        "events-as-work",
        "a returned event is treated as a new message",
        RETURNS,
        Invariant.ROWS_ARE_BOUNDED,
        (
            Edit(
                "service/rabbitmq/origin.py",
                "return (kind, raw.message_id) if kind in {PROCESSED, FAILED} else None",
                "return None",
            ),
        ),
    ),
    Sabotage(
        "copies-as-new",
        "a returned dead letter is treated as a new message",
        RETURNS,
        Invariant.ROWS_ARE_BOUNDED,
        (
            Edit(
                "service/consumer/unit_of_work.py",
                "    if not claimed:\n",
                "    if claimed or not claimed:\n",
            ),
        ),
    ),
)
