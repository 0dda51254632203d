"""Bytes by offset: the only way anything else here reaches a file."""

import os
import stat
from pathlib import Path
from typing import Final, Protocol, Self

from converter.errors import SourceError

STEP: Final = 256 << 10  # bytes a read; larger ones fall out of the cache between the read and the write


class Source(Protocol):
    """Bytes by offset. `size` counts bytes; reads give exactly what was asked for or raise SourceError."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        ...

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (writable, of bytes) from `offset`."""
        ...


def outgrow_memory(nbytes: int) -> bool:
    """Whether so many bytes, kept in the page cache, would push out most of what lies there."""
    return 2 * nbytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def drop(descriptor: int, offset: int = 0, size: int = 0) -> None:
    """Tell the kernel that a range (all from `offset` on, without `size`) is not needed again.

    Pages that are not written yet go on their way to the disk, the others are given back.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


class LocalFile:
    """A regular file, opened once; pread only, so a file that shrinks is a sentence and not a SIGBUS.

    `passing`: what was read is not kept in the page cache.
    """

    passing = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        try:
            # O_NONBLOCK: opening a FIFO must not wait for its writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise SourceError(f"`{path}` can't be opened: {_reason(error)}") from error
        except ValueError as error:  # a NUL in the path
            raise SourceError(f"`{path!r}` is no path: {error}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            self._fd = -1
            raise SourceError(f"`{path}` is not a regular file")
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self.mtime_ns = status.st_mtime_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; later reads fail."""
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The descriptor, for copies inside the kernel."""
        return self._fd

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        if size > self.size - offset or offset < 0 or size < 0:
            raise SourceError(f"`{self.name}` has {self.size:,} bytes; asked for {size:,} from byte {offset:,}")
        buffer = memoryview(bytearray(size))
        self.readinto(offset, buffer)
        return buffer

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        done, size = 0, len(buffer)
        while done < size:
            try:
                count = os.preadv(self._fd, [buffer[done:] if done else buffer], offset + done)
            except OSError as error:
                raise SourceError(f"`{self.name}` can't be read: {_reason(error)}") from error
            if not count:
                raise SourceError(
                    f"`{self.name}` ended at byte {offset + done:,} while it was read: it had {self.size:,}"
                )
            done += count

    def release(self, start: int, end: int) -> None:
        """Be told that a range was read for the last time."""
        if self.passing:
            drop(self._fd, start, end - start)

    def check_unchanged(self) -> None:
        """Raise SourceError if the file was written to since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise SourceError(f"`{self.name}` was changed while it was read")


class Joined:
    """Several sources one after another, as if they were one."""

    def __init__(self, parts: list[Source]) -> None:
        self.name = " + ".join(part.name for part in parts)
        self.size = sum(part.size for part in parts)
        self._parts = parts

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        if size > self.size - offset:
            raise SourceError(f"`{self.name}` has {self.size:,} bytes; asked for {size:,} from byte {offset:,}")
        buffer = memoryview(bytearray(size))
        self.readinto(offset, buffer)
        return buffer

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        for part in self._parts:
            if offset >= part.size:
                offset -= part.size
                continue
            count = min(part.size - offset, len(buffer))
            if count:
                part.readinto(offset, buffer[:count])
            buffer, offset = buffer[count:], 0
        if len(buffer):
            raise SourceError(f"`{self.name}` ended {len(buffer):,} bytes early")


class _Nowhere:
    """Stands for bytes that are known to be somewhere, but not where; reading them is a mistake of ours."""

    name = "nowhere"
    size = 0

    def read(self, offset: int, size: int) -> memoryview:
        raise SourceError(f"{size:,} bytes at {offset:,} have no place yet")

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self.read(offset, len(buffer))


NOWHERE: Final[Source] = _Nowhere()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
