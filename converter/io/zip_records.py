"""The records of a zip archive as sources: stored ones in their place, deflated ones from a temporary file."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from converter.errors import ArchiveError, LimitError, SourceError
from converter.io.checksums import crc32
from converter.io.source import Derived, Extent
from converter.io.zip_directory import STORED, Directory, Record
from converter.text import os_reason, plural

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.io.spool import Spool


class Archive:
    """A zip archive whose records can be read. Directory describes `records`, `root`, and what is refused."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source.name
        self._directory = Directory(source)
        self.root, self.records = self._directory.root, self._directory.records

    @cached_property
    def _spool(self) -> Spool:
        from converter.io.spool import Spool  # only archives with deflated records need it

        return Spool()

    def __contains__(self, name: object) -> bool:
        return name in self.records

    def open(self, name: str) -> Source:
        """A record's data as a source; a deflated record is inflated once, when it is first read."""
        return self.content(self.records[name])

    def content(self, record: Record) -> Source:
        """A record's data as a source, like `open`."""
        if record.method == STORED:
            return _StoredRecord(self._directory, record)
        return _InflatedRecord(self._directory, record, self._spool)

    def read(self, name: str, limit: int, *, check: bool = True) -> bytes:
        """All data of a small record, with the CRC checked. Raises LimitError past `limit` bytes."""
        record = self.records[name]
        if record.nbytes > limit:
            raise LimitError(
                f"`{name}` in `{self.name}` has {plural(record.nbytes, 'byte')}: at most {limit:,} are read"
            )
        offset = self.payload(record)
        if record.method == STORED:
            data = bytes(self.source.read(offset, record.nbytes))
        else:
            data = b"".join(_inflated(self._directory, record))
        if check and crc32(data) != record.crc32:
            raise ArchiveError(
                f"`{name}` in `{self.name}` is damaged: its CRC-32 is {crc32(data):08x}, the directory says "
                f"{record.crc32:08x}"
            )
        return data

    def head(self, name: str, nbytes: int) -> bytes:
        """Up to `nbytes` bytes from the start of a record's data, without a check of the CRC."""
        record = self.records[name]
        if record.method == STORED:
            return bytes(self.source.read(self.payload(record), min(nbytes, record.nbytes)))
        return next(_inflated(self._directory, record, nbytes), b"")

    def payload(self, record: Record) -> int:
        """Where a record's data starts; its local header is compared with the directory."""
        return self._directory.payload(record)


class _StoredRecord(Derived):
    """A stored record as a source; where it starts is looked up when it is first read."""

    def __init__(self, directory: Directory, record: Record) -> None:
        self._directory, self._record = directory, record
        self._start = -1
        super().__init__(directory.source, "", record.nbytes)

    @property
    def name(self) -> str:
        """The archive and the record. The text is made when it is asked for, because there may be a million records."""
        return self._directory.name_of(self._record)

    @name.setter
    def name(self, value: str) -> None:
        """Do nothing: Derived sets a name, but this one follows from the record."""

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the record with its headers: the data start at a byte that only the local header tells."""
        yield Extent(self.base, self._record.header, self._record.limit)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        if self._start < 0:
            self._start = self._directory.payload(self._record)
        self.base.readinto(self._start + offset, buffer)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        if self._start < 0:
            self._start = self._directory.payload(self._record)
        return self._start + offset, size


class _InflatedRecord(Derived):
    """A deflated record as a source. It is inflated once, into a temporary file, when it is first read."""

    def __init__(self, directory: Directory, record: Record, spool: Spool) -> None:
        super().__init__(directory.source, directory.name_of(record), record.nbytes)
        self._directory, self._record, self._spool = directory, record, spool
        self._start = -1
        self._inflating = Lock()

    def prefetch(self, offset: int, size: int) -> None:
        """Do nothing: the inflated data lie in a local file."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Do nothing: a range of inflated data is not a range of the archive."""

    def arrange(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Do nothing: a range of inflated data is not a range of the archive."""

    def release(self, offset: int, size: int) -> None:
        """Do nothing: the system itself drops the pages of the temporary file."""

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.base.check_open()  # the temporary file can be read for longer
        with self._inflating:
            if self._start < 0:
                self._start = self._inflate()
        self._spool.readinto(self._start + offset, buffer, self.name)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        # All of the record, with its headers, is read to inflate any of it.
        return self._record.header, self._record.limit - self._record.header

    def _inflate(self) -> int:
        """Put the data into the spool, and return where they start. Raises SourceError if there is no room for them."""
        try:
            if self.size > self._spool.room():
                import tempfile

                raise SourceError(
                    f"`{self.name}` inflates to {plural(self.size, 'byte')}, more than {tempfile.gettempdir()} has room for: "
                    "set TMPDIR to a folder on a larger disk"
                )
            return self._spool.append(_inflated(self._directory, self._record))
        except OSError as error:
            raise SourceError(f"`{self.name}` can't be inflated into a temporary file: {os_reason(error)}") from error


def _inflated(directory: Directory, record: Record, most: int = 1 << 20) -> Iterator[bytes]:
    """Inflate a record in pieces of at most `most` bytes, and never more than the directory says."""
    offset, left, produced = directory.payload(record), record.compressed, 0
    inflater = zlib.decompressobj(-15)
    what = f"`{record.name}` in `{directory.name}`"
    waiting: bytes | memoryview = b""
    try:
        while not inflater.eof:
            if left and not waiting:
                waiting = directory.source.read(offset, min(left, 64 << 10))
                offset, left = offset + len(waiting), left - len(waiting)
            data = inflater.decompress(waiting, most)
            waiting = inflater.unconsumed_tail
            produced += len(data)
            if produced > record.nbytes:
                raise ArchiveError(f"{what} inflates to more than the {plural(record.nbytes, 'byte')} it promises")
            if data:
                yield data
            elif not left and not waiting:
                break
    except zlib.error as error:
        raise ArchiveError(f"{what} can't be inflated: {error}") from error
    if produced != record.nbytes or not inflater.eof:
        raise ArchiveError(f"{what} inflates to {plural(produced, 'byte')}, not the {record.nbytes:,} it promises")
    if left or inflater.unused_data:
        raise ArchiveError(
            f"{what} goes on for {plural(left + len(inflater.unused_data), 'byte')} after its deflated data"
        )
