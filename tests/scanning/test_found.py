"""Everything that a loader would open is found, however a file's first or last bytes hide it. Nothing is ever unpickled."""

import lzma
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest

from converter.errors import ConverterError
from converter.io.local import LocalFile
from converter.io.zip_ends import archive_ends
from converter.opening import open_checkpoint
from converter.reports.scan import FileScan
from converter.scanning.scan import scan, scan_file
from tests.build.checkpoints import Entry, checkpoint_entries, dumps, floats, view, zip_bytes
from tests.build.containers import tar

ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
PLAIN = dumps({"a": 1})


def look(data: bytes, tmp_path: Path, name: str = "x") -> FileScan:
    (tmp_path / name).write_bytes(data)
    return scan_file(LocalFile(tmp_path / name), fickling=False)


def names(found: FileScan) -> set[str]:
    return {f"{one.module}.{one.name}" for pickle in found.pickles for one in pickle.globals}


def rules(found: FileScan) -> list[str]:
    return [finding.rule for finding in found.findings]


# ---- programs as flatbuffers ------------------------------------------------------------------------------------------------


def flatbuffer(start: bytes = b"\x30\0\0\0", mark: bytes = b"PTMF") -> bytes:
    return start + mark + bytes(200)


FLAT = {
    "as torch writes it": (flatbuffer(), "TorchScript"),
    "starting like JSON": (flatbuffer(b" {\0\0"), "TorchScript"),
    "starting like a list of JSON": (flatbuffer(b"[ \0\0"), "TorchScript"),
    "starting like a text": (flatbuffer(b"{ab}"), "TorchScript"),
    "starting like HTML": (flatbuffer(b"<htm"), "TorchScript"),
    "starting like joblib's old form": (flatbuffer(b"ZF0x"), "TorchScript"),
    "of ExecuTorch": (flatbuffer(mark=b"ET12"), "ExecuTorch"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["x", "x.pt", "x.ptl", "x.ff", "x.json"])
@pytest.mark.parametrize(("data", "said"), FLAT.values(), ids=FLAT)
def test_a_program_as_a_flatbuffer_is_one(data: bytes, said: str, name: str, tmp_path: Path) -> None:
    found = look(data, tmp_path, name)

    assert (found.verdict, rules(found), said in found.kind) == ("program", ["program"], True)
    assert [file.verdict for file in scan([tmp_path], fickling=False).files] == ["program"]
    with pytest.raises(ConverterError, match=said):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [b"\x80\x04\x8c\x04PTMF.", b"\x80\x04\x8c\x04PTMF0" + ECHO, b"ctorPTMF\nx\n.", tar({"tor.PTMF": PLAIN})],
    ids=["a text", "a payload", "a global", "a tar"],
)
def test_a_flatbuffer_that_is_something_else_too_is_malformed_and_looked_into(data: bytes, tmp_path: Path) -> None:
    found = look(data, tmp_path)

    assert found.verdict == "malformed"
    assert found.pickles
    assert any("TorchScript program (flatbuffer)" in finding.message for finding in found.findings)
    assert ("posix.system" in names(found)) == (ECHO in data)


def test_a_flatbuffer_in_an_archive_is_a_program(tmp_path: Path) -> None:
    for data in (zip_bytes([Entry("a/m.ptl", flatbuffer())]), tar({"a/m.ptl": flatbuffer()})):
        assert look(data, tmp_path).verdict == "program"


# ---- JSON -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"{}", b' {"a": [1, NaN]}\n', b"[]"])
def test_a_json_document_is_known(data: bytes, tmp_path: Path) -> None:
    assert look(data, tmp_path, "x.json").verdict == "plain"


@pytest.mark.parametrize("data", [b"{garbage", b"[", b'{"a": 1}\n{"b": 2}', b'{"a": 1} .', b'{"\xff": 1}', b"[" * 100_000, b"{\0\0\0"])  # fmt: skip
def test_what_only_starts_like_json_is_not(data: bytes, tmp_path: Path) -> None:
    assert rules(look(data, tmp_path, "x.json")) == ["not-looked-into"]
    assert rules(look(data, tmp_path, "x.pt")) == ["malformed"]


