"""Prints reports on a terminal, one module each. This file has what they share. No report needs colour to be understood."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from converter.text import safe_text

_NARROW: Final = 80
_PIPED: Final = 160
_PADDING: Final = re.compile(r"(?<! ) ++(?=\n)")
_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
_DIGITS: Final = 9  # a number with this many digits is not the number of a layer


def console() -> Console:
    """The stdout console: as wide as the terminal, at least 80 columns, and wider if the output is not a terminal."""
    found = _Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        return _Console(file=_Trimmed(sys.stdout), markup=False, emoji=False, highlight=False, width=_PIPED)
    if found.width < _NARROW:
        return _Console(markup=False, emoji=False, highlight=False, width=_NARROW)
    return found


class _Console(Console):
    """A console whose reader may go away. The command still ends with its own exit code."""

    def on_broken_pipe(self) -> None:
        """Write nothing from now on."""
        self.quiet = True


class _Trimmed(io.StringIO):
    """A file that drops the blanks with which rich pads lines."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def write(self, text: str) -> int:
        """Write a text without blanks at the ends of lines."""
        return self._file.write(_PADDING.sub("", text))

    def flush(self) -> None:
        """Flush the underlying file."""
        self._file.flush()


def listed(names: Sequence[str], most: int) -> str:
    """The first names of a list, and the number of the others."""
    shown = ", ".join(safe_text(name) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def empty_table(gap: int = 1) -> Table:
    """An empty table without ruled lines; `gap` columns on each side of a cell."""
    return Table(box=None, pad_edge=False, padding=(0, gap), header_style="dim")


def indented(rows: Table) -> Padding:
    """A table below a heading."""
    return Padding(rows, (0, 0, 0, 2), expand=False)


def numbered(name: str) -> tuple[int | None, tuple[str, ...]]:
    """The first part of a name that is a number, and the text around it. Without a number: None and the whole name."""
    match = _NUMBER.search(name)
    if match is None or len(match[0]) >= _DIGITS:
        return None, (name,)
    return int(match[0]), (name[: match.start()], name[match.end() :])


def together(around: Sequence[str], numbers: Iterable[int]) -> str:
    """One name for several that differ only in one number: `h.{0..3}.weight`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    listed = ",".join(f"{a}..{b}" if b > a + 1 else f"{a},{b}" if b > a else f"{a}" for a, b in runs)
    before, behind = around
    return f"{before}{{{listed}}}{behind}"
