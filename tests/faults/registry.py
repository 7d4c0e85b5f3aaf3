"""The named faults of the campaign.

    @fault("freeze-database")
    async def freeze_database(stage: Stage, rng: random.Random) -> list[Measurement]:
        ...

A fault injects, holds and heals, under the load of the stage's producer, and returns what it
measured. It draws whatever it leaves to chance from `rng` alone, so that a seed replays it. When it
returns, whatever it broke is whole again. Every module of this package is imported before a
campaign starts, so a fault needs no other registration.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.setting import StageOptions
from tests.faults.stage import DEFAULT_OPTIONS, Stage

NO_FAULTS_IN = ("test_", "conftest", "__main__")


@dataclass(frozen=True, slots=True)
class Measurement:
    """How long something took, in seconds, and how long it may take on a machine of its own.

    What never came has taken `inf`.
    """

    what: str
    seconds: float
    bound: float

    @property
    def came(self) -> bool:
        return math.isfinite(self.seconds)

    @property
    def kept(self) -> bool:
        return self.seconds <= self.bound


Inject = Callable[[Stage, random.Random], Awaitable[list[Measurement]]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, by name.

    `parks`: events may be parked by it, and are no violation. `options`: the stage it needs, where
    that is another than the usual one; the campaign then opens a stage of that kind for it.
    """

    name: str
    inject: Inject
    parks: bool = False
    options: StageOptions = DEFAULT_OPTIONS


_faults: dict[str, Fault] = {}


def fault(
    name: str, *, parks: bool = False, options: StageOptions = DEFAULT_OPTIONS
) -> Callable[[Inject], Inject]:
    """Register the function under this name."""

    def register(inject: Inject) -> Inject:
        if name in _faults:
            raise ValueError(f"two faults are named {name}")
        _faults[name] = Fault(name, inject, parks, options)
        return inject

    return register


def all_faults() -> dict[str, Fault]:
    """Every fault that a module of this package registers, by name, in the order of the names."""
    package = importlib.import_module(__package__ or "tests.faults")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith(NO_FAULTS_IN):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_faults.items()))
