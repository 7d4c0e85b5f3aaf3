"""Deletes events that were published long ago, batch by batch."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from db import outbox
from db.engine import Database
from service.driver_errors import explain_database
from service.observability import Action, log


class Purge:
    """Keeps the outbox from growing. Nothing that is not published is ever deleted."""

    def __init__(
        self,
        database: Database,
        *,
        retention: timedelta,
        interval_seconds: float,
        batch_size: int,
    ) -> None:
        self._database = database
        self._retention = retention
        self._interval = interval_seconds
        self._batch_size = batch_size
        self._next = time.monotonic() + interval_seconds

    async def when_due(self) -> int:
        """Delete a batch if it is time, and at once the next as long as batches are full.

        Returns how many events were deleted. A failure is told of and nothing more: what is left
        takes room, and publishing does not wait for it.
        """
        if time.monotonic() < self._next:
            return 0
        deleted = 0
        try:
            deleted = await self.batch()
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            log(Action.PURGE_FAILED, logging.WARNING, why=explain_database(error))
        if deleted < self._batch_size:
            self._next = time.monotonic() + self._interval
        if deleted:
            log(Action.PURGED, events=deleted)
        return deleted

    async def batch(self) -> int:
        """Delete one batch of events that were published longer ago than the retention time."""
        async with self._database.transaction() as connection:
            ids = await outbox.find_purgeable(
                connection, retention=self._retention, limit=self._batch_size
            )
            return await outbox.delete_published(connection, ids) if ids else 0
