"""Files that hold pickles in other files: tar archives, compressed ones, joblib's, ONNX models, and two kinds in one."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.build.checkpoints import CLASSES, Global, dumps

BLOCK = 512


def tar_header(
    name: bytes, size: int, *, kind: bytes = b"0", magic: bytes = b"ustar\x0000", signed: bool = False, **fields: bytes
) -> bytes:
    """A header; `magic` is empty for the form of Unix V7. `signed` sums signed bytes, as some writers did."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = fields.get("length", b"%011o\0" % size)
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b" " * 8
    total = sum(byte - 256 * (signed and byte > 127) for byte in block)
    block[148:156] = fields.get("checksum", b"%06o\0 " % total)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def tar(members: Mapping[str, bytes], **options: object) -> bytes:
    """A tar archive of files."""
    parts = [tar_header(name.encode(), len(data), **options) + padded(data) for name, data in members.items()]  # type: ignore[arg-type]
    return b"".join(parts) + bytes(2 * BLOCK)


def pax(records: Mapping[str, str]) -> bytes:
    """The data of a pax header."""
    out = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        out += str(length).encode() + rest
    return out


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def joblib_array(
    position: int,
    numbers: bytes,
    shape: Sequence[int],
    dtype: str,
    *,
    module: str = "joblib.numpy_pickle",
    aligned: int | None = 16,
) -> bytes:
    """The wrapper of an array as opcodes of protocol 4, which start at `position`, and the numbers after it."""
    whole = b"".join(b"K" + bytes([size]) for size in shape)
    state = (
        short("subclass") + b"cnumpy\nndarray\n" + short("shape") + b"(" + whole + b"t" + short("order") + short("C")
    )
    state += (
        short("dtype")
        + b"cnumpy\ndtype\n"
        + short(dtype)
        + b"\x89\x88\x87R(K\3"
        + short("|" if dtype in ("O8", "u1") else "<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
        + (b"\x3f" if dtype == "O8" else b"\0")
        + b"tb"
    )
    state += short("allow_mmap") + (b"\x89" if dtype == "O8" else b"\x88")
    if aligned is not None:
        state += short("numpy_array_alignment_bytes") + b"K" + bytes([aligned])
    out = f"c{module}\nNumpyArrayWrapper\n".encode() + b")\x81}(" + state + b"ub"
    if aligned is not None and dtype != "O8":
        padding = aligned - (position + len(out) + 1) % aligned
        out += bytes([padding]) + b"\xff" * padding
    return out + numbers


def joblib(*arrays: tuple[bytes, Sequence[int], str], aligned: int | None = 16, after: bytes = b"") -> bytes:
    """A file of joblib that holds a list of arrays, and after them what the opcodes `after` leave."""
    out = b"\x80\x04]("
    for numbers, shape, dtype in arrays:
        out += joblib_array(len(out), numbers, shape, dtype, aligned=aligned)
    return out + after + b"e."


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx(*nodes: bytes, tensors: Sequence[bytes] = ()) -> bytes:
    """An ONNX model."""
    graph = b"".join(field(1, node) for node in nodes) + field(2, "graph") + b"".join(field(5, one) for one in tensors)
    return field(1, 8) + field(2, "tests") + field(7, graph) + field(8, field(1, "") + field(2, 17))


def node(operator: str, domain: str = "", *attributes: bytes) -> bytes:
    return (
        field(1, "x")
        + field(2, "y")
        + field(4, operator)
        + field(7, domain)
        + b"".join(field(5, a) for a in attributes)
    )


def keras(*layers: Mapping[str, object]) -> bytes:
    """The config.json of a Keras model."""
    return json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": list(layers)}}).encode()


@dataclass(frozen=True)
class TarStorage:
    """A storage of a tar checkpoint. `count` counts elements; None: as many as the data are."""

    data: bytes
    dtype: str = "F32"
    count: int | None = None


@dataclass(frozen=True)
class TarTensor:
    """A tensor of a tar checkpoint: the key of its storage or of a part of one, and its layout in elements."""

    storage: int
    shape: Sequence[int]
    stride: Sequence[int]
    offset: int = 0


def torch_tar(
    value: object,
    storages: Mapping[int, TarStorage],
    tensors: Mapping[int, TarTensor],
    views: Sequence[tuple[object, ...]] = (),
    *,
    after: Mapping[str, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
) -> bytes:
    """A checkpoint of torch before 0.1.10. `value` mentions tensors and storages by Persistent(digits).

    `after` are bytes after the end of a member, `others` more members.
    """
    held = dumps(len(storages))
    for key, storage in storages.items():
        name, itemsize = CLASSES[storage.dtype]
        count = len(storage.data) // itemsize if storage.count is None else storage.count
        held += dumps((key, "cpu", Global("torch", name))) + struct.pack("<q", count) + storage.data
    held += dumps(list(views))
    laid = dumps(len(tensors))
    for key, tensor in tensors.items():
        rank = len(tensor.shape)
        laid += dumps((key, tensor.storage, Global("torch", "FloatTensor")))
        laid += struct.pack(f"<ii{rank}q{rank}qq", rank, 0, *tensor.shape, *tensor.stride, tensor.offset)
    machine = dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {"int": 4}})
    members = {"sys_info": machine, "pickle": dumps(value), "tensors": laid, "storages": held}
    return tar({name: data + (after or {}).get(name, b"") for name, data in members.items()} | dict(others or {}))


def storages_of_tar(count: int, numbers: bytes, storage: str = "FloatStorage") -> bytes:
    """The member `storages` of a checkpoint of torch before 0.1.10, with one storage."""
    head = b"\x80\x02K\1." + b"\x80\x02(K\7X\3\0\0\0cpuctorch\n" + storage.encode() + b"\nt."
    return head + struct.pack("<q", count) + numbers + b"\x80\x02]."


def tensors_of_tar(sizes: Sequence[int]) -> bytes:
    """The member `tensors`, with one tensor."""
    rank = len(sizes)
    return b"\x80\x02K\1." + b"\x80\x02(K\5K\7Nt." + struct.pack(f"<ii{rank}q{rank}qq", rank, 0, *sizes, *[1] * rank, 0)
