"""The pickle machine against CPython's own disassembler, opcode by opcode, and on bytes with false lengths."""

from __future__ import annotations

import io
import pickle  # used only to write
import pickletools
import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from converter.errors import ConverterError, PickleError, TruncatedPickleError
from converter.pickles import loop
from converter.pickles.loop import run
from converter.pickles.opcodes import NAMES, OPCODES, decode
from converter.pickles.rare import RARE
from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry, Value
from converter.pickles.walk import inner_tensors, measure
from tests.build.checkpoints import Call, Global, Pickler, dumps
from tests.build.depth import some

PAIR = TableEntry("torch", "pair", lambda args: ("pair", *args), new=lambda args: ("pair", *args))
NAME = TableEntry("torch", "name")
TABLE = {("torch", "pair"): PAIR, ("torch", "name"): NAME}


def value(data: bytes) -> Any:
    return run(data, TABLE).value


def plain(node: Any) -> Any:
    """Turn nodes into comparable Python values."""
    if type(node) is Dict:
        return {plain(key): plain(inner) for key, inner in node.pairs()}
    if type(node) in (list, tuple):
        return type(node)(plain(inner) for inner in node)
    if type(node) is Value:
        return (node.name, plain(node.args), plain(node.items))
    if type(node) is Opaque:
        return (node.module, node.name, plain(node.args), node.how)
    return node


class TestOpcodes:
    """`OPCODES` is CPython's table."""

    def test_names_and_codes_are_those_of_pickletools(self) -> None:
        assert {name: code for name, (code, _) in OPCODES.items()} == {
            op.name: ord(op.code) for op in pickletools.opcodes
        }

    @pytest.mark.parametrize("code", sorted(set(range(256)) - {ord(op.code) for op in pickletools.opcodes}))
    def test_every_other_byte_is_refused(self, code: int) -> None:
        with pytest.raises(PickleError, match="not an opcode"):
            list(decode(bytes([code]) + b"."))


def decoded(data: bytes) -> list[tuple[str, Any, int]]:
    return [(NAMES[code], argument, at) for code, argument, at in decode(data)]


def disassembled(data: bytes) -> list[tuple[str, Any, int]]:
    """What CPython's disassembler sees, in our terms: pairs of names, STRINGs as bytes."""
    found: list[tuple[str, Any, int]] = []
    given: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(data)
    for op, argument, at in given:
        if op.name in ("GLOBAL", "INST"):
            argument = tuple(argument.split(" ", 1))
        elif op.name == "STRING":
            argument = argument.encode("ascii")
        elif op.name in ("BINSTRING", "SHORT_BINSTRING"):
            argument = argument.encode("latin-1")
        elif op.name == "BYTEARRAY8":
            argument = bytes(argument)
        found.append((op.name, argument, at))
    return found


class Thing:
    """An object with a state, so that pickle writes NEWOBJ and BUILD."""

    def __init__(self) -> None:
        self.a = 1


class Keyword:
    def __new__(cls, *, a: int) -> Keyword:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"a": 1}


VALUES = {
    "constants": (None, True, False),
    "integers": [0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**31, 2**63, -(2**100), 1 << 2100],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "text": ["", "a", "é\n\\", "x" * 300, "\U0001f600"],
    "bytes": [b"", b"ab", b"x" * 300, bytearray(b"abc")],
    "containers": {"a": [1, (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11)], "b": {}, "c": [], "d": ()},
    "sets": [{1, 2}, frozenset([3])],
    "objects": [Thing(), Keyword(a=1), complex(1, 2), range(3), slice(1, 2)],
    "types": [int, dict, Thing, ValueError],
    "a long list": list(range(2500)),
    "a frame larger than 64 KiB": ["x" * 70000, b"y" * 70000, list(range(40000))],
}
CASES = [
    (name, protocol) for name in VALUES for protocol in range(6) if protocol or "64 KiB" not in name
]  # 4 KiB a line


