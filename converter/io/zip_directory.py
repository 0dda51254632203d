"""The zip directory, strict: an archive that two readers could understand differently is refused.

Only the central directory says what an archive holds; a local header has to agree with it and is checked when its
record is first read, so that a listing needs the directory alone. Sources: PKWARE's APPNOTE 6.3.10; caffe2/serialize/
inline_container.cc for what PyTorch writes: stored records, sizes in data descriptors, `FB` padding in the local header
so that data starts at a multiple of 64, zip64 records always.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from converter.errors import ArchiveError, CutOffError, LimitError
from converter.limits import limits
from converter.text import absent, plural

if TYPE_CHECKING:
    from converter.io.source import Source

STORED: Final = 0
DEFLATED: Final = 8

# The records of an archive (APPNOTE 4.3), with their signatures.
END: Final = struct.Struct("<4s4H2LH")
END64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s4x2H4x3L4H6xL")  # without versions, time, and attributes
LOCAL: Final = struct.Struct("<4s5H3L2H")
_SENTINEL16: Final = 0xFFFF
_SENTINEL32: Final = 0xFFFFFFFF
_SENTINELS: Final = (*4 * (_SENTINEL16,), *2 * (_SENTINEL32,))  # values of the end record's six fields
_STREAMED: Final = 0x0008  # sizes follow the data
_UTF8: Final = 0x0800
_DEFLATE_HINTS: Final = 0x0006  # the writer's compression level, which no reader needs
_RATIO: Final = 1032  # most bytes that one deflated byte can become: two bits can stand for 258
_SECOND_NAME: Final = 0x7075  # id of an extra field that holds another name, which some readers prefer
# The form of torch's names; the slower check of other names can be left out for them.
_ORDINARY: Final = re.compile(r"[A-Za-z0-9_-]++(?:[/.][A-Za-z0-9_-]++)*").fullmatch
_TAIL: Final = 64 << 10  # bytes read at once from the end; usually the whole directory


class Record(NamedTuple):
    """What the central directory says about a record. `limit` is where the next header starts, in bytes of the file."""

    name: str
    method: int
    flags: int
    crc32: int
    compressed: int  # bytes in the archive
    nbytes: int  # bytes of the data
    header: int  # where its local header starts
    limit: int


class Directory:
    """The records of a zip archive by name, below their one root folder.

    `root` is the folder that every record lies in, with its slash; names in `records` have it cut off. It is empty if
    there is no such folder. Raises ArchiveError for any anomaly, and LimitError for a directory past the limits.
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
        self._read_directory(self._slice(start, size), start, count)

    def name_of(self, record: Record) -> str:
        """The archive and the record, for messages."""
        return f"{self.name}:{self.root}{record.name}"

    def payload(self, record: Record) -> int:
        """Where a record's data starts, its local header and descriptor checked against the directory."""
        if (known := self._payloads.get(record.header)) is not None:
            return known
        # The directory leaves out the local header's extra field, which PyTorch pads to align the data.
        header = LOCAL.unpack(self._slice(record.header, LOCAL.size))
        signature, _, flags, method, _, _, crc, compressed, nbytes, name_size, extra_size = header
        what = f"the local header of `{record.name}` in `{self.name}`"
        if signature != b"PK\3\4":
            raise ArchiveError(f"{what} is missing at byte {record.header:,}")
        offset: int = record.header + LOCAL.size + name_size + extra_size
        if offset + record.compressed > record.limit:
            raise ArchiveError(
                f"{what} puts its {plural(record.compressed, 'byte')} of data into the record that follows"
            )
        rest = self._slice(record.header + LOCAL.size, name_size + extra_size)
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
                f"{plural(gap, 'byte')} after the data of `{record.name}` in `{self.name}` "
                f"{'belongs' if gap == 1 else 'belong'} to no record"
            )
        fields = struct.unpack(forms[gap], self._slice(end, gap))
        expected = (record.crc32, record.compressed, record.nbytes)
        if fields[-3:] != expected or (len(fields) == 4 and fields[0] != b"PK\7\10"):
            raise ArchiveError(f"{what} and its data descriptor contradict each other")

    def _slice(self, offset: int, size: int) -> memoryview:
        """Bytes of the file, taken from the tail that was read first if they are in it."""
        if offset >= self._tail_start and offset + size <= self.source.size:
            return self._tail[offset - self._tail_start : offset - self._tail_start + size]
        return self.source.read(offset, size)

    def _find_directory(self) -> tuple[int, int, int]:
        """The directory's start, its size in bytes, and the number of records."""
        size, end = self.source.size, self.source.size - END.size
        if end < 0 or bytes(self._tail[-END.size :][:4]) != b"PK\5\6":
            tail = bytes(self._tail)
            if (found := tail.rfind(b"PK\5\6")) >= 0:
                extra = size - self._tail_start - found - END.size
                if extra < 0:
                    raise CutOffError(f"`{self.name}`: {absent(-extra, 'byte')} from the end of its zip archive")
                zeros = not any(tail[-extra:])
                raise ArchiveError(
                    f"`{self.name}`: {extra:,} {'zero bytes' if zeros else 'bytes'} follow the end of its zip archive: "
                    f"{'' if zeros else 'if they do not belong to it, '}cut it at byte {size - extra:,}"
                )
            if tail and not any(tail):
                raise CutOffError(
                    f"`{self.name}` ends in zero bytes, where the directory of a zip archive should be: its download was "
                    "not finished, or the file was filled up; download it again"
                )
            raise CutOffError(
                f"`{self.name}` ends without a zip directory, at byte {size:,}: it was cut off; download it again"
            )
        fields = END.unpack(self._tail[-END.size :])
        _, disk, directory_disk, count_here, count, directory_size, start, comment = fields
        if comment:
            raise ArchiveError(f"`{self.name}`: the zip archive ends inside its comment of {plural(comment, 'byte')}")
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
                f"`{self.name}`: the zip directory should end at byte {start + directory_size:,}, but ends at {end:,}: "
                "bytes were inserted, or it is several archives one after another"
            )
        if count > limits().entries or directory_size > limits().directory_bytes:
            raise LimitError(
                f"`{self.name}` has {plural(count, 'record')} in {plural(directory_size, 'byte')} of directory: at most "
                f"{limits().entries:,} and {limits().directory_bytes:,} are read"
            )
        return start, directory_size, count

    def _locator(self, end: int) -> tuple[int, tuple[int, ...]] | None:
        """Where the zip64 end record starts, and its fields in the order of the short one; None if there is none."""
        start = end - LOCATOR.size
        if start < 0 or bytes(self._slice(start, 4)) != b"PK\6\7":
            return None
        _, disk, offset, disks = LOCATOR.unpack(self._slice(start, LOCATOR.size))
        if self._is_second(offset, start - END64.size):
            raise ArchiveError(
                f"`{self.name}` holds two archives, one after the other, as two calls of torch.save into one open file write "
                f"them: cut it at byte {start - END64.size - offset:,}, and open each part by itself"
            )
        if disk or disks > 1 or offset != start - END64.size:
            raise ArchiveError(
                f"`{self.name}`: the zip64 locator points to byte {offset:,}, not to the end record at "
                f"{start - END64.size:,}"
            )
        fields = END64.unpack(self._slice(offset, END64.size))
        if fields[0] != b"PK\6\6" or fields[1] != END64.size - 12:
            raise ArchiveError(f"`{self.name}`: there is no zip64 end record at byte {offset:,}")
        return offset, fields[4:]

    def _is_second(self, said: int, end64: int) -> bool:
        """Whether all offsets in an archive count from a later byte, where a second archive starts."""
        before = end64 - said
        return 22 <= before <= end64 and all(
            bytes(self._slice(at, 4)) == signature
            for at, signature in ((0, b"PK\3\4"), (before, b"PK\3\4"), (before - 22, b"PK\5\6"), (end64, b"PK\6\6"))
        )

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
                raise ArchiveError(
                    f"`{name}` in `{self.name}` is stored, yet {plural(nbytes, 'byte takes', 'bytes take')} {compressed:,}"
                )
            if method == DEFLATED and nbytes > _RATIO * compressed:
                raise ArchiveError(
                    f"`{name}` in `{self.name}` promises {plural(nbytes, 'byte')} from {compressed:,} deflated ones: "
                    f"no more than {_RATIO * compressed:,} can come out of them"
                )
            entries.append((header, name, method, flags, crc, compressed, nbytes))
        if position != size:
            raise ArchiveError(
                f"`{self.name}`: {plural(size - position, 'byte follows', 'bytes follow')} the last record of the directory"
            )
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
        # An archive without one root folder is not a checkpoint, but callers can still say what it is.
        self.root = root if all(entry[1].startswith(root) for entry in entries) else ""
        ends: dict[int, int] = {}
        limit = end
        for header, name, _, _, _, compressed, _ in sorted(entries, reverse=True):
            if header + LOCAL.size + len(name) + compressed > limit:
                raise ArchiveError(f"`{name}` in `{self.name}` overlaps what follows it, at byte {limit:,}")
            ends[header] = limit
            limit = header
        if limit != 0:
            raise ArchiveError(f"`{self.name}` has {plural(limit, 'byte')} before its first record")
        cut = len(self.root)
        for header, name, method, flags, crc, compressed, nbytes in entries:
            if name.endswith("/") and nbytes:
                raise ArchiveError(f"`{name}` in `{self.name}` is a folder that holds {plural(nbytes, 'byte')} itself")
            short = name[cut:]
            record = Record(short, method, flags, crc, compressed, nbytes, header, ends[header])
            if name.endswith("/"):
                # `zip -r` adds folders. Folders are never read, so we check here that nothing hides in them.
                self.payload(record)
            else:
                self.records[short] = record

    def _name(self, encoded: bytes, flags: int, longest: int) -> str:
        if len(encoded) > longest:
            raise LimitError(
                f"`{self.name}` has a record's name of {plural(len(encoded), 'byte')}: at most {longest:,} are read"
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
    """Why a record must not have this name; None if it may.

    Names are only keys here and never paths, but the file should also be safe to unzip.
    """
    if "\\" in name and name.isprintable():
        return (
            "has a backslash where a zip has `/`: it was packed again on Windows; unpack it, and pack it again with `/`"
        )
    if not name.isprintable() or not name or name.startswith("/") or "//" in name:
        return "is not a plain name"
    if "." in name and any(part in (".", "..") for part in name.split("/")):
        return "leads out of its folder"
    return None


def folded_name(name: str) -> str:
    """A name as a file system that ignores case and the spelling of accents compares it."""
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name).casefold())


