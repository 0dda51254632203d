"""Builders, one for each format: they write correct and wrong files without the program's writers."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tests.build import gguf_files
from tests.build.checkpoints import (
    CLASSES,
    UNTYPED,
    Entry,
    Persistent,
    Raw,
    checkpoint_entries,
    legacy_bytes,
    row_major,
    view,
    zip_bytes,
)
from tests.build.containers import TarStorage, TarTensor, tar, torch_tar
from tests.build.gguf_files import Info, gguf
from tests.build.seeds import safetensors_file

Files = Mapping[str, bytes]  # by name; `` alone for a checkpoint that is a file


@dataclass(frozen=True)
class Stored:
    """A tensor as a file may hold it: a view of `data`. The stride is row-major unless given."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    stride: tuple[int, ...] | None = None
    offset: int = 0

    @property
    def steps(self) -> tuple[int, ...]:
        return row_major(self.shape) if self.stride is None else self.stride


@dataclass(frozen=True)
class Builder:
    """What tests know about a format in addition to its record. `views` are those of VIEWS that its files can hold;

    with `strided`, files keep their strides. `wrong` are files by what is wrong with them, and `cannot` says what

    can't be wrong and why. `nameless` is the name of the one tensor, if the format has no names.
    """

    write: Callable[[Mapping[str, Stored]], Files]
    dtypes: Sequence[str]
    views: Sequence[str]
    wrong: Mapping[str, Callable[[], Files]]
    cannot: Mapping[str, str] = field(default_factory=dict)
    nameless: str | None = None
    strided: bool = True


WRONG = ("too long", "too deep", "a hole", "an overlap", "a name twice")
VIEWS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {  # shape, stride and offset in 24 elements
    "contiguous": ((4, 6), (6, 1), 0),
    "0-d": ((), (), 0),
    "empty": ((3, 0, 2), (0, 2, 1), 0),
    "transposed": ((6, 4), (1, 6), 0),
    "reversed": ((2, 3, 4), (1, 2, 6), 0),
    "permuted": ((3, 4, 2), (4, 1, 12), 0),
    "expanded": ((5, 4), (0, 1), 0),
    "offset": ((2, 3), (6, 1), 7),
}
ROW_MAJOR = ("contiguous", "0-d", "empty")
FLOATS = struct.pack("<4f", 1, 2, 3, 4)
TWO = {"a": Stored("F32", (4,), FLOATS), "b": Stored("F32", (2, 2), FLOATS[::-1])}


def one(data: bytes) -> Files:
    return {"": data}


def put(files: Files, path: Path) -> Path:
    """Write the files at `path`, or below it."""
    for name, data in files.items():
        target = path / name if name else path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def _torch(tensors: Mapping[str, Stored]) -> tuple[dict[str, object], dict[str, bytes]]:
    value = {name: view(str(at), t.shape, t.steps, t.offset, t.dtype) for at, (name, t) in enumerate(tensors.items())}
    return dict(value), {str(at): t.data for at, t in enumerate(tensors.values())}


def _zip(tensors: Mapping[str, Stored]) -> Files:
    return one(zip_bytes(checkpoint_entries(*_torch(tensors)), alignment=1))


def _legacy(tensors: Mapping[str, Stored]) -> Files:
    sizes = {str(at): CLASSES[t.dtype][1] for at, t in enumerate(tensors.values())}
    return one(legacy_bytes(*_torch(tensors), itemsizes=sizes))


_DEEP = Raw(b"(" * 60_000 + b"t" * 60_000)
_VALUE, _STORAGES = _torch(TWO)
TORCH = Builder(
    write=_zip,
    dtypes=(*CLASSES, *UNTYPED),
    views=tuple(VIEWS),
    wrong={
        "too long": lambda: one(zip_bytes(checkpoint_entries({"a": view("0", (1 << 62,), numel=4)}, {"0": FLOATS}))),
        "too deep": lambda: one(zip_bytes(checkpoint_entries({"a": _DEEP}, _STORAGES))),
        "a hole": lambda: one(
            zip_bytes([replace(entry, gap=b"hidden") for entry in checkpoint_entries(_VALUE, _STORAGES)])
        ),
        "an overlap": lambda: one(
            zip_bytes([*checkpoint_entries(_VALUE, _STORAGES), Entry("archive/x", b"y" * 40, central={"header": 0})])
        ),
        "a name twice": lambda: one(
            zip_bytes([*checkpoint_entries(_VALUE, _STORAGES), Entry("archive/data/0", FLOATS)])
        ),
    },
)
LEGACY = Builder(
    write=_legacy,
    dtypes=tuple(CLASSES),
    views=tuple(VIEWS),
    wrong={
        "too long": lambda: one(legacy_bytes(_VALUE, _STORAGES, counts={"0": 1 << 62})),
        "too deep": lambda: one(legacy_bytes({"a": _DEEP}, _STORAGES)),
        "a hole": lambda: one(legacy_bytes(_VALUE, _STORAGES, after=b"hidden")),
        "a name twice": lambda: one(legacy_bytes(_VALUE, _STORAGES, keys=["0", "1", "1"])),
    },
    cannot={"an overlap": "storages follow each other, and nothing says where one begins"},
)


