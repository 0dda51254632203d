"""Which tensors a text means that a person typed: a glob on names, or a name as some output prints it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import translate
from typing import TYPE_CHECKING, Final

from converter.errors import RuleError
from converter.text import safe_name, safe_text

if TYPE_CHECKING:
    from converter.models.recognition import Recognition

WILDCARDS: Final = re.compile(r"[*?\[]")
_RUN: Final = r"[0-9]{1,9}(?:\.\.[0-9]{1,9})?"
_NUMBERS: Final = re.compile(rf"\{{({_RUN}(?:,{_RUN})*)\}}")  # {0..3,7}: how several numbers are printed as one name
_LONG: Final = 4096  # characters. A longer name is only compared as a whole: looking for its parts could take long
_MANY: Final = 20_000  # names among which similar ones are searched for


def spellings(
    names: Iterable[str], files: Mapping[str, str], recognition: Recognition | None
) -> dict[str, tuple[str, ...]]:
    """All names of each tensor: its own, the one in the file, the one without the family's prefix, and the one in GGUF."""
    if recognition is None:
        return {name: tuple(dict.fromkeys((name, files.get(name, name)))) for name in names}
    family = recognition.family
    gguf = family.gguf_names(recognition.sizes[family.layers])
    found = {}
    for name in names:
        ours = family.bare(name)
        found[name] = tuple(dict.fromkeys((name, files.get(name, name), ours, gguf.get(ours, name))))
    return found


def meant(glob: str, spelt: Mapping[str, Sequence[str]]) -> list[str]:
    """The tensors that a text means; `spelt` has all names of each.

    The text is a glob, in which `{0..3,7}` stands for these numbers. It means the tensors with a name that it matches
    as a whole. If there are none, it means those with a name that ends like this, from a dot on; and if it has no
    wildcard, those with a name that has it in the middle, between dots.
    """
    for fits in _ways(glob):
        if hits := [name for name, names in spelt.items() if any(map(fits, names))]:
            return hits
    return []


def unknown(what: str, glob: str, names: Sequence[str]) -> RuleError:
    """The error that says that a text fits no tensor, with the names that are most like it."""
    near = get_close_matches(glob, names, 3, 0.0) if len(names) < _MANY else names[:3]
    hint = f"; did you mean {', '.join(f'`{safe_name(name):.200}`' for name in near)}?" if near else ""
    return RuleError(f"no tensor fits {what} `{glob:.200}`{hint}")


def _ways(glob: str) -> Iterable[Callable[[str], object]]:
    """The ways to read a text, the narrowest first: functions that tell whether a name fits."""
    yield lambda name: name == glob or glob in (safe_name(name), safe_text(name))
    if _NUMBERS.search(glob):  # several names, printed as one: brackets and stars in it are part of them
        body, numbers = _pattern(glob, re.escape)
        printed = _fitting(body, numbers, longest=None)
        yield lambda name: printed(safe_name(name))
    body, numbers = _pattern(glob)
    yield _fitting(body, numbers, longest=None)
    yield _fitting(rf"(?:.*\.)?{body}", numbers)
    if not WILDCARDS.search(glob) and (words := glob.strip(".")):
        body, numbers = _pattern(words)
        yield _fitting(rf"(?:.*\.)?{body}(?:\..*)?", numbers)


def _expression(glob: str) -> str:
    return translate(glob).removeprefix("(?s:").removesuffix(r")\Z")


def _pattern(glob: str, expression: Callable[[str], str] = _expression) -> tuple[str, list[list[range]]]:
    """A glob as a regular expression, and the numbers that each of its groups may be."""
    pieces = _NUMBERS.split(glob)
    numbers = [[_run(run) for run in piece.split(",")] for piece in pieces[1::2]]
    return "(0|[1-9][0-9]{0,8})".join(map(expression, pieces[::2])), numbers


def _run(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def _fitting(body: str, numbers: list[list[range]], longest: int | None = _LONG) -> Callable[[str], object]:
    match = re.compile(rf"(?s:{body})\Z").match

    def fits(name: str) -> bool:
        if longest is not None and len(name) > longest:
            return False
        found = match(name)
        return found is not None and all(
            any(int(number) in run for run in runs) for number, runs in zip(found.groups(), numbers, strict=True)
        )

    return fits
