"""The metadata of a GGUF file: keys with typed values."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.errors import CutOffError, FormatError
from converter.formats.gguf.cursor import Cursor
from converter.formats.said import Portion
from converter.io.source import STEP
from converter.limits import limits
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

ARCHITECTURE: Final = "general.architecture"  # the key of a model's family
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
# The keys of a part of a cut model: its number from 0, the number of parts, and the number of tensors in all parts.
SPLIT_NUMBER: Final = "split.no"
SPLIT_COUNT: Final = "split.count"
SPLIT_TENSORS: Final = "split.tensors.count"
SPLIT: Final = frozenset((SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS))
_BY_ID: Final = {number: (name, struct.Struct(packed)) for name, (number, packed) in TYPES.items()}
_F32: Final = struct.Struct("<f")
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


class Entry(NamedTuple):
    """A key's type, its value, and its place in the file: the bytes from `offset` on."""

    type: str  # a key of TYPES, `string` or `array`
    offset: int
    nbytes: int
    source: Source


class Keys(dict[str, Any]):
    """The keys of a file and their values, in order; and the bytes of each, from which a copy gets the same type and value."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}

    def packed(self, key: str) -> bytes:
        """The key, its type and its value as they stand in the file."""
        entry = self.entries[key]
        return bytes(entry.source.read(entry.offset, entry.nbytes))


def read_keys(cursor: Cursor, count: int) -> Keys:
    """Read `count` keys and their values. Raises FormatError for anything that GGUF does not have."""
    keys = Keys()
    for _ in range(count):
        start = cursor.position
        key = cursor.text(_KEY, "a key")
        if not key or "\0" in key:
            raise FormatError("a key of the metadata is empty or holds a zero byte")
        if key in keys:
            raise FormatError(f"the key `{key[:80]}` occurs twice in the metadata")
        what = f"the value of `{key[:80]}`"
        type = cursor.number("<I", what)
        value: Any
        if type == ARRAY:
            name, value = "array", _array(cursor, what)
        elif type == STRING:
            name, value = "string", cursor.text(limits().gguf_string, what)
        elif type in _BY_ID:
            name, value = _BY_ID[type][0], _scalar(cursor, type, what)
        else:
            raise FormatError(f"{what} is of the type {type}, which GGUF does not have")
        if key == "general.alignment":
            _check_alignment(type, value)
        keys[key] = value
        keys.entries[key] = Entry(name, start, cursor.position - start, cursor.source)
    return keys


def joined(parts: Sequence[Mapping[str, Any]]) -> Keys:
    """The keys of several files. If a key has two values, the first one counts."""
    keys = Keys()
    for part in parts:
        for name, value in part.items():
            if isinstance(part, Keys) and name not in keys:
                keys[name], keys.entries[name] = value, part.entries[name]
    return keys


def portion(catalogue: Catalogue) -> Portion | None:
    """Which part of a cut model a file is, by its keys; None if the model was not cut."""
    said = [catalogue.metadata.get(key) for key in (SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS)]
    number, count, tensors = (value if type(value) is int else None for value in said)
    return Portion((number or 0) + 1, count, tensors) if count is not None and count > 1 else None


def shortest(value: float) -> float:
    """The number with the fewest digits that becomes the same F32: 1e-05, not 9.999999747378752e-06."""
    if not math.isfinite(value):
        return value
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return next((float(text) for text in texts if _F32.pack(float(text)) == _F32.pack(value)), value)


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
        raise CutOffError(f"{what} is an array of {plural(count, 'element')}, but the file ends before")
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
