"""The load: publishes at a steady rate, whatever the broker does, until each input is confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError

from tests.faults.journal import Attempt, Confirmed, Journal
from tests.faults.link import LINK_FAILURES, RETRY_SECONDS, Link, told_to_end
from tests.faults.workload import Input, Workload

CONFIRM_SECONDS = 10.0
IN_FLIGHT = 5000


class Producer:
    """Open-loop: inputs come by the clock and wait for a link where there is none.

    Every attempt is in its journal before it is published. What fails for want of a link is tried
    again over the next one, so the broker may have had it before.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        workload: Workload,
        *,
        rate: float,
        attempts: Journal[Attempt],
        confirmed: Journal[Confirmed],
    ) -> None:
        self._link = Link(url, "faults producer")
        self._queue = queue
        self._workload = workload
        self._interval = 1 / rate
        self._attempts = attempts
        self._confirmed = confirmed
        self._channel: AbstractChannel | None = None
        self._linked, self._broken, self._going = (asyncio.Event() for _ in range(3))
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._settled = asyncio.Condition()
        self._deliveries: set[asyncio.Task[None]] = set()
        self.produced = 0
        """Inputs so far."""
        self.settled = 0
        """Those of them that are confirmed."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ready to produce, paused; whatever is under way at the end of the block is given up."""
        async with asyncio.TaskGroup() as tasks:
            chores = [
                tasks.create_task(self._keep_linked()),
                tasks.create_task(self._produce(tasks)),
            ]
            try:
                yield
            finally:
                for chore in chores:
                    chore.cancel()
                await asyncio.gather(*chores, return_exceptions=True)
                for task in list(self._deliveries):
                    task.cancel()
        await self._link.close()

    def resume(self) -> None:
        self._going.set()

    def pause(self) -> None:
        """No new inputs; those there are go on until they are confirmed."""
        self._going.clear()

    async def all_confirmed(self) -> None:
        """Returns once all inputs so far are confirmed."""
        async with self._settled:
            await self._settled.wait_for(lambda: self.settled == self.produced)

    async def produced_at_least(self, count: int) -> None:
        async with self._settled:
            await self._settled.wait_for(lambda: self.produced >= count)

    async def _produce(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if not self._going.is_set():
                await self._going.wait()
                due = loop.time()
            await asyncio.sleep(due - loop.time())
            due += self._interval
            await self._slots.acquire()
            async with self._settled:
                self.produced += 1
                self._settled.notify_all()
            task = tasks.create_task(self._deliver(self._workload.next()))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, item: Input) -> None:
        number = 1
        while not await self._confirmed_attempt(item.attempt(number)):
            number += 1
        self._slots.release()
        async with self._settled:
            self.settled += 1
            self._settled.notify_all()

    async def _confirmed_attempt(self, attempt: Attempt) -> bool:
        await self._linked.wait()
        await self._attempts.append(attempt)
        if not await self._publish(attempt):
            return False
        await self._confirmed.append(Confirmed(attempt.attempt_id))
        return True

    async def _publish(self, attempt: Attempt) -> bool:
        """Whether the broker has confirmed it; where the link is to blame, the next is awaited."""
        channel = self._channel
        assert channel is not None
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await channel.default_exchange.publish(
                    message_of(attempt), self._queue, mandatory=True
                )
        except PublishError:
            await asyncio.sleep(RETRY_SECONDS)  # no such queue now
        except DeliveryError:
            # A channel that was first used between two leaders may be refused for ever.
            await asyncio.sleep(RETRY_SECONDS)
            self._give_up_link(channel)
        except LINK_FAILURES:
            self._give_up_link(channel)
        except asyncio.CancelledError:
            if told_to_end():
                raise
            self._give_up_link(channel)
        except Exception as error:
            if type(error) is not Exception:  # what aiormq says of a link that was closed
                raise
            self._give_up_link(channel)
        else:
            return True
        return False

    def _give_up_link(self, channel: AbstractChannel) -> None:
        """Unless it was given up already: what fails late must not end the next link as well."""
        if self._channel is channel:
            self._linked.clear()
            self._broken.set()

    async def _keep_linked(self) -> None:
        while True:
            self._channel = await self._link.open()
            self._broken.clear()
            self._linked.set()
            await self._broken.wait()


def message_of(attempt: Attempt) -> aio_pika.Message:
    """Its trace is its message id and its correlation id."""
    return aio_pika.Message(
        attempt.body,
        content_type="application/json",
        content_encoding=attempt.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=attempt.trace,
        correlation_id=attempt.trace,
    )