@pytest.mark.parametrize(("name", "protocol"), CASES)
class TestAgainstPickletools:
    def test_decodes_the_same_opcodes(self, name: str, protocol: int) -> None:
        data = pickle.dumps(VALUES[name], protocol)

        assert decoded(data) == disassembled(data)

    def test_the_python_pickler_writes_the_same(self, name: str, protocol: int) -> None:
        file = io.BytesIO()
        pickle._Pickler(file, protocol).dump(VALUES[name])

        assert decoded(file.getvalue()) == disassembled(file.getvalue())


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(json_like, st.integers(0, 5))
def test_plain_values_come_back_equal(original: Any, protocol: int) -> None:
    data = pickle.dumps(original, protocol)

    assert decoded(data) == disassembled(data)
    assert plain(value(data)) == original


@given(st.binary(max_size=200), st.integers(0, 5))
def test_bytes_come_back_equal_from_protocol_3_on(original: bytes, protocol: int) -> None:
    data = pickle.dumps(original, protocol)

    assert decoded(data) == disassembled(data)
    if protocol >= 3:
        assert value(data) == original


ARGUMENTS: dict[str, list[tuple[bytes, Any]]] = {  # every opcode that has an argument, with the bytes of one and the argument
    "INT": [(b"-7\n", -7), (b"00\n", False), (b"01\n", True)], "BININT": [(b"\xff\xff\xff\xff", -1)],
    "BININT1": [(b"\xff", 255)], "BININT2": [(b"\xff\xff", 65535)], "LONG": [(b"5L\n", 5), (b"-5\n", -5)],
    "LONG1": [(b"\0", 0), (b"\2\0\xff", -256)], "LONG4": [(b"\1\0\0\0\x80", -128)],
    "STRING": [(b"'a\\n\\x41\\101\\\\'\n", b"a\nAA\\"), (b'"b\'c"\n', b"b'c"), (b"''\n", b"")],
    "BINSTRING": [(b"\2\0\0\0\xffa", b"\xffa")], "SHORT_BINSTRING": [(b"\1\xff", b"\xff")],
    "BINBYTES": [(b"\1\0\0\0\xff", b"\xff")], "SHORT_BINBYTES": [(b"\1\xff", b"\xff")],
    "BINBYTES8": [(b"\1" + bytes(7) + b"\xff", b"\xff")], "BYTEARRAY8": [(b"\1" + bytes(7) + b"\xff", b"\xff")],
    "UNICODE": [(b"a\\u00e9\n", "aé"), (b"\n", "")], "SHORT_BINUNICODE": [(b"\2\xc3\xa9", "é")],
    "BINUNICODE": [(b"\2\0\0\0\xc3\xa9", "é")], "BINUNICODE8": [(b"\2" + bytes(7) + b"\xc3\xa9", "é")],
    "FLOAT": [(b"1.5\n", 1.5), (b"-inf\n", float("-inf"))], "BINFLOAT": [(struct.pack(">d", -2.5), -2.5)],
    "GET": [(b"12\n", 12)], "BINGET": [(b"\xff", 255)], "LONG_BINGET": [(b"\0\0\0\xff", 0xFF000000)],
    "PUT": [(b"12\n", 12)], "BINPUT": [(b"\xff", 255)], "LONG_BINPUT": [(b"\0\0\0\xff", 0xFF000000)],
    "EXT1": [(b"\1", 1)], "EXT2": [(b"\1\2", 513)], "EXT4": [(b"\1\0\0\0", 1)],
    "GLOBAL": [(b"a.b\nc d\n", ("a.b", "c d"))], "INST": [(b"m\nn\n", ("m", "n"))],
    "PROTO": [(b"\5", 5)], "FRAME": [(b"\1" + bytes(7), 1)], "PERSID": [(b"x y\n", "x y")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "encoded", "argument"), [(name, *case) for name, cases in ARGUMENTS.items() for case in cases]
)
def test_arguments_by_literal_bytes(name: str, encoded: bytes, argument: Any) -> None:
    data = bytes([OPCODES[name][0]]) + encoded + b"."

    assert decoded(data)[0] == (name, argument, 0)
    assert type(decoded(data)[0][1]) is type(argument)
    assert decoded(data) == disassembled(data)


