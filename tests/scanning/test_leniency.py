"""A mistake that only some unpicklers accept makes a pickle malformed, and what follows it is still named.

Each pickle here goes on to call `os.mkdir`. Python's and C's unpicklers are run on all of them, and on many that are put
together by chance, but with a `find_class` that only notes what it was asked for and returns something inert.
"""

from __future__ import annotations

import base64
import io
import pickle
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from converter.errors import LimitError
from converter.io.local import LocalFile
from converter.pickles.opcodes import OPCODES
from converter.scanning.pickle_stream import run_pickle
from converter.scanning.scan import scan, scan_file
from tests.build.depth import some

CALL = b"0\x8c\x02os\x8c\x05mkdir\x93X\x03\0\0\0hit\x85R."


def framed(size: int) -> bytes:
    return b"\x95" + struct.pack("<Q", size)


# The pickle, and whether C's unpickler, reading a BytesIO, and Python's ask for os.mkdir.
LENIENT: dict[str, tuple[bytes, bool, bool]] = {
    **{f"a number {text!r}": (b"I" + text + b"\n" + CALL, True, python) for text, python in (
        (b"0x10", True), (b"0X1f", True), (b"0o17", True), (b"0b1", True), (b"1_0", True), (b" 7", True), (b"7 ", True),
        (b"\t7\v", True), (b"7\r", True), (b"+7", True), (b"-0x7", True), (b"010", False), (b"+07", False), (b"7\0", False),
        (b"7\0junk", False), (b" 0_7 ", False)) if text != b" 0_7 "},
    **{f"a long {text!r}": (b"L" + text + b"\n" + CALL, True, python) for text, python in (
        (b"0x10L", True), (b"0x10", True), (b"1_0L", True), (b" 7L", True), (b"+7L", True), (b"7 L", True), (b"0b1L", True),
        (b"0o7L", True), (b"\f7L", True), (b"7\0L", False))},
    **{f"a float {text!r}": (b"F" + text + b"\n" + CALL, c, python) for text, c, python in (
        (b" 1", False, True), (b"1_0", False, True), (b"1 ", False, True), (b"1\r", False, True), (b"1\0", True, False),
        (b"1.5\0junk", True, False))},
    **{f"a memo number {text!r}": (b"N" + b"p" + text + b"\n" + b"0g" + text + b"\n" + CALL, True, python) for text, python in (
        (b"1_0", True), (b" 3", True), (b"3 ", True), (b"+3", True), (b"03", True), (b"3\r", True), (b"3\0", False))},
    "a memo number of 33 bits": (b"Np8589934592\n0g+8589934592\n" + CALL, False, True),
    **{f"a surrogate {n}": (head + b"\xed\xa0\x80" + CALL, True, True) for n, head in enumerate(
        (b"\x8c\x03", b"X\x03\0\0\0", b"\x8d\x03" + bytes(7)))},
    "a surrogate in UNICODE": (b"V\\ud800\n" + CALL, True, True),
    "half an escape": (b"S'\\x4'\n" + CALL, False, False),
    "blanks behind a STRING": (b"S'a' \n" + CALL, False, False),
    **{f"PROTO {n}": (data + CALL, True, True) for n, data in enumerate((
        b"\x80\4\x80\4N", b"N\x80\2", b"\x80\2\x80\4\x80\3N", b"(\x80\0N0", b"\x80\4N\x80\4"))},
    **{f"a frame of {size}": (framed(size) + b"\x8c\1a" + CALL, c, python) for size, c, python in (
        (1, True, True), (2, True, True), (500, False, True), ((1 << 63) - 1, False, True))},
    "a frame in a frame": (framed(15) + framed(3) + b"\x8c\1aN" + CALL, True, False),
    "a frame that ends in a number": (framed(2) + b"J\1\0\0\0" + CALL, True, False),
    "nothing appended to None": (b"N(e" + CALL, True, False),
    "nothing put into None": (b"N(u" + CALL, True, True),
    "an item of a list": (b"]K\1aK\0K\2s" + CALL, True, True),
    "no state": (b"NNb" + CALL, True, True),
    "an empty state": (b"N}b" + CALL, False, True),
    "a buffer that is only to be read": (b"C\1a\x98" + CALL, True, True),
    "two values at the end": (b"N" + CALL[1:], True, True),
    "a mark at the end": (b"N(" + b"N" + CALL, True, True),
    "Latin-1": (b"U\1\xff" + b"X\1\0\0\0a\x930" + CALL, False, False),
}  # fmt: skip


