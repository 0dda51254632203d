"""Packs keys and values into the bytes of a GGUF file. Each function returns the key, and the bytes of key and value."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from converter.formats.gguf.metadata import ARRAY, STRING, TYPES

Packed = tuple[str, bytes]


def packed_text(text: str) -> bytes:
    """The length of a text in bytes, and the text."""
    data = text.encode("utf-8", "replace")  # JSON can hold half of a surrogate pair
    return struct.pack("<Q", len(data)) + data


def string(key: str, value: str) -> Packed:
    """A key with a text."""
    return key, _head(key, STRING) + packed_text(value)


def strings(key: str, values: Sequence[str]) -> Packed:
    """A key with an array of texts."""
    return key, _head(key, ARRAY) + struct.pack("<IQ", STRING, len(values)) + b"".join(map(packed_text, values))


def scalar(key: str, type: str, value: float) -> Packed:
    """A key whose value is a number or a truth value, of a type in TYPES."""
    number, packed = TYPES[type]
    return key, _head(key, number) + struct.pack(packed, value)


def array(key: str, type: str, values: Sequence[float]) -> Packed:
    """A key with an array of numbers."""
    number, packed = TYPES[type]
    data = struct.pack(f"<IQ{len(values)}{packed[-1]}", number, len(values), *values)
    return key, _head(key, ARRAY) + data


def json_value(key: str, value: Any) -> Packed:
    """A key with a value of JSON: a number or a text as it is, anything else as a JSON text."""
    if type(value) is int and not -1 << 63 <= value < 1 << 63:
        value = str(value)
    types = {bool: "bool", int: "i64", float: "f64"}
    if type(value) in types:
        return scalar(key, types[type(value)], value)
    return string(key, value if type(value) is str else json.dumps(value))


def _head(key: str, type: int) -> bytes:
    return packed_text(key) + struct.pack("<I", type)
