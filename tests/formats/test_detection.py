"""Which format a file is, by its bytes alone; and what it is if it is not a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.errors import ArchiveError, ConverterError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.pickles.loop import run
from tests.build.checkpoints import (
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
from tests.build.depth import some

VALUE = {"w": view("0", (2, 3)), "t": view("0", (3, 2), (1, 3))}
SIX = {"0": floats(0, 1, 2, 3, 4, 5)}


def entries(**options: Any) -> list[Entry]:
    return checkpoint_entries(VALUE, SIX, **options)


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

    assert {name: tensor.bits().tolist() for name, tensor in catalogue.items()} == {
        "w": [[0, 1, 2], [3, 4, 5]], "t": [[0, 3], [1, 4], [2, 5]],
    }  # fmt: skip
    assert [(storage.key, storage.nbytes) for storage in catalogue.storages] == [("0", 24)]
    assert (catalogue.problems, catalogue.unsupported, catalogue.others, catalogue.unchecked) == ((), (), (), False)


def test_reads_big_endian(tmp_path: Path) -> None:
    import struct

    path = write_checkpoint(tmp_path / "a.bin", VALUE, {"0": struct.pack(">6f", *range(6))}, byteorder=b"big")

    assert open_checkpoint(path)["t"].bits().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_byte_order_that_is_damaged_in_the_directory_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    damaged = [
        Entry(entry.name, entry.data, central={"name": b"archive/byteordes"})
        if entry.name == "archive/byteorder"
        else entry
        for entry in entries(byteorder=b"big")
    ]
    path.write_bytes(zip_bytes(damaged))

    with pytest.raises(ArchiveError, match="another name: b'archive/byteorder'"):
        open_checkpoint(path)


class TestTorchZip:
    def test_lists_storages_nobody_refers_to(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.bin", VALUE, SIX | {"9": b"hidden", "10": b"also"})
        catalogue = open_checkpoint(path)

        assert [storage.key for storage in catalogue.storages] == ["0", "9", "10"]
        assert len(catalogue.problems) == 1
        assert "2 storages that no tensor refers to" in catalogue.problems[0]

    @pytest.mark.parametrize(
        ("count", "listed"),
        [
            (5, "`data/1`, `data/2`, `data/3`, `data/4`, `data/5`"),
            (6, "`data/1`, `data/2`, `data/3`, `data/4`, `data/5`, …"),
        ],
    )
    def test_five_of_them_are_named(self, count: int, listed: str, tmp_path: Path) -> None:
        unused = {str(number): b"x" for number in range(1, count + 1)}
        catalogue = open_checkpoint(write_checkpoint(tmp_path / "a.bin", VALUE, SIX | unused))

        [problem] = catalogue.problems
        assert problem.endswith(f"holds {count} storages that no tensor refers to ({count} bytes): {listed}")

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
        assert "it was saved without CRCs: damage to its data can't be noticed" in inspect(catalogue).problems

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


@settings(max_examples=some(300, 100), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.binary(max_size=80),
    start=st.sampled_from([b"", b"PK\3\4", LEGACY_MAGIC, b"\x80\2", b"\x80", b"\x93NUMPY\1\0"]),
)
def test_any_bytes_are_refused(data: bytes, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(start + data)

    with pytest.raises(ConverterError):
        open_checkpoint(path)


class TestPaths:
    def test_a_link_to_a_checkpoint(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.bin", VALUE, SIX)
        (tmp_path / "b.bin").symlink_to("a.bin")

        assert list(open_checkpoint(tmp_path / "b.bin")) == ["w", "t"]

    def test_the_config_beside_it_comes_along(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.bin", VALUE, SIX)
        (tmp_path / "config.json").write_text('{"n_layer": 2}')

        assert open_checkpoint(path).config == {"n_layer": 2}


def test_raw_opcodes_stay_what_they_are() -> None:
    assert run(dumps(Raw(b"N")), {}).value is None
