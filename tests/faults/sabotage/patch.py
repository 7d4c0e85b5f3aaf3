"""Patches of a copy of the service's code, which fail where there is nothing to patch any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

CODE = ("service", "db")


class NotApplicableError(Exception):
    """The text to replace is not there, or not exactly once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In this file, `old` becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The file's text, changed.

        Raises:
            NotApplicableError: `old` is not there exactly once, so something else or nothing would
                be changed.
        """
        times = text.count(self.old)
        if times != 1 or self.old == self.new:
            raise NotApplicableError(
                f"the sabotage no longer applies: {self.file}: {self.old.strip()!r}"
                f" is there {times} times"
            )
        return text.replace(self.old, self.new)


def patched(edits: Iterable[Edit], code: Path = ROOT) -> dict[str, str]:
    """The text of each file that these edits change, as it is then.

    Raises:
        NotApplicableError: one of them cannot be made.
    """
    texts: dict[str, str] = {}
    for edit in edits:
        path = code / edit.file
        text = texts.get(edit.file) or (path.read_text() if path.is_file() else "")
        texts[edit.file] = edit.apply(text)
    return texts


def copy_of_the_code(folder: Path, edits: Iterable[Edit] = ()) -> Path:
    """A copy of all that the service runs on, in a new `folder`, with these edits made.

    Raises:
        NotApplicableError: one of them cannot be made; then nothing is copied.
    """
    texts = patched(edits)
    for name in CODE:
        # No compiled modules: the copy's are its own.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in texts.items():
        (folder / file).write_text(text)
    return folder
