"""Writes zip archives as torch 1.12 does: stored records, all planned before a byte is written.

A record's data start at a multiple of 64 bytes. Its CRC-32 follows the data, so that a record can be written
before its CRC-32 is known. Sources: PKWARE's APPNOTE 6.3.10; miniz 2.1 `mz_zip_writer_add_mem_ex_v2`; caffe2/serialize/
inline_container.cc `getPadding`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from converter.io.zip_directory import END, END64, LOCAL, LOCATOR

_ALIGNMENT: Final = 64  # bytes; a record's data start at a multiple of this
_WIDE: Final = 0xFFFFFFFF  # from this size or offset on, miniz writes this value and adds zip64 fields
_FLAGS: Final = 0x0808  # a data descriptor follows; names are UTF-8
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")


@dataclass(frozen=True, slots=True)
class Member:
    """A record to be written: `nbytes` is the size of its data, `offset` is where its local header starts."""

    name: str
    nbytes: int
    offset: int

    @property
    def end(self) -> int:
        """The offset after it, where the next record starts."""
        return self.offset + len(self.header()) + self.nbytes + len(self.descriptor(0))

    def header(self) -> bytes:
        """The local header. Its extra field `FB` pads it, so that the data start at a multiple of 64."""
        name, wide = self.name.encode(), self._wide(compressed=0)
        padding = -(self.offset + LOCAL.size + len(name) + len(wide) + 4) % _ALIGNMENT
        extra = wide + b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        return LOCAL.pack(b"PK\3\4", 0, _FLAGS, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra

    def descriptor(self, crc: int) -> bytes:
        """The data descriptor, which follows the data."""
        return struct.pack("<4sI2Q" if self._wide() else "<4s3I", b"PK\7\10", crc, self.nbytes, self.nbytes)

    def listed(self, crc: int) -> bytes:
        """The record's row of the central directory, which has no padding."""
        name, extra, nbytes = self.name.encode(), self._wide(), min(self.nbytes, _WIDE)
        lengths = (len(name), len(extra))
        offset = min(self.offset, _WIDE)
        row = _ENTRY.pack(b"PK\1\2", 0, 0, _FLAGS, 0, 0, 0, crc, nbytes, nbytes, *lengths, 0, 0, 0, 0, offset)
        return row + name + extra

    def _wide(self, compressed: int | None = None) -> bytes:
        """The zip64 field. In a local header miniz writes 0 for the compressed size, and writes the offset as well."""
        values = []
        if self.nbytes >= _WIDE:
            values += [self.nbytes, self.nbytes if compressed is None else compressed]
        if self.offset >= _WIDE:
            values.append(self.offset)
        return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def lay_out(records: Iterable[tuple[str, int]]) -> tuple[Member, ...]:
    """Plan records one after another from the start of the file. Each is given by its name and the size of its data."""
    members: list[Member] = []
    offset = 0
    for name, nbytes in records:
        members.append(Member(name, nbytes, offset))
        offset = members[-1].end
    return tuple(members)


def directory(members: Sequence[Member], checksums: Sequence[int]) -> bytes:
    """The central directory and the three end records, always with the zip64 ones."""
    start, count = members[-1].end, len(members)
    rows = b"".join(member.listed(crc) for member, crc in zip(members, checksums, strict=True))
    end = start + len(rows)
    made_by, needed, most = 0x031E, 45, 0xFFFF
    few = min(count, most)
    return b"".join(
        (
            rows,
            END64.pack(b"PK\6\6", END64.size - 12, made_by, needed, 0, 0, count, count, len(rows), start),
            LOCATOR.pack(b"PK\6\7", 0, end, 1),
            END.pack(b"PK\5\6", 0, 0, few, few, min(len(rows), _WIDE), min(start, _WIDE), 0),
        )
    )
