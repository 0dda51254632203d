"""Which tensors a text means that a person typed: a glob on names, or a name as some output prints it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import translate
from typing import TYPE_CHECKING, Final

from converter.errors import RuleError
from converter.tensors.folded import fitting, is_folded, pattern
from converter.text import safe_name, safe_text

if TYPE_CHECKING:
    from converter.models.recognition import Recognition

WILDCARDS: Final = re.compile(r"[*?\[]")
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
    near = list(names[:3])
    if len(names) < _MANY:
        # What fits but for capitals is nearer than what has most letters in common.
        near = meant(glob.lower(), {name: (name.lower(),) for name in names})[:3] or get_close_matches(
            glob, names, 3, 0.0
        )
    hint = f"; did you mean {', '.join(f'`{safe_name(name):.200}`' for name in near)}?" if near else ""
    return RuleError(f"no tensor fits {what} `{glob:.200}`{hint}")


def _ways(glob: str) -> Iterable[Callable[[str], object]]:
    """The ways to read a text, the narrowest first: functions that tell whether a name fits."""
    yield lambda name: name == glob or glob in (safe_name(name), safe_text(name))
    if is_folded(glob):  # several names, printed as one: brackets and stars in it are part of them
        body, numbers = pattern(glob, re.escape)
        printed = fitting(body, numbers, None)
        yield lambda name: printed(safe_name(name))
    body, numbers = pattern(glob, _expression)
    yield fitting(body, numbers, None)
    yield fitting(rf"(?:.*\.)?{body}", numbers, _LONG)
    if not WILDCARDS.search(glob) and (words := glob.strip(".")):
        body, numbers = pattern(words, _expression)
        yield fitting(rf"(?:.*\.)?{body}(?:\..*)?", numbers, _LONG)


def _expression(glob: str) -> str:
    return translate(glob).removeprefix("(?s:").removesuffix(r")\Z")
