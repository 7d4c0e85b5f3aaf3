"""Bad input, and input that only looks bad: fixed messages in named classes.

Each message carries what has to become of it, by the contract. Made from code alone, without
chance: the same messages each time.

    for case in corpus(): publish(case.body, case.properties)

`beginnings()` are orders that have to be there before, since some messages repeat or contradict
them.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from tests.faults.corpus.case import Case
from tests.faults.corpus.series import CLASSES, Series

_MODULES = (
    *("broken_json", "json_text", "encodings", "numbers", "money", "names", "shapes"),
    *("structure", "injections", "properties", "headers", "frames", "collisions"),
)


@cache
def corpus() -> tuple[Case, ...]:
    """All messages, class by class; of those that came out the same (`{`, cut off), the first."""
    for name in _MODULES:
        import_module(f"{__name__}.{name}")
    found: dict[bytes, Case] = {}
    for kind, messages in CLASSES.items():
        for case in messages(Series(kind)):
            found.setdefault(case.body, case)
    return tuple(found.values())


@cache
def beginnings() -> tuple[Case, ...]:
    """The orders that the collisions collide with."""
    from tests.faults.corpus.collisions import beginnings as made

    return tuple(made())
