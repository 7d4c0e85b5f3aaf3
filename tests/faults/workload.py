"""What the load is made of: new orders, repetitions, conflicts and poison, drawn from a seed.

The n-th input of a seed is always the same, whatever became of those before it. A new order and a
repetition are published again with the same bytes until they are confirmed. A message that must be
refused leaves a dead letter each time it arrives, so each attempt has bytes of its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.faults.journal import Attempt

LARGEST_BODY = 256 * 1024
# What is larger than this is not stored, and goes to the dead-letter queue without the outbox.
LARGEST_STORED = 1024 * 1024
SKUS = ("85123A", "tea", "Größe L", "emoji \U0001f600", 'quote"and\\slash', "")
RECENT = 40


class Kind(StrEnum):
    NEW = "new"
    LOOKALIKE = "lookalike"
    DUPLICATE = "duplicate"
    KEY_CONFLICT = "key-conflict"
    ID_CONFLICT = "id-conflict"
    INVALID_JSON = "invalid-json"
    INVALID_PAYLOAD = "invalid-payload"
    TOO_LARGE = "too-large"
    FAR_TOO_LARGE = "far-too-large"
    ENCODED = "encoded"


POISON = {
    Kind.INVALID_JSON: "INVALID_JSON",
    Kind.INVALID_PAYLOAD: "INVALID_PAYLOAD",
    Kind.TOO_LARGE: "PAYLOAD_TOO_LARGE",
    Kind.FAR_TOO_LARGE: "PAYLOAD_TOO_LARGE",
    Kind.ENCODED: "UNSUPPORTED_ENCODING",
}


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the load; what is left are new orders.

    A lookalike is a new order whose ids differ from an earlier one's in upper and lower case only.
    """

    duplicates: float = 0.10
    conflicts: float = 0.03
    poison: float = 0.01
    lookalikes: float = 0.02


