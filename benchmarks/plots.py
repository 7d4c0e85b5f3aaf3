"""Plots as SVG, written by hand: bars with their spread, and points on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 820, 30, 270, 90, 56, 34
COLOURS = ("#2f6f4e", "#c58a2a", "#a33b3b")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}"
    ".title{font-weight:600;font-size:15px}.faint{fill:#777;font-size:11px}"
    ".grid{stroke:#ddd}.spread{stroke:#222;stroke-width:1.5}"
)


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    low: float
    high: float
    ours: bool = False


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars: the median, and a line from the lowest to the highest round."""
    top = max(row.high for row in rows) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / top
    parts = []
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        middle = y + ROW / 2 - 3
        colour = COLOURS[0] if row.ours else "#9fb3c8"
        parts += [
            f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{LEFT}" y="{y + 2}" width="{row.value * scale:.1f}" height="{ROW - 10}"'
            f' fill="{colour}"/>',
            f'<line class="spread" x1="{LEFT + row.low * scale:.1f}"'
            f' x2="{LEFT + row.high * scale:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{LEFT + row.high * scale + 8:.1f}" y="{middle + 4}">{row.value:,.0f}</text>',
        ]
    foot = f"{unit}; bar: median of the rounds, line: lowest to highest"
    return _page(title, foot, len(rows), parts)


@dataclass(frozen=True)
class Points:
    label: str
    values: tuple[float, ...]


def points(title: str, names: Sequence[str], rows: Sequence[Points]) -> str:
    """One row of points each, milliseconds on a logarithmic scale."""
    every = [value for row in rows for value in row.values if value > 0]
    low = math.floor(math.log10(min(every)))
    high = max(math.ceil(math.log10(max(every))), low + 1)
    scale = (WIDTH - LEFT - RIGHT) / (high - low)

    def x(value: float) -> float:
        return LEFT + (math.log10(max(value, 10.0**low)) - low) * scale

    bottom = TOP + len(rows) * ROW
    parts = []
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts += [
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{bottom}"/>',
            f'<text class="faint" x="{at:.1f}" y="{TOP - 10}" text-anchor="middle">'
            f"{10.0**power:g} ms</text>",
        ]
    for number, row in enumerate(rows):
        y = TOP + number * ROW + ROW / 2 - 3
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>',
            f'<line class="spread" x1="{x(row.values[0]):.1f}" x2="{x(row.values[-1]):.1f}"'
            f' y1="{y}" y2="{y}" opacity="0.3"/>',
        ]
        parts += [
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{colour}"/>'
            for value, colour in zip(row.values, COLOURS, strict=False)
        ]
    parts += [
        f'<circle cx="{LEFT + 60 * n + 300}" cy="20" r="5" fill="{colour}"/>'
        f'<text x="{LEFT + 60 * n + 310}" y="24">{escape(name)}</text>'
        for n, (name, colour) in enumerate(zip(names, COLOURS, strict=False))
    ]
    return _page(title, "milliseconds, logarithmic; medians of the rounds", len(rows), parts)


def _page(title: str, foot: str, rows: int, parts: Sequence[str]) -> str:
    height = TOP + rows * ROW + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text class="title" x="12" y="24">{escape(title)}</text>',
            *parts,
            f'<text class="faint" x="12" y="{height - 10}">{escape(foot)}</text>',
            "</svg>\n",
        ]
    )
