"""An open folder to write into. Everything in it is reached from its descriptor, and no link in it is followed.

Other users may be able to write beside an output. We never open what they put there under one of our names. If they put
another folder in place of this one, we touch nothing in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final, Self

from converter.errors import OutputError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK, because opening a pipe must not wait. A pipe is then refused.
_THERE: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL


def identity(status: os.stat_result) -> tuple[int, int]:
    """What identifies a file or folder under any name: device and inode number."""
    return status.st_dev, status.st_ino


class Folder:
    """An open folder. `path` is its name in messages. Names of files in it have `/` between folders."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self._made: dict[str, int] = {}  # the files that were made here, with their owners

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    @classmethod
    def opened(cls, path: Path) -> Folder:
        """Open a folder by its path. The path is the user's, so it may contain links."""
        return cls(path, os.open(path, _FOLDER))

    def inner(self, name: str, *, make: bool) -> Folder:
        """A folder in this one.

        With `make` it is made, and must not exist yet. Raises OSError for a link or anything else that is in the way.
        """
        if make:
            os.mkdir(name, dir_fd=self.descriptor)
        return Folder(self.path / name, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor))

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number of this folder."""
        return identity(os.fstat(self.descriptor))

    def status(self, name: str) -> os.stat_result | None:
        """The status of a name (of a link, not of its target); None if the name does not exist."""
        with suppress(FileNotFoundError), self._parent(name) as (folder, last):
            return os.stat(last, dir_fd=folder, follow_symlinks=False)
        return None

    def make(self, name: str) -> None:
        """Make a file and the folders that lead to it, unless the file is there already and is ours."""
        if name in self._made:
            return
        with self._parent(name, make=True) as (folder, last):
            try:
                descriptor, anew = os.open(last, _NEW, 0o666, dir_fd=folder), True
            except FileExistsError:
                descriptor, anew = os.open(last, _THERE, dir_fd=folder), False
        try:
            # The file system decides who owns a new file: some have one user for all files.
            owner = os.fstat(descriptor).st_uid if anew else os.geteuid()
            self._check(name, descriptor, owner)
            self._made[name] = owner
        finally:
            os.close(descriptor)

    @contextmanager
    def writing(self, name: str) -> Iterator[int]:
        """The descriptor of a file that was made here."""
        with self._parent(name) as (folder, last):
            descriptor = os.open(last, _THERE, dir_fd=folder)
        try:
            self._check(name, descriptor, self._made[name])
            yield descriptor
        finally:
            os.close(descriptor)

    def is_ours(self, name: str) -> bool:
        """Whether there is a file of this user that has no second name."""
        status = self.status(name)
        return status is not None and is_plain(status) and status.st_uid == os.geteuid()

    def sync(self, names: Iterable[str] = ()) -> None:
        """Sync the entries of this folder and of all folders that lead to its files."""
        for parent in {str(parent) for name in names for parent in PurePosixPath(name).parents} - {"."}:
            with self._parent(f"{parent}/x") as (folder, _):
                os.fsync(folder)
        os.fsync(self.descriptor)

    def remove(self, name: str, known: tuple[int, int] | None = None) -> None:
        """Remove a file, a link, an empty folder, or the folder `known`. Raises OutputError for any other folder."""
        status = self.status(name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=self.descriptor)
        elif identity(status) == known:
            shutil.rmtree(name, dir_fd=self.descriptor)
        else:
            try:
                os.rmdir(name, dir_fd=self.descriptor)
            except OSError:
                raise OutputError(
                    f"`{self.path / name}` is there, and no run of this program left it: remove it"
                ) from None

    def _check(self, name: str, descriptor: int, owner: int) -> None:
        status = os.fstat(descriptor)
        if not is_plain(status) or status.st_uid != owner:
            raise OutputError(f"`{self.path / name}` was put there by another program: remove it")

    @contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that a file lies in, and the file's name there; each step is opened from the last."""
        *folders, last = name.split("/")
        descriptor = self.descriptor
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=descriptor)
                inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                if descriptor != self.descriptor:
                    os.close(descriptor)
                descriptor = inner
            yield descriptor, last
        finally:
            if descriptor != self.descriptor:
                os.close(descriptor)


def is_plain(status: os.stat_result) -> bool:
    """Whether this is a regular file without a second name."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