USUAL_MIX = Mix()
ONLY_NEW = Mix(duplicates=0, conflicts=0, poison=0, lookalikes=0)
ONLY_POISON = replace(ONLY_NEW, poison=1)


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    quantity: int
    price: str


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str
    user_id: str
    cents: int
    key: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to be published until it is confirmed. `write` makes its bytes around a mark."""

    number: int
    kind: Kind
    order: Order
    write: Callable[[str], bytes]
    seed: int = 0

    def attempt(self, number: int) -> Attempt:
        attempt_id = f"{self.seed}-{self.number}-{number}"
        alike = self.kind in {Kind.NEW, Kind.LOOKALIKE, Kind.DUPLICATE}
        return Attempt(
            attempt_id,
            self.kind,
            self.write(f"{self.seed}-{self.number}" if alike else attempt_id),
            reason=POISON.get(self.kind),
            trace=attempt_id,
            number=number,
            order_id=self.order.order_id,
            key=self.order.key,
            content_encoding="gzip" if self.kind is Kind.ENCODED else None,
        )


class Workload:
    """The inputs of a seed, one after the other."""

    def __init__(self, seed: int, mix: Mix = USUAL_MIX) -> None:
        self._seed = seed
        self._mix = mix
        self._rng = random.Random(f"workload {seed}")
        self._orders: list[Order] = []
        self._looked_alike: set[str] = set()
        self._number = 0

    def next(self) -> Input:
        self._number += 1
        kind = self._kind()
        order = self._order(kind)
        if kind in {Kind.NEW, Kind.LOOKALIKE}:
            self._orders.append(order)
        return Input(self._number, kind, order, self._writer(kind, order), self._seed)

    def _kind(self) -> Kind:
        drawn = self._rng.random()
        for share, kinds in (
            (self._mix.poison, tuple(POISON)),
            (self._mix.conflicts, (Kind.KEY_CONFLICT, Kind.ID_CONFLICT)),
            (self._mix.duplicates, (Kind.DUPLICATE,)),
            (self._mix.lookalikes, (Kind.LOOKALIKE,)),
        ):
            if drawn < share:
                kind = self._rng.choice(kinds)
                needs_another = kind not in POISON
                return Kind.NEW if needs_another and not self._orders else kind
            drawn -= share
        return Kind.NEW

    def _order(self, kind: Kind) -> Order:
        rng, name = self._rng, f"{self._seed}-{self._number}"
        match kind:
            case Kind.DUPLICATE:
                return self._earlier()
            case Kind.KEY_CONFLICT:
                return replace(self._earlier(), cents=rng.randint(1, 10**10 - 1))
            case Kind.ID_CONFLICT:
                return replace(self._earlier(), key=f"other-key-{name}")
            case Kind.LOOKALIKE:
                like = self._earlier()
                if like.order_id not in self._looked_alike:
                    alike = self._new(name, like.order_id.swapcase(), like.key.swapcase())
                    self._looked_alike |= {like.order_id, alike.order_id}
                    return alike
        return self._new(name, f"Order-{name}", f"Key-{name}")

    def _new(self, name: str, order_id: str, key: str) -> Order:
        rng = self._rng
        cents = rng.choice((1, 9990, 10**10 - 1, rng.randint(1, 10**6), rng.randint(1, 10**6)))
        lines = tuple(
            Line(
                rng.choice(SKUS), rng.randint(1, 99), f"{rng.randint(0, 999)}.{rng.randint(0, 999)}"
            )
            for _ in range(rng.randint(0, 3))
        )
        return Order(order_id, f"User-{name}", cents, key, lines)

    def _earlier(self) -> Order:
        """Half of the time one that may still be on its way."""
        of = self._orders if self._rng.random() < 0.5 else self._orders[-RECENT:]
        return self._rng.choice(of)

    def _writer(self, kind: Kind, order: Order) -> Callable[[str], bytes]:
        style = self._rng.getrandbits(32)
        spread = self._rng.randint(1, 40_000)
        match kind:
            case Kind.INVALID_JSON:
                return lambda mark: written(order, style, mark)[:-1]
            case Kind.INVALID_PAYLOAD:
                negative = replace(order, cents=-order.cents)
                return lambda mark: written(negative, style, mark)
            case Kind.TOO_LARGE:
                return lambda mark: written(order, style, mark, LARGEST_BODY + spread)
            case Kind.FAR_TOO_LARGE:
                return lambda mark: written(order, style, mark, LARGEST_STORED + spread)
        return lambda mark: written(order, style, mark)


class OfKind(Workload):
    """Inputs of one kind, new orders or poison."""

    def __init__(self, seed: int, kind: Kind) -> None:
        super().__init__(seed, ONLY_NEW if kind is Kind.NEW else ONLY_POISON)
        self._wanted = kind

    def next(self) -> Input:
        while (found := super().next()).kind is not self._wanted:
            pass
        return found


def written(order: Order, style: int, mark: str, padding: int = 0) -> bytes:
    """The order as JSON. Styles differ in the order of fields and in how amounts are written;
    `mark` and `padding` go into fields that the contract does not know."""
    rng = random.Random(style)
    fields = {
        "orderId": json.dumps(order.order_id),
        "userId": json.dumps(order.user_id),
        "totalAmount": _amount(order.cents, rng),
        "idempotencyKey": json.dumps(order.key),
        "items": "[" + ", ".join(_line(line, rng) for line in order.lines) + "]",
        "mark": json.dumps(mark),
    }
    if padding:
        fields["padding"] = json.dumps("x" * padding)
    names = rng.sample(sorted(fields), len(fields))
    return ("{" + ",".join(f'"{name}": {fields[name]}' for name in names) + "}").encode()


def _amount(cents: int, rng: random.Random) -> str:
    """`99.9`, `99.90`, `"99.9"` and `"99.90"` are one amount."""
    whole, rest = divmod(abs(cents), 100)
    text = f"{'-' if cents < 0 else ''}{whole}.{rest:02}"
    if rng.random() < 0.5:
        text = text.rstrip("0").rstrip(".")
    return json.dumps(text) if rng.random() < 0.5 else text


def _line(line: Line, rng: random.Random) -> str:
    longer = line.price + ("0" if "." in line.price else ".0")
    price = line.price if rng.random() < 0.5 else json.dumps(longer)
    sku = json.dumps(line.sku, ensure_ascii=rng.random() < 0.5)
    fields = [f'"sku": {sku}', f'"quantity": {line.quantity}', f'"unitPrice": {price}']
    return "{" + ", ".join(rng.sample(fields, len(fields))) + "}"
