"""Writes small checkpoints for tests, byte by byte: torch's zip, the legacy stream, shards; correct and wrong ones.

Nothing here needs torch, and nothing here is shared with the readers under test.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# torch's name of a storage of the dtype, and bytes for each element. Those without a class go through UntypedStorage.
CLASSES = {
    "F64": ("DoubleStorage", 8), "F32": ("FloatStorage", 4), "F16": ("HalfStorage", 2), "BF16": ("BFloat16Storage", 2),
    "I64": ("LongStorage", 8), "I32": ("IntStorage", 4), "I16": ("ShortStorage", 2), "I8": ("CharStorage", 1),
    "U8": ("ByteStorage", 1), "BOOL": ("BoolStorage", 1), "C64": ("ComplexFloatStorage", 8),
    "C128": ("ComplexDoubleStorage", 16),
}  # fmt: skip
UNTYPED = {
    "U16": ("uint16", 2), "U32": ("uint32", 4), "U64": ("uint64", 8), "C32": ("complex32", 4),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "F8_E8M0": ("float8_e8m0fnu", 1),
    "F4": ("float4_e2m1fn_x2", 1),
}  # fmt: skip


@dataclass(frozen=True)
class Global:
    """A global, as `module` and `name`."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """REDUCE of a global (or anything) on arguments; then BUILD of `state` if it is given."""

    callee: Any
    args: Any = ()
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id."""

    id: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they should leave one value."""

    opcodes: bytes


@dataclass(frozen=True)
class View:
    """A tensor to be written. `numel` counts the storage's elements (bytes where it is untyped); None: as many as its bytes hold."""

    storage: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: str
    numel: int | None
    metadata: Any


def view(
    storage: str = "0",
    shape: tuple[int, ...] = (),
    stride: tuple[int, ...] | None = None,
    offset: int = 0,
    dtype: str = "F32",
    *,
    numel: int | None = None,
    metadata: Any = None,
) -> View:
    """Describe a tensor; its stride is row-major unless given."""
    return View(storage, shape, row_major(shape) if stride is None else stride, offset, dtype, numel, metadata)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= length
    return tuple(reversed(stride))


def ordered(**items: Any) -> Call:
    """An OrderedDict without `_metadata`, filled by SETITEMS as Python 3 does it."""
    return Call(Global("collections", "OrderedDict"), (), items)


class Pickler:
    """Writes protocol 2 as CPython's pickler does: a memo entry after every object that can be shared."""

    def __init__(self, sizes: Mapping[str, int] | None = None, *, legacy: bool = False) -> None:
        self.out = bytearray(b"\x80\x02")
        self.sizes = dict(sizes or {})  # storage key: bytes
        self.legacy = legacy
        self._memo: dict[Any, int] = {}
        self._alive: list[Any] = []  # ids stay taken

    def dumps(self, value: Any) -> bytes:
        self.save(value)
        return bytes(self.out + b".")

    def save(self, value: Any) -> None:
        out = self.out
        if value is None or value is True or value is False:
            out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif type(value) is int:
            out += _integer(value)
        elif type(value) is float:
            out += b"G" + struct.pack(">d", value)
        elif type(value) is str:
            if not self._known(("text", value)):
                encoded = value.encode()
                out += b"X" + struct.pack("<I", len(encoded)) + encoded
                self._put(("text", value))
        elif type(value) is bytes:
            out += b"B" + struct.pack("<I", len(value)) + value
        elif type(value) is Global:
            if not self._known(value):
                out += b"c" + value.module.encode() + b"\n" + value.name.encode() + b"\n"
                self._put(value)
        elif type(value) is tuple:
            if len(value) > 3:
                out += b"("
            for item in value:
                self.save(item)
            out += {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t")
            if value:
                self._put(("tuple", len(self._memo)))
        elif type(value) in (list, dict):
            self._container(value)
        elif type(value) is Persistent:
            self.save(value.id)
            out += b"Q"
        elif type(value) is Call:
            self._call(value)
        elif type(value) is View:
            self._tensor(value)
        elif type(value) is Raw:
            out += value.opcodes
        else:
            raise TypeError(f"no opcodes for a {type(value).__name__}")

    def _container(self, value: Any) -> None:
        if self._known(id(value)):
            return
        self._alive.append(value)
        self.out += b"]" if type(value) is list else b"}"
        self._put(id(value))
        self._fill(value)

    def _fill(self, value: Any) -> None:
        if not value:
            return
        self.out += b"("
        if type(value) is list:
            for item in value:
                self.save(item)
            self.out += b"e"
        else:
            for key, item in value.items():
                self.save(key)
                self.save(item)
            self.out += b"u"

    def _call(self, call: Call) -> None:
        if self._known(id(call)):
            return
        self._alive.append(call)
        self.save(call.callee)
        self.save(call.args)
        self.out += b"R"
        self._put(id(call))
        if call.callee == Global("collections", "OrderedDict") and type(call.state) is dict:
            self._fill(call.state)
        elif call.state is not None:
            self.save(call.state)
            self.out += b"b"

    def _tensor(self, tensor: View) -> None:
        typed = CLASSES.get(tensor.dtype)
        name, itemsize = typed or ("UntypedStorage", 1)
        numel = self.sizes[tensor.storage] // itemsize if tensor.numel is None else tensor.numel
        kind = Global("torch" if typed else "torch.storage", name)
        where = ("storage", kind, tensor.storage, "cpu", numel, *((None,) if self.legacy else ()))
        rest: tuple[Any, ...] = () if typed else (Global("torch", UNTYPED[tensor.dtype][0]),)
        if tensor.metadata is not None:
            rest = (*rest, tensor.metadata)
        function = Global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        hooks = Call(Global("collections", "OrderedDict"))
        self.save(Call(function, (Persistent(where), tensor.offset, tensor.shape, tensor.stride, False, hooks, *rest)))

    def _known(self, key: Any) -> bool:
        if (index := self._memo.get(key)) is None:
            return False
        self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def _put(self, key: Any) -> None:
        index = self._memo[key] = len(self._memo)
        self.out += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)


