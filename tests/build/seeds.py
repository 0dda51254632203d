"""Small sound files of every format and age, made by the tests' own builders: fuzzers and mutations start from these."""

from __future__ import annotations

import json
import pickle  # used only to write
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.build import gguf_files
from tests.build.checkpoints import (
    UNTYPED,
    Call,
    Entry,
    Global,
    Pickler,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    ordered,
    view,
    zip_bytes,
)
from tests.build.gguf_files import F16, Q4_0, Q8_0, Info, gguf, key

TWO = {"w": view("0", (2, 3)), "b": view("1", (2,))}
TWO_DATA = {"0": floats(0, 1, 2, 3, 4, 5), "1": floats(7, 8)}
TYPED = ("F64", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "C64")
WRITTEN = {  # what torch.save writes beside data.pkl and the storages, by age
    "1.4": (".data/version",),
    "1.6": ("version",),
    "2.1": ("byteorder", "version", ".data/serialization_id"),
    "2.7": (".format_version", ".storage_alignment", "byteorder", "version", ".data/serialization_id"),
}


def _aged(age: str, value: Any, storages: Mapping[str, bytes]) -> list[Entry]:
    folder = "tensors" if age == "1.4" else "data"
    entries = [
        Entry("archive/.data/version", b"3\n") if age == "1.4" and entry.name == "archive/version" else entry
        for entry in checkpoint_entries(value, storages, folder=folder)
    ]
    held = {"data.pkl", *WRITTEN[age], *(f"{folder}/{key}" for key in storages)}
    return [entry for entry in entries if str(entry.name).removeprefix("archive/") in held]


def torch_zips() -> dict[str, bytes]:
    """Zips of torch.save by age, and of what may be in them."""
    typed = {name.lower(): view(str(at), (1,), dtype=name) for at, name in enumerate(TYPED)}
    untyped = {name.lower(): view(str(at), (1,), dtype=name) for at, name in enumerate(UNTYPED)}
    values: dict[str, tuple[Any, Mapping[str, bytes]]] = {
        "two": (TWO, TWO_DATA),
        "views": (
            {"t": view("0", (3, 2), (1, 3)), "r": view("0", (3,), offset=3), "e": view("0", (4, 2), (0, 1)), "z": view("0", (0, 2)), "s": view("0")},
            {"0": floats(0, 1, 2, 3, 4, 5)},
        ),
        "typed": (typed, {str(at): bytes(range(16))[: _itemsize(name)] for at, name in enumerate(TYPED)}),
        "untyped": (untyped, {str(at): bytes(range(16))[: UNTYPED[name][1]] for at, name in enumerate(UNTYPED)}),
        "tied": ({"a": TWO["w"], "c": TWO["w"]}, {"0": TWO_DATA["0"]}),
        "trainer": ({"epoch": 3, "lr": 0.5, "state_dict": ordered(**TWO), "opt": [1, (2,), None, True]}, TWO_DATA),
        "empty": ({"e": view("0", (0,))}, {"0": b""}),
        "parameter": ({"p": Call(Global("torch._utils", "_rebuild_parameter"), (TWO["w"], True, ordered()))}, {"0": TWO_DATA["0"]}),
        "inert": ({"w": TWO["w"], "args": Call(Global("trainers", "Namespace"), (), {"lr": 0.1})}, {"0": TWO_DATA["0"]}),
    }  # fmt: skip
    made = {f"{age} {name}": zip_bytes(_aged(age, *values[name]), alignment=8) for age in WRITTEN for name in values}
    entries = _aged("2.7", *values["two"])
    deflated = [Entry(entry.name, entry.data, deflated=True) for entry in entries]
    plain = [
        Entry(e.name, e.data, local={"flags": 0x800, **_true(e.data)}, central={"flags": 0x800}, descriptor=b"")
        for e in entries
    ]
    return made | {
        "deflated": zip_bytes(deflated, alignment=8),
        "without zip64": zip_bytes(entries, alignment=8, zip64=False),
        "sizes before the data": zip_bytes(plain, alignment=8),
        "aligned to 64": zip_bytes(entries),
        "big-endian": zip_bytes(checkpoint_entries(*values["two"], byteorder=b"big"), alignment=8),
        "folders": zip_bytes([Entry("archive/"), Entry("archive/data/"), *entries], alignment=8),
    }


