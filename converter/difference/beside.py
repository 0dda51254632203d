"""What differs beside the tensors: the configuration, the metadata, values and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.difference.aside import CONFIGURATION, GENERATION, METADATA, TOKENIZER, VALUES, Around
from converter.errors import FormatError
from converter.reports.difference import Beside
from converter.verification.tokenizers import differences

if TYPE_CHECKING:
    from converter.formats.said import Key

_VALUE: Final = 200  # characters of a value
MOST: Final = 200  # differences that are listed for each part


class Part(NamedTuple):
    """What differs in a part that was compared. If only the names that both sides have were compared, `names` has them."""

    differences: Iterable[Beside]
    names: Collection[str] | None = None


def beside(before: Around, after: Around) -> dict[str, Part]:
    """What differs in each part that was compared. `not_compared` names what was not."""
    found: dict[str, Part] = {}
    if before.config is not None and after.config is not None:
        found[CONFIGURATION] = Part(_keys(CONFIGURATION, before.config, after.config))
    elif before.format != after.format and before.settings is not None and after.settings is not None:
        found[CONFIGURATION] = _common(CONFIGURATION, before.settings, after.settings)
    if before.format == after.format:
        found[METADATA] = Part(_metadata(before.keys, after.keys))
    found[VALUES] = _common(VALUES, before.values, after.values)
    if before.generation is not None and after.generation is not None:
        if before.common or after.common:
            found[GENERATION] = _common(GENERATION, before.generation, after.generation)
        else:
            found[GENERATION] = Part(_keys(GENERATION, before.generation, after.generation))
    ours, theirs = before.tokens.tokenizer, after.tokens.tokenizer
    if ours is not None and theirs is not None:
        pairs = differences(ours, theirs)
        found[TOKENIZER] = Part(Beside(TOKENIZER, one.name, None, None, one.detail) for one in pairs)
    return found


def listed(found: Iterable[Beside]) -> Iterator[Beside]:
    """The first differences of a part, and how many more there are."""
    rest = iter(found)
    part = ""
    for one in islice(rest, MOST):
        part = one.part
        yield one
    if more := sum(1 for _ in rest):
        yield Beside(part, "", None, None, f"{more:,} more keys differ")


def _common(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Part:
    """What both sides say, but differently."""
    names = [name for name in before if name in after]
    return Part(
        (
            Beside(part, name, _text(before[name]), _text(after[name]))
            for name in names
            if repr(before[name]) != repr(after[name])  # two NaN are alike
        ),
        dict.fromkeys(names),
    )


def _keys(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Beside]:
    missing = object()
    for key in dict.fromkeys((*before, *after)):
        if before.get(key, missing) != after.get(key, missing):
            ours, theirs = (_text(one[key]) if key in one else None for one in (before, after))
            yield Beside(part, key, ours, theirs)


def _metadata(before: Mapping[str, Key], after: Mapping[str, Key]) -> Iterator[Beside]:
    """The keys of two files that differ. Arrays are compared whole, whatever is shown of them."""
    for name in dict.fromkeys((*before, *after)):
        ours, theirs = before.get(name), after.get(name)
        if ours is not None and theirs is not None and _equal(ours, theirs):
            continue
        one, other = (None if key is None else _shown(key) for key in (ours, theirs))
        detail = _where(ours, theirs) if ours is not None and theirs is not None and one == other else ""
        yield Beside(METADATA, name, one, other, detail)


def _equal(ours: Key, theirs: Key) -> bool:
    if (ours.type, ours.value, ours.length) != (theirs.type, theirs.value, theirs.length):
        return False
    if ours.digest is None or theirs.digest is None:
        return True
    return len(ours.value) == ours.length or ours.digest() == theirs.digest()


def _where(ours: Key, theirs: Key) -> str:
    """Where two values differ that look the same when they are cut short."""
    if ours.type != theirs.type:
        return f"{ours.type} became {theirs.type}"
    if ours.length is None:
        pairs = zip(str(ours.value), str(theirs.value), strict=False)
        place = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        shorter = min(len(str(ours.value)), len(str(theirs.value)))
        return f"they differ from character {(shorter if place is None else place) + 1:,} on"
    try:
        for place, (one, other) in enumerate(zip(ours.elements, theirs.elements, strict=False)):
            if repr(one) != repr(other):  # two NaN are alike
                return f"element {place:,} was {_text(one)} and is {_text(other)}"
    except FormatError:  # an element that can't be read has no text
        pass
    return "the rest differs"


def _shown(key: Key) -> str:
    """A value as JSON, cut short. An array is given as its first values and their number."""
    return _text(key.value) + (f" ({key.length:,} values)" if key.length is not None else "")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"
