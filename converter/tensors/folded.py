"""Names that stand for several, as they are printed: `h.{0..3,7}.weight`. `text.together` makes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_RUN: Final = r"[0-9]{1,9}(?:\.\.[0-9]{1,9})?"
_NUMBERS: Final = re.compile(rf"(\{{{_RUN}(?:,{_RUN})*\}})")
_NUMBER: Final = "(0|[1-9][0-9]{0,8})"


def is_folded(name: str) -> bool:
    """Whether a text can stand for several names."""
    return _NUMBERS.search(name) is not None


def numbers(folded: str) -> tuple[str, Callable[[int], bool], str] | None:
    """The text before the first numbers, whether a number is one of them, and the text behind; None if there are none."""
    before, *rest = _NUMBERS.split(folded, maxsplit=1)
    if not rest:
        return None
    runs = _runs(rest[0])
    return before, lambda number: any(number in run for run in runs), rest[1]


def pattern(text: str, expression: Callable[[str], str]) -> tuple[str, list[list[range]]]:
    """A regular expression for a text, and the numbers that each of its groups may be.

    A group that takes part in no match stands for braces that are in the name itself. `expression` makes that of the text
    around them.
    """
    pieces = _NUMBERS.split(text)
    body = [
        rf"(?:{_NUMBER}|{re.escape(piece)})" if place % 2 else expression(piece) for place, piece in enumerate(pieces)
    ]
    return "".join(body), [_runs(piece) for piece in pieces[1::2]]


def fitting(body: str, allowed: list[list[range]], longest: int | None) -> Callable[[str], bool]:
    """A function that tells whether a name is matched by an expression of `pattern`, and is not longer than `longest`."""
    match = re.compile(rf"(?s:{body})\Z").match

    def fits(name: str) -> bool:
        if longest is not None and len(name) > longest:
            return False
        found = match(name)
        return found is not None and all(
            number is None or any(int(number) in run for run in runs)
            for number, runs in zip(found.groups(), allowed, strict=True)
        )

    return fits


def _runs(braces: str) -> list[range]:
    return [_run(run) for run in braces[1:-1].split(",")]


def _run(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)