class Inert:
    """Takes the place of every global here."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _take(self, *args: Any) -> None:
        pass

    append = extend = add = __setitem__ = __setstate__ = _take

    def __hash__(self) -> int:
        return 1


def asked(unpickler: Any, data: bytes) -> set[tuple[str, str]]:
    """The globals that an unpickler asks for until it is done, or fails."""
    names: set[tuple[str, str]] = set()

    class Noting(unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            names.add((module, name))
            return type("Made", (Inert,), {})

        def persistent_load(self, number: Any) -> Any:
            return 7

    with suppress(Exception):  # whatever the error, the unpickler has asked before
        Noting(io.BytesIO(data)).load()
    return names


C, PYTHON = pickle.Unpickler, pickle._Unpickler


@pytest.mark.parametrize("name", LENIENT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_some_unpickler_lets_pass(name: str, tmp_path: Path) -> None:
    data, c, python = LENIENT[name]
    (tmp_path / "blob").write_bytes(data)

    found = scan_file(LocalFile(tmp_path / "blob"), fickling=False, named=False)

    assert ("os", "mkdir") in {(one.module, one.name) for one in found.pickles[0].globals}
    assert found.verdict == "malformed"
    assert {"dangerous-global", "malformed"} <= {finding.rule for finding in found.findings}
    assert (("os", "mkdir") in asked(C, data), ("os", "mkdir") in asked(PYTHON, data)) == (c, python)


def test_a_frame_is_read_as_from_a_file_too() -> None:
    """From a file without peek(), C's unpickler forgets the rest of a frame whose end an opcode crosses."""
    data = framed(5) + b"cxxxxos\nmkdir\n."

    assert asked(C, data) == {("os", "mkdir")}
    assert {("os", "mkdir"), ("xxxxos", "mkdir")} <= run_pickle(data, 0).globals.keys()


@pytest.mark.parametrize(
    ("data", "name"), [(b"c__builtin__\neval\n.", ("builtins", "eval")), (b"ccopy_reg\n_reconstructor\n.", ("copyreg", "_reconstructor")),
                       (b"ccommands\ngetoutput\n.", ("subprocess", "getoutput")), (b"\x80\2c__builtin__\nreduce\n.", ("functools", "reduce")),
                       (b"\x80\3c__builtin__\neval\n.", ("__builtin__", "eval"))]
)  # fmt: skip
def test_names_of_python_2_are_judged_as_the_names_that_are_imported(data: bytes, name: tuple[str, str]) -> None:
    assert set(run_pickle(data, 0).globals) == {name}


@pytest.mark.parametrize(
    "data", [b"K\1\x8c\2os\x93.", b"\x8c\2os\x8c\6systemK\1R\x93.", b"\x8c\2osh\5\x93.", b"\x8c\2osN\x85\x93."]
)
def test_a_global_is_not_made_up_from_texts_that_stand_nearby(data: bytes) -> None:
    found = run_pickle(data, 0)

    assert found.globals == {}
    assert found.error is not None


def test_the_memo_is_honoured_after_an_error() -> None:
    found = run_pickle(b"\x8c\2os\x94\x8c\6system\x94h\x09h\0h\1\x93.", 0)

    assert found.globals == {("os", "system"): 20}
    assert "memo 9" in str(found.error)


def test_no_more_than_a_few_errors_are_gone_past() -> None:
    found = run_pickle(b"\x80\2" + b"R" * 1000 + b"cos\nsystem\n.", 0)

    assert found.globals == {}
    assert found.error is not None


def test_a_known_class_that_is_changed_itself_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ctorch\nTensor\nN}X\1\0\0\0aNs\x86b.")

    found = scan_file(LocalFile(tmp_path / "x"), fickling=False)

    assert [finding.message for finding in found.findings] == ["BUILD at byte 25 changes torch.Tensor itself"]


