"""What is sent: real invoices under new ids and keys, the same ones in the same order each time."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from importlib.resources import files

SAMPLES = files("service.samples") / "online-retail-sample.jsonl.gz"
SEED = 20_101_201


def order_id(series: str, number: int) -> str:
    return f"{series}-{number}"


def messages(series: str, count: int) -> Iterator[bytes]:
    """Bodies of OrderCreated. Orders of another series have other ids and keys.

    Ids and keys are set by replacing text, so that amounts stay written as they were.
    """
    rng = random.Random(SEED)
    with SAMPLES.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8") as stream:
        lines = [(line.strip(), json.loads(line)) for line in stream]
    for number in range(count):
        line, order = rng.choice(lines)
        for name, value in (
            ("orderId", order_id(series, number)),
            ("idempotencyKey", f"key-{order_id(series, number)}"),
        ):
            line = line.replace(f'"{name}": "{order[name]}"', f'"{name}": "{value}"', 1)
        yield line.encode()
