"""The metadata of a GGUF file: keys with typed values."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converter.errors import CutOffError, FormatError
from converter.formats.gguf.cursor import Cursor
from converter.io.source import STEP
from converter.limits import limits

if TYPE_CHECKING:
    from converter.io.source import Source

ALIGNMENT: Final = 32  # bytes, if general.alignment does not say otherwise
TYPES: Final = {  # the types of values: id, and how a value is packed
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<B"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
STRING: Final = 8
ARRAY: Final = 9
_BY_ID: Final = {number: (name, struct.Struct(packed)) for name, (number, packed) in TYPES.items()}
_KEY: Final = 65535  # bytes, according to the specification


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata. Its elements are read each time they are asked for."""

    source: Source
    offset: int
    count: int
    type: str

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        cursor = Cursor(self.source, self.offset)
        if self.type == "string":
            for _ in range(self.count):
                yield cursor.text(limits().gguf_string, "an array")
        else:
            packed = struct.Struct(TYPES[self.type][1])
            for done in range(0, self.count, STEP):
                for (value,) in packed.iter_unpack(cursor.take(min(STEP, self.count - done) * packed.size, "an array")):
                    yield bool(value) if self.type == "bool" else value

    def __repr__(self) -> str:
        return f"<{self.count:,} {self.type}>"


def metadata(cursor: Cursor, count: int) -> Iterator[tuple[str, Any]]:
    """Read `count` keys and their values. Raises FormatError for anything that GGUF does not have."""
    seen: set[str] = set()
    for _ in range(count):
        key = cursor.text(_KEY, "a key")
        if not key or "\0" in key:
            raise FormatError("a key of the metadata is empty or holds a zero byte")
        if key in seen:
            raise FormatError(f"the key `{key[:80]}` stands twice in the metadata")
        seen.add(key)
        what = f"the value of `{key[:80]}`"
        type = cursor.number("<I", what)
        if type == ARRAY:
            value: Any = _array(cursor, what)
        elif type == STRING:
            value = cursor.text(limits().gguf_string, what)
        elif type in _BY_ID:
            value = _scalar(cursor, type, what)
        else:
            raise FormatError(f"{what} is of the type {type}, which GGUF does not have")
        if key == "general.alignment":
            _check_alignment(type, value)
        yield key, value


def _scalar(cursor: Cursor, type: int, what: str) -> Any:
    name, packed = _BY_ID[type]
    (value,) = packed.unpack(cursor.take(packed.size, what))
    if name != "bool":
        return value
    if value > 1:
        raise FormatError(f"{what} is a truth value of {value}: 0 or 1 was expected")
    return bool(value)


def _array(cursor: Cursor, what: str) -> Array:
    type, count = cursor.number("<I", what), cursor.number("<Q", what)
    if type == ARRAY:
        raise FormatError(f"{what} is an array of arrays, which no program reads")
    if type != STRING and type not in _BY_ID:
        raise FormatError(f"{what} is an array of the type {type}, which GGUF does not have")
    width = 8 if type == STRING else _BY_ID[type][1].size
    if count * width > cursor.left:
        raise CutOffError(f"{what} is an array of {count:,} elements and the file ends before")
    start = cursor.position
    if type == STRING:
        cursor.skip_texts(count, what)
        return Array(cursor.source, start, count, "string")
    cursor.skip(count * width, what)
    return Array(cursor.source, start, count, _BY_ID[type][0])


def _check_alignment(type: int, value: Any) -> None:
    if type != TYPES["u32"][0]:
        raise FormatError(f"`general.alignment` is of the type {type}: a u32 was expected")
    if not 1 <= value <= limits().gguf_alignment or value & (value - 1):
        raise FormatError(
            f"`general.alignment` is {value:,}: a power of two up to {limits().gguf_alignment:,} was expected"
        )