@pytest.mark.parametrize("ending", [".pkl", ".PT", ".bin", ".ckpt", ".joblib", ".npy", ".safetensors", ".gguf"])
def test_a_file_that_contradicts_its_name_is_malformed(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"x{ending}").write_bytes(b"\1 nothing that is known")

    assert scan([tmp_path], fickling=False).verdict == "malformed"


def test_a_named_file_of_unknown_kind_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Copyright (c) nobody\n")
    (tmp_path / "words").write_text("cat\ndog\nemu\n")
    (tmp_path / "x.pkl").write_bytes(b"N.")

    named = scan([tmp_path / "LICENSE"], fickling=False)
    lying = scan([tmp_path], fickling=False)

    assert [finding.rule for finding in named.files[0].findings] == ["not-looked-into"]
    assert (lying.verdict, len(lying.files), lying.skipped) == ("plain", 1, 2)


# ---- by chance ---------------------------------------------------------------------------------------------------------

NUMBERS = (b"7", b"00", b"01", b"010", b"0x10", b"1_0", b" 5", b"3\r", b"4\0z", b"5L", b"08", b"", b"4294967296", b"-1")
NAMES = (
    b"os",
    b"system",
    b"a.b",
    b"__builtin__",
    b"eval",
    b"",
    b"x y",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"os\r",
    b"torch",
)
TEXTS = (
    b"'os'",
    b'"system"',
    b"'\\x6fs'",
    b"'a\\q'",
    b"'os' ",
    b"os",
    b"'",
    b"''",
    b"'\\5'",
    b"\\u006fs",
    b"\\ud800",
    b"\\u12",
)
SIZES = (0, 1, 2, 3, 5, 8, 12, 20, 40, 1 << 40, 1 << 63)
PREFIXES = {"SHORT_BINUNICODE": 1, "SHORT_BINBYTES": 1, "SHORT_BINSTRING": 1, "BINUNICODE": 4, "BINBYTES": 4, "BINSTRING": 4,
            "BINUNICODE8": 8, "BINBYTES8": 8, "BYTEARRAY8": 8, "LONG1": 1, "LONG4": 4}  # fmt: skip
WIDTHS = {"BININT": 4, "BININT1": 1, "BININT2": 2, "BINFLOAT": 8, "EXT1": 1, "EXT2": 2, "EXT4": 4}


def opcode(name: str, chance: random.Random) -> bytes:
    code = bytes([OPCODES[name][0]])
    if name in ("INT", "LONG", "GET", "PUT", "FLOAT"):
        return code + chance.choice(NUMBERS) + b"\n"
    if name in ("STRING", "UNICODE"):
        return code + chance.choice(TEXTS) + b"\n"
    if name in ("PERSID", "GLOBAL", "INST"):
        return code + b"".join(chance.choice(NAMES) + b"\n" for _ in range(1 if name == "PERSID" else 2))
    if name == "FRAME":
        return framed(chance.choice(SIZES))
    if name in ("PROTO", "BINGET", "BINPUT"):
        return code + bytes([chance.randrange(6)])
    if name in ("LONG_BINGET", "LONG_BINPUT"):
        return code + struct.pack("<I", chance.choice((0, 1, 2, 300)))
    if name in PREFIXES:
        text = chance.choice(NAMES)
        return code + len(text).to_bytes(PREFIXES[name], "little") + text
    return code + chance.randbytes(WIDTHS.get(name, 0))


def by_chance(seed: str) -> bytes:
    chance = random.Random(seed)
    parts = [b"\x80" + bytes([chance.randrange(6)])] if chance.random() < 0.4 else []
    for _ in range(chance.randrange(1, 14)):
        name = chance.choice([*OPCODES, *PREFIXES, "STACK_GLOBAL", "POP", "MARK", "REDUCE", "FRAME", "PUT"])
        if name == "STACK_GLOBAL":
            parts += [opcode(chance.choice(("SHORT_BINUNICODE", "UNICODE", "STRING")), chance) for _ in range(2)]
        if name != "STOP":
            parts.append(opcode(name, chance))
    data = bytearray(b"".join(parts) + chance.choice((b".", b".", b"", b"0.", b".junk")))
    if chance.random() < 0.3:
        data[chance.randrange(len(data))] = chance.choice(list(OPCODES.values()))[0] if data else 0
    return bytes(data)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_every_global_that_an_unpickler_asks_for_is_named(seed: int) -> None:
    total = 0
    for number in range(some(1000, 150)):
        data = by_chance(f"{seed} {number}")
        named = set(run_pickle(data, 0).globals)
        for unpickler in (C, PYTHON):
            for module, name in asked(unpickler, data):
                total += 1
                written = tuple(part.encode("utf-8", "backslashreplace").decode() for part in (module, name))
                assert written in named or ("builtins", written[1]) in named, (data, module, name)

    assert total > some(50, 7)


