"""The zip directory: torch's archives are read, and archives that two readers could understand differently are refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile  # used only to write
from pathlib import Path

import pytest

from converter.errors import ArchiveError, SourceError
from converter.io.zip_records import Archive
from tests.build.archives import CRC, DATA, Memory, archive, everything, stored, two
from tests.build.checkpoints import Entry, zip_bytes
from tests.build.ends import ends
from tests.build.steps import steps


class TestReads:
    def test_records_as_torch_writes_them(self) -> None:
        data = zip_bytes([Entry("a/x", DATA), Entry("a/empty"), Entry("a/b/y", b"more")])

        assert archive(data).root == "a/"
        assert everything(data) == {"x": DATA, "empty": b"", "b/y": b"more"}

    @pytest.mark.parametrize("alignment", [1, 64, 4096])
    def test_data_at_its_alignment(self, alignment: int) -> None:
        opened = archive(zip_bytes([Entry("a/x", DATA), Entry("a/y", DATA)], alignment=alignment))

        assert [opened.payload(record) % alignment for record in opened.records.values()] == [0, 0]

    def test_archives_without_zip64(self) -> None:
        assert everything(two(zip64=False)) == {"x": DATA, "y": b"more"}

    def test_records_with_their_sizes_before_them(self) -> None:
        assert everything(zip_bytes([stored()])) == {"x": DATA}

    @pytest.mark.parametrize(
        "descriptor",
        [
            struct.pack("<3L", CRC, len(DATA), len(DATA)),
            struct.pack("<4s3L", b"PK\7\x08", CRC, len(DATA), len(DATA)),
            struct.pack("<LQQ", CRC, len(DATA), len(DATA)),
            struct.pack("<4sLQQ", b"PK\7\x08", CRC, len(DATA), len(DATA)),
        ],
    )
    def test_descriptors_of_every_form(self, descriptor: bytes) -> None:
        assert everything(zip_bytes([Entry("a/x", DATA, descriptor=descriptor)])) == {"x": DATA}

    def test_sizes_in_zip64_fields(self) -> None:
        wide = struct.pack("<HHQQQ", 1, 24, len(DATA), len(DATA), 0)
        entry = Entry(
            "a/x", DATA, central={"compressed": 0xFFFFFFFF, "nbytes": 0xFFFFFFFF, "header": 0xFFFFFFFF, "extra": wide}
        )

        assert everything(zip_bytes([entry])) == {"x": DATA}

    def test_local_sizes_in_zip64_fields(self) -> None:
        wide = struct.pack("<HHQQ", 1, 16, len(DATA), len(DATA))
        entry = stored(compressed=0xFFFFFFFF, nbytes=0xFFFFFFFF, extra=wide)

        assert everything(zip_bytes([entry])) == {"x": DATA}

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("stream", [False, True], ids=["seekable", "stream"])
    def test_what_zipfile_writes(self, compression: int, stream: bool) -> None:
        file = io.BytesIO()
        if stream:
            file.seekable = lambda: False  # type: ignore[method-assign]
            file.tell = lambda: (_ for _ in ()).throw(io.UnsupportedOperation())  # type: ignore[method-assign]
        with zipfile.ZipFile(file, "w", compression) as written:
            written.writestr("a/x", DATA * 100)
            written.writestr("a/", b"")
            written.writestr("a/empty", b"")

        assert everything(file.getvalue()) == {"x": DATA * 100, "empty": b""}

    def test_deflated_records_as_a_source(self) -> None:
        source = archive(zip_bytes([Entry("a/x", DATA * 1000, deflated=True)])).open("x")
        buffer = bytearray(10)

        source.readinto(19, memoryview(buffer))

        assert bytes(buffer) == DATA[:10]
        assert bytes(source.read(5, 5)) == DATA[5:10]
        with pytest.raises(SourceError):
            source.read(19_000, 1)

    @pytest.mark.parametrize("size", [0, 1, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 258, 3 << 20])
    def test_zeros_that_deflate_to_almost_nothing(self, size: int) -> None:
        opened = archive(zip_bytes([Entry("a/x", bytes(size), deflated=True)]))

        assert opened.read("x", 4 << 20) == bytes(size)

    def test_names_outside_of_one_folder(self) -> None:
        opened = archive(zip_bytes([Entry("a/x", DATA), Entry("b/y", DATA)]))

        assert (opened.root, list(opened.records)) == ("", ["a/x", "b/y"])

    def test_stored_records_as_a_source(self) -> None:
        source = archive(two()).open("x")

        assert (bytes(source.read(4, 5)), source.size) == (b"quick", 19)
        for offset, size in ((0, 20), (19, 1), (-1, 1), (20, 0)):
            with pytest.raises(SourceError):
                source.read(offset, size)

    def test_listing_an_archive_reads_only_its_end(self) -> None:
        memory = Memory(zip_bytes([Entry("a/x", bytes(1 << 20)), Entry("a/y", DATA)]))

        Archive(memory)

        assert memory.reads == [(memory.size - 65536, 65536)]


def test_listing_takes_linear_time() -> None:
    generator = random.Random(1)
    once, often = (
        zip_bytes([Entry(f"a/data/{generator.getrandbits(64)}") for _ in range(count)], alignment=1)
        for count in (2_000, 20_000)
    )

    assert steps(lambda: archive(often)) <= 11 * steps(lambda: archive(once))
    with ends():
        assert len(archive(often).records) == 20_000


def test_a_file_that_shrinks_is_a_sentence(tmp_path: Path) -> None:
    from converter.io.local import LocalFile

    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes([Entry("a/x", bytes(200_000))]))
    opened = Archive(LocalFile(path))
    path.write_bytes(b"")

    with pytest.raises(SourceError, match="ended at byte"):
        opened.read("x", 1 << 20)


@pytest.mark.parametrize(
    "entry",
    [Entry("a/x", DATA, local={"name": b"\xff" * 60_000}), Entry(b"\xff" * 1024), Entry(b"a/" + b"\x7f" * 1000)],
    ids=["in the local header", "not UTF-8", "not printable"],
)
def test_a_name_that_is_refused_is_not_told_in_full(entry: Entry) -> None:
    with pytest.raises(ArchiveError) as caught:
        everything(zip_bytes([entry], alignment=1))
    assert len(str(caught.value)) < 500
