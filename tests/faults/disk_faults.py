"""A database whose disk is full: its data lie on a small file system of their own for a while.

Mounting one needs root, so nobody else finds this fault among the others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.faults import DATABASE_BACK_SECONDS
from tests.faults.interference import nothing_is_stored
from tests.faults.registry import Measurement, fault
from tests.faults.setting import in_thread
from tests.faults.stage import Stage
from tests.servers import DatabaseServer

MAY_MOUNT = os.geteuid() == 0
# What the server may still write before the ballast takes the rest.
ROOM_BYTES = 64 * 1024 * 1024
BALLAST_BYTES = 64 * 1024
HOLDS = (1.0, 4.0)
# A server that waits for space looks for it once a minute.
FREED_SECONDS = 75.0


async def out_of_disk(stage: Stage, rng: random.Random) -> list[Measurement]:
    """It goes on by itself once there is space; where it has ended, it is started again."""
    return await _out_of_disk(stage, rng.choice(HOLDS), restarted=False)


async def out_of_disk_restarted(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Whoever has made space kills it, and does not wait until it looks for space again."""
    return await _out_of_disk(stage, rng.choice(HOLDS), restarted=True)


if MAY_MOUNT:
    fault("out-of-disk")(out_of_disk)
    fault("out-of-disk-restarted")(out_of_disk_restarted)


async def _out_of_disk(stage: Stage, seconds: float, *, restarted: bool) -> list[Measurement]:
    database = stage.database
    assert isinstance(database, DatabaseServer), "a server that is lent has its own disk"
    async with in_thread(_small_disk(database)) as folder:
        await stage.first_order_after(time.time())
        async with in_thread(_full(folder / "ballast")):
            await nothing_is_stored(stage, seconds)
        if restarted and database.running:
            await asyncio.to_thread(database.kill)
        await asyncio.to_thread(database.revive)
        gone_on = await stage.first_order_after(time.time(), within=2 * FREED_SECONDS)
    back = await stage.first_order_after(time.time())
    bound = DATABASE_BACK_SECONDS if restarted else FREED_SECONDS
    return [
        Measurement("first order after disk was freed", gone_on, bound),
        Measurement("first order after the database moved", back, DATABASE_BACK_SECONDS),
    ]


@contextmanager
def _small_disk(database: DatabaseServer) -> Iterator[Path]:
    """Stopped meanwhile, the server moves to a small disk, and back at the end."""
    data = database.folder / "data"
    database.stop()
    away = data.rename(data.with_name("data-elsewhere"))
    data.mkdir()
    try:
        _mount(data, _size_of(away) + ROOM_BYTES)
        try:
            shutil.copytree(away, data, dirs_exist_ok=True)
            database.start()
            yield data
        finally:
            database.stop()
            back = data.with_name("data-back")
            shutil.copytree(data, back)
            subprocess.run(["umount", data], check=True)
        shutil.rmtree(away)
        away = back
    finally:
        data.rmdir()
        away.rename(data)
        database.start()


def _mount(folder: Path, size: int) -> None:
    options = f"size={size},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def _size_of(folder: Path) -> int:
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


@contextmanager
def _full(ballast: Path) -> Iterator[None]:
    """Not a byte is left."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BALLAST_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    try:
        yield
    finally:
        ballast.unlink()
