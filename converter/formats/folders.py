"""A folder as a checkpoint: which of its files are the checkpoint, by their names and by the indices among them.

A set whose shards are not all there does not count while another one is whole. The safe form goes first. Within one form
the order is that of transformers: the one file, then the index, each under the name that `save_pretrained` gives it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, FormatError, ManifestError, NoWeightsError, SourceError
from converter.formats import of, of_folder, open_file, open_source
from converter.formats.foreign import spread
from converter.formats.marks import INDEX, SHARD, shard_name
from converter.formats.records import FORMATS, SAFETENSORS
from converter.io.local import Descriptors, LocalFile
from converter.io.strict_json import config_beside, load_bytes, load_json
from converter.text import listed, more, os_reason
from converter.words import option, reading

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_KINDS: Final = {ending: format.weights for format in FORMATS for ending in format.endings}
_SAFE: Final = SAFETENSORS.weights
_FIRST: Final = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_NOT_WEIGHTS: Final = re.compile(
    r"(?:training_args|(?:optimizer|scheduler|scaler|sampler)(?:_\d+)?|rng_state.*)\.(?:bin|pt|pth)"
)
_WAY_ON: Final = "fetch what is absent, or name a shard that is here, which is then read alone"
_NAMED: Final = 10  # folders that a message names
_LONGEST: Final = 1500  # characters of the commands in a message

_LOOKED_AT: Final = 1000  # how many inner folders of a folder without weights are searched for models
_DEEP: Final = 2  # levels of folders below it
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

WeightMap = Mapping[str, str]  # the file of each tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of one checkpoint: the one file or the shards, and their index if they have one.

    `notes` are sentences about other weights in the folder, which were left aside.
    """

    files: tuple[str, ...]
    index: str | None = None
    weight_map: WeightMap | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file that people would name: the index, or the first file."""
        return self.index or self.files[0]


def kind_of(name: str) -> str | None:
    """The --weights word for a file of this name; None if it is neither weights nor an index."""
    match = INDEX.fullmatch(name)
    # Some systems don't tell upper case from lower in names.
    ending = match[1] if match else "." + name.rpartition(".")[2].lower()
    return None if _NOT_WEIGHTS.fullmatch(name) else _KINDS.get(ending)


def choose(names: Iterable[str], where: str, load: Callable[[str], WeightMap], *, weights: str | None = None) -> Choice:
    """The checkpoint among a folder's files; of the kind `weights`, if that is given. `load` reads an index.

    Raises FormatError if there is none or there are several, and ManifestError or FormatError if its shards are not all
    there. Messages call the folder `where`.
    """
    names = sorted(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        if (kind := kind_of(name)) is not None:
            groups.setdefault(kind, []).append(name)
    kinds = sorted(groups, key=lambda kind: kind != _SAFE)
    whole: dict[str, Choice] = {}
    looked_at: dict[str, _Kind] = {}
    for kind in kinds if weights is None else [kind for kind in kinds if kind == weights]:
        found = looked_at[kind] = _Kind(groups[kind], names, where, load)
        if (choice := found.choice()) is not None:
            whole[kind] = choice
            if kind == _SAFE:
                break
        elif found.whole:
            choosable = [other for other in kinds if other != kind and _looked(groups[other], names, where).choice()]
            raise _several(where, groups[kind], names, choosable)
    if len(whole) == 1:
        (kind, choice), *_ = whole.items()
        asides = [
            _aside(choice, other, groups[other], looked_at.get(other) or _looked(groups[other], names, where))
            for other in kinds
            if other != kind and weights is None
        ]
        return replace(choice, notes=(*choice.notes, *asides))
    everything = [name for kind in kinds for name in groups[kind]]
    if weights is not None and weights not in groups:
        there = f": there is {listed(everything)}" if everything else ""
        raise FormatError(f"`{where}` holds no weights of the kind {weights}{there}")
    if not whole and looked_at:
        raise _lacking(where, list(looked_at.values()))
    if everything:
        raise _several(where, everything, names, list(whole))
    raise _spread(where, names) or NoWeightsError(f"`{where}` holds no weight file: none ends in {', '.join(_KINDS)}")


class _Kind:
    """The weights of one kind in a folder: those that are whole, and why others are not."""

    def __init__(
        self, members: Sequence[str], names: Sequence[str], where: str, load: Callable[[str], WeightMap]
    ) -> None:
        held = set(names)
        self.whole: list[Choice] = []
        self.lacking: list[tuple[type[ConverterError], str]] = []  # the error for each set, and what it says
        self.broken: list[ManifestError] = []  # errors of indices
        self.asides: list[str] = []
        claimed: set[str] = set()
        for index in (name for name in members if INDEX.fullmatch(name)):
            try:
                weight_map = load(index)
            except ManifestError as error:
                self.broken.append(error)
                self.asides.append(f"`{index}` was left aside: {error}")
                continue
            shards = sorted(set(weight_map.values()))
            claimed.update(shards)
            missing = [shard for shard in shards if shard not in held]
            if not missing:
                self.whole.append(Choice(tuple(shards), index, weight_map))
                continue
            self._lacks(
                ManifestError,
                index,
                f"lacks {len(missing)} of the {len(shards)} shards that `{index}` names: {listed(missing)}",
                where,
            )
        if self.broken and not claimed:
            return
        rest = [name for name in members if name not in claimed and not INDEX.fullmatch(name)]
        sets: dict[tuple[str, str, str], list[re.Match[str]]] = {}
        for name in rest:
            if (match := SHARD.fullmatch(name)) is None:
                self.whole.append(Choice((name,)))
            else:
                sets.setdefault((match[1], match[3], match[4]), []).append(match)
        for found in sets.values():
            self._number(found, where)

    def _number(self, found: Sequence[re.Match[str]], where: str) -> None:
        """Note a set of shards without an index. If it is not whole, say which shard is absent."""
        count, numbers = int(found[0][3]), {int(match[2]) for match in found}
        if numbers == set(range(1, count + 1)):
            self.whole.append(Choice(tuple(match[0] for match in found)))
            return
        number = next((number for number in range(1, count + 1) if number not in numbers), 0)
        said = f"lacks `{shard_name(found[0], number)}`, which is shard {number} of {count}"
        self._lacks(FormatError, found[0][0], said, where)

    def _lacks(self, cause: type[ConverterError], name: str, said: str, where: str) -> None:
        self.lacking.append((cause, said))
        self.asides.append(f"`{name}` was left aside, because `{where}` {said}")

    def choice(self) -> Choice | None:
        """The candidate to read; None if none is whole, or if the choice among several is ambiguous."""
        by_name = {choice.name: choice for choice in self.whole}
        indexed = [name for name, choice in by_name.items() if choice.index is not None]
        usual = [name for name in _FIRST if name in by_name][:1]
        alone = next((names[0] for names in (usual, list(by_name), indexed) if len(names) == 1), None)
        if alone is None:
            return None
        others = [name for name in by_name if name != alone]
        beside = [f"`{alone}` was taken; to take {listed(others)}, name it"] if others else []
        return replace(by_name[alone], notes=(*self.asides, *beside))


def _lacking(where: str, kinds: Sequence[_Kind]) -> ConverterError:
    """The error for a folder in which nothing is whole: it names every shard that is absent, and indices that can't be read."""
    lacking, broken = [one for kind in kinds for one in kind.lacking], [one for kind in kinds for one in kind.broken]
    if not lacking:
        return broken[0]
    said = ", and ".join(said for _, said in lacking)
    return lacking[0][0](f"`{where}` {said}; {_WAY_ON}{''.join(f'; {error}' for error in broken)}")


