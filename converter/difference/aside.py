"""What each side has beside its tensors, and what of that can't be compared: some sides lack it, or it can't be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import ConverterError
from converter.formats.companions import CONFIG
from converter.formats.marks import GENERATION as GENERATION_CONFIG
from converter.opening import folder_beside
from converter.reports.difference import NotCompared
from converter.verification import generation, surroundings
from converter.verification.surroundings import Tokens

if TYPE_CHECKING:
    from converter.difference.pairing import Side
    from converter.formats.said import Key
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue

CONFIGURATION: Final = "configuration"
METADATA: Final = "metadata"
TOKENIZER: Final = "tokenizer"
VALUES: Final = "values"
GENERATION: Final = "generation"
# Keys of generation_config.json that say which program wrote it.
_OF_THE_PROGRAM: Final = frozenset(("transformers_version", "_from_model_config"))
_ID: Final = "_token_id"
_PLAIN: Final = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Around:
    """What one side has beside its tensors.

    `config` is its config.json. `settings` are what that, or the keys inside a file, mean for the family. `keys` are its
    metadata, `values` are numbers and texts beside the weights, and `others` names values of other kinds. `generation` are
    settings of generation_config.json. `common` says that its settings of generation lie inside the file, where not all of them
    have a place. `unread` has the reason for each part that can't be read. What is not there is None.
    """

    format: str
    config: Mapping[str, Any] | None
    settings: Mapping[str, Any] | None
    keys: Mapping[str, Key]
    values: Mapping[str, Any]
    others: tuple[str, ...]
    generation: Mapping[str, Any] | None
    common: bool
    tokens: Tokens
    unread: Mapping[str, str]


def arounds(sides: Sequence[Side]) -> list[Around]:
    """What each of several sides has beside its tensors."""
    family = next((side.recognition.family for side in sides if side.recognition is not None), None)
    return [_around(side, family) for side in sides]


def _around(side: Side, family: Family | None) -> Around:
    origin = side.origin
    record = formats.of(origin)
    unread: dict[str, str] = {}
    if (reason := surroundings.unread(origin)) is not None:
        unread[CONFIGURATION] = reason
    try:
        tokens = surroundings.tokens(origin)
    except ConverterError as error:
        tokens = Tokens(None, str(error))
    if tokens.refused is not None:
        unread[TOKENIZER] = tokens.refused
    said = generation.said(origin)
    if said is None and (reason := _no_object(origin)) is not None:
        unread[GENERATION] = reason
    return Around(
        format=origin.format,
        config=origin.config,
        settings=surroundings.settings(side.catalogue, side.catalogue.config, family, tokens),
        keys={key.name: key for key in record.keys(origin)},
        values={other.name: other.value for other in origin.others if type(other.value) in _PLAIN},
        others=tuple(other.name for other in origin.others if type(other.value) not in _PLAIN),
        generation=_kept(said, inside=record.self_contained),
        common=record.self_contained,
        tokens=tokens,
        unread=unread,
    )


def _no_object(origin: Catalogue) -> str | None:
    """Why the generation_config.json beside a checkpoint can't be compared, if there is one."""
    folder = folder_beside(origin)
    path = None if folder is None or formats.of(origin).self_contained else folder / GENERATION_CONFIG
    return f"`{path}` is not a valid JSON object" if path is not None and path.exists() else None


def _kept(settings: Mapping[str, Any] | None, *, inside: bool) -> Mapping[str, Any] | None:
    """The settings that are compared. None if a file only has the special tokens, which belong to its tokenizer."""
    if settings is None or (inside and all(key.endswith(_ID) for key in settings)):
        return None
    return {key: settings[key] for key in settings if key not in _OF_THE_PROGRAM}


def not_compared(sides: Mapping[str, Around]) -> Iterator[NotCompared]:
    """Yield what can't be compared. `sides` are the sides by what they are called."""
    whole = (
        (CONFIGURATION, CONFIG, [name for name, side in sides.items() if (side.config or side.settings) is not None]),
        (GENERATION, GENERATION_CONFIG, [name for name, side in sides.items() if side.generation is not None]),
        (TOKENIZER, TOKENIZER, [name for name, side in sides.items() if side.tokens.tokenizer is not None]),
    )
    for part, name, having in whole:
        broken = [side for side in sides if part in sides[side].unread]
        for side in broken:
            yield NotCompared(part, (name,), (side,), sides[side].unread[part])
        if having and len(having) + len(broken) < len(sides):
            yield NotCompared(part, (name,), tuple(having), _lacking(sides, having, 1, broken))
    if len({side.format for side in sides.values()}) > 1 and (having := [name for name in sides if sides[name].keys]):
        yield NotCompared(METADATA, (METADATA,), tuple(having), "each format has keys of its own")
    if any(side.common for side in sides.values()):
        yield from _keys(GENERATION, {name: side.generation for name, side in sides.items()}, sides)
    yield from _keys(VALUES, {name: side.values for name, side in sides.items()}, sides)
    others = {name: dict.fromkeys(side.others) for name, side in sides.items()}
    names = dict.fromkeys(name for found in others.values() for name in found)
    if names:
        having = [side for side in sides if others[side]]
        yield NotCompared(VALUES, tuple(names), tuple(having), "only numbers and texts are compared")


def _keys(
    part: str, found: Mapping[str, Mapping[str, Any] | None], sides: Mapping[str, Around]
) -> Iterator[NotCompared]:
    """The keys that only some sides have, grouped by the sides that have them. A side without the part does not count."""
    there = {side: keys for side, keys in found.items() if keys is not None}
    names: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(name for keys in there.values() for name in keys):
        having = tuple(side for side, keys in there.items() if name in keys)
        if len(having) < len(there):
            names.setdefault(having, []).append(name)
    for having, alike in names.items():
        yield NotCompared(part, tuple(alike), having, _lacking(there, having, len(alike)))


def _lacking(sides: Mapping[str, Any], having: Sequence[str], count: int, broken: Sequence[str] = ()) -> str:
    """Which sides lack something."""
    if len(having) == 1:
        return f"only {having[0]} has {'one' if count == 1 else 'them'}"
    lacking = [side for side in sides if side not in having and side not in broken]
    return f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} none"
