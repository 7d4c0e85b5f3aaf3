"""Python's search for cyclic garbage, set for a process that handles messages."""

import gc

# New objects before a young collection, young ones before an older, older ones before a full one.
# Python's own 700, 10, 10 search several times per message; from 5,000 on little more is gained.
THRESHOLDS = (10_000, 20, 20)


def collect_seldom() -> None:
    """Search seldom, and not in what is there already: modules and wiring stay until the end.

    A message makes hundreds of short-lived objects, and no cycle that would be worth the search.
    With Python's defaults that search took a quarter of the CPU per order (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