def _extras(extra: bytes | memoryview, what: str) -> dict[int, bytes]:
    """The fields of an extra field by id.

    Raises ArchiveError for half a field, a field that is there twice, and a second name of the record.
    """
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
    """Size, compressed size and offset. Those that hold the sentinel are taken from the zip64 extra field."""
    field = _extras(extra, what).get(1)
    needed = [value == _SENTINEL32 for value in (nbytes, compressed, header)]
    if field is None:
        if any(needed):
            raise ArchiveError(f"{what} lacks the zip64 field that its sizes call for")
        return nbytes, compressed, header
    if len(field) != 8 * sum(needed):
        raise ArchiveError(
            f"{what} has a zip64 field of {plural(len(field), 'byte')}; its sizes call for {8 * sum(needed)}"
        )
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
    """The name and up to `limit` bytes of the first record of an archive that has lost its directory.

    The bytes may run into the next record. Raises ArchiveError if there is no stored record at the start.
    """
    if source.size < LOCAL.size:
        raise ArchiveError(f"`{source.name}` ends inside its first header")
    signature, _, _, method, *_, name_size, extra_size = LOCAL.unpack(source.read(0, LOCAL.size))
    start = LOCAL.size + name_size + extra_size
    if signature != b"PK\3\4" or method != STORED or start >= source.size or name_size > limits().name:
        raise ArchiveError(f"`{source.name}` does not start with a stored record")
    name = bytes(source.read(LOCAL.size, name_size)).decode("utf-8", "replace")
    return name, bytes(source.read(start, min(limit, source.size - start)))
