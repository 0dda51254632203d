"""The zip directory, strict: an archive that two readers could understand differently is refused.

Only the central directory says what an archive holds; a local header has to agree with it and is checked when its
record is first read, so that a listing needs the directory alone. Sources: PKWARE's APPNOTE 6.3.10; caffe2/serialize/
inline_container.cc for what PyTorch writes: stored records, sizes in data descriptors, `FB` padding in the local header
so that data starts at a multiple of 64, zip64 records always.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from converter.errors import ArchiveError, CutOffError, LimitError, SourceError
from converter.io.checksums import crc32
from converter.io.source import Derived, Extent
from converter.limits import limits
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.io.source import Source

STORED: Final = 0
DEFLATED: Final = 8

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s4x2H4x3L4H6xL")  # without versions, time, and attributes
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SENTINEL16: Final = 0xFFFF
_SENTINEL32: Final = 0xFFFFFFFF
_SENTINELS: Final = (*4 * (_SENTINEL16,), *2 * (_SENTINEL32,))  # of the end record's six fields
_STREAMED: Final = 0x0008  # sizes follow the data
_UTF8: Final = 0x0800
_DEFLATE_HINTS: Final = 0x0006  # how hard the writer tried: no reader needs it
_RATIO: Final = 1032  # bytes out of one deflated byte at most: 258 from two bits
_SECOND_NAME: Final = 0x7075  # extra field with the name once more: some readers prefer it
# Names as torch's are.
_ORDINARY: Final = re.compile(r"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*").fullmatch
_TAIL: Final = 64 << 10  # bytes read at once from the end; usually the whole directory


class Record(NamedTuple):
    """What the central directory says of a record. `limit` is where the next header starts, in bytes of the file."""

    name: str
    method: int
    flags: int
    crc32: int
    compressed: int  # bytes in the archive
    nbytes: int  # bytes of the data
    header: int  # where its local header starts
    limit: int


class Archive:
    """A zip archive's records by name, below their one root folder.

    `root` is the folder that every record lies in, with its slash; names in `records` have it cut off. It is empty where
    there is no such folder.
    Raises ArchiveError for anything that is not plain, LimitError for a directory past the limits.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name
        tail_size = min(_TAIL, source.size)
        self._tail_start = source.size - tail_size
        self._tail = source.read(self._tail_start, tail_size)
        start, size, count = self._find_directory()
        self.root = ""
        self.records: dict[str, Record] = {}
        self._payloads: dict[int, int] = {}
        self.spool = _Spool()
        self._read_directory(self._slice(start, size), start, count)

    def __contains__(self, name: object) -> bool:
        return name in self.records

    def open(self, name: str) -> Source:
        """Give a record's data as a source; what is deflated is inflated once, into a temporary file, when first read."""
        return self.content(self.records[name])

    def content(self, record: Record) -> Source:
        """Give a record's data as `open` does."""
        return _StoredRecord(self, record) if record.method == STORED else _InflatedRecord(self, record)

    def read(self, name: str, limit: int, *, check: bool = True) -> bytes:
        """Give a small record's data whole, its CRC checked. Raises LimitError past `limit` bytes."""
        record = self.records[name]
        if record.nbytes > limit:
            raise LimitError(f"`{name}` in `{self.name}` has {record.nbytes:,} bytes: at most {limit:,} are read")
        offset = self.payload(record)
        if record.method == STORED:
            data = bytes(self.source.read(offset, record.nbytes))
        else:
            data = b"".join(_inflated(self, record))
        if check and crc32(data) != record.crc32:
            raise ArchiveError(
                f"`{name}` in `{self.name}` is damaged: its CRC-32 is {crc32(data):08x}, the directory says "
                f"{record.crc32:08x}"
            )
        return data

    def head(self, name: str, nbytes: int) -> bytes:
        """Give up to `nbytes` bytes from the start of a record's data, their CRC unchecked."""
        record = self.records[name]
        if record.method == STORED:
            return bytes(self.source.read(self.payload(record), min(nbytes, record.nbytes)))
        return next(_inflated(self, record, nbytes), b"")

    def payload(self, record: Record) -> int:
        """Give where a record's data starts, its local header and descriptor checked against the directory."""
        if (known := self._payloads.get(record.header)) is not None:
            return known
        # The directory leaves out the local header's extra field, which PyTorch pads to align the data.
        header = _LOCAL.unpack(self._slice(record.header, _LOCAL.size))
        signature, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = header
        what = f"the local header of `{record.name}` in `{self.name}`"
        if signature != b"PK\3\4":
            raise ArchiveError(f"{what} is missing at byte {record.header:,}")
        offset: int = record.header + _LOCAL.size + name_size + extra_size
        if offset + record.compressed > record.limit:
            raise ArchiveError(f"{what} puts its {record.compressed:,} bytes of data into the record that follows")
        rest = self._slice(record.header + _LOCAL.size, name_size + extra_size)
        if bytes(rest[:name_size]) != (self.root + record.name).encode():
            raise ArchiveError(f"{what} has another name: {bytes(rest[:name_size])!r:.200}")
        if (flags, method) != (record.flags, record.method):
            raise ArchiveError(
                f"{what} has flags {flags:#06x} and method {method}, the directory {record.flags:#06x} "
                f"and {record.method}"
            )
        fields = _extras(rest[name_size:], what)
        if _SENTINEL32 in (compressed, nbytes):
            nbytes, compressed = _local_sizes(fields, nbytes, compressed, what)
        streamed = flags & _STREAMED and (crc, compressed, nbytes) == (0, 0, 0)
        if not streamed and (crc, compressed, nbytes) != (record.crc32, record.compressed, record.nbytes):
            raise ArchiveError(f"{what} has other sizes or another CRC than the directory")
        self._check_descriptor(record, offset + record.compressed, what)
        self._payloads[record.header] = offset
        return offset

    def _check_descriptor(self, record: Record, end: int, what: str) -> None:
        gap = record.limit - end
        if not gap and (not record.flags & _STREAMED or not record.nbytes):
            return
        forms = {12: "<LLL", 16: "<4sLLL", 20: "<LQQ", 24: "<4sLQQ"}
        if not record.flags & _STREAMED or gap not in forms:
            raise ArchiveError(
                f"after the data of `{record.name}` in `{self.name}` stand {gap:,} bytes that belong to no record"
            )
        fields = struct.unpack(forms[gap], self._slice(end, gap))
        expected = (record.crc32, record.compressed, record.nbytes)
        if fields[-3:] != expected or (len(fields) == 4 and fields[0] != b"PK\7\10"):
            raise ArchiveError(f"{what} and its data descriptor contradict each other")

    def _slice(self, offset: int, size: int) -> memoryview:
        """Bytes of the file, out of the tail that was read first where it holds them."""
        if offset >= self._tail_start and offset + size <= self.source.size:
            return self._tail[offset - self._tail_start : offset - self._tail_start + size]
        return self.source.read(offset, size)

    def _find_directory(self) -> tuple[int, int, int]:
        """Give the directory's start, its size in bytes, and the number of records."""
        size, end = self.source.size, self.source.size - _END.size
        if end < 0 or bytes(self._tail[-_END.size :][:4]) != b"PK\5\6":
            if (found := bytes(self._tail).rfind(b"PK\5\6")) >= 0:
                extra = size - self._tail_start - found - _END.size
                cause = ArchiveError if extra > 0 else CutOffError
                raise cause(
                    f"`{self.name}`: {abs(extra):,} bytes {'follow' if extra > 0 else 'are missing from'} "
                    "the end of its zip archive"
                )
            raise CutOffError(
                f"`{self.name}` ends without a zip directory, at byte {size:,}: it was cut off; download it again"
            )
        fields = _END.unpack(self._tail[-_END.size :])
        _, disk, directory_disk, count_here, count, directory_size, start, comment = fields
        if comment:
            raise ArchiveError(f"`{self.name}`: the zip archive has a comment of {comment} bytes that are not there")
        narrow = (disk, directory_disk, count_here, count, directory_size, start)
        if (locator := self._locator(end)) is not None:
            end, wide = locator
            for small, large, sentinel in zip(narrow, wide, _SENTINELS, strict=True):
                if small not in (large, sentinel):
                    raise ArchiveError(f"`{self.name}`: its two end records contradict each other: {narrow} and {wide}")
            disk, directory_disk, count_here, count, directory_size, start = wide
        elif _SENTINEL32 in (directory_size, start) or count == _SENTINEL16:
            raise ArchiveError(f"`{self.name}`: the zip64 end record is missing")
        if disk or directory_disk or count_here != count:
            raise ArchiveError(f"`{self.name}` is one part of an archive on several disks: join them first")
        if start + directory_size != end:
            raise ArchiveError(
                f"`{self.name}`: the zip directory should end at byte {start + directory_size:,} and ends at {end:,}: "
                "bytes were put before or between, or it is several archives one after another"
            )
        if count > limits().entries or directory_size > limits().directory_bytes:
            raise LimitError(
                f"`{self.name}` has {count:,} records in {directory_size:,} bytes of directory: at most "
                f"{limits().entries:,} and {limits().directory_bytes:,} are read"
            )
        return start, directory_size, count

    def _locator(self, end: int) -> tuple[int, tuple[int, ...]] | None:
        """Give where the zip64 end record starts, and its fields in the order of the short one."""
        start = end - _LOCATOR.size
        if start < 0 or bytes(self._slice(start, 4)) != b"PK\6\7":
            return None
        _, disk, offset, disks = _LOCATOR.unpack(self._slice(start, _LOCATOR.size))
        if disk or disks > 1 or offset != start - _END64.size:
            raise ArchiveError(
                f"`{self.name}`: the zip64 locator points to byte {offset:,}, not to the end record at "
                f"{start - _END64.size:,}"
            )
        fields = _END64.unpack(self._slice(offset, _END64.size))
        if fields[0] != b"PK\6\6" or fields[1] != _END64.size - 12:
            raise ArchiveError(f"`{self.name}`: there is no zip64 end record at byte {offset:,}")
        return offset, fields[4:]

    def _read_directory(self, data: memoryview, end: int, count: int) -> None:
        position, size, unpack, longest = 0, len(data), _ENTRY.unpack_from, limits().name
        entries: list[tuple[int, str, int, int, int, int, int]] = []
        raw = bytes(data)
        for _ in range(count):
            if position + _ENTRY.size > size:
                raise ArchiveError(
                    f"`{self.name}`: the directory ends inside its record {len(entries) + 1:,} of {count:,}"
                )
            signature, flags, method, crc, compressed, nbytes, name_size, extra_size, comment, disk, header = unpack(
                raw, position
            )
            if signature != b"PK\1\2":
                raise ArchiveError(f"`{self.name}`: the directory's record {len(entries) + 1:,} has no signature")
            position += _ENTRY.size
            if position + name_size + extra_size > size:
                raise ArchiveError(
                    f"`{self.name}`: the directory ends inside its record {len(entries) + 1:,} of {count:,}"
                )
            encoded = raw[position : position + name_size]
            extra = raw[position + name_size : position + name_size + extra_size]
            position += name_size + extra_size
            name = self._name(encoded, flags, longest)
            if flags & ~(_STREAMED | _UTF8 | (_DEFLATE_HINTS if method == DEFLATED else 0)):
                raise ArchiveError(
                    f"`{name}` in `{self.name}` has flags {flags:#06x}: encrypted or patched records are not read"
                )
            if method not in (STORED, DEFLATED):
                raise ArchiveError(
                    f"`{name}` in `{self.name}` is compressed by method {method}: only stored and deflated "
                    "records are read"
                )
            if comment or disk:
                raise ArchiveError(f"`{name}` in `{self.name}` has a comment or lies on another disk")
            if extra or _SENTINEL32 in (compressed, nbytes, header):
                nbytes, compressed, header = _wide(extra, nbytes, compressed, header, f"`{name}` in `{self.name}`")
            if method == STORED and compressed != nbytes:
                raise ArchiveError(f"`{name}` in `{self.name}` is stored, yet {nbytes:,} bytes take {compressed:,}")
            if method == DEFLATED and nbytes > _RATIO * compressed:
                raise ArchiveError(
                    f"`{name}` in `{self.name}` promises {nbytes:,} bytes from {compressed:,} deflated ones: "
                    f"no more than {_RATIO * compressed:,} can come out of them"
                )
            entries.append((header, name, method, flags, crc, compressed, nbytes))
        if position != size:
            raise ArchiveError(f"`{self.name}`: {size - position:,} bytes follow the last record of the directory")
        if not entries:
            raise ArchiveError(f"`{self.name}` is an empty archive")
        # PyTorch looks names up without regard to case.
        folded = [entry[1].casefold() if entry[1].isascii() else folded_name(entry[1]) for entry in entries]
        if len(set(folded)) != len(folded):
            twice = next(name for name, count in Counter(folded).items() if count > 1)
            raise ArchiveError(f"`{self.name}` holds `{entries[folded.index(twice)][1]}` twice")
        self._add(entries, end)

    def _add(self, entries: list[tuple[int, str, int, int, int, int, int]], end: int) -> None:
        first = entries[0][1]
        root = first[: first.find("/") + 1]
        # Without one root folder it is no checkpoint, but what it is can still be said.
        self.root = root if all(entry[1].startswith(root) for entry in entries) else ""
        ends: dict[int, int] = {}
        limit = end
        for header, name, _, _, _, compressed, _ in sorted(entries, reverse=True):
            if header + _LOCAL.size + len(name) + compressed > limit:
                raise ArchiveError(f"`{name}` in `{self.name}` overlaps what follows it, at byte {limit:,}")
            ends[header] = limit
            limit = header
        if limit != 0:
            raise ArchiveError(f"`{self.name}`: {limit:,} bytes stand before its first record")
        cut = len(self.root)
        for header, name, method, flags, crc, compressed, nbytes in entries:
            if name.endswith("/") and nbytes:
                raise ArchiveError(f"`{name}` in `{self.name}` is a folder that holds {nbytes:,} bytes itself")
            short = name[cut:]
            record = Record(short, method, flags, crc, compressed, nbytes, header, ends[header])
            if name.endswith("/"):
                self.payload(record)  # as `zip -r` adds them; nothing reads them, so nothing may hide there
            else:
                self.records[short] = record

    def _name(self, encoded: bytes, flags: int, longest: int) -> str:
        if len(encoded) > longest:
            raise LimitError(
                f"`{self.name}` has a record's name of {len(encoded):,} bytes: at most {longest:,} are read"
            )
        try:
            name = encoded.decode()
        except UnicodeDecodeError as error:
            raise ArchiveError(f"`{self.name}` has a record's name that is not UTF-8: {encoded!r:.200}") from error
        if not flags & _UTF8 and not name.isascii():
            raise ArchiveError(
                f"`{self.name}` has a record's name that is neither ASCII nor marked as UTF-8: {encoded!r:.200}"
            )
        if _ORDINARY(name) or (reason := refused_name(name)) is None:
            return name
        raise ArchiveError(f"`{self.name}` has a record named {encoded!r:.200}, which {reason}")