def test_a_pickle_of_very_many_mistakes_is_read_up_to_a_limit_that_is_named() -> None:
    few = run_pickle(b"\x80\2" + b"I0x1\n0" * 1000 + b"cos\nsystem\n.", 0)
    many = run_pickle(b"\x80\2" + b"I0x1\n0" * 1001 + b"cos\nsystem\n.", 0)

    assert ("os", "system") in few.globals
    assert few.error is None
    assert isinstance(many.error, LimitError)
    assert "more than 1,000 mistakes" in str(many.error)
    assert many.failed == 2 + 6 * 1000


@pytest.mark.parametrize("other", [(1 << 32) + 1, (1 << 60) + 1, 10**300])
def test_memo_numbers_past_32_bits_stay_apart(other: int) -> None:
    """No reader of checkpoints accepts them, but unpicklers do."""
    puts = b"X\2\0\0\0osp4294967296\n0X\6\0\0\0systemp%d\n0" % other
    data = b"\x80\2" + puts + b"g4294967296\ng%d\n\x93." % other

    assert [*run_pickle(data, 0).globals] == [("os", "system")]


def test_after_sixty_four_dead_ends_a_pickle_is_read_no_further() -> None:
    """No unpickler goes on after any of them, so this is only about the time that is spent."""
    few, many = (run_pickle(b"\x80\2" + b"t" * count + b"cos\nsystem\n.", 0) for count in (64, 65))

    assert ("os", "system") in few.globals
    assert ("os", "system") not in many.globals


def test_a_text_that_is_a_pickle_is_looked_into_once_wherever_it_stands() -> None:
    text = b"\x80\2cos\nsystem\n."

    found = run_pickle(b"\x80\4](" + (b"C" + bytes([len(text)]) + text) * 3 + b"e.", 0)

    assert found.texts == [(4, text)]


@pytest.mark.parametrize(
    ("text", "looked"),
    [
        (b"\x80\2]]]]]]]]]]].", False),  # names nothing
        (b"\x80\2cos\nsystem\n.", True),
        (b"\x80\2(ios\nsystem\n.", True),
        (b"\x80\4\x8c\2os\x8c\6system\x93.", True),
        (b"\x80\2\x82\1........", True),
        (b"\x80\2X\x18\0\0\0gAJjb3MKc3lzdGVtCi4AAAAA.", True),  # base64 of a pickle
    ],
)
def test_a_text_is_looked_into_if_it_can_name_a_global(text: bytes, looked: bool) -> None:
    found = run_pickle(b"\x80\4C" + bytes([len(text)]) + text + b".", 0)

    assert bool(found.texts) == looked


@pytest.mark.parametrize(
    ("inner", "looked"),
    [
        (b"\x80\2cos\nsystem\n.", True),
        (b"\x80\4\x8c\2os\x8c\6system\x93.", True),  # its names stand apart from each other
        (b"\x80\3\x82\1..........", True),  # by the number of an extension
        (b"cos\nsystem\n........", True),  # protocol 0
        (b"\x80\4]]]]]]]]]]]]]]]]]].", False),  # names nothing
        (b"\x81\4\x8c\2os\x8c\6system\x93.", False),  # no pickle
    ],
)
@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_pickle_in_base64_is_looked_into_if_it_can_name_a_global(inner: bytes, looked: bool, ending: bytes) -> None:
    text = base64.b64encode(inner) + ending

    for opcode in (b"C" + bytes([len(text)]), b"\x8c" + bytes([len(text)])):
        found = run_pickle(b"\x80\4" + opcode + text + b".", 0)
        assert [data for _, data in found.texts] == ([inner] if looked else []), opcode
