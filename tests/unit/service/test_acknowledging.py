from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import cast

from aiormq.abc import AbstractChannel
from faststream.exceptions import RejectMessage
from hypothesis import given
from hypothesis import strategies as st

from service.consumer.acknowledgements import Acknowledgements, Acknowledging, Received


@dataclass
class Channel:
    """A broker's side of a channel: which deliveries it still waits for, and every frame it got."""

    outstanding: set[int] = field(default_factory=set)
    handed_back: set[int] = field(default_factory=set)
    frames: list[str] = field(default_factory=list)
    closed: bool = False
    turns_to_write: int = 0

    async def write(self) -> None:
        """A frame goes out when the link takes it, some turns of the event loop later."""
        for _ in range(self.turns_to_write):
            await asyncio.sleep(0)

    def __hash__(self) -> int:
        return id(self)

    def deliver(self, count: int) -> list[Received]:
        """A delivery of `count` messages, each without its body."""
        self.outstanding = set(range(1, count + 1))
        return [Received(cast("AbstractChannel", self), tag) for tag in range(1, count + 1)]

    async def basic_ack(self, tag: int, multiple: bool) -> None:
        await self.write()
        self._answer(f"ack {'≤ ' if multiple else ''}{tag}")
        acknowledged = {
            each for each in self.outstanding if each == tag or (multiple and each < tag)
        }
        assert tag in acknowledged, "unknown tag: the broker ends the channel"
        self.outstanding -= acknowledged

    async def basic_nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        await self._hand_back("nack", tag, requeue)

    async def basic_reject(self, tag: int, requeue: bool) -> None:
        await self._hand_back("reject", tag, requeue)

    async def _hand_back(self, how: str, tag: int, requeue: bool) -> None:
        await self.write()
        self._answer(f"{how} {tag} requeue={requeue}")
        self.outstanding.remove(tag)
        self.handed_back.add(tag)

    def _answer(self, frame: str) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.frames.append(frame)


@dataclass
class Message:
    """What the client hands to a middleware."""

    of: Channel
    delivery_tag: int

    @classmethod
    def of_each(cls, channel: Channel, count: int) -> list[Message]:
        return [cls(channel, each.delivery_tag) for each in channel.deliver(count)]

    @property
    def channel(self) -> Channel:
        if self.of.closed:
            raise RuntimeError("closed")
        return self.of


async def test_what_finishes_together_is_acknowledged_by_one_frame() -> None:
    channel, acknowledgements = Channel(), Acknowledgements()
    messages = channel.deliver(200)

    await asyncio.gather(*map(acknowledgements.acknowledge, messages))

    assert channel.frames == ["ack ≤ 200"]
    assert not channel.outstanding


async def test_a_message_still_at_hand_is_not_covered_and_keeps_nobody_waiting() -> None:
    channel, acknowledgements = Channel(), Acknowledgements()
    messages = channel.deliver(5)
    slow = messages.pop(1)

    await asyncio.gather(*map(acknowledgements.acknowledge, messages))
    assert channel.outstanding == {slow.delivery_tag}
    assert channel.frames == ["ack ≤ 1", "ack 3", "ack 4", "ack 5"]

    await acknowledgements.acknowledge(slow)
    assert channel.frames[4:] == ["ack ≤ 2"]


@given(st.data())
def test_only_what_has_finished_is_acknowledged_whatever_the_order(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 30))
    order = data.draw(st.permutations(range(count)))
    turns = data.draw(st.lists(st.integers(1, 8), min_size=count, max_size=count))
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    turns_to_write = data.draw(st.integers(0, 3))
    wait_for_each_turn = data.draw(st.booleans())

    async def run() -> None:
        channel = Channel(turns_to_write=turns_to_write)
        acknowledgements = Acknowledgements()
        messages, finished, left = channel.deliver(count), set[int](), list(order)
        tasks: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            for turn in turns:
                together, left = left[:turn], left[turn:]
                for number in together:
                    settle = (
                        acknowledgements.give_back
                        if number in bad
                        else acknowledgements.acknowledge
                    )
                    tasks.append(group.create_task(settle(messages[number])))
                finished |= {number + 1 for number in together}
                await (asyncio.wait(tasks) if wait_for_each_turn else asyncio.sleep(0))
                assert channel.outstanding >= set(range(1, count + 1)) - finished
        assert channel.outstanding == set()
        assert channel.handed_back == {number + 1 for number in bad}

    asyncio.run(run())