def _looked(group: Sequence[str], names: Sequence[str], where: str) -> _Kind:
    """The weights of a kind as far as names tell: an index is not read, but taken to name the shards called like it."""

    def guessed(index: str) -> WeightMap:
        others = [name for name in group if not INDEX.fullmatch(name)]
        stem = index.partition(f"{INDEX.fullmatch(index)[1]}.index")[0]  # type: ignore[index]
        for name in others:
            if (match := SHARD.fullmatch(name)) is not None and match[1] == stem:
                return {f"{number}": shard_name(match, number) for number in range(1, int(match[3]) + 1)}
        return {"": others[0] if others else f"{stem}'s shards"}

    return _Kind(group, names, where, guessed)


def _aside(choice: Choice, kind: str, names: Sequence[str], found: _Kind) -> str:
    """The sentence about weights of another kind, which were `found`. A kind is advised only if it could be taken."""
    indexes = [name for name in names if INDEX.fullmatch(name)]
    if len(indexes) == len(names):
        return f"`{choice.name}` was taken; {listed(names)} is here without its shards"
    if found.choice() is None:
        way = found.asides[0] if not found.whole else f"to take one of {listed(names)}, name it"
        return f"`{choice.name}` was taken; {way}"
    return f"`{choice.name}` was taken: {option('weights', kind)} takes {listed(indexes or names, 2)}"


