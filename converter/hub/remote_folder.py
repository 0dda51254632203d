"""A folder on a server as a checkpoint: a repository of the Hub, or a prefix of a store.

How files are found and read is left to the classes below this one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from converter.errors import CutOffError, ManifestError, NoWeightsError
from converter.formats import FORMATS, folders, identify
from converter.formats import read as read_format
from converter.formats.companions import CONFIG, MODULES, folders_of, remote_companions
from converter.formats.folders import Choice, choose, model_folders, only_folders
from converter.formats.foreign import HEAD
from converter.formats.shards import whole
from converter.hub.locations import is_plain
from converter.io.strict_json import lenient_json, parse_json, strict_json
from converter.text import listed, plural

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root


class RemoteFolder(ABC):
    """A folder, or a file in it. Paths start below what was named: `sub/model.bin`.

    `folder` is how the paths of the files in the folder begin: `sub/`, or nothing. `base` is what stands before a path in
    messages and commands.
    """

    @property
    @abstractmethod
    def location(self) -> str:
        """What was named, as reports call it: pinned to a version, if there is one."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What was named, for messages."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What stands before a path and `/` in messages."""

    @property
    @abstractmethod
    def base(self) -> str:
        """What stands before the name of an inner folder in a command that opens it."""

    @property
    @abstractmethod
    def folder(self) -> str:
        """How the paths of the files in the folder begin."""

    @property
    @abstractmethod
    def within(self) -> Sequence[str]:
        """The paths of the files in the folder and in its subfolders."""

    @abstractmethod
    def has(self, file: str) -> bool:
        """Whether there is a file of this path."""

    @abstractmethod
    def nbytes(self, file: str) -> int | None:
        """The size of one of the files `within`, if it is known."""

    @abstractmethod
    def open(self, file: str) -> Source:
        """A file as a source. Raises SourceError if it is not there."""

    @abstractmethod
    def load(self, file: str) -> bytes:
        """All of a small file. Raises SourceError if it is not there."""

    @property
    def beside(self) -> list[str]:
        """The names of the files in the folder."""
        names = (name.removeprefix(self.folder) for name in self.within)
        return [name for name in names if "/" not in name]

    def config(self) -> tuple[dict[str, Any] | None, str | None]:
        """The config.json in the folder as `lenient_json` reads it; None if there is none."""
        file = self.folder + CONFIG
        return lenient_json(self.load(file), f"{self.name}/{file}") if self.has(file) else (None, None)

    def model(self, file: str, root: Root) -> Catalogue:
        """Read a file of the folder. If it is the first part of a cut model, or an index, read the other files, too."""
        opened = self._opening(root)
        if folders.is_index(file):
            weight_map = self._weight_map(file)
            held = [shard for shard in set(weight_map.values()) if self.has(self.folder + shard)]
            choice = folders.of_index(file, weight_map, [*held, file], self.location)
            return folders.put_together(self.location, choice, opened, lambda: self.config()[0])
        return whole(opened(file, None), file, lambda name: self.has(self.folder + name), opened)

    def whole(self, root: Root, weights: str | None = None) -> Catalogue:
        """Read the checkpoint in the folder: shards with their index, or the one weight file."""
        if root is None and weights is None and (marked := self._marked()) is not None:
            return marked
        choice = self._chosen(weights)
        return folders.put_together(self.location, choice, self._opening(root), lambda: self.config()[0])

    def weights(self) -> list[str]:
        """The paths of the checkpoint's files, the index among them."""
        choice = self._chosen(None)
        return [self.folder + name for name in (*choice.files, *([choice.index] if choice.index else []))]

    def companions(self, *, with_code: bool) -> list[str]:
        """The paths of the small files that belong to the model; with `with_code`, its code, too."""
        modules = self.folder + MODULES
        data = self.load(modules) if modules in self.within else b""
        try:
            inner = folders_of(strict_json(data.decode())) if data else folders_of(None)
        except (ValueError, RecursionError):
            inner = folders_of(None)
        names = [(name.removeprefix(self.folder), self.nbytes(name)) for name in self.within if is_plain(name)]
        return [self.folder + name for name in remote_companions(names, inner, with_code=with_code)]

    def _marked(self) -> Catalogue | None:
        """The folder as one of a format of its own, such as a parameters folder; None if it is not."""
        for format in FORMATS:
            file = self.folder + format.marker
            if format.read_entries is not None and file in self.within:
                data = self.load(file)
                if format.marks(data[:HEAD]):
                    return format.read_entries(self.name, parse_json(data, f"{self.name}/{file}"), self._sized)
        return None

    def _sized(self, name: str, nbytes: int) -> Source:
        """A file of the folder, which should have `nbytes` bytes."""
        source = self.open(self.folder + name)
        if source.size != nbytes:
            cause = ManifestError if source.size > nbytes else CutOffError
            raise cause(f"`{source.name}` has {plural(source.size, 'byte')}; the manifest says {nbytes:,}")
        return source

    def _opening(self, root: Root) -> Callable[[str, int | None], Catalogue]:
        return lambda name, number: read_source(self.open(self.folder + name), root, number)

    def _weight_map(self, index: str) -> dict[str, str]:
        name = f"{self.name}/{self.folder}{index}"
        return folders.load_weight_map(parse_json(self.load(self.folder + index), name), name)

    def _chosen(self, weights: str | None) -> Choice:
        try:
            return choose(self.beside, self.wanted, self._weight_map, weights=weights)
        except NoWeightsError as error:
            if inner := model_folders(name.removeprefix(self.folder) for name in self.within):
                raise only_folders(self.wanted, [self.base + folder for folder in inner]) from None
            endings = (".h5", ".msgpack", ".onnx", ".ot", ".tflite")
            other = [name for name in self.beside if PurePosixPath(name).suffix in endings]
            raise NoWeightsError(f"{error}; there is {listed(other[:4])}" if other else str(error)) from None


def read_source(source: Source, root: Root, shard: int | None) -> Catalogue:
    """Read names and layouts from a source, by its first bytes; `shard` is its number among others."""
    head = bytes(source.read(0, min(HEAD, source.size)))
    return read_format(identify(head, source.name), source, head, root=root, shard=shard)
