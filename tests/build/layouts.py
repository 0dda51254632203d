"""Where the numbers of a small sound file are: lengths, counts, offsets, sizes. Found by walking the structures of each
format with `struct` and `pickletools`; nothing here is shared with the readers under test."""

from __future__ import annotations

import io
import pickletools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Field(NamedTuple):
    """A little-endian number at a byte of the file."""

    offset: int
    width: int

    def read(self, data: bytes | bytearray) -> int:
        return int.from_bytes(data[self.offset : self.offset + self.width], "little")

    def write(self, data: bytearray, value: int) -> None:
        value &= (1 << 8 * self.width) - 1
        data[self.offset : self.offset + self.width] = value.to_bytes(self.width, "little")


@dataclass(frozen=True)
class ZipRecord:
    """Where a record's name and data lie, and where its CRC-32 is written."""

    name: str
    start: int
    end: int
    crcs: tuple[Field, ...]


def _row(start: int, *places: tuple[int, int]) -> list[Field]:
    return [Field(start + at, width) for at, width in places]


def zip_fields(data: bytes) -> tuple[list[Field], list[ZipRecord]]:
    """Walk a zip from its end record; the pickle in `data.pkl` is walked, too, if it is stored."""
    end = len(data) - 22
    found = _row(end, (4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
    if data[end - 20 : end - 16] == b"PK\6\7":
        found += _row(end - 20, (4, 4), (8, 8), (16, 4))
        (wide,) = struct.unpack_from("<Q", data, end - 12)
        found += _row(wide, (4, 8), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8))
    at, records = struct.unpack_from("<L", data, end + 16)[0], []
    while data[at : at + 4] == b"PK\1\2":
        central = _row(at, (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4))
        compressed, _, name, extra, comment = struct.unpack_from("<LL3H", data, at + 20)
        (header,) = struct.unpack_from("<L", data, at + 42)
        found += central
        records.append(_local(data, header, compressed, central[2], found))
        at += 46 + name + extra + comment
    for record in records:
        if record.name.endswith("/data.pkl") and data[record.start : record.start + 1] == b"\x80":
            found += pickle_fields(data, record.start)
    return found, records


def _local(data: bytes, header: int, compressed: int, central_crc: Field, found: list[Field]) -> ZipRecord:
    local = _row(header, (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
    found += local
    name, extra = struct.unpack_from("<2H", data, header + 26)
    if extra:
        found.append(Field(header + 30 + name + 2, 2))
    start = header + 30 + name + extra
    crcs = [central_crc]
    if data[start + compressed : start + compressed + 4] == b"PK\7\x08":
        descriptor = _row(start + compressed, (4, 4), (8, 4), (12, 4))
        found += descriptor
        crcs.append(descriptor[0])
    if local[2].read(data):
        crcs.append(local[2])
    stored = not local[1].read(data)
    return ZipRecord(
        data[header + 30 : header + 30 + name].decode(), start, start + compressed, tuple(crcs) if stored else ()
    )


def sealed(data: bytes, records: list[ZipRecord]) -> bytes:
    """The archive with the CRCs that its stored records' data have."""
    out = bytearray(data)
    for record in records:
        for field in record.crcs:
            field.write(out, zlib.crc32(out[record.start : record.end]))
    return bytes(out)


def pickle_fields(data: bytes, start: int = 0) -> list[Field]:
    """The numbers of fixed width and the lengths in one pickle."""
    return [field for field, _ in _pickle_walk(data, start) if field is not None]


def _pickle_walk(data: bytes, start: int) -> Iterator[tuple[Field | None, int]]:
    """The field of every opcode, and where the opcode starts."""
    widths = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' TAKEN_FROM_ARGUMENT…
    for op, _, at in pickletools.genops(io.BytesIO(data[start:])):
        n = op.arg.n if op.arg is not None else -1
        width = n if n > 0 and op.name != "BINFLOAT" else widths.get(n, 0)
        yield Field(start + (at or 0) + 1, width) if width else None, start + (at or 0)


def legacy_fields(data: bytes, counts: list[int]) -> list[Field]:
    """Walk the five pickles; `counts` says where the counts of elements are."""
    found, position = [], 0
    for _ in range(5):
        found += pickle_fields(data, position)
        position = max(at for _, at in _pickle_walk(data, position)) + 1
    return found + [Field(at, 8) for at in counts]


@dataclass(frozen=True)
class GgufTensor:
    name: bytes
    sizes: tuple[int, ...]
    type: int
    offset: int


_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def gguf_fields(data: bytes) -> tuple[list[Field], list[GgufTensor]]:
    """Walk keys and tensors' entries. Raises struct.error or KeyError if the bytes are anything else."""
    found = _row(4, (0, 4), (4, 8), (12, 8))
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    at = 24

    def text() -> bytes:
        nonlocal at
        found.append(Field(at, 8))
        (size,) = struct.unpack_from("<Q", data, at)
        at += 8 + size
        if at > len(data):
            raise struct.error("cut off")
        return data[at - size : at]

    def number(width: int) -> int:
        nonlocal at
        found.append(Field(at, width))
        at += width
        return int(struct.unpack_from("<I" if width == 4 else "<Q", data, at - width)[0])

    for _ in range(keys):
        text()
        type = number(4)
        count, inner = (1, type) if type != 9 else (0, number(4))
        count = count or number(8)
        if inner == 8:
            for _ in range(count):
                text()
        else:
            found.append(Field(at, _WIDTHS[inner]))
            at += count * _WIDTHS[inner]
            if at > len(data):
                raise struct.error("cut off")
    infos = []
    for _ in range(tensors):
        name = text()
        sizes = tuple(number(8) for _ in range(number(4)))
        infos.append(GgufTensor(name, sizes, number(4), number(8)))
    return found, infos
