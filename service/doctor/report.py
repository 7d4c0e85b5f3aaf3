"""The findings as a person reads them: grouped, in words, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.doctor.findings import Finding, Level

STYLES = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.WRONG: "bold red",
    Level.UNKNOWN: "cyan",
}


def render(findings: Sequence[Finding]) -> RenderableType:
    """A table per subject, in the order of the findings, and a line that counts them."""
    subjects = dict.fromkeys(finding.subject for finding in findings)
    tables = [
        _table(subject, [each for each in findings if each.subject == subject])
        for subject in subjects
    ]
    return Group(*tables, _count(findings))


def _table(subject: str, findings: Sequence[Finding]) -> Table:
    table = Table(
        title=Text(subject, style="bold"),
        title_justify="left",
        box=None,
        show_header=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column(width=max(len(level.value) for level in Level))
    table.add_column(max_width=30, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        level = Text(finding.level.value, style=STYLES[finding.level])
        table.add_row(level, Text(_printable(finding.name)), _words(finding))
    table.add_row()
    return table


def _words(finding: Finding) -> Text:
    words = Text(_printable(finding.found))
    if finding.advice:
        words.append(f"\n→ {_printable(finding.advice)}", style="italic")
    return words


def _count(findings: Sequence[Finding]) -> Text:
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    words = {level: level.value.lower() for level in Level}
    if counts[Level.WARNING] != 1:
        words[Level.WARNING] += "s"
    parts = [
        Text(f"{counts[level]} {words[level]}", style=STYLES[level])
        for level in (Level.WRONG, Level.WARNING, Level.UNKNOWN, Level.OK)
    ]
    return Text(", ").join(parts)


def _printable(text: str) -> str:
    """Servers choose some of these words: no control character of theirs reaches the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
