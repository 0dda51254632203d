"""Bytes in a temporary file without a name: nothing is left of it, however the program ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from threading import Lock

from converter.errors import SourceError
from converter.io.source import Source
from converter.text import absent


class Spool:
    """A temporary file that is made when the first bytes come. If the system refuses, the caller gets an OSError."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._size = 0
        self._appending = Lock()  # another thread may gather a matrix at the same time

    def __del__(self) -> None:
        self.close()

    def room(self) -> int:
        """How many bytes the disk has room for."""
        with self._appending:
            disk = os.fstatvfs(self._opened())
        return disk.f_bavail * disk.f_frsize

    def append(self, pieces: Iterable[bytes | memoryview]) -> int:
        """Append bytes, and return where they start."""
        with self._appending:
            file = self._opened()
            start = end = self._size
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    count = os.pwrite(file, view, end)
                    view, end = view[count:], end + count
            self._size = end
            return start

    def readinto(self, position: int, buffer: memoryview, name: str) -> None:
        """Fill `buffer` from `position`; `name` is what an error calls the bytes."""
        done = 0
        while done < len(buffer):
            if self._file is None:
                raise SourceError(f"`{name}` was closed")
            count = os.preadv(self._file, [buffer[done:]], position + done)
            if not count:
                raise SourceError(f"`{name}` ends early: {absent(len(buffer) - done, 'byte')}")
            done += count

    def clear(self) -> None:
        """Remove all bytes."""
        with self._appending:
            if self._file is not None:
                os.ftruncate(self._file, 0)
            self._size = 0

    def close(self) -> None:
        """Give the file back to the system. It is made again if more bytes come."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = None, 0

    def _opened(self) -> int:
        if self._file is None:
            with tempfile.TemporaryFile(buffering=0) as file:
                self._file = os.dup(file.fileno())
        return self._file


class Spooled(Source):
    """The first `size` bytes of a spool as a source."""

    def __init__(self, spool: Spool, size: int, name: str) -> None:
        self.name, self.size, self._spool = name, size, spool

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._spool.readinto(offset, buffer, self.name)
