"""Writes small GGUF files for tests, field by field: correct and wrong ones. Nothing here is shared with converter."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converter.io.source import Memory

VALUES = {
    "u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
    "f32": (6, "<f"), "bool": (7, "<B"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d"),
}  # fmt: skip
F32, F16, Q4_0, Q8_0, Q4_K, I8, BF16 = 0, 1, 2, 8, 12, 24, 30


class Bytes(Memory):
    """Bytes in memory under the name of a GGUF file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, "memory.gguf")
        self.data = data


@dataclass(frozen=True)
class Info:
    """A tensor's entry: sizes as the file has them, the fastest first."""

    name: str | bytes
    sizes: tuple[int, ...] = (4,)
    type: int = F32
    offset: int = 0
    rank: int | None = None


def text(value: str | bytes, size: int | None = None) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data) if size is None else size) + data


def key(name: str | bytes, type: str, value: Any) -> bytes:
    """A key and its value; `array:u32` and the like for arrays."""
    if type == "string":
        return text(name) + struct.pack("<I", 8) + text(value)
    if type.startswith("array:"):
        inner = type.removeprefix("array:")
        number = 8 if inner == "string" else VALUES[inner][0]
        packed = b"".join(text(item) if inner == "string" else struct.pack(VALUES[inner][1], item) for item in value)
        return text(name) + struct.pack("<IIQ", 9, number, len(value)) + packed
    return text(name) + struct.pack("<I", VALUES[type][0]) + struct.pack(VALUES[type][1], value)


def info(tensor: Info) -> bytes:
    rank = len(tensor.sizes) if tensor.rank is None else tensor.rank
    return text(tensor.name) + struct.pack(f"<I{len(tensor.sizes)}QIQ", rank, *tensor.sizes, tensor.type, tensor.offset)


def gguf(
    keys: Sequence[bytes] = (),
    infos: Sequence[Info] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file; counts are those of what is given unless said otherwise."""
    head = magic + struct.pack(
        "<IQQ", version, len(infos) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    )
    head += b"".join(keys) + b"".join(map(info, infos))
    return head + bytes(-len(head) % alignment) + data if infos else head
