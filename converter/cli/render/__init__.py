"""Reports on a terminal, a module each; what all of them share is here. Nothing needs colour to be understood."""

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
_DIGITS: Final = 9  # a number with as many digits is no layer's


def console() -> Console:
    """Give stdout: as wide as the terminal, at least 80 columns, wider where nobody's terminal would cut it."""
    found = _Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        return _Console(file=_Trimmed(sys.stdout), markup=False, emoji=False, highlight=False, width=_PIPED)
    if found.width < _NARROW:
        return _Console(markup=False, emoji=False, highlight=False, width=_NARROW)
    return found


class _Console(Console):
    """A console whose reader may go away; the command still ends with its own exit code."""

    def on_broken_pipe(self) -> None:
        """Write nothing from now on."""
        self.quiet = True


class _Trimmed(io.StringIO):
    """A file without the blanks that rich pads its lines with."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def write(self, text: str) -> int:
        """Write without blanks before line ends."""
        return self._file.write(_PADDING.sub("", text))

    def flush(self) -> None:
        """Flush what is below."""
        self._file.flush()


def listed(names: Sequence[str], most: int) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(safe_text(name) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def empty_table(gap: int = 1) -> Table:
    """An empty table without lines; `gap` columns on each side of a cell."""
    return Table(box=None, pad_edge=False, padding=(0, gap), header_style="dim")


def indented(rows: Table) -> Padding:
    """A table below a heading."""
    return Padding(rows, (0, 0, 0, 2), expand=False)


def numbered(name: str) -> tuple[int | None, tuple[str, ...]]:
    """The first word of a name that is a number, and what stands around it. Without one: None, and the whole name."""
    match = _NUMBER.search(name)
    if match is None or len(match[0]) >= _DIGITS:
        return None, (name,)
    return int(match[0]), (name[: match.start()], name[match.end() :])


def together(around: Sequence[str], numbers: Iterable[int]) -> str:
    """One name for several that differ in a number alone: `h.{0..3}.weight`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    listed = ",".join(f"{a}..{b}" if b > a + 1 else f"{a},{b}" if b > a else f"{a}" for a, b in runs)
    before, behind = around
    return f"{before}{{{listed}}}{behind}"
