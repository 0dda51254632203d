"""Several archives in one file, as `torch.distributed.checkpoint` writes them, found from the end."""

from __future__ import annotations

import struct

import pytest

from converter.io.source import Memory
from converter.io.zip_ends import archives

SIZE = 4 + 56 + 20 + 22  # bytes of `archive`


def archive(
    start: bytes = b"PK\3\4", wide: bytes = b"PK\6\6", locator: bytes = b"PK\6\7", end: bytes = b"PK\5\6"
) -> bytes:
    """What `archives` looks at: the first record's signature and the three records at the end."""
    return start + wide.ljust(56, b"\0") + locator + struct.pack("<IQI", 0, 4, 1) + end.ljust(22, b"\0")


def test_each_archive_has_its_start_and_end() -> None:
    found = archives(Memory(archive() * 3))

    assert found == [(0, SIZE), (SIZE, 2 * SIZE), (2 * SIZE, 3 * SIZE)]


def test_one_archive_is_not_several() -> None:
    assert archives(Memory(archive())) == []


@pytest.mark.parametrize(
    "broken", [{"start": b"PK\1\2"}, {"wide": b"PK\6\5"}, {"locator": b"PK\6\5"}, {"end": b"PK\5\5"}], ids=str
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_wrong_signature_in_any_of_them_makes_it_something_else(place: int, broken: dict[str, bytes]) -> None:
    parts = [archive()] * 3
    parts[place] = archive(**broken)

    assert archives(Memory(b"".join(parts))) == []


@pytest.mark.parametrize("before", [b"x", archive()[:-1], bytes(SIZE)], ids=["a byte", "a cut archive", "zeros"])
def test_what_lies_before_them_makes_it_something_else(before: bytes) -> None:
    assert archives(Memory(before + archive() * 2)) == []


def test_there_are_at_most_ten_thousand() -> None:
    assert len(archives(Memory(archive() * 10_000))) == 10_000
    assert archives(Memory(archive() * 10_001)) == []
