"""The first record of an archive that has lost its directory."""

from __future__ import annotations

import struct

import pytest

from converter.errors import ArchiveError
from converter.io.source import Memory
from converter.io.zip_directory import first_record
from converter.limits import Limits, using


def header(name: bytes = b"x/data.pkl", extra: bytes = b"", *, method: int = 0, signature: bytes = b"PK\3\4") -> bytes:
    return struct.pack("<4s5H3L2H", signature, 20, 0, method, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra


def test_its_name_and_its_bytes() -> None:
    data = header(extra=b"FB\4\0ZZZZ") + b"abcdef"

    assert first_record(Memory(data), 100) == ("x/data.pkl", b"abcdef")
    assert first_record(Memory(data), 3) == ("x/data.pkl", b"abc")
    assert first_record(Memory(data[:-5]), 3) == ("x/data.pkl", b"a")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends inside its first header"),
        (header(b"")[:29], "ends inside its first header"),
        (header(b""), "does not start with a stored record"),
        (header(), "does not start with a stored record"),
        (header()[:-1], "does not start with a stored record"),
        (header(extra=b"abc"), "does not start with a stored record"),
        (header(method=8) + b"a", "does not start with a stored record"),
        (header(signature=b"PK\1\2") + b"a", "does not start with a stored record"),
    ],
)
def test_what_has_none(data: bytes, said: str) -> None:
    with pytest.raises(ArchiveError, match=said):
        first_record(Memory(data), 100)


def test_its_name_is_as_long_as_the_limit_at_most() -> None:
    with using(Limits(name=10)):
        assert first_record(Memory(header(b"0123456789") + b"a"), 1) == ("0123456789", b"a")
        with pytest.raises(ArchiveError, match="does not start with a stored record"):
            first_record(Memory(header(b"0123456789a") + b"a"), 1)
