"""What `scan`, `inspect` and `convert` make of files that hold other files, or are two at once. Nothing is ever unpickled."""

import bz2
import gzip
import json
import lzma
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path

import pytest

from converter.errors import ConverterError
from converter.io.local import LocalFile
from converter.opening import open_checkpoint
from converter.reports.scan import FileScan
from converter.scanning.scan import scan_file
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    zip_bytes,
)
from tests.build.containers import (
    BLOCK,
    field,
    joblib,
    keras,
    node,
    onnx,
    padded,
    pax,
    storages_of_tar,
    tar,
    tar_header,
    tensors_of_tar,
)
from tests.build.gguf_files import Info, gguf, key
from tests.build.seeds import safetensors_file

ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
PLAIN = dumps({"a": 1})
NOTHING = dumps(Call(Global("nobody.ever", "saw_this"), ()))


def look(data: bytes, tmp_path: Path, name: str = "x") -> FileScan:
    path = tmp_path / name
    path.write_bytes(data)
    return scan_file(LocalFile(path), fickling=False)


def names(found: FileScan) -> set[str]:
    return {f"{one.module}.{one.name}" for pickle in found.pickles for one in pickle.globals}


def torch_zip(**records: bytes) -> bytes:
    entries = checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)})
    return zip_bytes([*entries, *(Entry(f"archive/{name}", data) for name, data in records.items())])


