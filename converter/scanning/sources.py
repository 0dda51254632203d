"""What there is to scan at a location: a file, everything in a folder, or a repository.

A link in a folder is followed if it leads to a file of the same folder or, in a snapshot of the Hub's cache, to a file
that the cache keeps for it. Whatever can't be looked into is still listed, with the reason.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.io.local import LocalFile
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.io.source import Source

    _Identity = tuple[int, int]  # device and inode

_SPECIAL: Final = (  # things in a folder that are not files, and what we call them
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_CACHED: Final = ("models--", "datasets--", "spaces--")  # how the Hub's cache begins the names of repositories' folders


@dataclass(frozen=True, slots=True)
class Item:
    """Something to scan. `named`: the location is this file. If it is not a file, `open` is None and `why` says why."""

    name: str
    open: Callable[[], Source] | None
    named: bool = False
    kind: str = ""
    why: str = ""


class Location:
    """What lies at one location. Files are opened one by one, but a repository's all together, at the first use."""

    def __init__(self, location: str | Path | Source) -> None:
        self.name = str(location) if isinstance(location, str | Path) else location.name
        self._source = None if isinstance(location, str | Path) else location
        self._remote: list[Source] | None = None
        self._stored: list[tuple[str, Callable[[], Source]]] = []  # the objects of a store, which are opened one by one
        self._tree: _Tree | None = None

    def folders(self) -> Iterator[Path]:
        """The file or folder that was named, and for a snapshot in a cache of the Hub the folder of its repository."""
        if self._source is None:
            path = Path(self.name)
            yield path
            yield from (above for above in path.absolute().parents if above.name.startswith(_CACHED))

    def items(self) -> Iterator[Item]:
        """Yield what there is to scan, in an order that depends only on the names."""
        if self._source is not None:
            yield Item(self.name, partial(_given, self._source), named=True)
            return
        if self._remote is None and "/" in self.name and not os.path.lexists(self.name):
            from converter.hub.locations import is_remote
            from converter.hub.stores import store_of

            if store_of(self.name) is not None:
                from converter.hub.store_folder import stored_files

                self._stored = self._stored or list(stored_files(self.name))
                yield from (Item(name, opened, len(self._stored) == 1) for name, opened in self._stored)
                return
            if is_remote(self.name):
                from converter.hub.repository import open_files

                self._remote = list(open_files(self.name))
        if self._remote is not None:
            yield from (Item(file.name, partial(_given, file), len(self._remote) == 1) for file in self._remote)
            return
        try:
            is_folder = Path(self.name).is_dir()
        except OSError:  # opening it later gives the error
            is_folder = False
        if is_folder:
            self._tree = self._tree or _Tree(self.name)
            yield from self._tree.items()
        else:
            yield Item(self.name, partial(LocalFile, self.name), named=True)

    def count(self) -> int:
        """How many items there are. Only a repository's files are opened for this."""
        return sum(1 for _ in self.items())


class _Unlinked(LocalFile):
    """A file that was not a link when its folder was read. If it has become one, it is not followed."""

    _follow = False


class _Tree:
    """A folder with everything in it."""

    def __init__(self, root: str) -> None:
        self._root = root
        real = os.path.realpath(root)
        self._inside = real  # links that lead into here are followed
        self._blobs = _blobs(real)
        # Files that links lead to. They have several names, but are scanned once.
        self._targets = {found[1] for path, entry in _walk(root) if (found := self._target(path, entry)) is not None}

    def items(self) -> Iterator[Item]:
        """Yield the files, and everything else that is not a folder."""
        given: set[tuple[_Identity, str]] = set()
        for place, entry in _walk(self._root):
            path = str(Path(place))  # without `./`
            try:
                if isinstance(entry, OSError):
                    raise entry
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                kind = "folder" if isinstance(entry, OSError) else "file"
                yield _unseen(path, kind, f"the {kind} can't be read: {os_reason(error)}")
                continue
            target, identity, ending = path, (status.st_dev, status.st_ino), Path(path).suffix.lower()
            if stat.S_ISLNK(status.st_mode):
                found = self._target(path, entry)
                if found is None:
                    if (why := self._not_followed(path)) is not None:
                        yield _unseen(path, "link", why)
                    continue
                target, identity = found
            elif not stat.S_ISREG(status.st_mode):
                kind = next((name for is_one, name in _SPECIAL if is_one(status.st_mode)), "special file")
                yield _unseen(path, kind, f"a {kind} is not a file, so it was not read")
                continue
            if identity in self._targets:
                # The Hub's cache keeps files under their hashes, so they are scanned under the names of their links.
                # Otherwise the first name counts, and any name with another ending: a loader may decide by the ending.
                if (identity, ending) in given or (target is path and not ending):
                    continue
                given.add((identity, ending))
            yield Item(path, partial(_opened, target, path))

    def _target(self, path: str, entry: os.DirEntry[str] | OSError) -> tuple[str, _Identity] | None:
        """The file that a link leads to, as path and identity; None if the link is not followed."""
        if isinstance(entry, OSError) or not entry.is_symlink():
            return None
        try:
            target = os.path.realpath(path, strict=True)
            status = os.lstat(target)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or not (_lies_in(target, self._inside) or _lies_in(target, self._blobs)):
            return None
        return target, (status.st_dev, status.st_ino)

    def _not_followed(self, path: str) -> str | None:
        """Why a link is not followed. None if it leads to something that is scanned under its own name."""
        try:
            target = os.path.realpath(path, strict=True)
        except OSError as error:
            return f"the link leads nowhere: {os_reason(error)}"
        if _lies_in(target, self._inside):
            return None
        return f"the link leads out of the folder, to `{target}`: name that path to scan it"


def _walk(root: str) -> Iterator[tuple[str, os.DirEntry[str] | OSError]]:
    """Yield everything in a folder that is not a folder, sorted; the files of each folder come before its folders."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        inner = []
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, error
            continue
        for entry in entries:
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError as error:
                yield entry.path, error
                continue
            if is_folder:
                inner.append(entry.path)
            else:
                yield entry.path, entry
        waiting += reversed(inner)


def _blobs(root: str) -> str | None:
    """Where a cache of the Hub keeps the files of a snapshot, if the folder is such a snapshot or lies in one."""
    folder = Path(root)
    for parent in folder.parents:
        if parent.name.startswith(_CACHED) and folder.relative_to(parent).parts[0] == "snapshots":
            blobs = parent / "blobs"
            return str(blobs) if blobs.is_dir() and not blobs.is_symlink() else None
    return None


def _lies_in(path: str, folder: str | None) -> bool:
    """Whether a path without links is this folder, or lies in it."""
    return folder is not None and (path == folder or path.startswith(folder.rstrip("/") + "/"))


def _unseen(path: str, kind: str, why: str) -> Item:
    return Item(path, None, kind=kind, why=why)


def _given(source: Source) -> Source:
    return source


def _opened(target: str, name: str) -> Source:
    """Open a file by its real path; messages call it by the name of its link."""
    found = _Unlinked(target)
    found.name = name
    return found
