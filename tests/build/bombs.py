"""Small files that ask for much: each is a function of roughly how many bytes of names and layouts it should have."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.build.checkpoints import LEGACY_MAGIC, Entry, checkpoint_entries, dumps, floats, legacy_bytes, zip_bytes
from tests.build.containers import joblib, node, onnx, padded, pax, tar, tar_header
from tests.build.gguf_files import Info, gguf, key, text
from tests.build.seeds import safetensors_file

Bytes = Callable[[int], bytes]


def utf8(words: str) -> bytes:
    encoded = words.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


STORAGE = b"(" + utf8("storage") + b"ctorch\nFloatStorage\n" + utf8("0") + utf8("cpu") + b"K\1tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor\n"
TENSOR = REBUILD + b"(" + STORAGE + b"K\0))tR"
SURROGATES = b"X" + struct.pack("<I", 6000) + "\ud800".encode("utf-8", "surrogatepass") * 2000
INTEGER = b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000


def zipped(pickle: bytes) -> bytes:
    """A checkpoint with this data.pkl, and a storage of one float."""
    return zip_bytes(checkpoint_entries(None, {"0": floats(1.0)}, pickle=b"\x80\2" + pickle), alignment=1)


def repeated(unit: bytes, before: bytes = b"](", after: bytes = b"e.") -> Bytes:
    return lambda size: zipped(before + unit * (size // len(unit)) + after)


def numbered(unit: Callable[[int], bytes], before: bytes = b"](", after: bytes = b"e.") -> Bytes:
    return lambda size: zipped(before + b"".join(map(unit, range(size // len(unit(1000))))) + after)


def container(start: bytes, unit: bytes, end: bytes) -> Bytes:
    return lambda size: start + unit * (size // len(unit)) + end


def shared(made: Bytes, use: bytes = b"h\0", before: bytes = b"](", after: bytes = b"e.") -> Bytes:
    """Half of the bytes make one value, the others use it again and again."""
    return lambda size: zipped(made(size // 2) + b"q\0000" + before + use * (size // 2 // len(use)) + after)


def called(function: bytes, arguments: Bytes) -> Bytes:
    """Half of the bytes make a tuple of arguments, the others call a function of the table on it again and again."""
    return shared(arguments, b"h\1h\0R", b"c" + function + b"q\0010](")


def tall(integer: int) -> bytes:
    encoded = integer.to_bytes(integer.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def v2(marks: Bytes) -> Bytes:
    """The arguments of _rebuild_tensor_v2 with this dict as the last."""
    return lambda size: b"(" + STORAGE + b"K\0))\x89N" + marks(size) + b"t"


PICKLES: dict[str, Bytes] = {
    "lists that hold one list ten times": repeated(b"q\0000](" + b"h\0" * 10 + b"e", b"]", b"."),
    "tuples of twins (DUP)": repeated(b"2\x86", b"N", b"."),
    "tuples one in the other": repeated(b"\x85", b"N", b"."),
    "lists one in the other": lambda size: zipped(b"]" * (size // 2) + b"N" + b"a" * (size // 2) + b"."),
    "open MARKs": repeated(b"(", b"N", b"."),
    "MARKs and their end": repeated(b"(1", b"N", b"."),
    "empty lists": repeated(b"]"),
    "empty dicts": repeated(b"}"),
    "empty sets": repeated(b"\x8f"),
    "empty sets, each in the memo": repeated(b"\x8f\x94"),
    "memo numbers": numbered(lambda number: b"r" + struct.pack("<I", number << 8), b"N", b"."),
    "keys that hash alike": numbered(lambda number: tall(((1 << 61) - 1) * number) + b"N", b"}(", b"u."),
    "a key that hashes for ever": lambda size: zipped(b"}N" + b"2\x86" * (size // 2) + b"Ns."),
    "integers of 1,000 bytes": repeated(INTEGER),
    "integers of 4,000 digits": repeated(b"L" + b"7" * 4000 + b"L\n"),
    "keys (SETITEM)": repeated(b"NNs", b"}", b"."),
    "states of a dict (BUILD)": repeated(b"Nb", b"}", b"."),
    "states of an object (BUILD)": repeated(b"}b", b"cos\nsystem\n)R", b"."),
    "calls of what was called": repeated(b")R", b"cos\nsystem\n", b"."),
    "calls of one global": repeated(b"h\0)R", b"cos\nsystem\nq\0000]("),
    "globals, each another": numbered(lambda number: b"ca\n%d\n" % number),
    "pickles one behind the other": lambda size: zipped(b"N." * (size // 2)),
    "texts of one letter": repeated(utf8("a")),
    "empty texts": repeated(b"\x8c\0"),
    "a long list for OrderedDict": called(b"collections\nOrderedDict\n", lambda size: container(b"NN\x86q\2](", b"h\2", b"e\x85")(size)[:-1] + b"\x85"),
    "a long list for Size": called(b"torch\nSize\n", container(b"](", b"K\1", b"e\x85")),
    "a long shape": called(b"torch._utils\n_rebuild_tensor\n", lambda size: b"(" + STORAGE + b"K\0" + container(b"(", b"K\1", b"t")(size) + b")t"),
    "a shape of 64 dimensions": called(b"torch._utils\n_rebuild_tensor\n", lambda _: b"(" + STORAGE + b"K\0(" + b"K\1" * 64 + b"tq\2h\2t"),
    "a long name of a device": called(b"torch\ndevice\n", container(b"(", b"K\1", b"t")),
    "a long dict of marks": called(b"torch._utils\n_rebuild_tensor_v2\n", v2(container(b"}(" + utf8("neg") + b"q\3\x88", b"h\3\x88", b"u"))),
    "a long shape of no data": called(
        b"torch._utils\n_rebuild_meta_tensor_no_storage\n", lambda size: b"N" + container(b"(", b"K\1", b"t")(size) + b"\x86"
    ),
    "a long list of arguments": called(b"torch._utils\n_rebuild_parameter\n", container(b"(", b"N", b"t")),
    "an object for each call on a long tuple": called(b"a\nb\n", container(b"(", b"N", b"t")),
    "subclasses": called(b"torch._tensor\n_rebuild_from_type_v2\n", lambda _: b"(" + REBUILD + b"ctorch\nTensor\n" + b"(" + STORAGE + b"K\0))tNt"),
    "tensors": called(b"torch._utils\n_rebuild_tensor\n", lambda _: b"(" + STORAGE + b"K\0))t"),
    "mentions of a storage": repeated(b"h\0Q", b"](" + STORAGE[:-1] + b"q\0Q"),
    "texts that are pickles": repeated(b"C\x0c\x80\2]]]]]]]]]."),
    "texts that name a global": numbered(lambda number: utf8(f"\x80\2ca{number}\na\n.")),
    "globals by texts that are no text": repeated(b"h\0h\1\x930", SURROGATES + b"q\x000" + SURROGATES + b"q\x010", b"N."),
    "calls of a global with a short name": repeated(b")R", b"cos\nx\n", b"."),
    "states of an OrderedDict (BUILD)": repeated(b"}b", b"ccollections\nOrderedDict\n)R", b"."),
    "protocols": repeated(b"\x80\4", after=b"N."),
    "numbers of globals (EXT1)": repeated(b"\x82\1"),
    "numbers of globals (EXT4)": numbered(lambda number: b"\x84" + struct.pack("<I", number)),
    "integers as only C reads them": repeated(b"I0x1\n"),
    "broken escapes": repeated(b"S'\\x'\n"),
    "instances, each of another class": numbered(lambda number: b"(ia\n%d\n" % number),
    "values across the end of a frame": repeated(b"N0", b"\x95" + struct.pack("<Q", 3) + b"X\1\0\0\0a0", b"N."),
    "calls across the end of a frame": repeated(b")R", b"\x95" + struct.pack("<Q", 3) + b"X\1\0\0\0a0cos\nx\n", b"."),
    "dtypes of numpy": called(b"numpy\ndtype\n", lambda _: b"(" + utf8("f8") + b"\x89\x88t"),
    "a chain of lists, shared": shared(lambda _: b"]" * 50 + TENSOR + b"a" * 50),
    "tensors below a long key": shared(lambda _: TENSOR, before=b"}" + utf8("k" * 4000) + b"](", after=b"es."),
    "tensors below a long key of wide letters": shared(lambda _: TENSOR, before=b"}" + utf8("\U0001f600" + "k" * 4000) + b"](", after=b"es."),
    "no tensors below a long key": repeated(b"]", b"cos\nsystem\n}" + utf8("k" * 4000) + b"](", b"es\x85R."),
    "pairs one in the other": repeated(b"2\x86", b"}U\1aN\x85", b"s."),
    "one list, often": shared(container(b"](", b"]", b"e")),
    "one list beside a tensor, often": shared(container(b"](", b"N\x85", b"e"), before=b"](" + TENSOR),
}  # fmt: skip


def many_records(size: int) -> bytes:
    """Empty records; the directory has 46 bytes of each and its name."""
    entries = checkpoint_entries(None, {}, pickle=b"\x80\2N.")
    return zip_bytes([*entries, *(Entry(f"archive/data/{number}") for number in range(size // 65))], alignment=1)


def overlapping(size: int) -> bytes:
    """Records that all have the same bytes."""
    # Names of the same length: its byte in the header is an opcode, and it decides what is run after a header.
    entries = [Entry(f"archive/{number:05}", central={"header": 0}) for number in range(size // 56)]
    return zip_bytes(entries, alignment=1)


def deflated(size: int) -> bytes:
    """A data.pkl of this many bytes that is deflated to a thousandth of them."""
    entries = checkpoint_entries(None, {}, pickle=b"\x80\2](" + b"]" * size + b"e.")
    return zip_bytes([Entry(entry.name, entry.data, deflated=True) for entry in entries], alignment=1)


def extra_fields(size: int) -> bytes:
    """Extra fields of four bytes, as many as a record can have."""
    extra = b"".join(struct.pack("<HH", number, 0) for number in range(2, 16_000))
    return zip_bytes(
        [Entry(f"archive/{number}", central={"extra": extra}) for number in range(-(-size // len(extra)))], alignment=1
    )


def tar_of_records(text: str) -> bytes:
    """A tar archive with these pax records, `key=value` with a semicolon after each."""
    data = pax(dict(one.split("=") for one in text.split(";") if one))
    return tar_header(b"x", len(data), kind=b"x") + padded(data) + tar({"a": b"N."})


def script(code: bytes) -> bytes:
    """A TorchScript program with this code."""
    entries = checkpoint_entries(None, {}, pickle=b"\x80\2N.")
    return zip_bytes([*entries, Entry("archive/constants.pkl", b"\x80\2)."), Entry("archive/code/a.py", code)])


def header(made: Bytes) -> Bytes:
    """A safetensors file with this header."""
    return lambda size: struct.pack("<Q", len(made(size))) + made(size)


def names(size: int) -> bytes:
    return safetensors_file({f"{number}": ("U8", (0,), b"") for number in range(size // 52)})


ENTRY = b'{"dtype":"U8","shape":[%s],"data_offsets":[0,0]}'
DOCUMENTS: dict[str, Bytes] = {
    "JSON lists one in the other": lambda size: b'{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
    "JSON objects one in the other": lambda size: b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6),
    "JSON empty lists": lambda size: b'{"a":[[]' + b",[]" * (size // 3) + b"]}",
    "JSON empty objects": lambda size: b'{"a":[{}' + b",{}" * (size // 3) + b"]}",
    "JSON one-letter keys": lambda size: b'{"a":[0' + b',{"a":0}' * (size // 8) + b"]}",
    "JSON keys": lambda size: b'{"a":0' + b"".join(b',"%d":0' % number for number in range(size // 10)) + b"}",
    "JSON integers of 4,000 digits": lambda size: b'{"a":[0' + (b"," + b"7" * 4000) * (size // 4001) + b"]}",
    "JSON integers of too many digits": lambda size: b'{"a":' + b"7" * size + b"}",
    "JSON wide text": lambda size: b'{"a":"' + b"x" * size + "\U0001f600".encode() + b'"}',
    "JSON escapes": lambda size: b'{"a":"' + b"\\u1234" * (size // 6) + b'"}',
}


def weight_map(size: int) -> bytes:
    return json.dumps({"weight_map": {f"{number}": "a.bin" for number in range(size // 19)}}).encode()


def manifest(size: int) -> bytes:
    entry = {
        "name": "",
        "dtype": "F32",
        "shape": [],
        "stride": [],
        "offset": 0,
        "parts": ["a.bin"],
        "byte_order": "little",
    }
    return json.dumps(
        {
            "schema": "cerebras-tool/manifest/v1", "form": "storages", "source": {}, "config": None,
            "files": [{"path": "a.bin", "nbytes": 4, "crc32": "00000000"}],
            "tensors": [entry | {"name": f"{number}"} for number in range(size // 120)],
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip


def keys(unit: Callable[[int], bytes]) -> Bytes:
    return lambda size: gguf([unit(number) for number in range(min(99_999, size // len(unit(1000))))])


BOMBS: dict[str, tuple[str, Bytes]] = {
    **{name: ("model.bin", made) for name, made in PICKLES.items()},
    "a zip of empty records": ("model.bin", many_records),
    "a zip of one record many times": ("model.bin", overlapping),
    "a zip with a pickle that inflates": ("model.bin", deflated),
    "a zip of extra fields": ("model.bin", extra_fields),
    "a legacy stream of empty lists": ("model.bin", lambda size: legacy_bytes(None, {}, pickle=b"\x80\2](" + b"]" * size + b"e.")),
    "a legacy stream of keys": ("model.bin", lambda size: legacy_bytes(None, {}, keys=[f"{n}" for n in range(size // 10)])),
    "a legacy stream without an end": ("model.bin", lambda size: LEGACY_MAGIC + dumps(1001) + dumps({}) + b"](" + b"N" * size),
    "a tar of empty members": ("model.bin", lambda size: tar({f"{number}": b"" for number in range(size // 512)})),
    "a tar of pax records": ("model.bin", lambda size: tar_of_records("".join(f"{n}=1;" for n in range(size // 16)))),
    "a tar of links": ("model.bin", lambda size: tar_header(b"a", 0, kind=b"2") * (size // 512) + bytes(1024)),
    "a zlib stream of a pickle": ("model.joblib", lambda size: zlib.compress(b"\x80\2](" + b"]" * size + b"e.", 0)),
    "zlib streams of a byte": ("model.joblib", lambda size: zlib.compress(b"N") * (size // 9)),
    "arrays of joblib": ("model.joblib", lambda size: joblib(*[(b"", (0,), "f8")] * (size // 250))),
    "objects of joblib": ("model.joblib", lambda size: joblib(*[(b"N.", (1,), "O8")] * (size // 250))),
    "ONNX nodes": ("model.onnx", lambda size: onnx(*[b""] * (size // 2))),
    "ONNX operators": ("model.onnx", lambda size: onnx(*(node(f"{n}", "mine") for n in range(size // 20)))),
    "a Keras model of empty lists": (
        "model.keras",
        lambda size: zip_bytes([Entry("config.json", b'{"a":[[]' + b",[]" * (size // 3) + b"]}"), Entry("metadata.json", b"{}")]),
    ),
    "TorchScript of dots": ("model.pt", lambda size: script(b"ops.a" * (size // 5))),
    "TorchScript of a long name": ("model.pt", lambda size: script(b"ops." + b"a" * size)),
    "TorchScript of names": ("model.pt", lambda size: script(b"".join(b"ops.a%d.b(" % n for n in range(size // 12)))),
    "safetensors of many names": ("model.safetensors", names),
    "safetensors of a long shape": ("model.safetensors", header(lambda size: b'{"a":' + ENTRY % (b"0" + b",0" * (size // 2)) + b"}")),
    **{name.replace("JSON", "safetensors,", 1): ("model.safetensors", header(made)) for name, made in DOCUMENTS.items()},
    **{name.replace("JSON", "an index,", 1): ("pytorch_model.bin.index.json", made) for name, made in DOCUMENTS.items()},
    "an index of many names": ("pytorch_model.bin.index.json", weight_map),
    "a manifest of many tensors": ("manifest.json", manifest),
    "a config.json of empty objects": ("config.json", DOCUMENTS["JSON empty objects"]),
    "GGUF keys": ("model.gguf", keys(lambda number: key(f"{number}", "u8", 1))),
    "GGUF text": ("model.gguf", keys(lambda number: key(f"{number}", "string", "x" * 1000))),
    "GGUF empty arrays": ("model.gguf", keys(lambda number: key(f"{number}", "array:u8", []))),
    "GGUF arrays of empty text": ("model.gguf", lambda size: gguf([key("a", "array:string", [""] * (size // 8))])),
    "GGUF arrays of bytes": ("model.gguf", lambda size: gguf([key("a", "array:u8", [1] * size)])),
    "GGUF tensors": ("model.gguf", lambda size: gguf([], [Info(f"{n}", (0,)) for n in range(size // 38)])),
    "GGUF tensors of 4 dimensions": ("model.gguf", lambda size: gguf([], [Info(f"{n}", (0, 1, 1, 1)) for n in range(size // 62)])),
    "GGUF a nested array": ("model.gguf", lambda size: gguf([text("a") + struct.pack("<IIQ", 9, 9, 1) * (size // 16)])),
}  # fmt: skip


def write(name: str, size: int, folder: Path) -> Path:
    """Write a bomb and the files that belong beside it; return the path to open."""
    file, made = BOMBS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(made(size))
    if not file.endswith(".json"):
        return folder / file
    beside = zipped(TENSOR + b".") if file != "manifest.json" else floats(1.0)
    (folder / "a.bin").write_bytes(beside)
    return folder
