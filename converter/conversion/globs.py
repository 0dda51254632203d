"""Globs on the names of tensors, and renames that reuse the text that the wildcards of a glob matched.

Globs are those of `fnmatch`: `*` matches any text, `?` one character, `[ab]` one of these, `[!ab]` one of all others.
Matching never takes exponential time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import Final

from converter.errors import RuleError
from converter.models.selection import WILDCARDS
from converter.text import plural

_PLACE: Final = re.compile(r"\*|\{([0-9]{1,4})\}")


def fitting(glob: str) -> Callable[[str], object]:
    """A function that tells whether a name matches."""
    return re.compile(translate(glob)).match if WILDCARDS.search(glob) else glob.__eq__


@dataclass(frozen=True, slots=True)
class Rename:
    """A rule `OLD=NEW`: a name that matches the glob `old` becomes `new`.

    The first `*` in `new` stands for the text that the first wildcard in `old` matched, and so on; `{2}` stands for the
    text of the second wildcard. Each `*` in `old` matches as little as it can, but the last one matches the rest.
    Raises RuleError for a rule that makes no sense.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        if not self.old or not self.new:
            raise RuleError(f"the rename `{self:.200}` has an empty side: write OLD=NEW")
        wildcards = sum(_is_wildcard(piece) for piece in _pieces(self.old))
        numbers = [number for number in _PLACE.findall(self.new) if number]
        stars = self.new.count("*")
        wrong = next((number for number in numbers if not 1 <= int(number) <= wildcards), None)
        if wrong is not None:
            raise RuleError(
                f"the rename `{self:.200}` has {{{wrong}}}: OLD has {plural(wildcards, 'wildcard')}, counted from 1"
            )
        if stars and (numbers or stars != wildcards):
            more = f" and {plural(len(numbers), 'number')}" if numbers else ""
            raise RuleError(
                f"the rename `{self:.200}` has {stars} `*`{more} in NEW for {plural(wildcards, 'wildcard')} in OLD: write as "
                "many, or {1}, {2} and so on in their place"
            )

    def __format__(self, form: str) -> str:
        return format(f"{self.old}={self.new}", form)

    def __call__(self, name: str) -> str | None:
        """The new name; None if the name does not match."""
        taken = _taken(list(_pieces(self.old)), name)
        if taken is None:
            return None
        rest = iter(taken)
        return _PLACE.sub(lambda place: taken[int(place[1]) - 1] if place[1] else next(rest), self.new)


def _pieces(glob: str) -> Iterator[str]:
    """A glob in pieces: `*`, `?`, a set in brackets, or one character that stands for itself."""
    at = 0
    while at < len(glob):
        end = at + 1
        if glob[at] == "[":  # a `]` directly after `[` or `[!` belongs to the set
            end = glob.find("]", at + 2 + (glob[end : end + 1] == "!")) + 1 or end
        yield glob[at:end]
        at = end


def _is_wildcard(piece: str) -> bool:
    return piece in ("*", "?") or len(piece) > 1


def _taken(pieces: list[str], name: str) -> list[str] | None:
    """The texts that the wildcards match; None if the name does not match. The steps are at most the product of both lengths.

    If a piece does not match, the last `*` takes one more character. No earlier `*` ever has to.
    """
    spans: list[tuple[int, int]] = []
    star: tuple[int, int] | None = None  # the last `*`: the index of its piece, and its index among the wildcards
    piece = at = 0
    while piece < len(pieces) or at < len(name):
        now = pieces[piece] if piece < len(pieces) else ""
        if now == "*":
            star = piece, len(spans)
            spans.append((at, at))
            piece += 1
        elif now and at < len(name) and (now == name[at] or (_is_wildcard(now) and fnmatchcase(name[at], now))):
            if _is_wildcard(now):
                spans.append((at, at + 1))
            piece, at = piece + 1, at + 1
        else:
            if star is None or spans[star[1]][1] == len(name):
                return None
            piece, at = star[0] + 1, spans[star[1]][1] + 1
            spans[star[1] :] = [(spans[star[1]][0], at)]
    return [name[start:end] for start, end in spans]