def refused_name(name: str) -> str | None:
    """Why a record must not have this name; None where it may.

    Names are keys here, never paths; still nobody who unzips the file should be surprised.
    """
    if not name.isprintable() or not name or "\\" in name or name.startswith("/") or "//" in name:
        return "is no plain name"
    if "." in name and any(part in (".", "..") for part in name.split("/")):
        return "leads out of its folder"
    return None


def folded_name(name: str) -> str:
    """Give a name as file systems compare it that count neither case nor how an accent is spelled."""
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def _inflated(archive: Archive, record: Record, most: int = 1 << 20) -> Iterator[bytes]:
    """Inflate a record in pieces of at most `most` bytes; never more than the directory promises."""
    offset, left, produced = archive.payload(record), record.compressed, 0
    inflater = zlib.decompressobj(-15)
    what = f"`{record.name}` in `{archive.name}`"
    waiting: bytes | memoryview = b""
    try:
        while not inflater.eof:
            if left and not waiting:
                waiting = archive.source.read(offset, min(left, 64 << 10))
                offset, left = offset + len(waiting), left - len(waiting)
            data = inflater.decompress(waiting, most)
            waiting = inflater.unconsumed_tail
            produced += len(data)
            if produced > record.nbytes:
                raise ArchiveError(f"{what} inflates to more than the {record.nbytes:,} bytes it promises")
            if data:
                yield data
            elif not left and not waiting:
                break
    except zlib.error as error:
        raise ArchiveError(f"{what} can't be inflated: {error}") from error
    if produced != record.nbytes or not inflater.eof:
        raise ArchiveError(f"{what} inflates to {produced:,} bytes, not the {record.nbytes:,} it promises")
    if left or inflater.unused_data:
        raise ArchiveError(f"{what} goes on for {left + len(inflater.unused_data):,} bytes after its deflated data")