async def test_a_run_that_closes_a_gap_waits_for_the_single_acknowledgements_behind_the_gap() -> (
    None
):
    channel, acknowledgements = Channel(turns_to_write=3), Acknowledgements()
    first, *behind, last = channel.deliver(5)

    async with asyncio.TaskGroup() as group:
        for message in behind:
            group.create_task(acknowledgements.acknowledge(message))
        for _ in range(4):
            await asyncio.sleep(0)
        for message in (first, last):
            group.create_task(acknowledgements.acknowledge(message))

    assert channel.frames == ["ack 2", "ack 3", "ack 4", "ack ≤ 5"]


async def test_a_cancelled_handler_does_not_keep_the_others_from_being_acknowledged() -> None:
    channel, acknowledgements = Channel(), Acknowledgements()
    first, second = channel.deliver(2)
    cancelled = asyncio.create_task(acknowledgements.acknowledge(first))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)

    await acknowledgements.acknowledge(second)

    assert channel.outstanding == set()


async def end(message: Message, error: BaseException | None) -> bool:
    middleware = Acknowledging(message, context=None)  # type: ignore[arg-type]
    await middleware.on_receive()
    return await middleware.after_processed(type(error) if error else None, error)


async def test_how_a_handler_ended_decides_what_becomes_of_its_message() -> None:
    channel = Channel()
    done, rejected, failed, cancelled = Message.of_each(channel, 4)

    assert await end(done, None) is False
    assert await end(rejected, RejectMessage(requeue=True)) is True
    assert await end(failed, ValueError()) is False
    assert await end(cancelled, asyncio.CancelledError()) is False

    assert channel.frames == ["ack ≤ 1", "reject 2 requeue=True", "nack 3 requeue=True"]
    assert channel.outstanding == {cancelled.delivery_tag}


async def test_tags_of_a_new_channel_are_counted_anew() -> None:
    for channel in (Channel(), Channel()):
        for message in Message.of_each(channel, 2):
            await end(message, None)
        assert channel.frames == ["ack ≤ 1", "ack ≤ 2"]


async def test_a_link_that_is_gone_is_no_error_the_message_comes_again() -> None:
    channel = Channel()
    before, after = Message.of_each(channel, 2)
    middleware = Acknowledging(before, context=None)  # type: ignore[arg-type]
    await middleware.on_receive()
    channel.closed = True

    assert await middleware.after_processed() is False
    assert await end(after, None) is False
    assert channel.frames == []


async def test_a_channel_that_is_gone_is_not_kept_by_what_was_left_to_acknowledge() -> None:
    gone = []
    for _ in range(20):
        channel = Channel()
        gone.append(weakref.ref(channel))
        ending = [asyncio.create_task(end(each, None)) for each in Message.of_each(channel, 3)]
        await asyncio.sleep(0)  # one gathers, and the others have left theirs to it
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
    await asyncio.sleep(0)
    del channel, ending, task
    gc.collect()
    assert sum(each() is not None for each in gone) <= 1


async def test_an_answer_that_is_late_keeps_no_acknowledgement_waiting() -> None:
    channel, acknowledgements = Channel(), Acknowledgements()
    first, second = channel.deliver(2)
    await acknowledgements.acknowledge(first)
    answer = asyncio.Event()
    asking = asyncio.create_task(acknowledgements.received_by_the_broker([1, 2], answer.wait))
    await asyncio.sleep(0)

    await acknowledgements.acknowledge(second)
    answer.set()

    assert channel.frames == ["ack ≤ 1", "ack ≤ 2"]
    assert await asking == [1]  # the second was settled after the question
