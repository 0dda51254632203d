"""Sources of bytes: a base class for everything that is read here, and one for a source that wraps another one.

A source is read by offset. Some sources can do more: fetch ahead, give pages back to the system, notice a change. Each
of these has a default here that does nothing, so that callers never ask whether a source can do it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from converter.errors import SourceError

STEP: Final = 256 << 10  # bytes of a read; more would fall out of the processor's cache between the read and the write


class Extent(NamedTuple):
    """Bytes of a file: from `start` up to `end`."""

    source: Source
    start: int
    end: int


class Source:
    """Bytes that are read by offset. Messages call it `name`; `size` counts bytes.

    Subclasses define `_fill`. Reads give exactly what was asked for or raise SourceError.
    """

    name: str
    size: int
    identity: tuple[int, int] | None = None  # device and inode of a local file
    path: Path | None = None  # a local file's path, absolute, so that it holds when the working folder changes
    version: str | None = None  # changes when the bytes change: a time of change, an ETag
    sha256: str | None = None  # the hash of all bytes, as the server that holds them states it
    concurrent: bool = True  # whether several threads may read different parts at once without loss of speed

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        self._check(offset, size)
        buffer = memoryview(bytearray(size))
        self._fill(offset, buffer)
        return buffer

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (writable, of bytes) from `offset`."""
        if offset < 0 or len(buffer) > self.size - offset:
            self._check(offset, len(buffer))
        self._fill(offset, buffer)

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the parts of files that these bytes come from, with the headers between them. Nothing is read."""
        yield Extent(self, offset, offset + size)

    def prefetch(self, offset: int, size: int) -> None:
        """Announce that a range will be read in any order and more than once, so that a remote file fetches it first."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Announce the order in which ranges (start, end) will be read, so that a remote file fetches them ahead."""

    def arrange(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Announce where the storages lie, in the order of the catalogue. This ends the opening of a checkpoint."""

    def pass_by(self) -> None:
        """From now on, keep released ranges out of the page cache."""

    def release(self, offset: int, size: int) -> None:
        """Announce that a range was read for the last time."""

    def check_unchanged(self) -> None:
        """Raise SourceError if the bytes were changed since the source was opened."""

    def check_open(self) -> None:
        """Raise SourceError if the source was closed."""

    def close(self) -> None:
        """Close what the source holds open; later reads fail."""

    @abstractmethod
    def _fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; both are known to lie within the source."""

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or size > self.size - offset:
            raise SourceError(f"`{self.name}` has {self.size:,} bytes; asked for {size:,} from byte {offset:,}")


class Derived(Source):
    """A source over another one, `base`. Every call is forwarded, for the range that `_base_range` gives."""

    def __init__(self, base: Source, name: str, size: int) -> None:
        self.base, self.name, self.size = base, name, size
        self.identity, self.version, self.concurrent = base.identity, base.version, base.concurrent

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the parts of files that these bytes come from."""
        return self.base.spans(*self._base_range(offset, size))

    def prefetch(self, offset: int, size: int) -> None:
        """Forward the announcement."""
        self.base.prefetch(*self._base_range(offset, size))

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Forward the announcement."""
        self.base.expect(self._base_ranges(ranges))

    def arrange(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Forward the announcement."""
        self.base.arrange(self._base_ranges(ranges))

    def pass_by(self) -> None:
        """Forward the request."""
        self.base.pass_by()

    def release(self, offset: int, size: int) -> None:
        """Forward the announcement."""
        self.base.release(*self._base_range(offset, size))

    def check_unchanged(self) -> None:
        """Raise SourceError if the base was changed since it was opened."""
        self.base.check_unchanged()

    def check_open(self) -> None:
        """Raise SourceError if the base was closed."""
        self.base.check_open()

    def close(self) -> None:
        """Close the base."""
        self.base.close()

    @abstractmethod
    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        """Offset and size in the base of a range of this source."""

    def _base_ranges(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for start, end in ranges:
            offset, size = self._base_range(start, end - start)
            yield offset, offset + size


class Window(Derived):
    """A part of another source, from `start` on."""

    def __init__(self, base: Source, start: int, size: int, name: str | None = None) -> None:
        super().__init__(base, name or base.name, size)
        self._start = start

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.base.readinto(self._start + offset, buffer)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        return self._start + offset, size


class Memory(Source):
    """Bytes in memory."""

    def __init__(self, data: bytes | memoryview, name: str = "memory") -> None:
        self.name, self.size, self._data = name, len(data), memoryview(data)

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`, without a copy."""
        self._check(offset, size)
        return self._data[offset : offset + size]

    def _fill(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]


class Joined(Source):
    """Several sources in a row, as one source."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.name = " + ".join(part.name for part in parts)
        self.size = sum(part.size for part in parts)
        self.concurrent = all(part.concurrent for part in parts)
        self._parts = tuple(parts)

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the parts of files that these bytes come from."""
        for part, start, count in self._within(offset, size):
            yield from part.spans(start, count)

    def prefetch(self, offset: int, size: int) -> None:
        """Forward the announcement to each part that the range touches."""
        for part, start, count in self._within(offset, size):
            part.prefetch(start, count)

    def pass_by(self) -> None:
        """Forward the request to each part."""
        for part in self._parts:
            part.pass_by()

    def release(self, offset: int, size: int) -> None:
        """Forward the announcement to each part that the range touches."""
        for part, start, count in self._within(offset, size):
            part.release(start, count)

    def check_unchanged(self) -> None:
        """Raise SourceError if a part was changed since it was opened."""
        for part in self._parts:
            part.check_unchanged()

    def check_open(self) -> None:
        """Raise SourceError if a part was closed."""
        for part in self._parts:
            part.check_open()

    def close(self) -> None:
        """Close every part."""
        for part in self._parts:
            part.close()

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done = 0
        for part, start, count in self._within(offset, len(buffer)):
            part.readinto(start, buffer[done : done + count])
            done += count

    def _within(self, offset: int, size: int) -> Iterator[tuple[Source, int, int]]:
        """Yield each part that a range touches, with the offset and size there."""
        for part in self._parts:
            if offset < part.size and size:
                count = min(part.size - offset, size)
                yield part, offset, count
                offset, size = 0, size - count
            else:
                offset = max(0, offset - part.size)


class _Nowhere(Source):
    """Stands for bytes whose place is not known yet; reading them is a mistake in this program."""

    name = "nowhere"
    size = 0

    def _check(self, offset: int, size: int) -> None:
        raise SourceError(f"{size:,} bytes at {offset:,} have no place yet")

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))


NOWHERE: Final[Source] = _Nowhere()