class _StoredRecord(Derived):
    """A stored record as a source; where it starts is looked up when it is first read."""

    def __init__(self, archive: Archive, record: Record) -> None:
        self._archive, self._record = archive, record
        self._start = -1
        super().__init__(archive.source, "", record.nbytes)

    @property
    def name(self) -> str:
        """The archive and the record: made when it is asked for, as there may be a million."""
        return f"{self._archive.name}:{self._archive.root}{self._record.name}"

    @name.setter
    def name(self, value: str) -> None:
        """Derived sets a name; this one follows from the record."""

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the record with its headers: the data start at a byte that only the local header tells."""
        yield Extent(self._archive.source, self._record.header, self._record.limit)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        if self._start < 0:
            self._start = self._archive.payload(self._record)
        self._archive.source.readinto(self._start + offset, buffer)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        if self._start < 0:
            self._start = self._archive.payload(self._record)
        return self._start + offset, size


class _InflatedRecord(Derived):
    """A deflated record as a source, inflated once, when it is first read."""

    def __init__(self, archive: Archive, record: Record) -> None:
        super().__init__(archive.source, f"{archive.name}:{archive.root}{record.name}", record.nbytes)
        self._archive, self._record = archive, record
        self._start = -1
        self._inflating = Lock()

    def spans(self, offset: int, size: int) -> Iterator[Extent]:
        """Yield the record with its headers, all of which is read to inflate any of it."""
        yield Extent(self._archive.source, self._record.header, self._record.limit)

    def prefetch(self, offset: int, size: int) -> None:
        """Nothing: what was inflated lies in a local file."""

    def release(self, offset: int, size: int) -> None:
        """Nothing: what was inflated lies in a local file without a name, which the system may drop by itself."""

    def _fill(self, offset: int, buffer: memoryview) -> None:
        with self._inflating:
            if self._start < 0:
                self._start = self._archive.spool.add(self._archive, self._record)
        self._archive.spool.readinto(self._start + offset, buffer, self.name)


class _Spool:
    """What was inflated of an archive, one record after another in a temporary file that has no name."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._size = 0
        self._adding = Lock()  # a matrix is gathered by a thread of its own

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def add(self, archive: Archive, record: Record) -> int:
        """Inflate a record; give where it starts. Raises SourceError where there is no room for it."""
        import tempfile

        name = f"{archive.name}:{archive.root}{record.name}"
        try:
            with self._adding:
                if self._file is None:
                    with tempfile.TemporaryFile(buffering=0) as file:
                        self._file = os.dup(file.fileno())
                room = os.fstatvfs(self._file)
                if record.nbytes > room.f_bavail * room.f_frsize:
                    raise SourceError(
                        f"`{name}` inflates to {record.nbytes:,} bytes, more than {tempfile.gettempdir()} has room: name a "
                        "roomier folder by TMPDIR"
                    )
                start = self._size
                for data in _inflated(archive, record):
                    view = memoryview(data)
                    while view:
                        count = os.pwrite(self._file, view, self._size)
                        view, self._size = view[count:], self._size + count
                return start
        except OSError as error:
            raise SourceError(f"`{name}` can't be inflated into a temporary file: {os_reason(error)}") from error

    def readinto(self, position: int, buffer: memoryview, name: str) -> None:
        """Fill `buffer` from `position`."""
        done = 0
        while done < len(buffer) and self._file is not None:
            count = os.preadv(self._file, [buffer[done:]], position + done)
            if not count:
                raise SourceError(f"`{name}` ends early: {len(buffer) - done:,} bytes are missing")
            done += count


