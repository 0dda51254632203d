"""A folder as a checkpoint: shards with an index, a parameters folder, or the one weight file in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from converter.errors import FormatError, LayoutError, ManifestError, SourceError
from converter.formats import FORMATS, of, of_folder, open_file, open_source
from converter.formats.said import Portion
from converter.io.local import Descriptors, LocalFile
from converter.io.strict_json import config_beside, load_json
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.tensor import Tensor
from converter.text import listed, os_reason
from converter.words import Root

_NAMED: Final = 5  # absent files that a message names
INDEXES: Final = (".bin.index.json", ".safetensors.index.json")
_WEIGHTS: Final = tuple(dict.fromkeys(ending for format in FORMATS for ending in format.endings))
_NOT_WEIGHTS: Final = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")
_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")
# Checkpoints whose tensors are spread over files of ranks: a file's name, what they are, and how to join them.
_TRUST: Final = "it unpickles the files, so do that only if you trust them"
_SPREAD: Final = (
    (
        re.compile(r"\.metadata|.*\.distcp"),
        "a distributed checkpoint (DCP)",
        f"join it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER joined.pt` ({_TRUST}), and "
        "convert joined.pt",
    ),
    (
        re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_(?:optim|model)_states\.pt"),
        "a checkpoint of DeepSpeed (ZeRO), whose weights are spread over ranks",
        "join it in the folder above with `python zero_to_fp32.py . joined`, a program that DeepSpeed wrote there "
        f"({_TRUST}), and convert the folder joined",
    ),
)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def read(path: Path, *, root: Root = None) -> Catalogue:
    """Read a folder's checkpoint and its config.json."""
    catalogue = _read(path, root)
    return catalogue if catalogue.config is not None else catalogue.with_origin(config=config_beside(path))


def _read(path: Path, root: Root) -> Catalogue:
    found = of_folder(path)
    if found is not None and found.read_folder is not None:
        return found.read_folder(path, root=root)
    try:
        names = [file.name for file in path.iterdir() if not file.is_dir()]
    except OSError as error:
        raise SourceError(f"`{path}` can't be listed: {os_reason(error)}") from error
    index, files = choose(names, str(path))
    weight_map = None
    if index is not None:
        weight_map = load_weight_map(load_json(path / index), str(path / index))
        files = shard_files(weight_map, names, str(path), index)
    if weight_map is None and len(files) == 1:
        return open_file(path / files[0], root=root)
    descriptors = Descriptors()
    parts = [
        open_source(LocalFile(path / file, descriptors), root=root, shard=number)
        for number, file in enumerate(files, 1)
    ]
    return merge(str(path), files, parts, weight_map)


def choose(names: Iterable[str], where: str) -> tuple[str | None, list[str]]:
    """The index among a folder's files, if there is one, and the one weight file or complete set of shards.

    Raises FormatError if there is none or there are several. Messages call the folder `where`.
    """
    names = sorted(names)
    indexes = [name for name in names if name.endswith(INDEXES)]
    files = [name for name in names if name.endswith(_WEIGHTS) and not _NOT_WEIGHTS.fullmatch(name)]
    if len(indexes) == 1:
        return indexes[0], []
    if not indexes and files and _numbered(files, where):
        return None, files
    if not indexes and len(files) == 1:
        return None, files
    for fits, what, how in _SPREAD:
        if any(map(fits.fullmatch, names)):
            raise FormatError(f"`{where}` is {what}: {how}")
    if not files and not indexes:
        raise FormatError(f"`{where}` holds no weight file: none ends in {', '.join(_WEIGHTS)}")
    names = ", ".join(f"`{name}`" for name in [*indexes, *files][:6])
    raise FormatError(f"`{where}` holds several checkpoints: {names}; name one of them")


def _numbered(files: list[str], where: str) -> bool:
    """Whether the files' names are those of one complete set of shards."""
    found = [match for file in files if (match := _SHARD.fullmatch(file))]
    if len(found) < len(files) or len({(match[1], match[3], match[4]) for match in found}) > 1:
        return False
    count, numbers = int(found[0][3]), [int(match[2]) for match in found]
    if missing := sorted(set(range(1, count + 1)) - set(numbers)):
        raise FormatError(f"`{where}` lacks `{_part(found[0], missing[0])}`, which is shard {missing[0]} of {count}")
    return len(files) == count