def npy(data: bytes, descr: str = "'|O'", version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode()
    width = 2 if version == b"\1\0" else 4
    header += b" " * (-(len(header) + 9 + width) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data


# ---- tar --------------------------------------------------------------------------------------------------------------------

OLD = {"magic": b""}
LONG = "a/" * 80 + "pickle"
TARS: dict[str, tuple[bytes, str]] = {
    "a plain pickle": (tar({"pickle": PLAIN}), "plain"),
    "one that runs a program": (tar({"pickle": ECHO}), "dangerous"),
    "of Unix V7": (tar({"pickle": ECHO}, **OLD), "dangerous"),
    "of GNU": (tar({"pickle": ECHO}, magic=b"ustar  \0"), "dangerous"),
    "a checksum of signed bytes": (tar({"pickl\xe9": ECHO}, signed=True), "dangerous"),
    "a checksum that is padded with blanks": (
        tar_header(b"pickle", len(ECHO), checksum=b"%7o " % sum(tar_header(b"pickle", len(ECHO), checksum=b" " * 8))) + padded(ECHO),
        "dangerous",
    ),
    "the second of two": (tar({"a": PLAIN, "b": ECHO}), "dangerous"),
    "an unknown global": (tar({"a": NOTHING}), "unknown-globals"),
    "a checkpoint of torch before 0.1.10": (
        tar({"sys_info": PLAIN, "pickle": PLAIN, "storages": storages_of_tar(2, floats(1, 2)), "tensors": tensors_of_tar((2,))}),
        "plain",
    ),
    "a payload behind the numbers of a storage": (tar({"storages": storages_of_tar(2, floats(1, 2)) + ECHO}), "dangerous"),
    "numbers that are cut off": (tar({"storages": storages_of_tar(2000, floats(1, 2))}), "malformed"),
    "a zip in it": (tar({"a": zip_bytes([Entry("b", ECHO)])}), "dangerous"),
    "a checkpoint in it": (tar({"a": torch_zip()}), "plain"),
    "a tar in it": (tar({"a": tar({"b": ECHO})}), "dangerous"),
    "a size as binary": (tar_header(b"a", 0, length=b"\x80" + len(ECHO).to_bytes(11, "big")) + padded(ECHO) + bytes(1024), "dangerous"),
    "a size in a pax header": (
        tar_header(b"x", len(pax({"size": str(len(ECHO))})), kind=b"x") + padded(pax({"size": str(len(ECHO))}))
        + tar_header(b"a", 0) + padded(ECHO) + bytes(1024),
        "dangerous",
    ),
    "a long name": (
        tar_header(b"././@LongLink", len(LONG) + 1, kind=b"L") + padded(LONG.encode() + b"\0") + tar_header(b"a", len(ECHO)) + padded(ECHO),
        "dangerous",
    ),
    "a link": (tar_header(b"a", 0, kind=b"2") + bytes(1024), "malformed"),
    "a device": (tar_header(b"a", 0, kind=b"3") + bytes(1024), "malformed"),
    "a sparse file": (tar_header(b"a", 0, kind=b"S") + bytes(1024), "malformed"),
    "a name that leads out": (tar({"../a": PLAIN}), "malformed"),
    "a name twice": (tar_header(b"a", len(PLAIN)) + padded(PLAIN) + tar({"a": PLAIN}), "malformed"),
    "something behind its end": (tar({"a": PLAIN}) + padded(ECHO), "malformed"),
    "a member that is cut off": (tar({"a": PLAIN * 200})[:BLOCK + 100], "malformed"),
    "a pax header that is broken": (tar_header(b"x", 9, kind=b"x") + padded(b"99 a=b\nxx") + tar({"a": PLAIN}), "malformed"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "verdict"), TARS.values(), ids=TARS)
def test_a_tar_has_the_verdict_of_its_content(data: bytes, verdict: str, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    assert (found.verdict, found.kind) == (verdict, "a tar archive")
    assert ("posix.system" in names(found)) == (verdict == "dangerous")


@pytest.mark.parametrize("name", [name for name in TARS if name != "a checkpoint of torch before 0.1.10"])
def test_a_tar_that_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(TARS[name][0])
    with pytest.raises(ConverterError):
        open_checkpoint(tmp_path / "x")


# ---- what is compressed -----------------------------------------------------------------------------------------------------

PACKED = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    **{f"zlib, level {level}": lambda data, level=level: zlib.compress(data, level) for level in (0, 1, 6, 9)},
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_compressed_file_has_the_verdict_of_its_content(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert look(pack(PLAIN), tmp_path).verdict == "plain"
    found = look(pack(ECHO), tmp_path)
    assert (found.verdict, found.pickles[0].place) == ("dangerous", "inflated")
    assert look(pack(NOTHING), tmp_path).verdict == "unknown-globals"
    assert look(pack(torch_zip()), tmp_path).verdict == "plain"
    assert look(pack(joblib((floats(1, 2), (2,), "f4"), after=b"cposix\nsystem\n")), tmp_path).verdict == "dangerous"
    assert look(zip_bytes([Entry("a.joblib", pack(ECHO))]), tmp_path).verdict == "dangerous"
    assert look(tar({"a.joblib": pack(ECHO)}), tmp_path).verdict == "dangerous"


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_compressed_file_that_is_broken_is_looked_into_as_far_as_it_goes(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    packed = pack(ECHO + bytes(range(256)) * 400)

    cut = look(packed[: -len(packed) // 4], tmp_path)
    assert cut.verdict == "malformed"
    assert any("cut off" in finding.message for finding in cut.findings)
    followed = look(pack(PLAIN) + b"something", tmp_path)
    assert (followed.verdict, "follows" in followed.findings[0].message) == ("malformed", True)


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_second_stream_is_inflated_too(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert look(pack(PLAIN) + pack(ECHO), tmp_path).verdict == "dangerous"


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_compressed_in_compressed_ends_somewhere(pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = ECHO
    for _ in range(3):
        data = pack(data)
    assert look(data, tmp_path).verdict == "dangerous"

    found = look(pack(data), tmp_path)

    assert (found.verdict, found.findings[0].rule) == ("malformed", "not-looked-into")


def test_a_bomb_is_inflated_up_to_a_limit(tmp_path: Path) -> None:
    found = look(zlib.compress(bytes(200 << 20), 9), tmp_path)

    assert (found.verdict, found.findings[0].rule) == ("malformed", "not-looked-into")
    assert "inflate to more than" in found.findings[0].message


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x50\x2a\x4d\x18", b"\x5f\x2a\x4d\x18"])
def test_what_nothing_here_inflates_is_not_looked_into(magic: bytes, tmp_path: Path) -> None:
    assert look(magic + bytes(60), tmp_path).verdict == "malformed"


def test_a_text_that_starts_like_a_zlib_stream_is_a_text(tmp_path: Path) -> None:
    found = look(b"x^2 + y^2 = z^2\n", tmp_path)

    assert [finding.rule for finding in found.findings] == ["not-looked-into"]


NOISE = bytes((i * 37 + 200) % 256 for i in range(90))
UNKNOWN_INSIDE = {
    "a tar": tar({"a.dat": NOISE, "b": b"some text\n"}),
    "a tar of empty files": tar({"a": b"", "b": b""}),
    "a tar in a tar": tar({"a": tar({"b": NOISE})}),
    "a tar in a zip": zip_bytes([Entry("a.tar", tar({"b": NOISE}))]),
    "a zip in a tar": tar({"a.zip": zip_bytes([Entry("b", NOISE)])}),
    "a zip in a zip": zip_bytes([Entry("a.zip", zip_bytes([Entry("b", NOISE)]))]),
    "a compressed member": tar({"a.gz": gzip.compress(NOISE)}),
    "a compressed record": zip_bytes([Entry("a.gz", gzip.compress(NOISE))]),
    "a compressed tar": gzip.compress(tar({"a": NOISE})),
    "a compressed zip": lzma.compress(zip_bytes([Entry("a", NOISE)])),
    "a compressed text": bz2.compress(b"some text\n"),
    "a compressed file that is compressed": zlib.compress(gzip.compress(NOISE)),
    "records that have the names of arrays": zip_bytes([Entry("a.npy", NOISE)]),
    "a JSON document in a tar": tar({"a.json": b"{}"}),
    "no archive at all": NOISE,
}


@pytest.mark.parametrize("data", UNKNOWN_INSIDE.values(), ids=UNKNOWN_INSIDE)
def test_what_holds_nothing_known_is_not_looked_into_if_it_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)

    named = scan_file(LocalFile(path), fickling=False)
    in_a_folder = scan_file(LocalFile(path), fickling=False, named=False)

    assert (named.verdict, [finding.rule for finding in named.findings]) == ("malformed", ["not-looked-into"])
    assert (in_a_folder.verdict, in_a_folder.findings) == ("plain", ())


KNOWN_INSIDE = {
    "a pickle": tar({"a": NOISE, "b": PLAIN}),
    "an array": tar({"a.npy": npy(floats(1), "'<f4'")}),
    "weights": tar({"a.safetensors": safetensors_file({"w": ("F32", (1,), floats(1))})}),
    "a compressed pickle": tar({"a.gz": gzip.compress(PLAIN)}),
    "weights in a zip": zip_bytes([Entry("a", NOISE), Entry("b", safetensors_file({"w": ("F32", (1,), floats(1))}))]),
    "a JSON document": gzip.compress(b'{"a": 1}'),
    "a checkpoint": gzip.compress(torch_zip()),
}


@pytest.mark.parametrize("data", KNOWN_INSIDE.values(), ids=KNOWN_INSIDE)
def test_what_holds_something_known_is_looked_into(data: bytes, tmp_path: Path) -> None:
    assert look(data, tmp_path).verdict == "plain"


def test_weights_in_an_archive_are_read_strictly(tmp_path: Path) -> None:
    weights = safetensors_file({"w": ("F32", (1,), floats(1))})
    for data in (tar({"a": weights[:-1]}), zip_bytes([Entry("a", weights[:-1])])):
        (finding,) = look(data, tmp_path).findings
        assert (finding.rule, finding.place) == ("malformed", "a")


def test_a_7z_archive_in_a_tar_is_named(tmp_path: Path) -> None:
    (finding,) = look(tar({"a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(60)}), tmp_path).findings

    assert (finding.rule, finding.place, finding.message[:12]) == ("not-looked-into", "a.7z", "a 7z archive")


# ---- arrays of numpy --------------------------------------------------------------------------------------------------------

OBJECTS = ["'|O'", "'O'", "[('a', '<f4'), ('b', '|O')]", "[('a', [('b', '|O')])]", "('|O', (2,))"]
ODD = [
    "'object'",
    "'|\\x4f'",
    "'O8'",
    "'i4,O'",
    "'3O'",
    "u'|O'",
    "b'|O'",
    "'|O' ''",
    "{'names': ['a'], 'formats': ['O']}",
    "'<o'",
    "1",
]
INERT = [
    "'<f8'",
    "'|u1'",
    "'<U5'",
    "'|S3'",
    "'|V8'",
    "'<M8[ns]'",
    "'<c16'",
    "[('a', '<f4'), ('b', '<i8', (2,))]",
    "'|b1'",
]


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
@pytest.mark.parametrize("descr", OBJECTS)
def test_the_pickle_after_objects_is_looked_into(descr: str, version: bytes, tmp_path: Path) -> None:
    assert look(npy(ECHO, descr, version), tmp_path).verdict == "dangerous"
    assert look(npy(PLAIN, descr, version), tmp_path).verdict == "plain"
    assert look(zip_bytes([Entry("a.npy", npy(ECHO, descr, version))]), tmp_path).verdict == "dangerous"


@pytest.mark.parametrize("descr", ODD)
def test_after_a_header_that_numpy_does_not_write_the_file_is_looked_into(descr: str, tmp_path: Path) -> None:
    found = look(npy(ECHO, descr), tmp_path)

    assert (found.verdict, names(found)) == ("malformed", {"posix.system"})
    late = b"S'" + b"x" * 1_000_000 + b"'\n0cposix\nsystem\n(S'id'\ntR."
    assert names(look(npy(late, descr), tmp_path)) == {"posix.system"}


@pytest.mark.parametrize("descr", INERT)
def test_an_array_of_anything_else_is_plain(descr: str, tmp_path: Path) -> None:
    assert look(npy(bytes(64), descr), tmp_path).verdict == "plain"


# ---- joblib -----------------------------------------------------------------------------------------------------------------

NUMBERS = (floats(1, 2, 3, 4), (2, 2), "f4")


@pytest.mark.parametrize("aligned", [16, 64, None])
def test_arrays_of_joblib_are_passed_over(aligned: int | None, tmp_path: Path) -> None:
    found = look(joblib(NUMBERS, (b"", (0,), "i8"), (bytes(range(24)), (3,), "f8"), aligned=aligned), tmp_path)

    assert found.kind == "pickle"
    assert names(found) == {"joblib.numpy_pickle.NumpyArrayWrapper", "numpy.ndarray", "numpy.dtype"}
    assert not any("joblib" in finding.message or finding.rule == "malformed" for finding in found.findings)


def test_what_stands_between_the_arrays_counts(tmp_path: Path) -> None:
    found = look(joblib(NUMBERS, NUMBERS, after=ECHO[:-1]), tmp_path)

    assert (found.verdict, "posix.system" in names(found)) == ("dangerous", True)


def test_numbers_that_are_opcodes_to_pickle_are_two_readings(tmp_path: Path) -> None:
    found = look(joblib((ECHO.ljust(40, b"\0"), (40,), "u1"), aligned=None), tmp_path)

    assert (found.verdict, "posix.system" in names(found)) == ("malformed", True)


def test_objects_in_an_array_of_joblib_are_looked_into(tmp_path: Path) -> None:
    assert look(joblib((ECHO, (1,), "O8"), NUMBERS), tmp_path).verdict == "dangerous"
    assert "posix.system" not in names(look(joblib((PLAIN, (1,), "O8"), NUMBERS), tmp_path))


def test_a_wrapper_without_an_array_is_of_no_known_kind(tmp_path: Path) -> None:
    assert look(b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n.", tmp_path).verdict != "plain"


# ---- names in any case ------------------------------------------------------------------------------------------------------

CASES = ["DATA.PKL", "Data.pkl", "BYTEORDER", "Version", ".FORMAT_VERSION", ".Data/version", "DATA/0", "Tensors/0", ".data/Serialization_id"]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_known_name_in_another_case_is_refused(name: str, tmp_path: Path) -> None:
    entries = {entry.name: entry for entry in checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)})}
    kept = [entry for path, entry in entries.items() if str(path).lower() != f"archive/{name}".lower()]
    data = zip_bytes([*kept, Entry(f"archive/{name}", ECHO if name.lower() == "data.pkl" else b"1")])

    found = look(data, tmp_path)

    assert (found.verdict, "posix.system" in names(found)) == ("malformed", name.lower() == "data.pkl")
    with pytest.raises(ConverterError):
        open_checkpoint(tmp_path / "x")


# ---- programs ---------------------------------------------------------------------------------------------------------------

CODE = b"def f(self):\n  torch.save([1], 'x')\n  ops.mine.run(1)\n  _ = __torch__.torch.classes.a.B\n  return ops.aten.from_file('y')\n"
LAMBDA = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "YwA="}}}}
EXTERNAL = field(1, 4) + field(8, "w") + field(13, field(1, "location") + field(2, "../weights.bin"))
PROGRAMS: dict[str, tuple[bytes, str]] = {
    "TorchScript": (torch_zip(**{"constants.pkl": dumps(())}), "TorchScript"),
    "TorchScript in capitals": (torch_zip(**{"CONSTANTS.PKL": dumps(())}), "TorchScript"),
    "TorchScript of torch 1.0": (torch_zip(**{"model.json": b"{}"}), "TorchScript"),
    "code that touches files": (torch_zip(**{"constants.pkl": dumps(()), "code/a.py": CODE}), "reads or writes files, by torch's `save`, `from_file`"),
    "code with native operators": (torch_zip(**{"constants.pkl": dumps(()), "code/a.py": CODE}), "`mine.run`"),
    "code with native classes": (torch_zip(**{"constants.pkl": dumps(()), "code/a.py": CODE}), "`a.B`"),
    "torch.package": (torch_zip(**{".data/extern_modules": b"sys"}), "torch.package"),
    "torch.package in capitals": (torch_zip(**{".DATA/Extern_Modules": b"sys"}), "torch.package"),
    "pt2": (zip_bytes([Entry("m/archive_format", b"pt2"), Entry("m/models/model.json", b"{}")]), "torch.export"),
    "pt2 of before": (zip_bytes([Entry("serialized_exported_program.json", b"{}")]), "torch.export"),
    "pt2 with native code": (zip_bytes([Entry("m/archive_format", b"pt2"), Entry("m/data/aotinductor/model/x.so", b"\x7fELF")]), "native code: `data/aotinductor/model/x.so`"),
    "AOTInductor": (zip_bytes([Entry("data/aotinductor/model/x.so", b"\x7fELF")]), "AOTInductor"),
    "a Keras Lambda": (zip_bytes([Entry("config.json", keras(LAMBDA)), Entry("metadata.json", b"{}")]), "`Lambda`"),
    "a Keras class from elsewhere": (zip_bytes([Entry("config.json", keras({"class_name": "run", "module": "subprocess"})), Entry("metadata.json", b"{}")]), "`subprocess.run`"),
    "a Keras model": (zip_bytes([Entry("config.json", keras()), Entry("model.weights.h5", b"\x89HDF\r\n\x1a\n")]), "Keras model"),
    "ONNX with operators from elsewhere": (onnx(node("Run", "mine")), "`mine.Run`"),
    "ONNX with weights elsewhere": (onnx(node("Add"), tensors=[EXTERNAL]), "`../weights.bin`"),
    "ONNX with an operator in a branch": (onnx(node("If", "", field(6, field(1, node("Run", "mine"))))), "`mine.Run`"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_is_named_by_its_kind(data: bytes, said: str, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    # A name in another case is also malformed.
    assert found.verdict == ("malformed" if b"CONSTANTS" in data or b"DATA/Ext" in data else "program")
    assert any(said in finding.message for finding in found.findings if finding.rule == "program")
    # The weights of TorchScript can be read without its code.
    with nullcontext() if b"constants.pkl" in data else pytest.raises(ConverterError) as raised:
        open_checkpoint(tmp_path / "x")
    assert raised is None or "torch.jit.load" not in str(raised.value)


def test_what_claims_to_be_a_program_has_its_pickles_looked_into(tmp_path: Path) -> None:
    assert look(torch_zip(**{"constants.pkl": ECHO}), tmp_path).verdict == "dangerous"


def test_an_onnx_model_of_its_own_operators_is_plain(tmp_path: Path) -> None:
    found = look(onnx(node("Add"), node("Mul", "ai.onnx.ml")), tmp_path)

    assert (found.verdict, found.kind) == ("plain", "ONNX model")


def test_numbers_of_fixed_width_in_an_onnx_model_are_passed_over(tmp_path: Path) -> None:
    """An attribute's `f` is 4 bytes, and 8 bytes are allowed as well: the operator after them is found."""
    numbers = b"\x15" + struct.pack("<f", 1e-5) + b"\xf9\x01" + bytes(8)
    attribute = field(1, "epsilon") + numbers + field(6, field(1, node("Run", "mine")))

    assert "`mine.Run`" in look(onnx(node("If", "", attribute)), tmp_path).findings[0].message


@pytest.mark.parametrize(("count", "said"), [(16, "`mine.Run`"), (17, "more than 16 graphs inside one another")])
def test_graphs_in_an_onnx_model_are_looked_into_up_to_a_depth(count: int, said: str, tmp_path: Path) -> None:
    inner = node("Run", "mine")
    for _ in range(count):
        inner = node("If", "", field(6, field(1, inner)))

    assert [said in finding.message for finding in look(onnx(inner), tmp_path).findings] == [True]


def test_a_group_in_an_onnx_model_is_no_field(tmp_path: Path) -> None:
    found = look(onnx(node("Add", "", b"\x0b\x0c")), tmp_path)

    assert found.verdict != "plain"


@pytest.mark.parametrize("word", ["program", "package", "TorchScript", "unsafe"])
def test_a_verdict_does_not_depend_on_names(word: str, tmp_path: Path) -> None:
    twice = gguf([key("general.architecture", "string", "llama")], [Info(word), Info(word)], bytes(64))
    folder = tmp_path / word
    folder.mkdir()

    assert look(twice, tmp_path).verdict == "malformed"
    assert look(torch_zip()[:-1], folder, f"{word}.bin").verdict == "malformed"


# ---- two in one -------------------------------------------------------------------------------------------------------------

ARCHIVE = zip_bytes([Entry("a", ECHO)])
TENSOR = {"w": ("U8", (len(ARCHIVE),), ARCHIVE)}
GGUF = gguf([key("general.architecture", "string", "llama")], [Info("w", (4,), 0)], bytes(32))


def also_tar(data: bytes, payload: bytes = ECHO) -> bytes:
    """A file whose first block has the checksum of a tar header, and a member after it."""
    block = bytearray(padded(data)[:BLOCK])
    block[124:136] = b"%011o\0" % (len(padded(data)) - BLOCK)
    block[156:157] = b"0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + padded(data)[BLOCK:] + tar({"pickle": payload})


def safetensors_with(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def also_pickle() -> bytes:
    """A safetensors file whose length is BINBYTES, and whose metadata goes on with a pickle."""
    head = b'{"__metadata__":{"a":"' + b"A" * 7 + b"0" + ECHO.replace(b"\n", b"\n") + b'"}}'
    return safetensors_with(head.ljust(0x2042, b" "))


ROOM = {"__metadata__": {"a": "A" * 600}}
TWO: dict[str, tuple[bytes, str]] = {
    "safetensors and zip": (safetensors_file(TENSOR), "zip"),
    "safetensors and zip with a comment": (safetensors_file({"w": ("U8", (len(ARCHIVE) + 9,), ARCHIVE + b"PK\5\6 more")}), "zip"),
    "safetensors and tar": (also_tar(safetensors_with(json.dumps(ROOM).encode().ljust(1024))), "tar"),
    "GGUF and zip": (GGUF + ARCHIVE, "zip"),
    "GGUF and tar": (also_tar(GGUF.ljust(2048, b"\0")), "tar"),
    "npy and zip": (npy(ARCHIVE, f"'|V{len(ARCHIVE)}'"), "zip"),
    "npy and tar": (also_tar(npy(bytes(1024), "'|V1024'").ljust(2048, b"\0")), "tar"),
    "legacy and zip": (legacy_bytes({"w": view("0", (2,))}, {"0": floats(1, 2)}) + ARCHIVE, "zip"),
    "legacy and tar": (also_tar(legacy_bytes({"w": view("0", (500,))}, {"0": bytes(2000)})), "tar"),
    "zip and tar": (also_tar(torch_zip()), "tar"),
    "a comment of 65,535 bytes": (b"PK\5\6" + bytes(18) + zip_bytes([Entry("a", ECHO)], zip64=False, end={"comment": 65_535}, after=b"c" * 65_535), "zip"),
    "something before a zip": (b"hello\n" + zip_bytes([Entry("a", ECHO)], zip64=False), "zip"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "other"), TWO.values(), ids=TWO)
def test_two_files_in_one_are_malformed_and_both_looked_into(data: bytes, other: str, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    assert found.verdict == "malformed"
    assert any(other in finding.message for finding in found.findings)
    assert "posix.system" in names(found) or other == "tar"
    with pytest.raises(ConverterError):
        open_checkpoint(tmp_path / "x")


HONEST: dict[str, bytes] = {
    **{f"a header of {length:#x} bytes": safetensors_with(b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'.ljust(length), b"abcd") for length in (*range(0x40, 0xA0), 0x158, 0x2042, 0x2058)},
    "an npz whose first record would go on as a pickle": zip_bytes([Entry("a.npy", npy(dumps({"a": [1, 2]})))]),
    "a GGUF": GGUF,
    "a legacy stream": legacy_bytes({"w": view("0", (2,))}, {"0": floats(1, 2)}),
    "a checkpoint": torch_zip(),
}  # fmt: skip


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_an_honest_file_is_one(data: bytes, tmp_path: Path) -> None:
    assert look(data, tmp_path).verdict == "plain"


# ---- checkpoints inside archives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize(
    "inner", [torch_zip(), legacy_bytes({"w": view("0", (2,))}, {"0": floats(1, 2)})], ids=["zip", "legacy"]
)
def test_a_checkpoint_in_a_wheel_is_looked_into(inner: bytes, deflated: bool, tmp_path: Path) -> None:
    found = look(
        zip_bytes([Entry("pkg/__init__.py", b"x = 1\n"), Entry("pkg/model.bin", inner, deflated=deflated)]), tmp_path
    )

    assert (found.verdict, found.kind) == ("plain", "zip archive")
    assert found.pickles
    bad = legacy_bytes({"w": view("0", (2,)), "x": Call(Global("posix", "system"), ("ls",))}, {"0": floats(1, 2)})
    assert look(zip_bytes([Entry("pkg/model.bin", bad, deflated=deflated)]), tmp_path).verdict == "dangerous"