def test_every_opcode_has_a_case() -> None:
    in_the_loop = {OPCODES[name][0] for name in OPCODES.keys() & vars(loop).keys()}

    assert in_the_loop | RARE.keys() == NAMES.keys()
    assert {NAMES[code] for code in in_the_loop & RARE.keys()} == {"BUILD", "FRAME"}  # the loop only looks at them


def test_every_other_opcode_has_no_argument() -> None:
    for name in OPCODES.keys() - ARGUMENTS.keys():
        expected = [(name, None, 0)] + ([("STOP", None, 1)] if name != "STOP" else [])
        assert decoded(bytes([OPCODES[name][0]]) + b".") == expected


EFFECTS = {
    "EMPTY_SET": (b"\x8f(K\1\x90.", ("set", (), [1])),
    "FROZENSET": (b"(K\1\x91.", ("frozenset", ([1],), None)),
    "NONE": (b"N.", None),
    "NEWTRUE": (b"\x88.", True),
    "EMPTY_TUPLE": (b").", ()),
    "TUPLE of none": (b"(t.", ()),
    "TUPLE1": (b"K\1\x85.", (1,)),
    "TUPLE2": (b"K\1K\2\x86.", (1, 2)),
    "TUPLE3": (b"K\1K\2K\3\x87.", (1, 2, 3)),
    "LIST": (b"(K\1K\2l.", [1, 2]),
    "DICT": (b"(K\1K\2d.", {1: 2}),
    "APPEND": (b"]K\1a.", [1]),
    "APPENDS of none": (b"](e.", []),
    "SETITEM": (b"}K\1K\2s.", {1: 2}),
    "SETITEMS": (b"}(K\1K\2K\3K\4u.", {1: 2, 3: 4}),
    "POP": (b"K\1K\0020.", 1),
    "POP takes a mark away": (b"K\1(0.", 1),
    "POP_MARK": (b"K\1(K\2K\0031.", 1),
    "DUP": (b"K\0012\x86.", (1, 1)),
    "PUT and GET": (b"K\7p5\n0g5\n.", 7),
    "BINPUT and BINGET": (b"K\7q\0050h\5.", 7),
    "LONG_BINPUT and LONG_BINGET": (b"K\7r\0\1\0\0000j\0\1\0\0.", 7),
    "MEMOIZE counts from 0": (b"K\7\x94K\x08\x9400h\1h\0\x86.", (8, 7)),
    "MEMOIZE counts entries": (b"K\7q\5K\x08\x9400h\1.", 8),
    "memo entries can be put again": (b"K\7q\0K\x08q\0\x86h\0\x86.", ((7, 8), 8)),
    "STRING as text": (b"S'ab'\n.", "ab"),
    "STRING as bytes where it is no UTF-8": (b"U\1\xff.", b"\xff"),
    "BINPERSID": (b"K\1Q\x85.", None),
    "a known global": (b"ctorch\nname\n.", None),
    "REDUCE of a known global": (b"ctorch\npair\nK\1K\2\x86R.", ("pair", 1, 2)),
    "STACK_GLOBAL": (b"X\5\0\0\0torchX\4\0\0\0pair\x93K\1\x85R.", ("pair", 1)),
    "INST of a known global": (b"(K\1itorch\npair\n.", ("pair", 1)),
    "OBJ of a known global": (b"(ctorch\npair\nK\1o.", ("pair", 1)),
    "NEWOBJ of a known global": (b"ctorch\npair\nK\1\x85\x81.", ("pair", 1)),
    "FRAME": (b"\x80\4\x95\3" + bytes(7) + b"K\1.", 1),
    "opcodes between frames": (b"\x80\4\x95\2" + bytes(7) + b"K\1\x94\x95\1" + bytes(7) + b".", 1),
    "a frame of nothing": (b"\x80\4\x95" + bytes(8) + b"K\1.", 1),
    "protocol 0 without PROTO": (b"I5\n.", 5),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_effect_of(name: str) -> None:
    data, expected = EFFECTS[name]
    found = value(data)

    if name == "BINPERSID":
        assert type(found[0]) is PersistentId
        assert found[0].value == 1
    elif name == "a known global":
        assert found is NAME
    else:
        assert plain(found) == expected


def test_persistent_ids_are_asked_for() -> None:
    assert run(b"K\1Q.", TABLE, lambda id: ("found", id)).value == ("found", 1)
    assert run(b"Pabc\n.", TABLE, lambda id: ("found", id)).value == ("found", "abc")


INERT = {
    "REDUCE": (b"cos\nsystem\nX\2\0\0\0id\x85R.", ("os", "system", ("id",), "REDUCE")),
    "NEWOBJ": (b"cos\nsystem\n)\x81.", ("os", "system", (), "NEWOBJ")),
    "NEWOBJ_EX": (b"cos\nsystem\n)}\x92.", ("os", "system", (), "NEWOBJ_EX")),
    "OBJ": (b"(cos\nsystem\nK\1o.", ("os", "system", (1,), "OBJ")),
    "INST": (b"(K\1ios\nsystem\n.", ("os", "system", (1,), "INST")),
    "EXT1": (b"\x82\7.", ("copyreg", "_extension_registry[7]", None, "")),
    "EXT2": (b"\x83\7\0.", ("copyreg", "_extension_registry[7]", None, "")),
    "EXT4": (b"\x84\7\0\0\0.", ("copyreg", "_extension_registry[7]", None, "")),
    "a bare global": (b"cos\nsystem\n.", ("os", "system", None, "")),
    "REDUCE with no tuple": (b"cos\nsystem\nK\1R.", ("os", "system", 1, "REDUCE")),
}


@pytest.mark.parametrize("name", INERT)
def test_stays_inert(name: str) -> None:
    data, expected = INERT[name]

    assert plain(value(data)) == expected


def test_build_on_what_is_opaque_is_remembered() -> None:
    made = value(b"cos\nsystem\n)R}bK\1b.")

    assert plain(made.state) == [{}, 1]


def test_items_put_into_what_is_opaque_are_remembered() -> None:
    made = value(b"cos\nsystem\n)RK\1a(K\2eK\3K\4s.")

    assert made.items == [1, 2, 3, 4]


def test_what_a_call_of_a_call_made_remembers_both() -> None:
    made = value(b"cbuiltins\ngetattr\n)R)R.")

    assert (made.name, made.callee.name, made.callee.callee) == ("getattr", "getattr", None)


def test_keyword_arguments_are_remembered() -> None:
    made = value(b"cos\nsystem\n)}X\1\0\0\0aK\1s\x92.")

    assert plain(made.kwargs) == {"a": 1}


class TestGlobals:
    def test_are_named_with_their_first_byte(self) -> None:
        found = run(b"cos\nsystem\n0cos\nsystem\n0ctorch\nname\n.", TABLE)

        assert found.globals == {("os", "system"): 0, ("torch", "name"): 24}

    @pytest.mark.parametrize(
        "data", [b"cos\nsystem\n0N.", b"(cos\nsystem\noN\x86.", b"(ios\nsystem\n0N.", b"(cos\nsystem\no0N."]
    )
    def test_are_named_though_they_are_popped(self, data: bytes) -> None:
        assert ("os", "system") in run(data, TABLE).globals

    def test_are_known_to_the_caller_though_the_pickle_breaks_off(self) -> None:
        used: dict[tuple[str, str], int] = {}

        with pytest.raises(PickleError):
            run(b"cos\nsystem\n)R\xff", TABLE, used=used)

        assert used == {("os", "system"): 0}

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("torch.pair", ""),
            ("", "torch.pair"),
            ("torch", "pair.x"),
            ("torch ", "pair"),
            ("Torch", "pair"),
            ("torch pair", ""),
        ],
    )
    def test_are_compared_as_a_pair(self, module: str, name: str) -> None:
        assert type(value(f"c{module}\n{name}\n.".encode())) is Opaque