def load_weight_map(index: Mapping[str, Any], name: str) -> dict[str, str]:
    """The file of each tensor, by an index. Raises ManifestError if the index has none, or has paths."""
    weight_map = index.get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise ManifestError(f"`{name}` has no `weight_map`")
    for tensor, file in weight_map.items():
        if type(file) is not str or not _FILE_NAME.fullmatch(file):
            raise ManifestError(f"`{name}` puts `{tensor}` into {file!r}, which is not a plain file name")
    return weight_map


def shard_files(weight_map: Mapping[str, str], names: Iterable[str], where: str, index: str) -> list[str]:
    """The shards of an index. Raises ManifestError if one is not among `names`."""
    shards, held = sorted(set(weight_map.values())), set(names)
    if missing := [shard for shard in shards if shard not in held]:
        raise ManifestError(
            f"`{where}` lacks {len(missing)} of the {len(shards)} shards that `{index}` names: "
            + ", ".join(f"`{name}`" for name in missing[:5])
        )
    return shards


def with_others(path: Path, first: Catalogue, *, root: Root = None) -> Catalogue:
    """The model whose first part is `first`, read from a local file. If `first` is another part, it is returned as it is."""
    descriptors = Descriptors()
    return whole(
        first,
        path.name,
        lambda name: path.with_name(name).exists(),
        lambda name, number: open_source(LocalFile(path.with_name(name), descriptors), root=root, shard=number),
    )


def whole(
    first: Catalogue, name: str, holds: Callable[[str], bool], opened: Callable[[str, int], Catalogue]
) -> Catalogue:
    """The model whose first part is `first`, a file of this name. If `first` is whole or another part, it is returned as it is.

    `holds` tells whether a file lies beside it, and `opened` reads one as a shard of that number. Raises FormatError,
    which names the files, if parts are absent.
    """
    portion = of(first).portion(first)
    match = _SHARD.fullmatch(name)
    if portion is None or match is None or portion.number != 1 or (int(match[2]), int(match[3])) != portion[:2]:
        return first
    if absent := absent_parts(name, portion, holds):
        raise FormatError(
            f"`{first.location}` is the first of {portion.parts} parts of a model, and {listed(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not beside it: get every part"
        )
    files = [_part(match, number) for number in range(1, portion.parts + 1)]
    others = [opened(file, number) for number, file in enumerate(files[1:], 2)]
    return merge(first.location, files, [_as_shard(first), *others], None)


def absent_parts(name: str, portion: Portion, holds: Callable[[str], bool]) -> list[str]:
    """The first names of other parts that are not there, by the name of one; none if it is not named as a part."""
    match = _SHARD.fullmatch(name)
    if match is None or (int(match[2]), int(match[3])) != portion[:2]:
        return []
    others = (_part(match, number) for number in range(1, portion.parts + 1) if number != portion.number)
    return list(islice((other for other in others if not holds(other)), _NAMED))


def _part(match: re.Match[str], number: int) -> str:
    """The name of another shard of the same set."""
    return f"{match[1]}-{number:05}-of-{match[3]}{match[4]}"


def _as_shard(first: Catalogue) -> Catalogue:
    """A catalogue that was read as a file of its own, as shard 1."""
    storages = {id(storage): replace(storage, shard=1) for storage in first.storages}
    tensors = {name: replace(tensor, storage=storages[id(tensor.storage)]) for name, tensor in first.items()}
    return first.with_tensors(tensors, list(storages.values()))


def _check_portions(shards: Sequence[str], parts: Sequence[Catalogue], where: str) -> None:
    """Raise ManifestError if files name another place among the parts than they have, or another number of tensors."""
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
                f"`{shard}` in `{where}` says that the parts have {portion.tensors:,} tensors together, but they have {total:,}"
            )


def merge(where: str, shards: list[str], parts: list[Catalogue], weight_map: Mapping[str, str] | None) -> Catalogue:
    """Join the shards' catalogues, and compare them with the index."""
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
    if weight_map is not None:
        held = {other.name for other in unsupported}
        missing = [name for name in weight_map if name not in places and name not in held]
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
    from converter.formats.joining import joined  # needed for several files only

    said = joined(parts, shards)
    return Catalogue(
        tensors,
        Origin(
            where,
            parts[0].format,
            tuple(file for part in parts for file in part.origin.files),
            tuple(source for part in parts for source in part.origin.sources),
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