def _tar(tensors: Mapping[str, Stored]) -> Files:
    return one(torch_tar(*_tar_parts(tensors)))


def _tar_parts(
    tensors: Mapping[str, Stored],
) -> tuple[dict[str, Persistent], dict[int, TarStorage], dict[int, TarTensor]]:
    value = {name: Persistent(str(1000 + at)) for at, name in enumerate(tensors)}
    storages = {at: TarStorage(t.data, t.dtype) for at, t in enumerate(tensors.values())}
    layouts = {1000 + at: TarTensor(at, t.shape, t.steps, t.offset) for at, t in enumerate(tensors.values())}
    return value, storages, layouts


_NAMED, _HELD, _LAID = _tar_parts(TWO)
TORCH_TAR = Builder(
    write=_tar,
    dtypes=tuple(CLASSES),
    views=tuple(VIEWS),
    wrong={
        "too long": lambda: one(torch_tar(_NAMED, {**_HELD, 0: TarStorage(FLOATS, count=1 << 62)}, _LAID)),
        "too deep": lambda: one(torch_tar({"a": _DEEP}, _HELD, _LAID)),
        "a hole": lambda: one(torch_tar(_NAMED, _HELD, _LAID, after={"storages": b"hidden"})),
        "a name twice": lambda: one(tar({"pickle": b"N."}).removesuffix(bytes(1024)) + torch_tar(_NAMED, _HELD, _LAID)),
    },
    cannot={"an overlap": "members and storages follow each other, and nothing says where one begins"},
)

# ---- safetensors ----------------------------------------------------------------------------------------------------


def _safetensors(tensors: Mapping[str, Stored]) -> Files:
    return one(safetensors_file({name: (t.dtype, t.shape, t.data) for name, t in tensors.items()}))


def _header(text: str, data: bytes = b"") -> Files:
    return one(struct.pack("<Q", len(text)) + text.encode() + data)


_ENTRY = '"%s":{"dtype":"F32","shape":[4],"data_offsets":[%d,%d]}'
SAFETENSORS = Builder(
    write=_safetensors,
    dtypes=(
        *("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64"),
        *("F8_E4M3", "F8_E5M2", "F8_E8M0"),
    ),
    views=ROW_MAJOR,
    strided=False,
    wrong={
        "too long": lambda: one(struct.pack("<Q", 1 << 60) + b"{}" + bytes(20)),
        "too deep": lambda: _header('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "a hole": lambda: _header("{" + _ENTRY % ("a", 0, 16) + "," + _ENTRY % ("b", 20, 36) + "}", bytes(36)),
        "an overlap": lambda: _header("{" + _ENTRY % ("a", 0, 16) + "," + _ENTRY % ("b", 8, 24) + "}", bytes(24)),
        "a name twice": lambda: _header("{" + _ENTRY % ("a", 0, 16) + "," + _ENTRY % ("a", 16, 32) + "}", bytes(32)),
    },
)

# ---- GGUF -----------------------------------------------------------------------------------------------------------

_GGUF_TYPES = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}


def _gguf(tensors: Mapping[str, Stored]) -> Files:
    infos, data = [], b""
    for name, t in tensors.items():
        data += bytes(-len(data) % 32)
        infos.append(Info(name, t.shape[::-1], _GGUF_TYPES[t.dtype], len(data)))
        data += t.data
    return one(gguf((), infos, data))


_DEEP_ARRAY = gguf_files.text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000 + struct.pack("<IQ", 4, 0)
GGUF = Builder(
    write=_gguf,
    dtypes=tuple(_GGUF_TYPES),
    views=("contiguous",),
    strided=False,
    wrong={
        "too long": lambda: one(gguf((), [Info("a")], FLOATS, n_tensors=1 << 60)),
        "too deep": lambda: one(gguf([_DEEP_ARRAY], [Info("a")], FLOATS)),
        "a hole": lambda: one(gguf((), [Info("a"), Info("b", offset=96)], bytes(112))),
        "an overlap": lambda: one(gguf((), [Info("a"), Info("b", offset=0)], bytes(48))),
        "a name twice": lambda: one(gguf((), [Info("a"), Info("a", offset=32)], bytes(48))),
    },
)

# ---- parameters folder ----------------------------------------------------------------------------------------------


def _manifest(files: Sequence[object], tensors: Sequence[object]) -> bytes:
    source = {"location": "x", "format": "torch-zip", "files": []}
    return json.dumps(
        {
            "schema": "cerebras-tool/manifest/v1", "form": "storages", "model": None, "source": source, "config": None,
            "files": files, "tensors": tensors, "tied": [], "dropped": [],
        }
    ).encode()  # fmt: skip