def test_every_prefix_of_a_pickle_is_truncated() -> None:
    for protocol in range(6):
        data = pickle.dumps({"a": [1, 2.5, "x", b"y", (1, 2, 3, 4)], "b": Thing()}, protocol)
        for end in range(len(data)):
            with pytest.raises(TruncatedPickleError):
                list(decode(data[:end]))


def test_stops_at_the_end_of_the_first_pickle() -> None:
    first, second = pickle.dumps([1], 2), pickle.dumps([2], 2)

    found = run(first + second, TABLE)

    assert (found.value, found.end) == ([1], len(first))
    assert run(first + second, TABLE, position=found.end).value == [2]


def test_the_value_of_a_pickle_that_leaves_several_is_the_last_as_for_unpicklers() -> None:
    with pytest.raises(PickleError, match="leaves 2 values"):
        run(b"K\1K\2.", TABLE)

    assert run(b"K\1K\2.", TABLE, note=lambda at, error, ends: None).value == pickle.loads(b"K\1K\2.") == 2


def test_invalid_escapes_are_kept_as_python_2_kept_them() -> None:
    assert value(b"S'\\d\\8'\n.") == "\\d\\8"


opcode_soup = st.lists(
    st.sampled_from([bytes([code]) for code, _ in OPCODES.values()])
    | st.sampled_from([bytes([OPCODES[name][0]]) + case[0] for name, cases in ARGUMENTS.items() for case in cases])
    | st.binary(max_size=4),
    max_size=60,
).map(b"".join)


