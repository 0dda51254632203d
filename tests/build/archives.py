"""Small zip archives for tests, and the reader under test on all of their records."""

from __future__ import annotations

import zlib

from converter.io.source import Source
from converter.io.zip_records import Archive
from tests.build.checkpoints import Entry, zip_bytes

DATA = b"The quick brown fox"
CRC = zlib.crc32(DATA)


class Memory(Source):
    """A source of bytes in memory, which counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.name, self.size, self._data = "test.zip", len(data), data
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> memoryview:
        self.reads.append((offset, size))
        return super().read(offset, size)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]


def archive(data: bytes) -> Archive:
    return Archive(Memory(data))


def everything(data: bytes) -> dict[str, bytes]:
    """Read all records, so that every local header is looked at."""
    opened = archive(data)
    return {name: opened.read(name, 1 << 20) for name in opened.records}


def two(**options: object) -> bytes:
    return zip_bytes([Entry("a/x", DATA), Entry("a/y", b"more")], **options)  # type: ignore[arg-type]


def stored(**options: object) -> Entry:
    """A record as other writers write it: sizes in the local header, no descriptor."""
    true = {"flags": 0, "crc32": CRC, "compressed": len(DATA), "nbytes": len(DATA), **options}
    return Entry("a/x", DATA, local=true, central={"flags": 0}, descriptor=b"")
