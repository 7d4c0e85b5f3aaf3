"""Bodies that would be orders, but for one thing missing, doubled or replaced."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus.case import CANARY, Case
from tests.faults.corpus.series import Series, body_of, line, named, text_of

STRUCTURE = '{}[]:,"'
INSTEAD = {"{": "[", "}": "]", "[": "{", "]": "}", ":": ",", ",": ";", '"': "'"}


def _whole(series: Series) -> str:
    items = [line(), line(sku="b", quantity=1, unitPrice="0.00")]
    return text_of(series.order(items=items, note={CANARY: [None, True, {}]}))


def _structural(text: str) -> Iterator[int]:
    return (place for place, character in enumerate(text) if character in STRUCTURE)


@named("truncated at every byte")
def truncated(series: Series) -> Iterator[Case]:
    whole = body_of(series.order())
    for end in range(len(whole)):
        yield series.not_json(f"the first {end} bytes", whole[:end])


@named("truncated at every structural character")
def truncated_structure(series: Series) -> Iterator[Case]:
    whole = _whole(series)
    for place in _structural(whole):
        yield series.not_json(f"cut off before {whole[place]} at {place}", whole[:place])


@named("beginning cut off")
def without_beginning(series: Series) -> Iterator[Case]:
    whole = _whole(series)
    for place in _structural(whole):
        rest = whole[place + 1 :]
        yield series.not_json(f"without all up to {whole[place]} at {place}", rest)


@named("structural character missing")
def missing(series: Series) -> Iterator[Case]:
    whole = _whole(series)
    for place in _structural(whole):
        body = whole[:place] + whole[place + 1 :]
        yield series.not_json(f"without {whole[place]} at {place}", body)


@named("structural character doubled")
def doubled(series: Series) -> Iterator[Case]:
    whole = _whole(series)
    for place in _structural(whole):
        body = whole[:place] + whole[place] + whole[place:]
        yield series.not_json(f"two {whole[place]} at {place}", body)


@named("structural character replaced")
def replaced(series: Series) -> Iterator[Case]:
    whole = _whole(series)
    for place in _structural(whole):
        body = whole[:place] + INSTEAD[whole[place]] + whole[place + 1 :]
        yield series.not_json(f"{INSTEAD[whole[place]]} for {whole[place]} at {place}", body)


@named("two messages in one")
def spliced(series: Series) -> Iterator[Case]:
    for between in ("", "\n", ",", "\r\n\r\n", "\x00", "\x1e", " "):
        one, other = text_of(series.order()), text_of(series.order())
        yield series.not_json(f"two orders with {between!r} between", one + between + other)
    for share in range(1, 10):
        one, other = text_of(series.order()), text_of(series.order())
        cut = len(one) * share // 10
        yield series.not_json(f"{share} tenths of one, then another", one[:cut] + other)
