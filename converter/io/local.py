"""Local files: all other code reads the disk through these classes. They also bound how many files are open at once."""

from __future__ import annotations

import os
import stat
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from threading import Lock
from typing import Final, Self

from converter.errors import CutOffError, ManifestError, SourceError
from converter.io.source import Source
from converter.text import os_reason, plural

OPEN: Final = 64  # files that a checkpoint of many files keeps open: far fewer than systems allow
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # opening a FIFO must not wait for its writer


def working_folder() -> Path:
    """The folder that relative paths start from now; `.` if it was removed, when they lead nowhere anyway."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


def outgrow_memory(nbytes: int) -> bool:
    """Whether this many bytes, kept in the page cache, would push out most of what is there."""
    return 2 * nbytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def drop(descriptor: int, offset: int = 0, size: int = 0) -> None:
    """Tell the kernel that a range is not needed again: from `offset` to the end, or `size` bytes.

    The kernel starts to write pages that are not on the disk yet, and frees the others.
    """
    if sys.platform != "darwin":
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


class Descriptors:
    """Keeps at most `most` of its files open: closes the least recently read one, and opens it again when it is needed."""

    def __init__(self, most: int = OPEN) -> None:
        self._most = most
        self._lock = Lock()
        self._open: OrderedDict[LocalFile, None] = OrderedDict()

    def touch(self, file: LocalFile) -> None:
        """Note that a file was opened or used; close others if there are too many."""
        with self._lock:
            self._open[file] = None
            self._open.move_to_end(file)
            for other in list(self._open) if len(self._open) > self._most else ():
                if len(self._open) > self._most and other is not file and other.let_go():
                    del self._open[other]

    def forget(self, file: LocalFile) -> None:
        """Note that a file was closed."""
        with self._lock:
            self._open.pop(file, None)


class LocalFile(Source):
    """A regular file. It is read with pread only, so a file that shrinks is an error and not a SIGBUS.

    With `descriptors` it shares a bounded number of open files with others; when it is opened again, it must still be
    the same file.
    """

    _follow = True  # symbolic links

    def __init__(self, path: str | Path, descriptors: Descriptors | None = None) -> None:
        self.path: Path = working_folder() / path
        self.name = str(path)
        self._descriptors = descriptors
        self._fd = -1
        self._users = 0
        self._lock = Lock()
        self._passing = self._closed = False
        self._fd = self._opened()
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self._let_go()
            raise SourceError(f"`{path}` is not a regular file")
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self.mtime_ns = status.st_mtime_ns
        self.version = str(status.st_mtime_ns)
        if descriptors is not None:
            descriptors.touch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "_fd" in self.__dict__:  # if not, opening failed before there was anything to close
            self._let_go()

    def close(self) -> None:
        """Close the file; later reads fail."""
        self._closed = True
        self._let_go()
        if self._descriptors is not None:
            self._descriptors.forget(self)

    def check_open(self) -> None:
        """Raise SourceError if the file was closed."""
        if self._closed:
            raise SourceError(f"`{self.name}` was closed")

    def let_go(self) -> bool:
        """Close the descriptor unless a thread is reading through it; it is opened again when it is needed."""
        with self._lock:
            if self._users:
                return False
            self._let_go()
            return True

    def release(self, offset: int, size: int) -> None:
        """Give the pages of a range that was read for the last time back to the system."""
        if self._passing:
            with self._using() as descriptor:
                drop(descriptor, offset, size)

    def pass_by(self) -> None:
        """From now on, keep released ranges out of the page cache."""
        self._passing = True

    def check_unchanged(self) -> None:
        """Raise SourceError if the file was written to since it was opened."""
        with self._using() as descriptor:
            status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise SourceError(f"`{self.name}` was changed while it was read")

    def _fill(self, offset: int, buffer: memoryview) -> None:
        if self._descriptors is None:  # nearly all reads take this path, so it is as short as possible
            self._pread(self._fd, offset, buffer)
        else:
            with self._using() as descriptor:
                self._pread(descriptor, offset, buffer)

    def _pread(self, descriptor: int, offset: int, buffer: memoryview) -> None:
        done, size = 0, len(buffer)
        while done < size:
            try:
                count = os.preadv(descriptor, [buffer[done:] if done else buffer], offset + done)
            except OSError as error:
                what = "was closed" if self._closed else f"can't be read: {os_reason(error)}"
                raise SourceError(f"`{self.name}` {what}") from error
            if not count:
                raise SourceError(
                    f"`{self.name}` ended at byte {offset + done:,} while it was read, but it had {plural(self.size, 'byte')}"
                )
            done += count

    @contextmanager
    def _using(self) -> Iterator[int]:
        """Lend the descriptor: while it is lent, nothing closes it."""
        if self._descriptors is None:
            self.check_open()
            yield self._fd
            return
        with self._lock:
            self.check_open()
            self._users += 1
            opened = self._fd < 0
            try:
                if opened:
                    self._fd = self._opened()
                    self._check_same()
            except BaseException:
                self._users -= 1
                raise
        try:
            if opened:
                self._descriptors.touch(self)
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1

    def _opened(self) -> int:
        try:
            return os.open(self.path, _READ if self._follow else _READ | os.O_NOFOLLOW)
        except OSError as error:
            raise SourceError(f"`{self.name}` can't be opened: {os_reason(error)}") from error
        except ValueError as error:  # a NUL in the path
            raise SourceError(f"`{self.name!r}` is not a path: {error}") from error

    def _check_same(self) -> None:
        status = os.fstat(self._fd)
        if (status.st_dev, status.st_ino) != self.identity:
            self._let_go()
            raise SourceError(f"`{self.name}` was replaced while it was read")

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FolderFile(LocalFile):
    """A file of a folder whose manifest gives its size. Links are not followed in any part of its path."""

    _follow = False

    def __init__(self, folder: Path, name: str, nbytes: int, descriptors: Descriptors) -> None:
        path = folder / name
        try:
            found = path.lstat()
            inside = all(not stat.S_ISLNK((folder / parent).lstat().st_mode) for parent in PurePath(name).parents[:-1])
        except OSError as error:
            raise ManifestError(f"`{path}` is missing, though the manifest names it") from error
        if not inside or not stat.S_ISREG(found.st_mode):
            raise ManifestError(f"`{path}` is not a regular file of the folder: links are not followed")
        if found.st_size != nbytes:
            cause = ManifestError if found.st_size > nbytes else CutOffError
            raise cause(f"`{path}` has {plural(found.st_size, 'byte')}; the manifest says {nbytes:,}")
        super().__init__(path, descriptors)

    def check_unchanged(self) -> None:
        """Raise SourceError if the file was written to, removed or replaced since the manifest was read."""
        try:
            found = self.path.lstat()
        except OSError as error:
            raise SourceError(f"`{self.name}` was removed while it was read") from error
        if (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) != (
            *(self.identity or ()),
            self.size,
            self.mtime_ns,
        ):
            raise SourceError(f"`{self.name}` was changed while it was read")
