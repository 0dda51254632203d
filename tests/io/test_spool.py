"""A temporary file without a name: the bytes that were put there come back, and no file is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.errors import SourceError
from converter.io.spool import Spool


def read(spool: Spool, position: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    spool.readinto(position, memoryview(buffer), "x")
    return bytes(buffer)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_pieces_lie_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool()

    assert spool.append([b"ab", b"", memoryview(b"c")]) == 0
    assert spool.append([b"def"]) == 3

    assert read(spool, 1, 4) == b"bcde"
    assert list(tmp_path.iterdir()) == []


def test_what_several_threads_append_is_not_mixed() -> None:
    spool = Spool()
    starts: dict[int, int] = {}
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        starts[number] = spool.append(bytes([number]) * 1000 for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(starts.values()) == [20_000 * number for number in range(8)]
    assert all(read(spool, start, 20_000) == bytes([number]) * 20_000 for number, start in starts.items())


def test_bytes_of_an_append_that_failed_are_written_over() -> None:
    def broken() -> Iterator[bytes]:
        yield b"xxxx"
        raise SourceError("broken")

    spool = Spool()
    with pytest.raises(SourceError, match="broken"):
        spool.append(broken())

    assert spool.append([b"ab"]) == 0
    assert read(spool, 0, 2) == b"ab"


def test_what_was_cleared_is_gone() -> None:
    spool = Spool()
    spool.append([b"abc"])

    spool.clear()

    with pytest.raises(SourceError, match=r"`x` ends early: 3 bytes are missing"):
        read(spool, 0, 3)
    assert spool.append([b"d"]) == 0
    assert read(spool, 0, 1) == b"d"


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="only systems with /proc tell which files a process has open"
)
def test_the_file_is_closed_with_the_spool() -> None:
    before = open_files()
    spool = Spool()
    assert spool.room() > 0
    assert open_files() == before + 1

    del spool

    assert open_files() == before