def _itemsize(dtype: str) -> int:
    return {"F64": 8, "I64": 8, "C64": 8, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(dtype, 1)


def _true(data: bytes) -> dict[str, int]:
    import zlib

    return {"crc32": zlib.crc32(data), "compressed": len(data), "nbytes": len(data)}


def legacies() -> dict[str, bytes]:
    """Streams from before torch 1.6."""
    return {
        "two": legacy_bytes(TWO, TWO_DATA),
        "views": legacy_bytes({"t": view("0", (3, 2), (1, 3)), "r": view("0", (3,), offset=3)}, {"0": TWO_DATA["0"]}),
        "doubles": legacy_bytes({"d": view("0", (2,), dtype="F64")}, {"0": struct.pack("<2d", 1.5, 2.5)}, itemsizes={"0": 8}),
        "bytes": legacy_bytes({"u": view("0", (5,), dtype="U8")}, {"0": b"hello"}, itemsizes={"0": 1}),
        "trainer": legacy_bytes({"epoch": 3, "state_dict": ordered(**TWO)}, TWO_DATA),
    }  # fmt: skip


def safetensors_file(
    entries: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write a safetensors file: dtype, shape and bytes by name."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, content) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def safetensors() -> dict[str, bytes]:
    """Files of every kind of dtype, with metadata and without."""
    return {
        "two": safetensors_file({"w": ("F32", (2, 3), TWO_DATA["0"]), "b": ("F32", (2,), TWO_DATA["1"])}),
        "metadata": safetensors_file({"w": ("BF16", (2,), b"abcd")}, {"format": "pt"}),
        "tied": safetensors_file({"w": ("I8", (2,), b"ab")}, {"cerebras_tool.tied": '{"v": "w"}'}),
        "scalar": safetensors_file({"s": ("I64", (), bytes(8)), "z": ("U16", (0, 3), b"")}),
        "narrow": safetensors_file({"a": ("F8_E4M3", (3,), b"abc"), "b": ("F4", (2, 4), b"abcd"), "c": ("BOOL", (1,), b"\1")}),
        "empty": safetensors_file({}),
        "unknown": safetensors_file({"x": ("F6_E2M3", (4,), b"abc")}),
    }  # fmt: skip


def ggufs() -> dict[str, bytes]:
    """Files with every type of value, plain tensors and blocks."""
    every = [key(name, name, 1) for name in gguf_files.VALUES]
    arrays = [key(f"a.{name}", f"array:{name}", [0, 1]) for name in (*gguf_files.VALUES,)]
    words = key("tokenizer.ggml.tokens", "array:string", ["a", "b", "<|endoftext|>"])
    gpt2 = [key("general.architecture", "string", "gpt2"), key("gpt2.block_count", "u32", 1)]
    block = struct.pack("<e", 0.5) + bytes(range(32))
    return {
        "two": gguf([*gpt2, words], [Info("token_embd.weight", (3, 2)), Info("b", (2,), offset=32)], TWO_DATA["0"] + bytes(8) + TWO_DATA["1"]),
        "values": gguf([*every, *arrays], [Info("b", (2,))], TWO_DATA["1"]),
        "blocks": gguf(gpt2, [Info("q", (32, 2), Q8_0), Info("h", (3,), F16, 96)], block * 2 + bytes(28) + b"abcdef"),
        "more blocks": gguf(gpt2, [Info("q", (32,), Q4_0)], block[:18]),
        "aligned": gguf([key("general.alignment", "u32", 64)], [Info("b", (2,))], TWO_DATA["1"], alignment=64),
        "no tensors": gguf([*gpt2, words]),
        "version 2": gguf(gpt2, [Info("b", (2,))], TWO_DATA["1"], version=2),
    }  # fmt: skip


class Wide(Pickler):
    """Numbers every memo entry with four bytes, as pickles of many tensors do from the 257th entry on."""

    def _put(self, key: Any) -> None:
        index = self._memo[key] = len(self._memo)
        self.out += b"r" + struct.pack("<I", index)


def pickles() -> dict[str, bytes]:
    """Bare pickles: state dicts, and plain values in every protocol."""
    values: dict[str, Any] = {
        "constants": (None, True, False, 0, -1, 300, 70000, 2**40, 1.5),
        "containers": {"a": [1, (2,), (3, 4), (5, 6, 7)], "b": {}, "c": [], "d": (), "e": b"ab", "f": "é"},
        "objects": [complex(1, 2), range(3), {1, 2}, frozenset([3]), bytearray(b"abc"), len],
    }
    made = {f"{name}, protocol {p}": pickle.dumps(value, p) for name, value in values.items() for p in range(6)}
    sizes = {key: len(data) for key, data in TWO_DATA.items()}
    shapes = enumerate(((1,), (2,), (2, 3), (1, 2, 1, 3), (4, 1)))
    row = Wide({str(at): 24 for at in range(5)}).dumps(
        ordered(**{f"w{at}": view(str(at), shape) for at, shape in shapes})
    )
    return made | {
        "tensors in a row": row,
        "tensors in a row, and what is in the memo": b"\x80\2("
        + row[2:-1]
        + b"".join(b"h%c" % place for place in range(44))
        + b"t.",
        "tensors": dumps(TWO, sizes),
        "legacy tensors": Pickler(sizes, legacy=True).dumps(TWO),
        "trainer": dumps({"epoch": 3, "state_dict": ordered(**TWO)}, sizes),
        "untyped": dumps({"f": view("0", (4,), dtype="F8_E4M3")}, sizes),
        "inert": dumps(Call(Global("os", "getcwd"), (), {"a": 1})),
    }


INDEX = {"metadata": {"total_size": 16}, "weight_map": {"t0": "a-00001-of-00002.bin", "t1": "a-00002-of-00002.bin"}}


def indexes() -> dict[str, bytes]:
    """Indexes of two shards."""
    return {
        "two": json.dumps(INDEX).encode(),
        "indented": json.dumps(INDEX, indent=2).encode() + b"\n",
        "one": json.dumps({"weight_map": {"t0": "a-00001-of-00002.bin"}}).encode(),
    }