def _extras(extra: bytes | memoryview, what: str) -> dict[int, bytes]:
    """Split an extra field by id. Raises ArchiveError where it is no whole number of fields, has one twice or a name."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            raise ArchiveError(f"{what} has a broken extra field")
        number, size = struct.unpack_from("<HH", extra, position)
        position += 4
        if position + size > len(extra) or number in fields:
            raise ArchiveError(f"{what} has a broken extra field")
        fields[number] = bytes(extra[position : position + size])
        position += size
    if _SECOND_NAME in fields:
        raise ArchiveError(f"{what} has a second name in an extra field")
    return fields


def _wide(extra: bytes, nbytes: int, compressed: int, header: int, what: str) -> tuple[int, int, int]:
    """Give size, compressed size and offset, those that are at their sentinel from the zip64 extra field."""
    field = _extras(extra, what).get(1)
    needed = [value == _SENTINEL32 for value in (nbytes, compressed, header)]
    if field is None:
        if any(needed):
            raise ArchiveError(f"{what} lacks the zip64 field that its sizes call for")
        return nbytes, compressed, header
    if len(field) != 8 * sum(needed):
        raise ArchiveError(f"{what} has a zip64 field of {len(field)} bytes; its sizes call for {8 * sum(needed)}")
    values = iter(struct.unpack(f"<{sum(needed)}Q", field))
    wide = [next(values) if need else value for need, value in zip(needed, (nbytes, compressed, header), strict=True)]
    return wide[0], wide[1], wide[2]


def _local_sizes(fields: dict[int, bytes], nbytes: int, compressed: int, what: str) -> tuple[int, int]:
    field = fields.get(1, b"")
    if len(field) < 16:
        raise ArchiveError(f"{what} lacks the zip64 field that its sizes call for")
    wide: tuple[int, int] = struct.unpack_from("<QQ", field)
    return (wide[0] if nbytes == _SENTINEL32 else nbytes), (wide[1] if compressed == _SENTINEL32 else compressed)


def first_record(source: Source, limit: int) -> tuple[str, bytes]:
    """Give the name and up to `limit` bytes of the first record of an archive that has lost its directory.

    The bytes may run into the next record. Raises ArchiveError where there is no stored record at the start.
    """
    if source.size < _LOCAL.size:
        raise ArchiveError(f"`{source.name}` ends inside its first header")
    signature, _, _, method, *_, name_size, extra_size = _LOCAL.unpack(source.read(0, _LOCAL.size))
    start = _LOCAL.size + name_size + extra_size
    if signature != b"PK\3\4" or method != STORED or start >= source.size or name_size > limits().name:
        raise ArchiveError(f"`{source.name}` does not start with a stored record")
    name = bytes(source.read(_LOCAL.size, name_size)).decode("utf-8", "replace")
    return name, bytes(source.read(start, min(limit, source.size - start)))
