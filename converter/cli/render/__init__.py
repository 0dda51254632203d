"""Lays out reports for a terminal of any width: lines that wrap between words, and tables whose names stay whole."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from converter.text import cells, encodable, plural

Piece = str | tuple[str, str]  # a text, or a text and its style

# Styles are parameters of SGR. These colours of the 256 have a contrast of at least 4.5 on white and on black.
BOLD: Final = "1"
GOOD: Final = "38;5;29"
WARN: Final = "38;5;163"
BAD: Final = "1;38;5;131"
QUIET: Final = "38;5;243"

_PIPED: Final = 160  # columns, if the output is not a terminal and COLUMNS is not set
_LEAST: Final = 20  # columns: narrower than this, nothing can be laid out
_GAP: Final = 2  # columns between two columns of a table
_NAME: Final = 12  # columns that are left for names, at least, before all of them get lines of their own
_WRAPPED: Final = 20  # least width of a column whose text wraps
_INDENT: Final = 4  # columns by which lines below a name are indented
_WORDS: Final = re.compile(r"\s+|\S+")
_COLOURLESS: Final = ("", "dumb", "unknown")  # values of TERM


def plain(pieces: Sequence[Piece]) -> str:
    """The text of pieces."""
    return "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces)


def set_columns() -> int | None:
    """The width that COLUMNS asks for, or None."""
    asked = os.environ.get("COLUMNS", "")
    return (
        max(int(asked), _LEAST) if asked.isascii() and asked.isdigit() and 0 < len(asked) < 6 and int(asked) else None
    )


def columns(stream: TextIO) -> int | None:
    """The width of the terminal behind a stream, or what COLUMNS asks for; None if it is not a terminal."""
    return set_columns() or (max(shutil.get_terminal_size().columns, _LEAST) if stream.isatty() else None)


def coloured(stream: TextIO) -> bool:
    """Whether a stream is for colours: a terminal that has them, or FORCE_COLOR, and no NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") not in _COLOURLESS


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. The first one has names, which stay whole."""

    head: str
    right: bool = False
    rank: int = 0  # 0: always shown. Of the others, the one with the largest number is left out first.
    wrap: bool = False  # its cells may go on in the next line; only the last column


class Screen:
    """Where a report is printed."""

    def __init__(self, file: TextIO | None = None, width: int | None = None) -> None:
        self._file = file or sys.stdout
        asked = width or columns(self._file)
        self.width = asked or _PIPED
        self._fixed = asked is not None  # else lines may be longer: a program that reads them wants names in one piece
        self.encoding = self._file.encoding or "utf-8"
        self._coloured = coloured(self._file)
        self._closed = False

    def blank(self) -> None:
        """Print an empty line."""
        self._write("")

    def line(self, *pieces: Piece, indent: int = 0, hang: int = 2, cut: bool = False) -> None:
        """Print a text, which goes on in the next lines where it is too long, `hang` columns farther to the right.

        With `cut`, a word that is longer than a line goes on in the next one, too; else it stays whole.
        """
        self._wrapped(" " * indent, pieces, indent + hang, cut=cut)

    def field(self, label: str, room: int, *pieces: Piece) -> None:
        """Print a label, `room` columns wide, and what it says."""
        start = f"  {self._styled(label.ljust(room), QUIET)}  "
        self._wrapped(start, pieces, room + 4, room + 4)

    def note(self, *pieces: Piece) -> None:
        """Print something to be noticed, with a mark in front."""
        self.line(("!", WARN), " ", *pieces, indent=2, hang=2)

    def table(self, heads: Sequence[Column], rows: Sequence[Sequence[Piece]], indent: int = 2) -> None:
        """Print a table without ruled lines. Columns that have no room, or nothing in them, are left out.

        A name that has no room beside the other cells stands in a line of its own, above them. If it is longer than the line,
        it goes on in the next one.
        """
        texts = [[self._text(cell) for cell in row] for row in rows]
        widths = [max(cells(head.head), *(cells(row[at]) for row in texts)) for at, head in enumerate(heads)]
        full = [at for at, head in enumerate(heads) if at == 0 or any(row[at] for row in texts)]
        shown, name, wrapped = _layout(heads, widths, full, self.width - indent)
        widths[0] = name
        below = wrapped < _WRAPPED if heads[shown[-1]].wrap else False
        if heads[shown[-1]].wrap:
            widths[shown[-1]] = self.width - indent - _INDENT if below else wrapped
        if any(head.head for head in heads):
            self._row(indent, [head.head for head in heads], heads, shown, widths, below, [QUIET] * len(heads))
        for row, text in zip(rows, texts, strict=True):
            styles = [cell[1] if isinstance(cell, tuple) else "" for cell in row]
            self._row(indent, text, heads, shown, widths, below, styles)
        if missing := [heads[at].head for at in full if at not in shown]:
            self.line((f"not shown in {plural(self.width, 'column')}: {', '.join(missing)}", QUIET), indent=indent)

    def _row(
        self,
        indent: int,
        row: Sequence[str],
        heads: Sequence[Column],
        shown: Sequence[int],
        widths: Sequence[int],
        below: bool,
        styles: Sequence[str],
    ) -> None:
        start = " " * indent
        inline = [at for at in shown if not (below and heads[at].wrap)]
        first = row[0]
        if cells(first) > widths[0]:
            start_line, *others = (
                _cut(first, self.width - indent, self.width - indent - _GAP) if self._fixed else [first]
            )
            self._write(start + self._styled(start_line, styles[0]))
            for part in others:
                self._write(start + " " * _GAP + self._styled(part, styles[0]))
            first = ""
        parts = [first, *row[1:]]
        last = shown[-1]
        pieces = [""]
        if heads[last].wrap:
            pieces = _broken(parts[last], widths[last])
            parts[last] = pieces[0]
        filled = [self._cell(parts[at], widths[at], heads[at].right, styles[at]) for at in inline]
        self._write(start + (" " * _GAP).join(filled))
        if below:
            for piece in pieces:
                if piece:
                    self._write(" " * (indent + _INDENT) + self._styled(piece, styles[last]))
        else:
            offset = indent + sum(widths[at] + _GAP for at in shown[:-1])
            for piece in pieces[1:]:
                self._write(" " * offset + self._styled(piece, styles[last]))

    def _cell(self, text: str, width: int, right: bool, style: str) -> str:
        said, blanks = self._styled(text, style), " " * (width - cells(text))
        return blanks + said if right else said + blanks

    def _wrapped(
        self, start: str, pieces: Sequence[Piece], hang: int, used: int | None = None, *, cut: bool = False
    ) -> None:
        """Write words up to the width of the terminal. A word that is longer than a line stays whole, or is `cut`."""
        line, column = [start], len(start) if used is None else used
        begun = False  # whether the line has a word yet
        for word, width in self._words(pieces, max(self.width - hang, 1) if cut else None):
            if width < 0:  # blanks
                line.append(word)
                column -= width
            elif begun and column + width > self.width:
                self._write("".join(line))
                line, column = [" " * hang, word], hang + width
            else:
                line.append(word)
                column += width
                begun = True
        self._write("".join(line))

    def _words(self, pieces: Sequence[Piece], longest: int | None = None) -> list[tuple[str, int]]:
        """Words and the blanks between them, with styles, and their columns: those of blanks are negative.

        A word of one piece that has more than `longest` columns is given as several.
        """
        found: list[tuple[str, int]] = []
        for piece in pieces:
            style = piece[1] if isinstance(piece, tuple) else ""
            for word in _WORDS.findall(self._text(piece)):
                styled, width = self._styled(word, style), cells(word)
                if longest is not None and width > longest and not word.isspace():
                    found += [(self._styled(part, style), cells(part)) for part in _broken(word, longest)]
                elif word.isspace():
                    found.append((styled, -width))
                elif found and found[-1][1] > 0:  # two pieces can make one word
                    found[-1] = found[-1][0] + styled, found[-1][1] + width
                else:
                    found.append((styled, width))
        return found

    def _text(self, piece: Piece) -> str:
        return encodable(piece if isinstance(piece, str) else piece[0], self.encoding)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if style and self._coloured and text.strip() else text

    def _write(self, line: str) -> None:
        if self._closed:
            return
        try:
            self._file.write(line.rstrip() + "\n")
        except BrokenPipeError:  # the reader has gone away; the command still ends with its own exit code
            self._closed = True


def _layout(
    heads: Sequence[Column], widths: Sequence[int], full: Sequence[int], room: int
) -> tuple[list[int], int, int]:
    """The columns that are shown, the width of the names, and the room for the last column if that may be wrapped."""
    wraps = heads[full[-1]].wrap

    def needed(shown: Sequence[int]) -> int:
        sizes = [widths[at] for at in shown[1:]]
        if wraps:
            sizes[-1] = min(sizes[-1], _WRAPPED)
        return sum(sizes) + _GAP * (len(shown) - 1)

    shown = list(full)
    while needed(shown) + widths[0] > room and (optional := [at for at in shown if heads[at].rank]):
        shown.remove(max(optional, key=lambda at: heads[at].rank))
    # A narrow column can have room where a wide one, which matters more, has none.
    for at in sorted((at for at in full if at not in shown), key=lambda at: heads[at].rank):
        more = sorted([*shown, at])
        if needed(more) + widths[0] <= room:
            shown = more
    if wraps and needed(shown) + widths[0] > room:
        beside = sum(widths[at] + _GAP for at in shown[1:-1])
        return shown, min(widths[0], max(room - beside, _NAME)), 0
    left = room - needed(shown)
    name = min(widths[0], left) if left >= _NAME else min(widths[0], _INDENT - _GAP)
    return shown, name, room - name - sum(widths[at] + _GAP for at in shown[1:-1]) - _GAP


def _cut(text: str, width: int, others: int) -> list[str]:
    """A name in lines of at most `width` columns, and `others` from the second one on. No character is left out."""
    lines, line, column = list[str](), "", 0
    for character in text:
        taken = cells(character)
        if column + taken > (others if lines else width):
            kept = line.rstrip(" ") or line  # blanks at the end of a line could not be seen
            lines.append(kept)
            line = line[len(kept) :]
            column = len(line)
        line += character
        column += taken
    return [*lines, line]


def _broken(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` columns: cut between words, and inside of a word that is longer than a line."""
    lines, line, column = list[str](), "", 0
    for word in _WORDS.findall(text):
        size = cells(word)
        if column + size > width and not word.isspace() and column and size <= width:
            lines.append(line.rstrip())
            line, column = "", 0
        if column + size <= width:
            line += word if column or not word.isspace() else ""
            column += size if column or not word.isspace() else 0
            continue
        for character in word:
            taken = cells(character)
            if column + taken > width:
                lines.append(line.rstrip())
                line, column = "", 0
            if column or not character.isspace():
                line += character
                column += taken
    return [*lines, line.rstrip()] if line.strip() or not lines else lines
