"""npz and npy compared with numpy as a second reader and writer; and what is refused."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from converter.conversion.convert import convert
from converter.dtypes import BF16, BY_NAME, F8_E4M3, F32, U16, Dtype
from converter.errors import (
    ArchiveError,
    ConverterError,
    FormatError,
    LayoutError,
    OutputError,
    UnsafeError,
    UnsupportedError,
)  # fmt: skip
from converter.formats import identify
from converter.formats.npz import reader, writer
from converter.formats.planned import Options
from converter.io.source import Memory
from converter.io.zip_records import Archive
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.crc_checked import checked
from converter.tensors.tensor import Storage, Tensor
from tests.build.checkpoints import Entry, checkpoint_entries, floats, row_major, view, zip_bytes
from tests.build.formats import npy

CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8", "c16")
NAMES = {"b1": "BOOL", "c8": "C64", "c16": "C128"}


def tensor(data: bytes, shape: tuple[int, ...], dtype: Dtype = F32) -> Tensor:
    return Tensor(dtype, shape, row_major(shape), 0, Storage(Memory(data), 0, len(data), "0"))


def written(tensors: Mapping[str, Tensor], **options: Any) -> bytes:
    planned = writer.plan(Catalogue(tensors, Origin("memory", "test")), None, Options(**options))
    return b"".join(bytes(tile) for file in planned.files for piece in file.pieces for tile in piece.tiles())


def loaded(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


def saved(save: Any, *args: Any, **named: Any) -> Memory:
    file = io.BytesIO()
    save(file, *args, **named)
    return Memory(file.getvalue())


numbers = st.sampled_from([order + code for code in CODES for order in ("<>" if code[1:] != "1" else "|")]).flatmap(
    lambda code: arrays.arrays(code, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
laid_out = st.tuples(numbers, st.sampled_from("CF"), st.booleans()).map(
    lambda drawn: np.array(drawn[0].T if drawn[2] else drawn[0], order=drawn[1])
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b.c", "d/e", "ü", "arr 0"]), laid_out, min_size=1), st.booleans())
def test_reads_what_numpy_saves(state: dict[str, np.ndarray], packed: bool) -> None:
    found = reader.read(saved(np.savez_compressed if packed else np.savez, **state))

    assert list(found) == list(state)
    for name, array in state.items():
        code = array.dtype.str[1:]
        assert found[name].dtype.name == NAMES.get(code, f"{code[0].upper()}{8 * int(code[1:])}")
        assert found[name].shape == array.shape
        wanted = np.array(array, array.dtype.newbyteorder("<"), order="C").tobytes()
        assert b"".join(bytes(tile) for tile in found[name].tiles()) == wanted


@settings(deadline=None)
@given(laid_out)
def test_reads_what_numpy_saves_alone(array: np.ndarray) -> None:
    (found,) = reader.read_array(saved(np.save, array)).values()

    assert found.shape == array.shape
    wanted = np.array(array, array.dtype.newbyteorder("<"), order="C").tobytes()
    assert b"".join(bytes(tile) for tile in found.tiles()) == wanted


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b.c", "d/e", "ü"]), numbers, min_size=1))
def test_numpy_reads_the_output(state: dict[str, np.ndarray]) -> None:
    state = {name: np.array(array, array.dtype.newbyteorder("<"), order="C") for name, array in state.items()}
    dtypes = {code: NAMES.get(code, f"{code[0].upper()}{8 * int(code[1:])}") for code in CODES}
    tensors = {n: tensor(a.tobytes(), a.shape, BY_NAME[dtypes[a.dtype.str[1:]]]) for n, a in state.items()}

    data = written(tensors)

    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in loaded(data).items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in state.items()
    }
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():  # byte for byte what numpy.save writes, at a multiple of 64
            array = state[info.filename.removesuffix(".npy")]
            assert archive.read(info) == bytes(saved(np.save, array).read(0, info.file_size))
            assert info.compress_type == zipfile.ZIP_STORED
    laid = Archive(Memory(data))
    assert all(laid.payload(record) % 64 == 0 for record in laid.records.values())


def test_what_numpy_lacks_is_written_as_its_bits_and_comes_back() -> None:
    data = written({"w": tensor(b"\x80\x3f\0\xc0", (2,), BF16), "e": tensor(b"\x38\xff", (1, 2), F8_E4M3)})

    found = loaded(data)
    assert (found["w@bf16"].dtype, found["w@bf16"].tolist()) == (np.dtype("<u2"), [0x3F80, 0xC000])
    assert (found["e@f8_e4m3"].dtype, found["e@f8_e4m3"].tolist()) == (np.dtype("u1"), [[0x38, 0xFF]])
    back = reader.read(Memory(data))
    assert {name: (t.dtype, t.bits().tolist()) for name, t in back.items()} == {
        "w": (BF16, [0x3F80, 0xC000]), "e": (F8_E4M3, [[0x38, 0xFF]]),
    }  # fmt: skip


def test_a_mark_on_an_array_of_another_dtype_is_a_part_of_its_name() -> None:
    assert list(reader.read(saved(np.savez, **{"w@bf16": np.float32(1), "v@home": np.uint16(2)}))) == [
        "w@bf16",
        "v@home",
    ]


def test_dtypes_change_and_losses_are_counted(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.array([1, 65504 * 2, 1e-30], "<f4"), n=np.array([7], "<i8"))

    report = convert(open_checkpoint(tmp_path / "a.npz"), tmp_path / "b.npz", dtype="f16")

    with np.load(tmp_path / "b.npz") as found:
        assert found["w"].tolist() == [1, math.inf, 0]
        assert (found["w"].dtype, found["n"].dtype) == (np.dtype("<f2"), np.dtype("<i8"))
    assert (report.loss.overflowed, report.loss.underflowed) == (1, 1)


def test_tied_names_are_written_again_and_that_is_said() -> None:
    kept = tensor(floats(1, 2), (2,))
    planned = writer.plan(Catalogue({"a": kept, "b": kept}, Origin("memory", "test")), None, Options())

    assert planned.notes == ("numpy has no ties: `b` is written again, as a copy of `a`",)
    assert {name: array.tolist() for name, array in loaded(written({"a": kept, "b": kept})).items()} == {
        "a": [1, 2], "b": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
def test_every_version_of_the_header_is_read(version: bytes) -> None:
    header = "{'shape': (2,), \"descr\": '>i2', 'fortran_order': False}"  # in the order of other writers

    assert reader.read_array(Memory(npy(header, b"\1\2\3\4", version)))["arr_0"].bits().tolist() == [0x0102, 0x0304]


SHAPE = "'fortran_order': False, 'shape': (2,)"
HEADERS = {
    "an expression": "{'descr': '<f4', 'fortran_order': False, 'shape': (1+1,)}",
    "a call": "{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (2,)}",
    "a power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}",
    "a negative size": "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
    "a comprehension": "{'descr': '<f4', 'fortran_order': False, 'shape': tuple([1 for x in (1,)])}",
    "many signs": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 5000 + "2,)}",
    "a long number": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
    "a key more": "{'descr': '<f4', 'x': 1, " + SHAPE + "}",
    "a key less": "{'descr': '<f4', 'shape': (2,)}",
    "a key twice": "{'descr': '<f8', 'descr': '<f4', " + SHAPE + "}",
    "keys unpacked": "{**{'descr': '<f4', " + SHAPE + "}}",
    "an escape in a text": "{'descr': '\\x3cf4', " + SHAPE + "}",
    "no dict": "('<f4', False, (2,))",
    "an order that is a number": "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
    "a shape that is a list": "{'descr': '<f4', 'fortran_order': False, 'shape': [2]}",
    "a size that is True": "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    "too many dimensions": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 65 + ")}",
    "no text": "",
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_invalid_header_is_refused(name: str) -> None:
    with pytest.raises(ConverterError, match="numpy array"):
        reader.read_array(Memory(npy(HEADERS[name], floats(1, 2))))


DTYPES = {
    "|O": (UnsafeError, "loading it means running a pickle"),
    "<U5": (UnsupportedError, "dtype `<U5`, texts"),
    "<M8[s]": (UnsupportedError, "dates"),
    "|V2": (UnsupportedError, "ml_dtypes"),
    "<f16": (UnsupportedError, "dtype `<f16`"),
    "=f4": (UnsupportedError, "dtype `=f4`"),
    "f4": (UnsupportedError, "dtype `f4`"),
}


@pytest.mark.parametrize("descr", DTYPES)
def test_other_dtypes_are_refused_by_name(descr: str) -> None:
    error, words = DTYPES[descr]

    with pytest.raises(error, match=words.replace("[", r"\[")):
        reader.read_array(Memory(npy(f"{{'descr': '{descr}', {SHAPE}}}", bytes(32))))


def test_an_array_of_objects_and_one_of_fields_are_refused() -> None:
    with pytest.raises(UnsafeError, match="`x` in `memory` is a numpy array of Python objects"):
        reader.read(saved(np.savez, x=np.array([{}, []], object)))
    with pytest.raises(UnsupportedError, match="structured dtype with the fields `a`, `b`"):
        reader.read_array(saved(np.save, np.zeros(2, [("a", "<f4"), ("b", "<i8")])))


def test_a_name_that_stands_twice_once_as_bits_is_refused() -> None:
    with pytest.raises(LayoutError, match="`w` twice, once as bits of BF16"):
        reader.read(saved(np.savez, **{"w": np.float32(1), "w@bf16": np.uint16(1)}))


BROKEN = {
    "of another version": (b"\x93NUMPY\4\0" + bytes(8), "version 4.0"),
    "cut off in its length": (b"\x93NUMPY\1\0\1", "does not start"),
    "cut off in its header": (npy("{'descr': '<f4', " + SHAPE + "}")[:50], "ends inside the header"),
    "cut off in its data": (npy("{'descr': '<f4', " + SHAPE + "}", floats(1)), "takes 8 bytes; 4 follow"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_array_that_is_broken_is_refused(name: str) -> None:
    data, words = BROKEN[name]

    with pytest.raises(ConverterError, match=words):
        reader.read_array(Memory(data))


def test_there_is_no_root_to_choose() -> None:
    for read, data in ((reader.read, saved(np.savez, a=1.0)), (reader.read_array, saved(np.save, 1.0))):
        with pytest.raises(FormatError, match="no other to choose"):
            read(data, root="model")


def test_a_zip_that_is_two_things_is_refused() -> None:
    array = npy("{'descr': '<f4', " + SHAPE + "}", floats(1, 2))
    records = checkpoint_entries({"a": view("0", (2,))}, {"0": floats(1, 2)})
    for entries in ([Entry("archive/b.npy", array), *records], [*records, Entry("archive/b.npy", array)]):
        data = zip_bytes(entries)
        format = identify(data[:512], "x")
        assert format.read is not None
        with pytest.raises(ConverterError, match="two different files"):
            format.read(Memory(data))


def test_a_damaged_byte_is_found_in_data_and_in_the_header_of_an_empty_array() -> None:
    whole = saved(np.savez, a=np.arange(4.0))
    data = bytearray(whole.read(0, whole.size))
    data[data.index(np.float64(2).tobytes())] ^= 1

    tensors, _ = checked(reader.read(Memory(bytes(data))))
    with pytest.raises(ArchiveError, match="is damaged"):
        tensors["a"].bits()
    empty = saved(np.savez, a=np.empty((0, 3)))
    with pytest.raises(ArchiveError, match="is damaged"):
        reader.read(Memory(bytes(empty.read(0, empty.size)).replace(b"(0, 3)", b"(0, 4)")))


REFUSED = {
    "upwards": ("../x", "leads out of its folder"),
    "from the root": ("/x", "is not a plain name"),
    "with a NUL": ("a\0b", "is not a plain name"),
    "half of a surrogate pair": ("\ud800", "is not a plain name"),
    "a mark of bits": ("w@bf16", "come back as bits of the tensor `w`"),
    "too long": ("x" * 2000, "longer than a name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_would_not_come_back_is_refused(name: str) -> None:
    called, words = REFUSED[name]

    with pytest.raises(UnsupportedError, match=words):
        written({called: tensor(b"\1\0", (1,), U16)})


def test_names_that_differ_by_case_alone_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="`A` and `a`"):
        written({"a": tensor(floats(1), (1,)), "A": tensor(floats(2), (1,))})


def test_an_archive_is_not_cut() -> None:
    with pytest.raises(OutputError, match="--max-shard-size"):
        written({"a": tensor(floats(1), (1,))}, max_shard_size=1)
