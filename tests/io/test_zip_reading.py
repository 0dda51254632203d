"""How much of a zip is read and held: a deflated record piece by piece, a remote one by the ranges its views need."""

import struct
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import ArchiveError
from converter.hub.repository import open_remote
from converter.io.ranges import Fetching
from converter.io.zip_records import Archive
from converter.opening import open_checkpoint
from converter.verification.verify import verify
from tests.build.archives import Memory
from tests.build.checkpoints import Entry, floats, view, write_checkpoint, zip_bytes
from tests.build.hub_server import Hub, serve

ZEROS = 64 << 20


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return zip_bytes([Entry("a/zeros", bytes(ZEROS), deflated=True), Entry("a/end", b"end")])


def test_a_deflated_record_is_inflated_in_pieces(bomb: bytes) -> None:
    """64 MiB of zeros lie in 64 KiB, which come in one read; what is held at once stays small."""
    assert len(bomb) < 1 << 17
    archive = Archive(Memory(bomb))
    source = archive.open("zeros")
    buffer = memoryview(bytearray(1 << 20))
    tracemalloc.start()
    try:
        source.readinto(ZEROS - len(buffer), buffer)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20
    assert bytes(buffer) == bytes(1 << 20)


def test_the_head_of_a_deflated_record_takes_no_more(bomb: bytes) -> None:
    archive = Archive(Memory(bomb))
    tracemalloc.start()
    try:
        head = archive.head("zeros", 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert head == bytes(10)
    assert peak < 4 << 20


# ---- over HTTP --------------------------------------------------------------------------------------------------------------

ROWS, COLUMNS, ALL = 300, 200, 320_000  # 240 kB of a storage of 1.28 MB: too little of it to fetch it whole


@pytest.mark.parametrize("before", [20_000, 200_000, ALL - ROWS * COLUMNS])
def test_a_transposed_view_over_http_has_its_own_bytes(before: int, hub: Hub, tmp_path: Path) -> None:
    numbers = np.arange(ALL, dtype="<f4")
    first = (-1 - numbers[:200_000]).tobytes()
    value = {"first": view("0", (200_000,)), "turned": view("1", (COLUMNS, ROWS), (1, COLUMNS), before)}
    content = write_checkpoint(tmp_path / "x.bin", value, {"0": first, "1": numbers.tobytes()}).read_bytes()
    hub.on_elsewhere = serve({"/x.bin": content})
    catalogue = open_remote(f"{hub.url('elsewhere')}/x.bin", fetching=Fetching(block=64 << 10))

    found = b"".join(bytes(tile) for tile in catalogue["turned"].tiles())

    wanted = numbers[before : before + ROWS * COLUMNS]
    assert found == wanted.reshape(ROWS, COLUMNS).T.copy(order="C").tobytes()


class Noting(Memory):
    """A source that notes the ranges that are announced to it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.told: list[tuple[str, int, int]] = []

    def prefetch(self, offset: int, size: int) -> None:
        self.told.append(("prefetch", offset, size))

    def release(self, offset: int, size: int) -> None:
        self.told.append(("release", offset, size))


def test_what_a_record_is_told_its_archive_is_told_of_the_same_bytes() -> None:
    """The archive has 700 bytes before the record: a range of the record starts after them, wherever it starts."""
    payload = bytes(range(200))
    data = zip_bytes([Entry("a/before", bytes(700)), Entry("a/x", payload), Entry("a/after", bytes(700))])
    start = data.index(payload)
    archive = Archive(noting := Noting(data))

    record = archive.open("x")
    record.prefetch(0, 200)
    record.prefetch(30, 20)
    record.release(150, 50)

    assert noting.told == [("prefetch", start, 200), ("prefetch", start + 30, 20), ("release", start + 150, 50)]
    assert bytes(record.read(30, 20)) == payload[30:50]


# ---- what a damaged one is called --------------------------------------------------------------------------------------------


def _local_header(data: bytes, name: bytes) -> int:
    return data.index(b"PK\3\4", data.index(name) - 30)


def _damaged(data: bytes, name: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[_local_header(data, name) + at] ^= 0x40
    return bytes(changed)


@pytest.mark.parametrize(
    ("at", "field"), [(0, "its signature"), (8, "its method"), (26, "the length of its name"), (30, "its name")]
)
def test_a_whole_zip_with_a_damaged_record_is_not_called_truncated(at: int, field: str, tmp_path: Path) -> None:
    value, storages = {"w": view("0", (4,)), "v": view("1", (4,))}, {"0": floats(1, 2, 3, 4), "1": floats(5, 6, 7, 8)}
    path = write_checkpoint(tmp_path / "x.bin", value, storages)
    data = path.read_bytes()
    (tmp_path / "y.bin").write_bytes(_damaged(data, b"archive/data.pkl", at))

    (output,) = verify(open_checkpoint(path), [tmp_path / "y.bin"]).outputs

    assert output.verdict == "different"
    assert [found.what for found in output.tensors.different] == ["unreadable"]


@pytest.mark.parametrize("short", [1, 21, 22, 500])
def test_a_zip_that_ends_early_is_called_truncated(short: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (4,))}, {"0": floats(1, 2, 3, 4)})
    (tmp_path / "y.bin").write_bytes(path.read_bytes()[:-short])

    (output,) = verify(open_checkpoint(path), [tmp_path / "y.bin"]).outputs

    assert [found.what for found in output.tensors.different] == ["truncated"]


# ---- flags -----------------------------------------------------------------------------------------------------------------


def flagged(flags: int, *, deflated: bool) -> bytes:
    """A record of eight equal bytes as other writers have it, with its sizes in the local header, and these flags."""
    data = b"a" * 8
    payload = bytes.fromhex("4b4c840000") if deflated else data  # as zlib deflates it
    true = {"flags": flags, "crc32": 0xBF848046, "compressed": len(payload), "nbytes": 8}
    behind = struct.pack("<4s3L", b"PK\7\x08", 0xBF848046, len(payload), 8) if flags & 8 else b""
    entry = Entry("a/x", data, deflated, local=true, central={"flags": flags}, descriptor=behind, payload=payload)
    return zip_bytes([entry])


@pytest.mark.parametrize("deflated", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("bit", range(16))
def test_flags_that_change_what_a_record_holds_are_refused(bit: int, deflated: bool) -> None:
    """Bits 1 and 2 say how hard a deflater tried, 11 that the name is UTF-8; 3 is for sizes after the data. 0 is encrypted."""
    read = {11, 1, 2, 3} if deflated else {11, 3}

    if bit in read:
        assert Archive(Memory(flagged(1 << bit, deflated=deflated))).read("x", 8) == b"a" * 8
    else:
        with pytest.raises(
            ArchiveError, match=rf"has flags {1 << bit:#06x}: encrypted or patched records are not read"
        ):
            Archive(Memory(flagged(1 << bit, deflated=deflated)))


def test_what_is_announced_for_an_inflated_record_does_not_reach_the_archive() -> None:
    """A range of inflated data is no range of the archive, so it must not be announced to the archive's source."""

    class Listening(Memory):
        def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
            heard.extend(ranges)

        arrange = expect

    heard: list[tuple[int, int]] = []
    record = Archive(Listening(flagged(0, deflated=True))).open("x")

    record.expect([(0, 4)])
    record.arrange([(0, 4)])

    assert heard == []
    assert bytes(record.read(0, 4)) == b"aaaa"