def dumps(value: Any, sizes: Mapping[str, int] | None = None) -> bytes:
    """Pickle a value; `sizes` are the bytes of the storages that its views mention."""
    return Pickler(sizes).dumps(value)


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (
        b"\x8a" + bytes([len(encoded)]) + encoded
        if len(encoded) < 256
        else b"\x8b" + struct.pack("<i", len(encoded)) + encoded
    )


@dataclass
class Entry:
    """A record of a zip. `local` and `central` replace header fields by name: the way to write wrong ones."""

    name: str | bytes
    data: bytes = b""
    deflated: bool = False
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    descriptor: bytes | None = None
    payload: bytes | None = None
    gap: bytes = b""  # bytes after the record that belong to nothing


def zip_bytes(
    entries: Sequence[Entry],
    *,
    alignment: int = 64,
    zip64: bool = True,
    end: Mapping[str, Any] | None = None,
    end64: Mapping[str, Any] | None = None,
    locator: Mapping[str, Any] | None = None,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Write a zip as PyTorch does: descriptors, `FB` padding up to `alignment`, zip64 end records always."""
    out = bytearray(before)
    directory = bytearray()
    for entry in entries:
        name = entry.name.encode() if isinstance(entry.name, str) else entry.name
        payload = entry.payload if entry.payload is not None else _deflate(entry.data) if entry.deflated else entry.data
        header = len(out)
        streamed = bool(payload)
        padding = -(header + 30 + len(name) + 4) % alignment
        fields = {
            "signature": b"PK\3\4", "needed": 0, "flags": 0x0808 if streamed else 0x0800, "method": 8 * entry.deflated,
            "time": 0, "date": 0, "crc32": 0, "compressed": 0, "nbytes": 0, "name": name,
            "extra": b"FB" + struct.pack("<H", padding) + b"Z" * padding,
        }  # fmt: skip
        true = {"crc32": zlib.crc32(entry.data), "compressed": len(payload), "nbytes": len(entry.data)}
        fields |= entry.local
        out += _header("<4s5H3L2H", fields, ("signature", "needed", "flags", "method", "time", "date", "crc32"))
        out += payload
        if entry.descriptor is not None:
            out += entry.descriptor
        elif streamed:
            out += struct.pack("<4s3L", b"PK\7\x08", *true.values())
        out += entry.gap
        fields = {
            "signature": b"PK\1\2", "made": 0, "needed": 0, "flags": 0x0808 if streamed else 0x0800,
            "method": 8 * entry.deflated, "time": 0, "date": 0, **true, "name": name, "extra": b"", "comment": b"",
            "disk": 0, "internal": 0, "external": 0, "header": header,
        }  # fmt: skip
        directory += _central({**fields, **entry.central})
    out += between
    start = len(out)
    out += directory
    count = {"disk": 0, "directory_disk": 0, "count_here": len(entries), "count": len(entries)}
    wide = {
        "signature": b"PK\6\6",
        "size": 44,
        "made": 0,
        "needed": 0,
        **count,
        "nbytes": len(directory),
        "start": start,
    }
    if zip64:
        at = len(out)
        out += struct.pack("<4sQ2H2L4Q", *(wide | dict(end64 or {})).values())
        pointer = {"signature": b"PK\6\7", "disk": 0, "offset": at, "disks": 1} | dict(locator or {})
        out += struct.pack("<4sLQL", *pointer.values())
    narrow = {"signature": b"PK\5\6", **count, "nbytes": len(directory), "start": start, "comment": 0} | dict(end or {})
    return bytes(out + struct.pack("<4s4H2LH", *narrow.values()) + after)


def _header(form: str, fields: Mapping[str, Any], first: Sequence[str]) -> bytes:
    values = [fields[name] for name in (*first, "compressed", "nbytes")]
    lengths = (len(fields["name"]), len(fields["extra"]))
    header: bytes = struct.pack(form, *values, *lengths) + fields["name"] + fields["extra"]
    return header


def _central(fields: Mapping[str, Any]) -> bytes:
    first = ("signature", "made", "needed", "flags", "method", "time", "date", "crc32", "compressed", "nbytes")
    lengths = (len(fields["name"]), len(fields["extra"]), len(fields["comment"]))
    last = (fields["disk"], fields["internal"], fields["external"], fields["header"])
    packed = struct.pack("<4s6H3L5H2L", *(fields[name] for name in first), *lengths, *last)
    record: bytes = packed + fields["name"] + fields["extra"] + fields["comment"]
    return record


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush()


def checkpoint_entries(
    value: Any,
    storages: Mapping[str, bytes],
    *,
    root: str = "archive",
    version: bytes | None = b"3\n",
    byteorder: bytes | None = b"little",
    pickle: bytes | None = None,
    folder: str = "data",
) -> list[Entry]:
    """The records of a checkpoint in torch's order, to be changed and written with `zip_bytes`."""
    data = dumps(value, {key: len(data) for key, data in storages.items()}) if pickle is None else pickle
    records = {"data.pkl": data, ".format_version": b"1", ".storage_alignment": b"64"}
    if byteorder is not None:
        records["byteorder"] = byteorder
    records |= {f"{folder}/{key}": data for key, data in storages.items()}
    if version is not None:
        records["version"] = version
    records[".data/serialization_id"] = b"0" * 40
    return [Entry(f"{root}/{name}", data) for name, data in records.items()]


def write_checkpoint(path: Path, value: Any, storages: Mapping[str, bytes], **options: Any) -> Path:
    """Write a torch zip; options as of `checkpoint_entries`, and `alignment`."""
    alignment = options.pop("alignment", 64)
    path.write_bytes(zip_bytes(checkpoint_entries(value, storages, **options), alignment=alignment))
    return path


LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


def legacy_bytes(
    value: Any,
    storages: Mapping[str, bytes],
    *,
    itemsizes: Mapping[str, int] | None = None,
    version: Any = 1001,
    keys: Any = None,
    counts: Mapping[str, int] | None = None,
    pickle: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """Write the stream from before torch 1.6. `itemsizes` are bytes for each element (4 unless given); `counts` replaces counts."""
    sizes = {key: len(data) for key, data in storages.items()}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = LEGACY_MAGIC + dumps(version) + dumps(system)
    out += Pickler(sizes, legacy=True).dumps(value) if pickle is None else pickle
    out += dumps(sorted(storages) if keys is None else keys)
    for key, data in sorted(storages.items()):
        count = len(data) // (itemsizes or {}).get(key, 4)
        out += struct.pack("<q", (counts or {}).get(key, count)) + data
    return out + after


def write_shards(
    folder: Path,
    shards: Sequence[Mapping[str, View]],
    storages: Sequence[Mapping[str, bytes]],
    *,
    weight_map: Mapping[str, Any] | None = None,
    index: bool = True,
) -> list[Path]:
    """Write `pytorch_model-00001-of-0000N.bin` and so on, with the index unless told otherwise."""
    names = [f"pytorch_model-{number:05}-of-{len(shards):05}.bin" for number in range(1, len(shards) + 1)]
    for name, value, data in zip(names, shards, storages, strict=True):
        write_checkpoint(folder / name, dict(value), data)
    if index:
        where = {tensor: name for name, value in zip(names, shards, strict=True) for tensor in value}
        text = json.dumps(
            {"metadata": {"total_size": 0}, "weight_map": where if weight_map is None else dict(weight_map)}
        )
        (folder / "pytorch_model.bin.index.json").write_text(text)
    return [folder / name for name in names]


def floats(*values: float) -> bytes:
    """Little-endian F32."""
    return struct.pack(f"<{len(values)}f", *values)
