"""Checkpoints in a store: an object that is read by ranges and pinned, and a folder of objects."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import LimitError, SourceError
from converter.formats.companions import CONFIG
from converter.hub.locations import check_online
from converter.hub.patience import patience
from converter.hub.remote_folder import RemoteFolder
from converter.hub.stores import FileSystem
from converter.io.pool import Pool, awaited
from converter.io.ranges import Fetching, RemoteFile
from converter.io.traffic import Traffic
from converter.limits import limits
from converter.text import listed, plural
from converter.words import option

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_FIRST: Final = 128 << 10  # bytes of the first read: enough for the pickle of a thousand tensors
# What a store says about a version of an object, best first; an object without any of them is pinned by its size alone.
_VERSIONS: Final = (
    "VersionId",
    "version_id",
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "content_md5",
    "created",
    "mtime",
)
# Less than is fetched ahead from the Hub: the packages of stores need more memory for themselves.
STORED: Final = Fetching(block=1 << 20, window=8 << 20)
_DEEP: Final = 2  # folders within a folder that are listed
_KEPT: Final = 4  # folders of small files that are kept


class Stored:
    """An object in a store, which must stay as it was when it was opened."""

    def __init__(self, system: FileSystem, path: str, name: str, info: Mapping[str, Any], traffic: Traffic) -> None:
        self.name, self.size, self.etag = name, int(info["size"]), version(info)
        self.sha256: str | None = None
        self._system, self._path, self._traffic, self._info = system, path, traffic, dict(info)
        self._read = self._reader()

    def _reader(self) -> Any:
        """What reads bytes from a start to an end, by the pin of fsspec's own file where it has one."""
        from fsspec.spec import AbstractBufferedFile

        file = self._system.call(self.name, partial(self._system.fs.open, self._path, "rb", cache_type="none"))
        if isinstance(file, AbstractBufferedFile):
            if version(file.details) != self.etag:
                raise self.changed()
            return file._fetch_range
        return lambda start, end: self._system.fs.cat_file(self._path, start=start, end=end)

    def fetch(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes. Raises SourceError if they can't be read, or are not of the version that was opened."""

        def once() -> bytes:
            self._traffic.add(1, 0)
            data = self._read(start, start + size)
            self._traffic.add(0, len(data))
            if len(data) != size:
                raise OSError(f"{plural(len(data), 'byte')} came where {size:,} were asked for")
            return bytes(data)

        try:
            return memoryview(self._system.call(self.name, once))
        except FileNotFoundError:
            raise self.changed() from None
        except SourceError:
            self.check()  # the store's own error may mean that the object was replaced
            raise

    def check(self) -> None:
        """Raise SourceError if the object is no longer the one that was opened."""
        info = self._system.info(self._path, self.name)
        if info is None or info["size"] != self.size or version(info) != self.etag:
            raise self.changed()

    def changed(self) -> SourceError:
        """The error for an object that was replaced."""
        return SourceError(f"`{self.name}` was changed while it was read: start again")

    def patience(self, size: int) -> float:
        """Seconds that a read of this many bytes may take."""
        return patience().seconds(size)


class StoredFile(RemoteFile):
    """An object in a store as a source."""

    def __init__(self, stored: Stored, pool: Pool, fetching: Fetching) -> None:
        wanted = min(_FIRST, stored.size)
        first = memoryview(b"")
        if wanted:
            first = awaited(pool.submit(lambda: stored.fetch(0, wanted)), stored.name, stored.patience(wanted))
        super().__init__(stored, pool, first, fetching)
        self._stored = stored

    def check_unchanged(self) -> None:
        """Raise SourceError if the object was replaced since it was opened."""
        self._stored.check()


class StoreFolder(RemoteFolder):
    """A folder of a store, or an object, with what lies beside it. Folders are listed down to `deep`; None: all of them."""

    def __init__(self, location: str, fetching: Fetching = STORED, deep: int | None = _DEEP) -> None:
        self._system = FileSystem(location)
        if not self._system.store.local:
            check_online(location)
        self._location, self._fetching, self._deep = self._system.location, fetching, deep
        found = self._system.info(self._system.path, self._location)
        if found is None:
            raise SourceError(
                f"`{self._location}` is not there: {self._system.store.title} has no such object or folder"
            )
        self.is_folder = found["type"] == "directory"
        above, _, last = self._system.path.rpartition("/")
        self._root = self._system.path if self.is_folder else above
        self.file = "" if self.is_folder else last
        self._infos: dict[str, dict[str, Any] | None] = {} if self.is_folder else {last: found}
        self._pool = Pool(fetching.connections)
        self.traffic = Traffic()

    @property
    def location(self) -> str:
        """The address that was given."""
        return self._location

    @property
    def wanted(self) -> str:
        """The address that was given."""
        return self._location

    @property
    def name(self) -> str:
        """The address of the folder."""
        return self._location if self.is_folder else self._location.rpartition("/")[0]

    @property
    def base(self) -> str:
        """The address of the folder, with the slash behind it."""
        return f"{self.name}/"

    @property
    def folder(self) -> str:
        """Nothing: paths count from the folder."""
        return ""

    @property
    def size(self) -> int:
        """The bytes of the object that was named."""
        return int((self._infos[self.file] or {})["size"])

    @cached_property
    def listing(self) -> dict[str, dict[str, Any]]:
        """The objects in the folder and in its subfolders, by their paths."""
        found = self._system.call(
            self.name, partial(self._system.fs.find, self._root, maxdepth=self._deep, detail=True), verb="listed"
        )
        if len(found) > limits().entries:
            raise LimitError(
                f"`{self.name}` holds {plural(len(found), 'object')}: at most {limits().entries:,} are listed"
            )
        start = len(self._root.rstrip("/")) + 1
        # An empty object with a slash at its end is how consoles show a folder.
        return {path[start:]: info for path, info in sorted(found.items()) if not path.endswith("/") and path[start:]}

    @property
    def within(self) -> list[str]:
        """The paths of the objects in the folder and in its subfolders."""
        return list(self.listing)

    def has(self, file: str) -> bool:
        """Whether there is an object of this path. Beside one object, only those that are asked for are looked up."""
        return file in self.listing if self.is_folder else self._looked_up(file) is not None

    def nbytes(self, file: str) -> int | None:
        """The size of an object as it is listed."""
        return int(self.listing[file]["size"])

    def open(self, file: str) -> Source:
        """An object as a source."""
        return StoredFile(self._stored(file), self._pool, self._fetching)

    def load(self, file: str) -> bytes:
        """All of a small object."""
        stored = self._stored(file)
        if stored.size > limits().json_bytes:
            raise LimitError(
                f"`{stored.name}` has {plural(stored.size, 'byte')}: at most {limits().json_bytes:,} are read"
            )
        return bytes(stored.fetch(0, stored.size)) if stored.size else b""

    def companions_kept(self, *, with_code: bool) -> Path | None:
        """A temporary folder with the small files that belong to the model; None if there are none.

        Beside one object, anything may lie; its folder is listed only if it has a config.json.
        """
        if not self.is_folder and not self.has(CONFIG):
            return None
        names = self.companions(with_code=with_code)
        key = repr([self.name, *((name, self.listing[name]["size"], version(self.listing[name])) for name in names)])
        return _kept(key, self, names) if names else None

    def _stored(self, file: str) -> Stored:
        info = self._looked_up(file)
        if info is None or info["type"] == "directory":
            near = [name for name in self.listing if name.endswith(Path(file).suffix)] if self.is_folder else []
            hint = f"; there is {listed(near[:4])}" if near else ""
            raise SourceError(f"`{self.name}/{file}` is not there: there is no such object{hint}")
        return Stored(self._system, f"{self._root}/{file}", f"{self.name}/{file}", info, self.traffic)

    def _looked_up(self, file: str) -> dict[str, Any] | None:
        # A listing says less than the object itself does, so what is read is looked up.
        if file not in self._infos:
            self._infos[file] = self._system.info(f"{self._root}/{file}", f"{self.name}/{file}")
        return self._infos[file]


def version(info: Mapping[str, Any]) -> str:
    """What tells this version of an object from others, as far as the store says."""
    return next((str(info[key]).strip('"') for key in _VERSIONS if info.get(key) not in (None, "", "null")), "")


def open_store(
    location: str, *, root: Root = None, weights: str | None = None, fetching: Fetching = STORED
) -> Catalogue:
    """Read a checkpoint's names and layouts from a store; tensors are read when they are asked for.

    `weights` is the kind of weights that is taken from a folder with several. Raises SourceError if there is no such
    checkpoint or the store can't be reached.
    """
    folder = StoreFolder(location, fetching)
    if not folder.is_folder and weights is not None:
        raise SourceError(f"`{location}` is one file: {option('weights')} chooses among the files of a folder")
    catalogue = folder.whole(root, weights) if folder.is_folder else folder.model(folder.file, root)
    catalogue = catalogue.with_origin(location=folder.location, folder=folder.is_folder, traffic=folder.traffic)
    if formats.of(catalogue).whole_folder:  # its manifest says all that belongs to it
        return catalogue.with_origin(folder=False)
    if catalogue.config is None:
        catalogue = catalogue.with_config(*folder.config())
    if folder.is_folder:
        beside = tuple((name, folder.nbytes(name)) for name in folder.beside)
        catalogue = replace(catalogue, facts={**catalogue.facts, "files beside": beside})
    catalogue.arrange()
    return catalogue


def stored_files(location: str) -> Iterator[tuple[str, Callable[[], Source]]]:
    """Yield the name of every object below a folder of a store, or of the one that is named, and what opens it."""
    folder = StoreFolder(location, deep=None)
    for file in folder.within if folder.is_folder else [folder.file]:
        yield f"{folder.name}/{file}", partial(folder.open, file)


def stored_companions(location: str, *, with_code: bool = False) -> Path | None:
    """A folder with the small files that lie beside a checkpoint in a store; None if there are none."""
    return StoreFolder(location).companions_kept(with_code=with_code)


class _Fetched:
    """A temporary folder with small files of a store. It is removed with this object, or when the program ends."""

    def __init__(self, folder: StoreFolder, names: list[str]) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="cerebras-tool-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        for name in names:
            target = self.path / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(folder.load(name))


_FETCHED: Final[dict[str, _Fetched]] = {}
_FETCHING_LOCK: Final = threading.Lock()


def _kept(key: str, folder: StoreFolder, names: list[str]) -> Path:
    """The folder with these files, in the versions that the key names, fetched once."""
    with _FETCHING_LOCK:
        if key not in _FETCHED:
            while len(_FETCHED) >= _KEPT:
                del _FETCHED[next(iter(_FETCHED))]
            _FETCHED[key] = _Fetched(folder, names)
        return _FETCHED[key].path
