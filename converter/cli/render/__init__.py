"""Prints reports on a terminal, one module each. This file has what they share. No report needs colour to be understood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from converter.text import safe_text

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
_DIGITS: Final = 9  # a number with this many digits is not the number of a layer


def listed(names: Sequence[str], most: int) -> str:
    """The first names of a list, and the number of the others."""
    shown = ", ".join(safe_text(name) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


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