@settings(max_examples=some(500, 150))
@given(opcode_soup)
@example(b"\x80")
@example(b"K\1q\0]h\0a.")
def test_any_bytes_are_a_value_or_a_refusal(data: bytes) -> None:
    try:
        found = run(data + b".", TABLE)
    except ConverterError as error:
        assert str(error)
    else:
        assert 0 < found.end <= len(data) + 1


@given(json_like, st.integers(0, 5), st.data())
def test_changed_bytes_are_a_value_or_a_refusal(original: Any, protocol: int, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps(original, protocol))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))

    try:
        run(bytes(data), TABLE)
    except ConverterError as error:
        assert str(error)


def test_the_writer_of_these_tests_writes_what_cpython_reads() -> None:
    original = {"a": [1, 300, 70000, -1, 1 << 40, 1.5, None, True], "b": (1, 2, 3, 4), "c": "é"}
    data = dumps(original)

    assert pickle.loads(data) == original
    assert plain(value(data)) == original
    assert plain(value(Pickler().dumps(Call(Global("os", "system"), ("id",))))) == ("os", "system", ("id",), "REDUCE")


def test_a_line_that_is_no_number_is_not_told_in_full() -> None:
    with pytest.raises(PickleError, match="FLOAT") as caught:
        value(b"F" + b"\x89" * 4000 + b"\n.")

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f"], ids=["list", "dict", "set"])
def test_a_container_of_one_byte_takes_less_than_a_hundred_bytes_and_is_not_searched(opcode: bytes) -> None:
    count = 50_000
    data = b"(" + opcode * count + b"t."
    tracemalloc.start()
    made = run(data, TABLE).value
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seen: set[int] = set()
    measured: set[int] = set()

    assert isinstance(made, tuple)
    assert len(made) == count
    assert peak < 100 * count
    assert inner_tensors(made, seen=seen) == []
    assert measure(made, measured) == (0, 0)
    assert len(seen) == len(measured) == 1
