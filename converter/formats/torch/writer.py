"""Writes the zip form of torch.save byte for byte as torch 1.12 does: the layout of the published files.

Sources: torch/serialization.py `_save` of 1.12; Modules/_pickle.c. The archive is `converter.io.zip_writer`'s.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from converter.dtypes import Dtype
from converter.io.checksums import crc32_zeros
from converter.io.parts import Digests, Part, known
from converter.io.publish import Piece, late, literal
from converter.io.zip_writer import Member, directory
from converter.io.zip_writer import lay_out as lay_out_members

# What lies beside a state dict: plain values, and dicts of them.
Beside = bool | int | float | str | None | Mapping[str, "Beside"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that is all of a storage of its own. `shape` and `stride` count elements, of which there is at least one."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the archive: bytes that are already known, or an entry's storage. `offset` is where its header starts."""

    name: str
    content: bytes | Entry
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes

    @property
    def member(self) -> Member:
        """The record as the archive sees it."""
        return Member(self.name, self.nbytes, self.offset)

    def pieces(self, part: Part, checksum: Callable[[], int]) -> tuple[Piece, Piece, Piece]:
        """The header, the data, and the CRC-32 after them, which is known when they have been written."""
        member = self.member
        return (
            literal(f"header of {self.name}", member.header()),
            Piece(self.name, (part,)),
            late(f"checksum of {self.name}", len(member.descriptor(0)), lambda: member.descriptor(checksum())),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a file, known before a byte of it is written."""

    records: tuple[Record, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.records[-1].member.end + len(self.directory([0] * len(self.records)))

    def pieces(self, made: Callable[[Entry], Part]) -> tuple[Piece, ...]:
        """The bytes of the file. `made` makes the part that is an entry's storage."""
        pieces: list[Piece] = []
        checksums: list[Callable[[], int]] = []
        for record in self.records:
            part, checksum = _summed(
                made(record.content) if isinstance(record.content, Entry) else known(record.content)
            )
            pieces += record.pieces(part, checksum)
            checksums.append(checksum)
        size = len(self.directory([0] * len(self.records)))
        pieces.append(late("directory", size, lambda: self.directory([checksum() for checksum in checksums])))
        return tuple(pieces)

    def directory(self, checksums: Sequence[int]) -> bytes:
        """The central directory and the end records."""
        return directory([record.member for record in self.records], checksums)


def _summed(part: Part) -> tuple[Part, Callable[[], int]]:
    """A part, and a function that returns its CRC-32 when its bytes have been written."""
    if part.hole:
        return part, partial(crc32_zeros, part.nbytes)
    digests = Digests([part.nbytes])
    return replace(part, seen=partial(digests.take, 0)), lambda: digests.crc32


def lay_out(
    root: str,
    entries: Sequence[Entry],
    *,
    ordered: bool = False,
    below: str | None = None,
    beside: Mapping[str, Beside] = MappingProxyType({}),
) -> Layout:
    """Plan the file of a state dict of 1 to 1,000 entries; `root` is the archive's folder.

    Storages are numbered in the order of the entries, and lie in the order of these numbers as text: 0, 1, 10, 11, 2.
    `ordered`: the state dict is an OrderedDict, as a module returns it. It lies `below` a key if there is one, with other
    keys `beside` it.
    """
    stored = sorted((str(number), entry) for number, entry in enumerate(entries))
    contents: list[tuple[str, bytes | Entry]] = [("data.pkl", _pickled(entries, below, beside, ordered=ordered))]
    contents += [(f"data/{key}", entry) for key, entry in stored]
    contents.append(("version", b"3\n"))
    members = lay_out_members(
        (f"{root}/{name}", len(content) if isinstance(content, bytes) else content.nbytes) for name, content in contents
    )
    return Layout(
        tuple(
            Record(member.name, content, member.offset) for member, (_, content) in zip(members, contents, strict=True)
        )
    )


def _pickled(entries: Sequence[Entry], below: str | None, beside: Mapping[str, Beside], *, ordered: bool) -> bytes:
    pickle = _Pickle()
    if below is not None:
        pickle.made(b"}")
        pickle.data += b"("
        pickle.text(below)
    if ordered:
        pickle.shared("ccollections\nOrderedDict\n")
        pickle.made(b")R")
    else:
        pickle.made(b"}")
    pickle.data += b"(" if len(entries) > 1 else b""
    for number, entry in enumerate(entries):
        pickle.text(entry.name)
        pickle.tensor(entry, str(number))
    pickle.data += b"u" if len(entries) > 1 else b"s"
    if below is not None:
        for name, value in beside.items():
            pickle.text(name)
            pickle.value(value)
        pickle.data += b"u"
    return bytes(pickle.data + b".")


class _Pickle:
    """Protocol 2 as CPython's C pickler writes it: every object is memoised, whether it is used again or not."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\2")
        self._made = 0
        self._shared: dict[str, int] = {}

    def made(self, opcodes: bytes) -> None:
        """Add opcodes that push an object, and put it into the memo."""
        self.data += opcodes + (b"q%c" % self._made if self._made < 256 else b"r" + struct.pack("<I", self._made))
        self._made += 1

    def shared(self, opcode: str) -> None:
        """Add a global (`c…`) or a text (`X…`) that is the same object each time."""
        index = self._shared.get(opcode)
        if index is not None:
            self.data += b"h%c" % index  # all of them come early enough for a number of one byte
            return
        self._shared[opcode] = self._made
        if opcode[0] == "X":
            self.text(opcode[1:])
        else:
            self.made(opcode.encode())

    def text(self, text: str) -> None:
        encoded = text.encode()
        self.made(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def whole(self, number: int) -> None:
        if number < 1 << 8:
            self.data += b"K" + struct.pack("<B", number)
        elif number < 1 << 16:
            self.data += b"M" + struct.pack("<H", number)
        else:
            self.data += b"J" + struct.pack("<i", number)

    def value(self, value: Beside) -> None:
        match value:
            case bool():
                self.data += b"\x88" if value else b"\x89"
            case int():
                self.whole(value)
            case float():
                self.data += b"G" + struct.pack(">d", value)
            case str():
                self.text(value)
            case None:
                self.data += b"N"
            case _:
                self.made(b"}")
                self.data += b"("
                for name, inner in value.items():
                    self.text(name)
                    self.value(inner)
                self.data += b"u"

    def numbers(self, numbers: tuple[int, ...]) -> None:
        if not numbers:
            self.data += b")"  # the empty tuple is not memoised
            return
        self.data += b"(" if len(numbers) > 3 else b""
        for number in numbers:
            self.whole(number)
        self.made((b"\x85", b"\x86", b"\x87", b"t")[min(len(numbers), 4) - 1])

    def tensor(self, entry: Entry, key: str) -> None:
        """Add `_rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict())`."""
        self.shared("ctorch._utils\n_rebuild_tensor_v2\n")
        self.data += b"(("
        self.shared("Xstorage")
        self.shared(f"ctorch\n{entry.dtype.storage}\n")
        self.text(key)
        self.shared("Xcpu")
        self.whole(entry.size)
        self.made(b"t")
        self.data += b"Q"
        self.whole(0)
        self.numbers(entry.shape)
        self.numbers(entry.stride)
        self.data += b"\x89"
        self.shared("ccollections\nOrderedDict\n")
        self.made(b")R")
        self.made(b"t")
        self.made(b"R")
