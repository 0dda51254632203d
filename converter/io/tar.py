"""Reads the headers of a tar archive, which name its members. Nothing is ever extracted.

torch reads tars with Python's tarfile, so this reader follows tarfile: a block of 512 bytes is a header if its checksum
is right, whatever else it says. Only short headers are read into memory whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from converter.errors import ArchiveError, LimitError
from converter.limits import limits
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.source import Source

BLOCK: Final = 512  # bytes of a header; data is padded to a multiple of this
_CHECKSUM: Final = slice(148, 156)
_SIZE: Final = slice(124, 136)
_HEADERS: Final = 1 << 20  # bytes of data that a header about another header may have
_LONG_NAME: Final = (b"L", b"K")  # the name or the link target of the next member
_PAX: Final = (b"x", b"X", b"g")  # records `length key=value` about the next member, or about all that follow (g)
_BARE: Final = frozenset(b"123456")  # links, devices, folders and pipes: no data follows them, whatever size they claim
_SPARSE: Final = b"S"
_REGULAR: Final = (b"0", b"\0", b"7")
_KINDS: Final = {
    b"1": "a link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class Member(NamedTuple):
    """A member: its name, what it is if it is not a file, and where its data lies, in bytes of the archive."""

    name: str
    other: str
    offset: int
    nbytes: int


def is_header(block: bytes | memoryview) -> bool:
    """Whether Python's tarfile takes a block for a header: by its checksum alone."""
    block = bytes(block[:BLOCK])
    if len(block) < BLOCK or not any(block):
        return False
    said = _number(block[_CHECKSUM])
    # Some old writers summed signed bytes.
    total = 256 + sum(block) - sum(block[_CHECKSUM])
    return said in (total, total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]))


def members(source: Source) -> Iterator[Member]:
    """Yield the members in the order of their headers. Raises ArchiveError if the headers contradict the file."""
    position, count = 0, 0
    long_name, pax, everywhere = None, dict[bytes, bytes](), dict[bytes, bytes]()
    while position + BLOCK <= source.size:
        block = bytes(source.read(position, BLOCK))
        if not is_header(block):
            break
        count += 1
        if count > limits().entries:
            raise LimitError(f"`{source.name}` has more than {limits().entries:,} members")
        kind, size = block[156:157], _number(block[_SIZE])
        if size is None or size < 0:
            raise ArchiveError(f"the header at byte {position:,} of `{source.name}` has no size")
        start = position + BLOCK
        if kind in _LONG_NAME or kind in _PAX:
            if size > _HEADERS or start + size > source.size:
                raise LimitError(f"the header at byte {position:,} of `{source.name}` has {plural(size, 'byte')}")
            data = bytes(source.read(start, size))
            if kind == b"L":
                long_name = data.split(b"\0", 1)[0]
            elif kind == b"g":
                everywhere |= _records(data, source.name)
            elif kind in _PAX:
                pax = _records(data, source.name)
            position = start + -(-size // BLOCK) * BLOCK
            continue
        own = everywhere | pax
        if b"size" in own and kind[0] not in _BARE:
            digits = own[b"size"]
            if not digits.isdigit() or len(digits) > 18:
                raise ArchiveError(f"the size of the member at byte {position:,} of `{source.name}` is not a number")
            size = int(digits)
        name = own.get(b"path") or long_name or _name(block)
        shown = name.decode("utf-8", "replace")
        nbytes = 0 if kind[0] in _BARE else size
        if start + nbytes > source.size:
            raise ArchiveError(f"`{shown:.80}` in `{source.name}` goes on after the end of the file")
        sparse = kind == _SPARSE or any(key.startswith(b"GNU.sparse") for key in own)
        yield Member(shown, "a sparse file" if sparse else _other(kind), start, nbytes)
        long_name, pax = None, {}
        position = start + -(-nbytes // BLOCK) * BLOCK
    _check_rest(source, position)


def _other(kind: bytes) -> str:
    return "" if kind in _REGULAR else _KINDS.get(kind, "")


def _check_rest(source: Source, position: int) -> None:
    """Refuse anything but zeros after the last member, because other readers go on there."""
    while position < source.size:
        piece = source.read(position, min(1 << 20, source.size - position))
        if any(bytes(piece).lstrip(b"\0")[:1]):
            raise ArchiveError(f"something else follows the last member of `{source.name}`, at byte {position:,}")
        position += len(piece)


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0", 1)[0], block[345:500].split(b"\0", 1)[0]
    return prefix + b"/" + name if prefix and block[257:262] == b"ustar" and block[263:265] == b"00" else name


def _number(field: bytes) -> int | None:
    """A number as tarfile reads it: octal text, or binary if the first byte says so. None if it is neither."""
    if field[:1] in (b"\x80", b"\xff"):
        value = int.from_bytes(field[1:], "big")
        return value - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    try:
        return int(field.split(b"\0", 1)[0].decode("ascii").strip() or "0", 8)
    except ValueError:
        return None


def _records(data: bytes, name: str) -> dict[bytes, bytes]:
    """The records of a pax header by key. Raises ArchiveError for a record with a syntax error."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position] != 0:
        blank = data.find(b" ", position, position + 20)
        digits = data[position:blank] if blank > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[blank + 1 : position + length].partition(b"=")
        if length < 5 or position + length > len(data) or not equals or not value.endswith(b"\n"):
            raise ArchiveError(f"a pax header in `{name}` is broken")
        found[key] = value[:-1]
        position += length
    return found