# ---- what joblib inflates ---------------------------------------------------------------------------------------------------


def deflated(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    return made.compress(data) + made.flush()


def flushed(data: bytes, times: int = 14_000) -> bytes:
    """A zlib stream that starts with empty blocks, as a flush writes them."""
    return b"\x78\x9c" + b"\0\0\0\xff\xff" * times + deflated(data) + zlib.adler32(data).to_bytes(4, "big")


def alone(data: bytes, nbytes: int) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": nbytes}])


def zlib_with(data: bytes, flags: int) -> bytes:
    return bytes([0x78, flags]) + zlib.compress(data)[2:]


def old_joblib(data: bytes, blank: bytes = b"") -> bytes:
    return b"ZF" + hex(len(data)).encode().ljust(19) + blank + zlib.compress(data)


INFLATED: dict[str, Callable[[bytes], bytes]] = {
    "zlib after 70,000 bytes of flushes": flushed,
    "zlib after 1 MiB of flushes": lambda data: flushed(data, 200_000),
    "zlib after an empty stream": lambda data: zlib.compress(b"") + zlib.compress(data),
    **{f"zlib, header 78 {flags:02x}": partial(zlib_with, flags=flags) for flags in (0x01, 0x5E, 0x9C, 0xDA)},
    **{f"lzma with a dictionary of {size:,} bytes": partial(alone, nbytes=size) for size in (4096, 6144, 1 << 16, 3 << 16, 1 << 20)},
    "joblib before 0.10": old_joblib,
    "joblib 0.8 of Python 2": lambda data: old_joblib(data, b" "),
    "joblib before 0.10, flushed": lambda data: b"ZF0x1               0 "[:21] + flushed(data),
}  # fmt: skip


@pytest.mark.parametrize("pack", INFLATED.values(), ids=INFLATED)
def test_what_joblib_inflates_is_looked_into(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert look(pack(PLAIN), tmp_path).verdict == "plain"
    assert look(zip_bytes([Entry("a.txt", pack(ECHO))]), tmp_path).verdict == "dangerous"
    found = look(pack(ECHO), tmp_path)
    assert (found.verdict, names(found)) == ("dangerous", {"posix.system"})

    report = scan([tmp_path], fickling=False)

    assert ([file.verdict for file in report.files], report.skipped) == (["dangerous"], 0)


def test_a_dictionary_that_takes_too_much_memory_is_no_reason_to_skip_a_file(tmp_path: Path) -> None:
    large = alone(ECHO, 1 << 20)
    (tmp_path / "x").write_bytes(large[:1] + (1 << 30).to_bytes(4, "little") + large[5:])

    (file,) = scan([tmp_path], fickling=False).files

    assert (file.verdict, file.kind) == ("malformed", "an lzma file")


def test_broken_bytes_in_the_second_piece_that_joblib_reads_hide_nothing(tmp_path: Path) -> None:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    pickle = made.compress(ECHO) + made.flush(zlib.Z_SYNC_FLUSH)
    empty = b"\0\0\0\xff\xff"
    (tmp_path / "x").write_bytes(b"\x78\x9c" + empty * 1600 + pickle + empty * 60 + b"\xff" * 40)

    (file,) = scan([tmp_path], fickling=False).files

    assert (file.verdict, names(file)) == ("malformed", {"posix.system"})


@pytest.mark.parametrize("broken", [b"\xff" * 40, b"\x07garbage"])
def test_broken_bytes_behind_a_pickle_hide_nothing(broken: bytes, tmp_path: Path) -> None:
    made = zlib.compressobj(9)
    start = made.compress(ECHO + b"x" * 4000) + made.flush(zlib.Z_SYNC_FLUSH)
    (tmp_path / "x").write_bytes(start + broken)

    (file,) = scan([tmp_path], fickling=False).files

    assert (file.verdict, names(file)) == ("malformed", {"posix.system"})


@pytest.mark.parametrize(
    "data",
    [b"x^2 + y^2 = z^2\n", b"]\0\n\0[\0", b"ZFS is a file system\n" * 9, b"ZF", b"]\0", b"x\x9c", b"]\0" + bytes(40)],
)
def test_what_only_starts_like_a_compressed_file_is_none(data: bytes, tmp_path: Path) -> None:
    assert rules(look(data, tmp_path)) in (["not-looked-into"], ["malformed"])
    assert "file of joblib" not in look(data, tmp_path).kind
    assert "zlib" not in look(data, tmp_path).kind


@pytest.mark.parametrize("length", [0x5D, 0x178, 0x15D, 0x5D00 + 0x78, 0x465A])
def test_an_honest_header_of_any_length_is_one_reading(length: int, tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'.ljust(length)

    assert look(length.to_bytes(8, "little") + header + b"abcd", tmp_path).verdict == "plain"


# ---- zips by their end ------------------------------------------------------------------------------------------------------

FIRST = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'


def safetensors_over(data: bytes) -> bytes:
    header = FIRST % (len(data), len(data))
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("behind", [0, 65_535, 65_536, 65_537, 69_561, 69_562])
def test_a_zip_is_found_as_far_from_the_end_as_any_loader_looks(behind: int, tmp_path: Path) -> None:
    found = look(safetensors_over(zip_bytes([Entry("a", ECHO)]) + bytes(behind)), tmp_path)

    assert (found.verdict, names(found)) == ("malformed", {"posix.system"})


def test_a_zip_is_found_wherever_zipfile_finds_it(tmp_path: Path) -> None:
    """The expected value comes from Python's zipfile."""
    made = zip_bytes([Entry("a", b"x" * 5000)])
    for behind in (*range(65_530, 65_545), 70_000):
        data = b"before" * 20 + made + bytes(behind)
        (tmp_path / "x").write_bytes(data)
        if zipfile.is_zipfile(BytesIO(data)):
            assert archive_ends(LocalFile(tmp_path / "x")) is not None, behind


EMPTY = b"PK\5\6" + bytes(18)


def test_an_empty_zip_is_no_pickle(tmp_path: Path) -> None:
    found = look(EMPTY, tmp_path, "x.npz")

    assert (rules(found), found.kind, found.pickles) == (["not-looked-into"], "zip archive", ())


@pytest.mark.parametrize("behind", [b"", bytes(65_536)])
def test_a_zip_behind_an_empty_one_is_read_as_a_zip(behind: bytes, tmp_path: Path) -> None:
    found = look(EMPTY + zip_bytes([Entry("a", b"\x80\x04\n" + ECHO), Entry("b", ECHO)]) + behind, tmp_path, "x.npz")

    assert (found.verdict, names(found)) == ("malformed", {"posix.system"})
    assert "zip" in found.kind
    assert not any("PERSID" in finding.message for finding in found.findings)


def test_a_zip_behind_a_text_has_one_reason(tmp_path: Path) -> None:
    found = look(b"hello world\n" + zip_bytes([Entry("a", ECHO)]), tmp_path, "x.bin")

    assert rules(found) == ["malformed", "dangerous-global"]
    assert "there is a zip archive at the end of the file" in found.findings[0].message


def part(value: object, storage: bytes = floats(1.0)) -> bytes:
    return zip_bytes(checkpoint_entries({"w": view()}, {"0": storage}, pickle=None if value is None else dumps(value)))


def test_the_archives_of_a_shard_are_looked_into_one_by_one(tmp_path: Path) -> None:
    """torch.distributed.checkpoint calls torch.save into one open file for each of its items."""
    plain = look(part(None) * 2 + part([1]), tmp_path, "__0_0.distcp")
    bad = zip_bytes(checkpoint_entries(None, {}, pickle=ECHO))
    hit = [look(data, tmp_path, "a.distcp") for data in (bad + part(1), part(1) + bad, part(1) + bad + part(1))]

    assert (
        look(part(1) * 3, tmp_path, "a.distcp").verdict == "plain"
    )  # all laid out alike, so that miniz reads the first
    assert (plain.verdict, plain.kind) == ("plain", "3 zip archives, one after another")
    assert [pickle.place for pickle in plain.pickles] == [f"part {n}/archive/data.pkl" for n in (1, 2, 3)]
    assert {(found.verdict, *names(found)) for found in hit} == {("dangerous", "posix.system")}


@pytest.mark.parametrize("between", [b"x", b"PK\3\4", ECHO, bytes(76)])
def test_archives_with_anything_between_them_are_no_shard(between: bytes, tmp_path: Path) -> None:
    for data in (between + part(1) + part(1), part(1) + between + part(1), part(1) + part(1) + between):
        assert look(data, tmp_path, "a.distcp").verdict == "malformed"


def test_archives_are_no_shard_if_the_last_directory_counts_from_the_start_of_the_file_too(tmp_path: Path) -> None:
    """torch's miniz reads that directory. Here it is in the data of the first archive, where no other reader looks."""
    last = part(1)
    start = int.from_bytes(last[-6:-2], "little")  # of its directory
    size = int.from_bytes(last[-10:-6], "little")
    first = part(None, bytes(start) + last[start : start + size])
    shift = first.index(last[start : start + size]) - start
    first = part(None, bytes(start - shift) + last[start : start + size] + bytes(400))
    assert first[start : start + 4] == b"PK\1\2"

    assert look(first + last, tmp_path, "a.distcp").verdict == "malformed"


# ---- zips that are no checkpoints -------------------------------------------------------------------------------------------

CHECKPOINT = zip_bytes(checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)}))
ARRAY = b"\x93NUMPY\1\0v\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + bytes(4)
NOTHING = {"texts": [Entry("a.txt", b"hello")], "deflated": [Entry("a.txt", b"hello" * 9, deflated=True)], "JSON": [Entry("a.json", b"{}")]}  # fmt: skip