def _several(where: str, found: Sequence[str], names: Sequence[str], kinds: Sequence[str]) -> FormatError:
    spread = _spread(where, names)
    words = f", or choose with {option('weights', *kinds, between=' or ')}" if kinds else ""
    shown = ", ".join(f"`{name}`" for name in found[:6])
    return spread or FormatError(f"`{where}` holds several checkpoints: {shown}; name one of them{words}")


def _spread(where: str, names: Iterable[str]) -> FormatError | None:
    found = next(filter(None, map(spread, names)), None)
    return None if found is None else FormatError(f"`{where}` is {found}")


def model_folders(paths: Iterable[str]) -> list[str]:
    """The folders that hold weights, by the paths of files within a folder. `2` comes before `10`."""
    found = {path.rpartition("/")[0] for path in paths if "/" in path and kind_of(path.rpartition("/")[2]) is not None}
    return sorted(
        found, key=lambda name: [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in _pieces(name)]
    )


def _pieces(name: str) -> Iterator[str]:
    return (piece for piece in re.split(r"(\d{1,15})", name) if piece)


def only_folders(where: str, folders: Sequence[str]) -> NoWeightsError:
    """The error for a folder whose folders hold models, with the command that reads each of these."""
    commands = [f"`{reading(where, folder)}`" for folder in folders[:_NAMED]]
    shown = max(1, min(_NAMED, _LONGEST // len(commands[0])))
    listed = ", ".join(commands[:shown]) + more(len(folders), shown, ", and ")
    return NoWeightsError(f"`{where}` has no weights of its own, but models in its folders: {listed}", folders)


# ---- reading -----------------------------------------------------------------------------------------------------------


def read(path: Path, *, root: Root = None, weights: str | None = None) -> Catalogue:
    """Read a folder's checkpoint and its config.json. `weights` is the kind of weights that is taken, if there are several.

    A folder of the Hub's cache stands for the revision in it.
    """
    path = snapshot(path) or path
    catalogue = _read(path, root, weights)
    if of_folder(path) is None:
        catalogue = catalogue.with_origin(folder=True)
    return catalogue if catalogue.config is not None else catalogue.with_config(*config_beside(path))


def _read(path: Path, root: Root, weights: str | None) -> Catalogue:
    found = of_folder(path)
    if found is not None and found.read_folder is not None:
        return found.read_folder(path, root=root)
    try:
        names = [file.name for file in path.iterdir() if not file.is_dir()]
    except OSError as error:
        raise SourceError(f"`{path}` can't be listed: {os_reason(error)}") from error
    try:
        choice = choose(names, str(path), lambda index: _weight_map(path / index), weights=weights)
    except NoWeightsError:
        if not (folders := model_folders(_files_within(path))):
            raise
        raise only_folders(str(path), [str(path / folder) for folder in folders]) from None
    return put_together(str(path), choice, _opening(path, root), lambda: config_beside(path)[0])


def read_file(path: Path, *, root: Root = None) -> Catalogue:
    """Read an index or a file, with the config.json beside it. If it is the first part of a cut model, read all parts."""
    if is_index(path.name):
        return read_index(path, root=root)
    return with_others(path, open_file(path, root=root), root=root).with_config(*config_beside(path.parent))


def with_others(path: Path, first: Catalogue, *, root: Root = None) -> Catalogue:
    """The model whose first part is `first`, read from a local file. If `first` is another part, it is returned as it is."""
    if of(first).portion(first) is None:
        return first
    from converter.formats.shards import whole

    return whole(first, path.name, lambda name: path.with_name(name).exists(), _opening(path.parent, root))


def is_index(name: str) -> bool:
    """Whether a file of this name is an index of shards."""
    return INDEX.fullmatch(name) is not None


def read_index(path: Path, *, root: Root = None) -> Catalogue:
    """Read the shards that an index names, and the config.json beside them."""
    names = [file.name for file in path.parent.iterdir() if not file.is_dir()]
    try:
        choice = of_index(path.name, _weight_map(path), names, str(path.parent))
    except ManifestError as error:
        other = None
        with suppress(ConverterError):
            other = choose(names, str(path.parent), lambda name: _weight_map(path.parent / name))
        if other is None:
            raise
        raise ManifestError(f"{error}; `{other.name}` is whole: name it or the folder") from error
    opened = _opening(path.parent, root)
    catalogue = put_together(str(path), choice, opened, lambda: config_beside(path.parent)[0]).with_origin(folder=True)
    return catalogue.with_config(*config_beside(path.parent))


def _weight_map(path: Path) -> dict[str, str]:
    return load_weight_map(load_json(path), str(path))


def _opening(folder: Path, root: Root) -> Callable[[str, int | None], Catalogue]:
    """What reads a file of a folder by its name: the only one, or the shard of a number."""
    descriptors = Descriptors()

    def opened(name: str, number: int | None) -> Catalogue:
        file = LocalFile(folder / name, descriptors if number is not None else None)
        return open_source(file, root=root, shard=number)

    return opened


def put_together(
    where: str,
    choice: Choice,
    opened: Callable[[str, int | None], Catalogue],
    config: Callable[[], Mapping[str, Any] | None] = lambda: None,
) -> Catalogue:
    """The checkpoint in the chosen files. `opened` reads a file: the only one, or the shard of a number.

    `config` gives the config.json of a model whose index names what is not there.
    """
    if choice.weight_map is None and len(choice.files) == 1:
        catalogue = opened(choice.files[0], None)
    else:
        from converter.formats.shards import merge  # most folders have one file

        parts = [opened(name, number) for number, name in enumerate(choice.files, 1)]
        catalogue = merge(where, list(choice.files), parts, choice.weight_map, config)
    return catalogue.with_origin(notes=(*catalogue.origin.notes, *choice.notes))


def snapshot(path: Path, revision: str = "main") -> Path | None:
    """The folder with a revision in a folder of the Hub's cache (`models--owner--name`); None if it is no such folder.

    Raises SourceError if it has several revisions and not this one.
    """
    snapshots = path / "snapshots"
    if not snapshots.is_dir() or not (path / "blobs").is_dir():
        return None
    ref = path / "refs" / revision
    commit = load_bytes(ref).decode("utf-8", "replace").strip() if ref.is_file() else revision
    held = sorted(folder.name for folder in snapshots.iterdir() if folder.is_dir())
    if commit in held or len(held) == 1:
        return snapshots / (commit if commit in held else held[0])
    what = f"several revisions: name one of them, as in `{snapshots / held[0]}`" if held else "no revision"
    raise SourceError(f"`{path}` is a folder of the Hub's cache with {what}")


def _files_within(path: Path) -> Iterator[str]:
    """The paths of the files in a folder's sub-folders, up to the number of folders that is searched."""
    waiting, looked_at = deque([(path, 0)]), 0
    while waiting and looked_at < _LOOKED_AT:
        folder, depth = waiting.popleft()
        looked_at += 1
        with suppress(OSError):  # what may not be listed can't be opened, either
            for entry in sorted(folder.iterdir()):
                if not entry.is_dir():
                    yield entry.relative_to(path).as_posix()
                elif depth < _DEEP and not entry.name.startswith(".") and not entry.is_symlink():
                    waiting.append((entry, depth + 1))


def load_weight_map(index: Mapping[str, Any], name: str) -> dict[str, str]:
    """The file of each tensor, by an index. Raises ManifestError if the index has none, or has paths."""
    weight_map = index.get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise ManifestError(f"`{name}` has no `weight_map`")
    for tensor, file in weight_map.items():
        if type(file) is not str or not _FILE_NAME.fullmatch(file):
            raise ManifestError(f"`{name}` puts `{tensor}` into {file!r}, which is not a plain file name")
    return weight_map


def of_index(index: str, weight_map: WeightMap, names: Iterable[str], where: str) -> Choice:
    """The shards of an index. Raises ManifestError if one is not among `names`."""
    return choose([index, *(set(weight_map.values()) & set(names))], where, lambda name: weight_map)
