"""Which format a file is, by its bytes alone; and what it is where it is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.errors import ArchiveError, ConverterError, FormatError, LayoutError, PickleError, SourceError
from converter.formats import FORMATS, open_checkpoint
from converter.machine import run
from tests.checkpoints import (
    LEGACY_MAGIC,
    Call,
    Entry,
    Global,
    Raw,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)  # fmt: skip

VALUE = {"w": view("0", (2, 3)), "t": view("0", (3, 2), (1, 3))}
SIX = {"0": floats(0, 1, 2, 3, 4, 5)}

FOREIGN = {
    "empty": (b"", "an empty file"),
    "one byte of a pickle": (b"\x80", "no checkpoint"),
    "zeros": (bytes(1000), "zeros"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "HTML page"),
    "HTML without a doctype": (b"<HTML><head>", "HTML page"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "xz"),
    "Zstandard": (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard"),
    "npy": (b"\x93NUMPY\1\0" + bytes(20), "numpy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "GGML": (b"lmgg" + bytes(20), "GGML"),
    "tar": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar archive"),
    "a bare pickle": (dumps({"a": 1}), "bare pickle"),
    "JSON": (b' {"a": 1}', "JSON"),
    "an empty zip": (b"PK\5\6" + bytes(18), "empty zip"),
    "a split zip": (b"PK\7\x08PK\3\4" + bytes(20), "split"),
    "text": (b"hello, world", "no checkpoint"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("ending", [".bin", ".pt", ""])
def test_says_what_a_foreign_file_is(name: str, ending: str, tmp_path: Path) -> None:
    data, what = FOREIGN[name]
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)

    with pytest.raises(FormatError, match=what):
        open_checkpoint(path)


def entries(**options: Any) -> list[Entry]:
    return checkpoint_entries(VALUE, SIX, **options)


ZIPS = {
    "TorchScript": (lambda: [*entries(), Entry("archive/constants.pkl", b"x")], "TorchScript"),
    "TorchScript of 1.0": (
        lambda: [Entry("archive/model.json", b"{}"), Entry("archive/tensors/0", b"x")],
        "TorchScript",
    ),
    "torch.package": (lambda: [*entries(), Entry("archive/.data/extern_modules", b"sys")], "torch.package"),
    "torch.export": (lambda: [Entry("model/archive_format", b"pt2")], "torch.export"),
    "npz": (lambda: [Entry("a.npy", b"x"), Entry("b.npy", b"x")], "numpy archive"),
    "any zip": (lambda: [Entry("a/x.txt", b"x")], "no PyTorch checkpoint"),
    "no root": (lambda: [Entry("data.pkl", b"N."), Entry("version", b"3")], "outside of a folder"),
    "two roots": (lambda: [Entry("a/data.pkl", b"N."), Entry("b/version", b"3")], "no PyTorch checkpoint"),
    "no version": (lambda: entries(version=None), "version"),
    "version 0": (lambda: entries(version=b"0"), "version"),
    "version 11": (lambda: entries(version=b"11"), "version"),
    "version of words": (lambda: entries(version=b"three"), "version"),
    "version of a long text": (lambda: entries(version=b"3" * 100), "64"),
    "byte order of words": (lambda: entries(byteorder=b"middle"), "byte order"),
    "byte order with a newline": (lambda: entries(byteorder=b"little\n"), "byte order"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_says_what_a_foreign_zip_is(name: str, tmp_path: Path) -> None:
    make, what = ZIPS[name]
    path = tmp_path / "a.bin"
    path.write_bytes(zip_bytes(make()))

    with pytest.raises(ConverterError, match=what):
        open_checkpoint(path)


READ = {
    "as torch 2.13 writes it": lambda: zip_bytes(entries()),
    "as torch 1.6 writes it": lambda: zip_bytes(entries(byteorder=None)),
    "as torch 1.4 writes it": lambda: zip_bytes(entries(byteorder=None, folder="tensors", version=b"1\n")),
    "version 10": lambda: zip_bytes(entries(version=b"10")),
    "with its version in .data": lambda: zip_bytes([*entries(version=None), Entry("archive/.data/version", b"3\n")]),
    "aligned to 4096": lambda: zip_bytes(entries(), alignment=4096),
    "without zip64": lambda: zip_bytes(entries(), zip64=False),
    "deflated": lambda: zip_bytes([Entry(entry.name, entry.data, deflated=True) for entry in entries()]),
    "another root": lambda: zip_bytes(entries(root="my.model.v2")),
    "a legacy stream": lambda: legacy_bytes(VALUE, SIX),
}


@pytest.mark.parametrize("name", READ)
def test_reads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "anything.safetensors"  # the ending says nothing
    path.write_bytes(READ[name]())
    catalogue = open_checkpoint(path)

    assert {name: tensor.array().tolist() for name, tensor in catalogue.items()} == {
        "w": [[0, 1, 2], [3, 4, 5]], "t": [[0, 3], [1, 4], [2, 5]],
    }  # fmt: skip
    assert [(storage.key, storage.nbytes) for storage in catalogue.storages] == [("0", 24)]
    assert (catalogue.problems, catalogue.unsupported, catalogue.others, catalogue.unchecked) == ((), (), (), False)


def test_reads_big_endian(tmp_path: Path) -> None:
    import struct

    path = write_checkpoint(tmp_path / "a.bin", VALUE, {"0": struct.pack(">6f", *range(6))}, byteorder=b"big")

    assert open_checkpoint(path)["t"].array().tolist() == [[0, 3], [1, 4], [2, 5]]


class TestTorchZip:
    def test_lists_storages_nobody_refers_to(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.bin", VALUE, SIX | {"9": b"hidden", "10": b"also"})
        catalogue = open_checkpoint(path)

        assert [storage.key for storage in catalogue.storages] == ["0", "9", "10"]
        assert len(catalogue.problems) == 1
        assert "2 storages that no tensor refers to" in catalogue.problems[0]

    def test_lists_records_that_torch_does_not_write(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(zip_bytes([*entries(), Entry("archive/evil.pkl", b"cos\nsystem\n.")]))

        assert "`evil.pkl`" in open_checkpoint(path).problems[0]

    def test_knows_a_file_saved_without_crcs(self, tmp_path: Path) -> None:
        import struct

        path = tmp_path / "a.bin"
        path.write_bytes(
            zip_bytes(
                [
                    Entry(
                        e.name,
                        e.data,
                        central={"crc32": 0},
                        descriptor=struct.pack("<4s3L", b"PK\7\x08", 0, *2 * [len(e.data)]),
                    )
                    for e in entries()
                ]
            )
        )

        catalogue = open_checkpoint(path)
        assert catalogue.unchecked
        assert catalogue.storages[0].crc32 is None

    def test_checks_the_crc_of_the_pickle(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(zip_bytes(entries()).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"))

        with pytest.raises(ArchiveError, match="damaged"):
            open_checkpoint(path)

    @pytest.mark.parametrize("after", [b".", b"N.", b"\0"])
    def test_refuses_bytes_after_the_pickle(self, after: bytes, tmp_path: Path) -> None:
        with pytest.raises(PickleError, match="after its end"):
            open_checkpoint(write_checkpoint(tmp_path / "a.bin", None, SIX, pickle=dumps(VALUE, {"0": 24}) + after))

    def test_refuses_a_missing_storage(self, tmp_path: Path) -> None:
        with pytest.raises(LayoutError, match="is missing"):
            open_checkpoint(write_checkpoint(tmp_path / "a.bin", None, {}, pickle=dumps(VALUE, {"0": 24})))

    @pytest.mark.parametrize("nbytes", [0, 20, 23, 25, 28])
    def test_refuses_a_storage_of_another_size(self, nbytes: int, tmp_path: Path) -> None:
        with pytest.raises(LayoutError, match="should have 6 elements"):
            open_checkpoint(
                write_checkpoint(tmp_path / "a.bin", None, {"0": bytes(nbytes)}, pickle=dumps(VALUE, {"0": 24}))
            )

    def test_names_globals_outside_the_table(self, tmp_path: Path) -> None:
        value = {**VALUE, "x": Call(Global("os", "system"), ("true",))}
        catalogue = open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, SIX))

        assert catalogue.unknown_globals() == ["os.system"]
        assert [use.known for use in catalogue.globals] == [True, True, True, False]

    def test_shares_storages_between_tensors(self, tmp_path: Path) -> None:
        value = {"a": view("0", (2, 3)), "b": view("0", (2, 3)), "c": view("0", (3,), offset=3)}
        catalogue = open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, SIX))

        assert catalogue.tied() == [["a", "b"]]
        assert catalogue["a"].storage is catalogue["c"].storage


SMALL = {
    "zip": lambda: zip_bytes(entries(), alignment=1),
    "deflated zip": lambda: zip_bytes([Entry(e.name, e.data, deflated=True) for e in entries()], alignment=1),
    "legacy stream": lambda: legacy_bytes(VALUE, SIX),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused(name: str, tmp_path: Path) -> None:
    data = SMALL[name]()
    path = tmp_path / "a.bin"

    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ConverterError):
            open_checkpoint(path)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(draw=st.data())
def test_changed_bytes_are_read_or_refused(name: str, draw: st.DataObject, tmp_path: Path) -> None:
    data = bytearray(SMALL[name]())
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]))
    path = tmp_path / "a.bin"
    path.write_bytes(data)

    try:
        for tensor in open_checkpoint(path).values():
            tensor.array()
    except ConverterError as error:
        assert str(error)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=80), start=st.sampled_from([b"", b"PK\3\4", LEGACY_MAGIC, b"\x80\2", b"\x80"]))
def test_any_bytes_are_refused(data: bytes, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(start + data)

    with pytest.raises(ConverterError):
        open_checkpoint(path)


class TestPaths:
    @pytest.mark.parametrize("name", ["absent", "x" * 300, "a\0b", "absent/absent"])
    def test_that_are_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(SourceError):
            open_checkpoint(tmp_path / name)

    def test_a_dangling_link(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").symlink_to("absent")

        with pytest.raises(SourceError, match="can't be opened"):
            open_checkpoint(tmp_path / "a.bin")

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").symlink_to("a.bin")

        with pytest.raises(SourceError):
            open_checkpoint(tmp_path / "a.bin")

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.bin")

        with pytest.raises(SourceError, match="not a regular file"):
            open_checkpoint(tmp_path / "a.bin")

    def test_a_device(self) -> None:
        with pytest.raises(SourceError, match="not a regular file"):
            open_checkpoint("/dev/zero")

    def test_a_link_to_a_checkpoint(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", VALUE, SIX)
        (tmp_path / "b.bin").symlink_to("a.bin")

        assert list(open_checkpoint(tmp_path / "b.bin")) == ["w", "t"]

    def test_a_file_that_was_written_to(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.bin", VALUE, SIX)
        catalogue = open_checkpoint(path)
        catalogue.check_unchanged()
        os.utime(path, (1, 1))

        with pytest.raises(SourceError, match="changed"):
            catalogue.check_unchanged()

    def test_the_config_beside_it_comes_along(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.bin", VALUE, SIX)
        (tmp_path / "config.json").write_text('{"n_layer": 2}')

        assert open_checkpoint(path).config == {"n_layer": 2}


def test_nothing_is_imported_to_open_a_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.bin", {"x": Call(Global("colorsys", "rgb_to_hsv"), (1, 2, 3)), **VALUE}, SIX)
    program = (
        "import sys; from converter.formats import open_checkpoint; open_checkpoint(sys.argv[1]);"
        "print([name for name in ('numpy', 'pickle', '_pickle', 'torch', 'huggingface_hub', 'fickling', 'rich', 'colorsys')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"


def test_formats_have_names_of_their_own() -> None:
    assert len({format.name for format in FORMATS}) == len(FORMATS) >= 2


def test_raw_opcodes_stay_what_they_are() -> None:
    assert run(dumps(Raw(b"N")), {}).value is None