@pytest.mark.parametrize("entries", NOTHING.values(), ids=NOTHING)
def test_a_zip_without_a_pickle_is_counted_in_a_folder_and_not_looked_into_where_it_is_named(
    entries: list[Entry], tmp_path: Path
) -> None:
    found = look(zip_bytes(entries), tmp_path, "x.zip")
    (tmp_path / "y.pkl").write_bytes(PLAIN)
    report = scan([tmp_path], fickling=False)

    assert (found.kind, rules(found)) == ("zip archive", ["not-looked-into"])
    assert "nothing in it is of a kind that is known" in found.findings[0].message
    assert ([file.verdict for file in report.files], report.skipped) == (["plain"], 1)


@pytest.mark.parametrize("inner", [PLAIN, CHECKPOINT, ARRAY, zip_bytes([Entry("a.npy", ARRAY)])], ids=["pickle", "checkpoint", "array", "arrays"])  # fmt: skip
def test_a_zip_with_something_known_in_it_is_as_that_is(inner: bytes, tmp_path: Path) -> None:
    assert look(zip_bytes([Entry("a.txt", b"hello"), Entry("b", inner)]), tmp_path, "x.zip").verdict == "plain"


# ---- compressed files in which nothing is known -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"cmy module\nf g\n0", b"hello"])
def test_what_is_compressed_and_not_understood_is_not_plain(data: bytes, tmp_path: Path) -> None:
    assert rules(look(zlib.compress(data), tmp_path, "x.z")) == ["not-looked-into"]
    assert rules(look(zlib.compress(data), tmp_path, "x.joblib")) == ["malformed"]
    assert look(zlib.compress(b"{}"), tmp_path, "y.z").verdict == "plain"


# ---- what a global is ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("_io", "BytesIO", "a file object of Python, such as io.BytesIO; unpickling makes it in memory"),
        ("random", "Random", "a part of Python's random generator; unpickling sets its state"),
    ],
)
def test_what_people_put_beside_weights_is_named_for_what_it_is(
    module: str, name: str, words: str, tmp_path: Path
) -> None:
    found = look(b"\x80\2c%b\n%b\n)\x81." % (module.encode(), name.encode()), tmp_path)

    assert found.verdict == "unknown-globals"
    assert [one.message for one in found.findings] == [f"{module}.{name} is outside the closed table: {words}"]
