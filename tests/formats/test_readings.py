"""Bytes that are a pickle as well as something else: found without running a pickle, where its opcodes name nothing."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import ConverterError, PickleError
from converter.formats.foreign import HEAD
from converter.formats.readings import names_a_global, other_readings
from converter.io.source import Memory
from converter.pickles.loop import run
from converter.pickles.opcodes import NAMES

GLOBAL = b"cos\nsystem\n"
NAMED = {
    "GLOBAL": GLOBAL + b".",
    "INST": b"(ios\nsystem\n.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93.",
    "after other opcodes": b"I5\n0G\0\0\0\0\0\0\0\0" + GLOBAL,
    "behind the head": b"B" + (1000).to_bytes(4, "little") + bytes(1000) + GLOBAL,
    "behind the head, after a line that no unpickler reads strictly": b"I" + b" " * 600 + b"5\n" + GLOBAL,
    "before an opcode that is none": GLOBAL + b"\xff",
    "before a persistent id": GLOBAL + b"Pk\n.",
}
NAMELESS = {
    "nothing": b"",
    "no opcode": b"\xff" + GLOBAL,
    "GGUF": b"GGUF\3\0\0\0" + (3).to_bytes(8, "little") + GLOBAL,
    "a zip": b"PK\3\4" + bytes(10) + b"\n" + GLOBAL,
    "after a persistent id": b"Pk\n" + GLOBAL,
    "after a persistent id on the stack": b"NQ" + GLOBAL,
    "after STOP": b"N." + GLOBAL,
    "after what no unpickler can run": b"t" + GLOBAL,
    "a name that is none": b"c1\n2\n.",
}


@pytest.mark.parametrize("case", NAMED)
def test_bytes_that_name_a_global(case: str) -> None:
    assert names_a_global(Memory(NAMED[case], "x"), NAMED[case][:HEAD])


@pytest.mark.parametrize("case", NAMELESS)
def test_bytes_that_name_none(case: str) -> None:
    assert not names_a_global(Memory(NAMELESS[case], "x"), NAMELESS[case][:HEAD])


def named_when_run(data: bytes) -> bool:
    """Whether a pickle names a global before the opcode at which every unpickler stops."""

    def refuse(value: object) -> object:
        raise PickleError("there are no persistent ids")

    def stop(at: int, error: ConverterError, ends: bool) -> None:
        if ends:
            raise error

    used: dict[tuple[str, str], int] = {}
    with suppress(ConverterError):
        run(data, {}, refuse, used=used, note=stop)
    return any(re.fullmatch(r"[A-Za-z_][\w.]*", name) for pair in used for name in [".".join(pair)] if "" not in pair)


OPCODES = st.one_of(
    st.sampled_from([*NAMES]).map(lambda code: bytes([code])),
    st.sampled_from(
        [GLOBAL, b"(", b"N", b"\x8c\1a", b"\x93", b"Pk\n", b"Q", b"ia\nb\n", b"\x95" + bytes(8), b"I1\n", b"."]
    ),
    st.binary(max_size=3),
)


@given(st.lists(OPCODES, max_size=12).map(b"".join))
def test_what_opcodes_show_is_what_running_them_shows(data: bytes) -> None:
    assert names_a_global(Memory(data, "x"), data) == named_when_run(data)


def test_only_the_first_eight_megabytes_are_looked_at() -> None:
    most = 8 << 20
    for more, named in ((0, True), (1, False)):
        size = most - 5 - len(GLOBAL) + more
        data = b"B" + size.to_bytes(4, "little") + bytes(size) + GLOBAL

        assert names_a_global(Memory(data, "x"), data[:HEAD]) is named


def test_what_else_a_file_is() -> None:
    def readings(data: bytes, *, pickled: bool = False) -> list[str]:
        return other_readings(Memory(data, "x"), data[:HEAD], pickled=pickled, archive=False)

    assert readings(GLOBAL + b".") == ["a pickle"]
    assert readings(GLOBAL + b".", pickled=True) == []
    assert readings(b"N.") == []
