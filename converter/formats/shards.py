"""A checkpoint in several files: shards with an index or by their names, and the parts of a cut model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import FormatError, LayoutError, ManifestError
from converter.formats import of
from converter.formats.marks import SHARD, shard_name
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.tensor import Tensor
from converter.text import listed, plural
from converter.words import reading

if TYPE_CHECKING:
    from converter.formats.said import Portion

_NAMED: Final = 5  # absent files that a message names


def whole(
    first: Catalogue, name: str, holds: Callable[[str], bool], opened: Callable[[str, int], Catalogue]
) -> Catalogue:
    """The model whose first part is `first`, a file of this name. If `first` is whole or another part, it is returned as it is.

    `holds` tells whether a file lies beside it, and `opened` reads one as a shard of that number. Raises FormatError,
    which names the files, if parts are absent.
    """
    portion = of(first).portion(first)
    match = SHARD.fullmatch(name)
    if portion is None or match is None or portion.number != 1 or (int(match[2]), int(match[3])) != portion[:2]:
        return first
    if absent := absent_parts(name, portion, holds):
        raise FormatError(
            f"`{first.location}` is the first of {plural(portion.parts, 'part')} of a model, and {listed(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not beside it: get every part"
        )
    files = [shard_name(match, number) for number in range(1, portion.parts + 1)]
    others = [opened(file, number) for number, file in enumerate(files[1:], 2)]
    return merge(first.location, files, [_as_shard(first), *others], None)


def part_note(location: str, path: Path) -> str | None:
    """A sentence about a local shard that was named alone, with the command that reads the whole; None if it is no shard."""
    match = SHARD.fullmatch(path.name)
    if match is None or int(match[3]) < 2 or not 1 <= int(match[2]) <= int(match[3]):
        return None
    index = path.with_name(f"{match[1]}{match[4]}.index.json")
    said = f"`{path.name}` is part {int(match[2])} of {int(match[3])} of a model, and the others are not read"
    numbers = range(1, int(match[3]) + 1)
    there = {file.name for file in path.parent.iterdir()}
    absent = list(
        islice((name for name in (shard_name(match, number) for number in numbers) if name not in there), _NAMED)
    )
    if absent:
        return f"{said}: {listed(absent)} {'is' if len(absent) == 1 else 'are'} not beside it"
    return f"{said}: `{reading(location, str(index if index.is_file() else path.parent))}` reads the whole"


def absent_parts(name: str, portion: Portion, holds: Callable[[str], bool]) -> list[str]:
    """The first names of other parts that are not there, by the name of one; none if it is not named as a part."""
    match = SHARD.fullmatch(name)
    if match is None or (int(match[2]), int(match[3])) != portion[:2]:
        return []
    others = (shard_name(match, number) for number in range(1, portion.parts + 1) if number != portion.number)
    return list(islice((other for other in others if not holds(other)), _NAMED))


def _as_shard(first: Catalogue) -> Catalogue:
    """A catalogue that was read as a file of its own, as shard 1."""
    storages = {id(storage): replace(storage, shard=1) for storage in first.storages}
    tensors = {name: replace(tensor, storage=storages[id(tensor.storage)]) for name, tensor in first.items()}
    return first.with_tensors(tensors, list(storages.values()))


def _check_portions(shards: Sequence[str], parts: Sequence[Catalogue], where: str) -> None:
    """Raise ManifestError if a file says that it is another part than its name says, or if the numbers of tensors differ."""
    portions = [of(part).portion(part) for part in parts]
    if not any(portions):
        return
    total = sum(len(part) + len(part.unsupported) for part in parts)
    for number, (shard, portion) in enumerate(zip(shards, portions, strict=True), 1):
        if portion is None or portion[:2] != (number, len(parts)):
            said = "a whole model" if portion is None else f"part {portion.number} of {portion.parts}"
            raise ManifestError(
                f"`{shard}` in `{where}` says that it is {said}: expected part {number} of {len(parts)}"
            )
        if portion.tensors not in (None, total):
            raise ManifestError(
                f"`{shard}` in `{where}` says that the parts have {plural(portion.tensors, 'tensor')} together, "
                f"but they have {total:,}"
            )


def merge(
    where: str,
    shards: list[str],
    parts: list[Catalogue],
    weight_map: Mapping[str, str] | None,
    config: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> Catalogue:
    """Join the shards' catalogues, and compare them with the index.

    `config` gives the config.json, which says whether a head that the index names may be absent.
    """
    formats = {part.format for part in parts}
    if len(formats) > 1:
        raise FormatError(f"the shards in `{where}` are of different formats: {', '.join(sorted(formats))}")
    _check_portions(shards, parts, where)
    tensors: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for shard, part in zip(shards, parts, strict=True):
        for name, tensor in part.items():
            if name in places:
                raise LayoutError(f"`{name}` is in two shards, `{places[name]}` and `{shard}`")
            places[name] = shard
            tensors[name] = tensor
    unsupported = [other for part in parts for other in part.unsupported]
    problems = [problem for part in parts for problem in part.problems]
    missing: list[str] = []
    notes: list[str] = []
    if weight_map is not None:
        held = {other.name for other in unsupported}
        missing = [name for name in weight_map if name not in places and name not in held]
        if missing and (tied := _tied(missing, places, config())):
            missing = [name for name in missing if name not in tied]
            tensors |= {head: tensors[name] for head, name in tied.items()}
            notes = [
                f"`{head}` is in the index, but in no shard: it is tied to `{name}`" for head, name in tied.items()
            ]
        # An index of safetensors has one of several tied names; the shard's metadata has the others.
        listed_tensors = {tensor for name, tensor in tensors.items() if name in weight_map}
        extra = [name for name in places if name not in weight_map and tensors[name] not in listed_tensors]
        moved = [name for name, file in places.items() if weight_map.get(name, file) != file]
        for names, what in (
            (missing, "in the index, but in no shard"),
            (extra, "in a shard, but not in the index"),
            (moved, "in another shard than the index says"),
        ):
            if names:
                first = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
                problems.append(f"{len(names):,} tensor{'s are' if len(names) > 1 else ' is'} {what}: {first}")
    from converter.formats.joining import joined  # needed only for several files

    said = joined(parts, shards)
    return Catalogue(
        tensors,
        Origin(
            where,
            parts[0].format,
            tuple(file for part in parts for file in part.origin.files),
            tuple(source for part in parts for source in part.origin.sources),
            notes=tuple(notes),
        ),
        storages=tuple(storage for part in parts for storage in part.storages),
        others=tuple(other for part in parts for other in part.others),
        unsupported=tuple(unsupported),
        globals=tuple(use for part in parts for use in part.globals),
        problems=tuple(problems),
        missing=tuple(missing),
        unchecked=any(part.unchecked for part in parts),
        metadata=said.metadata,
        facts={
            **parts[0].facts,
            **said.facts,
            "objects": tuple(name for part in parts for name in part.facts.get("objects", ())),
        },
    )


def _tied(missing: Iterable[str], names: Iterable[str], config: Mapping[str, Any] | None) -> dict[str, str]:
    """The heads among missing names that an index may name: those that follow from an embedding, which is there."""
    from converter.models.ties import embedding, is_head, is_tied  # only a faulty index needs it

    heads = [name for name in missing if is_head(name)]
    alone = embedding(names) if heads and is_tied(config) is not False else None
    return {} if alone is None else dict.fromkeys(heads, alone)