def _file(path: str, data: bytes, nbytes: int | None = None) -> dict[str, object]:
    size = len(data) if nbytes is None else nbytes
    return {"path": path, "nbytes": size, "crc32": f"{zlib.crc32(data):08x}", "key": path, "shard": None}


def _tensor(name: str, t: Stored, part: str) -> dict[str, object]:
    return {
        "name": name, "dtype": t.dtype, "shape": list(t.shape), "stride": list(t.steps), "offset": t.offset,
        "parts": [part], "byte_order": "little",
    }  # fmt: skip


def _parameters(tensors: Mapping[str, Stored]) -> Files:
    files = {str(at): t.data for at, t in enumerate(tensors.values())}
    listed = [_tensor(name, t, str(at)) for at, (name, t) in enumerate(tensors.items())]
    return {"manifest.json": _manifest([_file(path, data) for path, data in files.items()], listed)} | files


PARAMETERS = Builder(
    write=_parameters,
    dtypes=(*CLASSES, *UNTYPED),
    views=tuple(VIEWS),
    wrong={
        "too long": lambda: {"manifest.json": _manifest([_file("0", FLOATS, 1 << 60)], []), "0": FLOATS},
        "too deep": lambda: {"manifest.json": b'{"schema":' + b"[" * 100_000 + b"]" * 100_000 + b"}"},
        "a name twice": lambda: {
            "manifest.json": _manifest(
                [_file("0", FLOATS)], [_tensor("a", TWO["a"], "0"), _tensor("a", TWO["b"], "0")]
            ),
            "0": FLOATS,
        },
    },
    cannot={
        "a hole": "a file of the folder that the manifest does not name is nobody's",
        "an overlap": "tensors may be views of one storage, as PyTorch's are",
    },
)

# ---- numpy ----------------------------------------------------------------------------------------------------------

_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1",
    "BOOL": "|b1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "C64": "<c8", "C128": "<c16",
}  # fmt: skip
_AS_BITS = {"BF16": "<u2", "F8_E4M3": "|u1", "F8_E5M2": "|u1", "C32": "<u4"}


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """An array with the header given as text."""
    width = 2 if version == b"\1\0" else 4
    text = header.encode() + b" " * (-(8 + width + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + data


def _array(t: Stored) -> bytes:
    """The file that numpy.save writes for the view: numpy decides whether the order is Fortran's."""
    dtype = np.dtype(_NUMPY.get(t.dtype) or _AS_BITS[t.dtype])
    strides = [step * dtype.itemsize for step in t.steps]
    file = io.BytesIO()
    np.save(file, np.ndarray(t.shape, dtype, t.data, t.offset * dtype.itemsize, strides), allow_pickle=False)
    return file.getvalue()


def _npz(tensors: Mapping[str, Stored]) -> Files:
    marks = {name: f"@{t.dtype.lower()}" if t.dtype in _AS_BITS else "" for name, t in tensors.items()}
    return one(zip_bytes([Entry(f"{name}{marks[name]}.npy", _array(t)) for name, t in tensors.items()], zip64=False))


def _entry(data: bytes) -> Files:
    return one(zip_bytes([Entry("a.npy", data)]))


_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }"
_DEEP_SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 4000 + "4," + ")" * 4000 + ", }"
NPZ = Builder(
    write=_npz,
    dtypes=(*_NUMPY, *_AS_BITS),
    views=(*ROW_MAJOR, "transposed", "reversed"),
    wrong={
        "too long": lambda: _entry(npy(_HEADER + " " * 20_000, FLOATS)),
        "too deep": lambda: _entry(npy(_DEEP_SHAPE, FLOATS)),
        "a hole": lambda: _entry(npy(_HEADER, FLOATS + b"hidden")),
        "an overlap": lambda: one(
            zip_bytes(
                [Entry("a.npy", npy(_HEADER, FLOATS)), Entry("b.npy", npy(_HEADER, FLOATS), central={"header": 0})]
            )
        ),
        "a name twice": lambda: one(zip_bytes([Entry("a.npy", npy(_HEADER, FLOATS))] * 2)),
    },
)
NPY = Builder(
    write=lambda tensors: one(_array(next(iter(tensors.values())))),
    dtypes=tuple(_NUMPY),
    views=NPZ.views,
    wrong={
        "too long": lambda: one(npy(_HEADER + " " * 20_000, FLOATS)),
        "too deep": lambda: one(npy(_DEEP_SHAPE, FLOATS)),
        "a hole": lambda: one(npy(_HEADER, FLOATS + b"hidden")),
    },
    cannot={"an overlap": "it is one array", "a name twice": "it is one array without a name"},
    nameless="arr_0",
)

BUILDERS: Mapping[str, Builder] = {
    "torch-zip": TORCH, "torch-legacy": LEGACY, "torch-tar": TORCH_TAR, "safetensors": SAFETENSORS, "gguf": GGUF, "parameters": PARAMETERS,
    "npz": NPZ, "npy": NPY,
}  # fmt: skip
