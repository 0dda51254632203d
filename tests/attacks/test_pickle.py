"""Hostile pickles. What they name is listed and never looked up; what is malformed is refused. Numbers: README.md."""

from __future__ import annotations

import base64
import json
import struct
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from converter.errors import (
    ConverterError,
    CutOffError,
    FormatError,
    LayoutError,
    LimitError,
    ManifestError,
    PickleError,
)
from converter.inspection.report import inspect
from converter.inspection.said import fold
from converter.limits import Limits, limits
from converter.opening import open_checkpoint
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from converter.pickles.values import Opaque, PersistentId
from converter.pickles.walk import describe, inner_tensors
from tests.attacks.commands import (
    TENSORS,
    WEIGHTS,
    assert_inert,
    assert_malformed,
    assert_refused,
    assert_sentence,
    beside,
    everything,
    names,
    pickled,
    rules,
    scanned,
)
from tests.attacks.commands import run as run_command
from tests.build.checkpoints import (
    LEGACY_MAGIC,
    Call,
    Entry,
    Global,
    Persistent,
    Raw,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.depth import some
from tests.build.ends import ends
from tests.build.steps import steps

SYSTEM = b"cposix\nsystem\n"
ECHO = SYSTEM + b"(S'echo harmless'\ntR."
LS = Call(Global("os", "system"), ("ls",))
SOUND = dumps(TENSORS, {"0": 8})


def value(data: bytes) -> Any:
    return run(data, TABLE).value


# ---- P01 to P06: names and calls ------------------------------------------------------------------------------------

NAMED = [
    ("os", "system", "dangerous"), ("posix", "system", "dangerous"), ("nt", "system", "dangerous"),
    ("subprocess", "Popen", "dangerous"), ("builtins", "eval", "dangerous"), ("__builtin__", "exec", "dangerous"),
    ("builtins", "__import__", "dangerous"), ("builtins", "getattr", "dangerous"), ("pkgutil", "resolve_name", "dangerous"),
    ("uuid", "_get_command_stdout", "dangerous"), ("_osx_support", "_read_output", "dangerous"), ("_aix_support", "_read_cmd_output", "dangerous"),
    ("imaplib", "IMAP4_stream", "dangerous"), ("test.support.script_helper", "assert_python_ok", "dangerous"),
    ("_pyrepl.pager", "pipe_pager", "dangerous"), ("asyncio.unix_events", "_UnixSubprocessTransport._start", "dangerous"),
    ("pip", "main", "dangerous"), ("pip._internal", "main", "dangerous"), ("runpy", "_run_code", "dangerous"),
    ("numpy.testing._private.utils", "runstring", "dangerous"), ("numpy.f2py.crackfortran", "getlincoef", "dangerous"),
    ("torch.utils.collect_env", "run", "dangerous"), ("torch.storage", "_load_from_bytes", "dangerous"), ("torch", "load", "dangerous"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", "dangerous"), ("torch._dynamo.guards", "GuardBuilder.get", "dangerous"),
    ("_pickle", "loads", "dangerous"), ("operator", "attrgetter", "dangerous"), ("functools", "reduce", "dangerous"),
    ("trainers", "Namespace", "unknown-globals"), ("numpy", "load_it", "unknown-globals"), ("nobody.ever", "saw_this", "unknown-globals"),
    ("colorsys", "rgb_to_hsv", "unknown-globals"), ("numpy._core.multiarray", "_reconstruct", "unknown-globals"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "verdict"), NAMED, ids=[f"P01 {m}.{n}" for m, n, _ in NAMED])
def test_p01_any_callable_is_listed_and_never_looked_up(module: str, name: str, verdict: str, tmp_path: Path) -> None:
    there = set(sys.modules)
    path = beside(tmp_path, Call(Global(module, name), (f"touch {tmp_path / 'ran'}",)))

    known_as = "builtins" if module == "__builtin__" else module  # Python 3's name of the module of Python 2
    assert_inert(path, f"{known_as}.{name}", verdict)

    assert not (tmp_path / "ran").exists()
    assert module in there or module not in sys.modules or module.startswith("numpy")


ASSEMBLED = {
    "P02 on the stack": b"\x8c\x05posix\x8c\x06system\x93",
    "P02 through memo numbers": b"\x8c\x05posixq\x07\x8c\x06systemq\x0300h\x07h\x03\x93",
    "P02 through MEMOIZE": b"\x8c\x05posix\x94\x8c\x06system\x9400h\0h\1\x93",
    # MEMOIZE counts entries, so the second goes to 2 where the first was put to 200.
    "P02 PUT and MEMOIZE mixed": b"\x8c\x05posixr\xc8\0\0\0\x8c\x06system\x9400j\xc8\0\0\0h\1\x93",
    "P02 over an entry that was put before": b"\x8c\x04jsonq\0000\x8c\x05posixq\0000h\0\x8c\x06system\x93",
    "P02 duplicated": b"\x8c\x05posix2\x8c\x06system2\x85000\x8c\x06system\x93",
    "P02 out of a tuple's memo": b"(\x8c\x05posixq\1\x8c\x06systemq\2t0h\1h\2\x93",
    "P02 under popped marks": b"\x8c\x05posix(NN1\x8c\x06system(N1\x93",
    "P02 in another protocol's text": b"V\\u0070osix\nX\x06\0\0\0system\x93",
}


@pytest.mark.parametrize("opcodes", ASSEMBLED.values(), ids=ASSEMBLED)
def test_p02_a_name_built_at_run_time_is_the_one_that_the_machine_builds(opcodes: bytes, tmp_path: Path) -> None:
    payload = opcodes + b"X\2\0\0\0id\x85R"
    path = pickled(tmp_path, b"\x80\4}(X\1\0\0\0x" + payload + SOUND[SOUND.index(b"X\1\0\0\0w") :])

    assert_inert(path, "posix.system", "dangerous")


DOTTED = [
    ("torch", "_utils._rebuild_tensor_v2"), ("torch._utils._rebuild_tensor_v2", ""), ("", "torch._utils._rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch", "Tensor.__class__.__base__"), ("collections", "OrderedDict.fromkeys"),
    ("torch._utils ", "_rebuild_tensor_v2"), ("Torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v2\0"),
    ("torch", "nn.parameter.Parameter"), ("collections.OrderedDict", ""), ("torch", "FloatStorage.__new__"),
    ("torch._utils\r", "_rebuild_tensor_v2"), ("ｔｏｒｃｈ", "FloatStorage"), ("torch", "FloatStorag\u0435"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), DOTTED, ids=[f"P03 {m!a} {n!a}" for m, n in DOTTED])
def test_p03_names_are_compared_as_a_pair_and_letter_by_letter(module: str, name: str, tmp_path: Path) -> None:
    path = beside(tmp_path, Global(module, name))

    catalogue = open_checkpoint(path)
    assert catalogue.unknown_globals() == [f"{module}.{name}"]
    assert type(catalogue.others[0].value) is Opaque
    assert_sentence(run_command("extract", path, tmp_path / "out").err)
    assert scanned(path)["verdict"] in ("unknown-globals", "dangerous")


# Malformed as a pickle, by idea. In a checkpoint's data.pkl: no command reads it, and `scan` says so.
MALFORMED: dict[str, bytes] = {
    "P02 STACK_GLOBAL of numbers": b"K\1K\2\x93.",
    "P02 STACK_GLOBAL of bytes": b"C\2osC\6system\x93.",
    "P02 STACK_GLOBAL of a bytearray": b"\x96\2" + bytes(7) + b"os\x8c\6system\x93.",
    "P02 STACK_GLOBAL of a global": b"cos\nsystem\nX\1\0\0\0a\x93.",
    "P02 STACK_GLOBAL of what a call made": b"cos\nsystem\n)R\x8c\6system\x93.",
    "P02 STACK_GLOBAL of a list": b"]\x8c\6system\x93.",
    "P02 STACK_GLOBAL of one": b"X\2\0\0\0os\x93.",
    "P02 STACK_GLOBAL over a mark": b"X\2\0\0\0os(X\6\0\0\0system\x93.",
    "P02 GET of what was never put": b"h\0.",
    "P02 GET of another number": b"K\1q\1h\2.",
    "P02 GET of what MEMOIZE puts elsewhere": b"K\1q\5K\2\x94h\6.",
    "P02 PUT of nothing": b"q\0.",
    "P02 PUT over a mark": b"K\1(q\0.",
    "P02 MEMOIZE of nothing": b"\x94.",
    "P04 SETITEM on a list": b"]K\1K\2s.",
    "P04 SETITEM on a function of the table": b"ctorch._utils\n_rebuild_tensor_v2\nK\1K\2s.",
    "P04 SETITEM on a class of the table": b"ctorch\nTensor\nK\1K\2s.",
    "P04 SETITEM on a number": b"K\0K\1K\2s.",
    "P04 SETITEM on a tuple": b")K\1K\2s.",
    "P04 SETITEMS on a function of the table": b"ctorch._utils\n_rebuild_tensor_v2\n(K\1K\2u.",
    "P04 SETITEM of a key alone": b"}K\1s.",
    "P04 SETITEMS of a key alone": b"}(K\1u.",
    "P04 DICT of a key alone": b"(K\1d.",
    "P04 APPEND to a dict": b"}K\1a.",
    "P04 APPEND to a tuple": b")K\1a.",
    "P04 APPEND to a function of the table": b"ctorch._utils\n_rebuild_tensor_v2\nK\1a.",
    "P04 APPENDS to a dict": b"}(K\1K\2e.",
    "P04 ADDITEMS to a number": b"K\1(K\1\x90.",
    "P04 BUILD on a function of the table": b"ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "P04 BUILD on a class of the table": b"ctorch\nTensor\nN}\x86b.",
    "P04 BUILD on a list": b"]}b.",
    "P04 BUILD on text": b"X\1\0\0\0a}b.",
    "P04 BUILD of nothing": b"}b.",
    "P05 REDUCE of a number": b"K\1)R.",
    "P05 REDUCE of text": b"X\1\0\0\0a)R.",
    "P05 REDUCE of a function of the table on a list": b"ccollections\nOrderedDict\n]R.",
    "P05 REDUCE of a name that makes nothing": b"ctorch\nfloat32\n)R.",
    "P05 REDUCE of one value": b")R.",
    "P05 NEWOBJ of a number": b"K\1)\x81.",
    "P05 NEWOBJ_EX of text": b"X\1\0\0\0a)}\x92.",
    "P05 OBJ without a MARK": b"o.",
    "P05 OBJ of nothing": b"(o.",
    "P05 OBJ of a number": b"(K\1K\2o.",
    "P05 INST without a MARK": b"ios\nsystem\n.",
    "P05 INST of a name that makes nothing": b"(itorch\nfloat32\n.",
    "P05 NEXT_BUFFER": b"\x97.",
    "P05 READONLY_BUFFER": b"N\x98.",
    "P05 BINPERSID of nothing": b"Q.",
    "P07 FRAME past the end": b"\x80\4\x95\x09" + bytes(7) + b"N.",
    "P07 FRAME of 2^62": b"\x80\4\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "P07 FRAME of 2^64 - 1": b"\x80\4\x95" + b"\xff" * 8 + b"N.",
    "P07 FRAME within a frame": b"\x80\4\x95\x0c" + bytes(7) + b"\x95\1" + bytes(7) + b"NNN.",
    "P07 FRAME that ends within an argument": b"\x80\4\x95\2" + bytes(7) + b"X\1\0\0\0a.",
    "P07 FRAME that ends within a text": b"\x80\4\x95\7" + bytes(7) + b"X\5\0\0\0hello.",
    "P07 FRAME that ends within a line": b"\x80\4\x95\4" + bytes(7) + b"cos\nsystem\n.",
    "P07 FRAME that ends between the lines": b"\x80\4\x95\4" + bytes(7) + b"cos\nsystem\n)R.",
    "P07 FRAME that ends within a number": b"\x80\4\x95\1" + bytes(7) + b"K\1.",
    "P07 FRAME that hides an opcode in its neighbour's argument": b"\x80\4\x95\3"
    + bytes(7)
    + b"\x8c\x0bcos\nsystem\n.",
    "P08 a payload before an unknown opcode": SYSTEM + b")R\xff.",
    "P08 a payload before the end of the bytes": SYSTEM + b")R",
    "P08 a payload before a broken text": SYSTEM + b")RX\1\0\0\0\xff.",
    "P08 a payload before a stack of two": SYSTEM + b")RN.",
    "P08 a payload before a lying length": SYSTEM + b")RX\xff\xff\xff\x7fa.",
    "P09 nothing": b"",
    "P09 only STOP": b".",
    "P09 two values left": b"K\1K\2.",
    "P09 an open MARK left": b"(K\1.",
    "P09 a MARK below the value": b"K\1(.",
    "P09 a byte behind": SOUND + b"\0",
    "P09 a STOP behind": SOUND + b".",
    "P09 a second pickle": SOUND + dumps(1),
    "P09 a second pickle that runs a program": SOUND + ECHO,
    "P11 BINUNICODE of 2^32 - 1": b"X\xff\xff\xff\xffa.",
    "P11 BINUNICODE8 of 2^62": b"\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "P11 BINBYTES of 2^31": b"B\0\0\0\x80a.",
    "P11 BINBYTES8 of 2^63": b"\x8e" + struct.pack("<Q", 1 << 63) + b"a.",
    "P11 BINBYTES8 of 2^64 - 1": b"\x8e" + b"\xff" * 8 + b"a.",
    "P11 BYTEARRAY8 of 2^62": b"\x96" + struct.pack("<Q", 1 << 62) + b"a.",
    "P11 BINSTRING of -1": b"T\xff\xff\xff\xffa.",
    "P11 SHORT_BINUNICODE past the end": b"\x8c\xffa.",
    "P11 LONG4 of -1": b"\x8b\xff\xff\xff\xff.",
    "P11 LONG4 of 2^31 - 1": b"\x8b\xff\xff\xff\x7fa.",
    "P11 LONG1 past the end": b"\x8a\xff\1.",
    "P11 a line without an end": b"cos\n",
    "P14 PROTO 6": b"\x80\6N.",
    "P14 PROTO 255": b"\x80\xffN.",
    "P14 PROTO twice": b"\x80\2\x80\2N.",
    "P14 PROTO late": b"N\x80\2.",
    # C's unpickler reads the first as 8, pickletools as 10, and Python's refuses it; two of them read the second as 16.
    "P14 INT in octal": b"I010\n.",
    "P14 INT in hexadecimal": b"I0x10\n.",
    "P14 INT with an underscore": b"I1_0\n.",
    "P14 INT with a space": b"I 1\n.",
    "P14 INT of words": b"Iabc\n.",
    "P14 INT of nothing": b"I\n.",
    "P14 LONG in hexadecimal": b"L0x10L\n.",
    "P14 LONG of two letters": b"L1LL\n.",
    "P14 FLOAT of words": b"Fabc\n.",
    "P14 FLOAT with an underscore": b"F1_0.5\n.",
    "P14 GET of a negative number": b"K\1p-1\n.",
    "P14 GET of words": b"ga\n.",
    "P14 STRING without quotes": b"Sabc\n.",
    "P14 STRING with one quote": b"S'\n.",
    "P14 STRING with two kinds of quotes": b"S'a\"\n.",
    "P14 STRING with half an escape": b"S'\\x1'\n.",
    "P17 text that is not UTF-8": b"X\1\0\0\0\xff.",
    "P17 text with a surrogate": b"X\3\0\0\0\xed\xa0\x80.",
    "P17 UNICODE with a surrogate": b"V\\ud800\n.",
    "P17 UNICODE with half an escape": b"V\\u12\n.",
    "P17 GLOBAL that is not UTF-8": b"c\xff\nx\n.",
    "P17 PERSID that is not ASCII": b"P\xff\n.",
    "P17 an unknown opcode": b"N\xff.",
    "P17 zero bytes": b"\0\0\0",
    "P17 POP of nothing": b"0.",
    "P17 DUP of nothing": b"2.",
    "P17 DUP over a MARK": b"K\1(2.",
    "P17 TUPLE1 over a MARK": b"K\1(\x85.",
    "P17 TUPLE2 of one": b"K\1\x86.",
    "P17 TUPLE3 of two": b"K\1K\2\x87.",
    "P17 TUPLE without a MARK": b"t.",
    "P17 LIST without a MARK": b"l.",
    "P17 DICT without a MARK": b"d.",
    "P17 FROZENSET without a MARK": b"\x91.",
    "P17 POP_MARK without a MARK": b"1.",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_pickle_to_every_reader_is_refused(name: str, tmp_path: Path) -> None:
    assert_malformed(pickled(tmp_path, MALFORMED[name]))


CALLS = {
    "P05 REDUCE": SYSTEM + b"X\2\0\0\0id\x85R",
    "P05 REDUCE without a tuple": SYSTEM + b"X\2\0\0\0idR",
    "P05 NEWOBJ": SYSTEM + b"X\2\0\0\0id\x85\x81",
    "P05 NEWOBJ_EX": SYSTEM + b")}\x92",
    "P05 OBJ": b"(" + SYSTEM + b"X\2\0\0\0ido",
    "P05 INST": b"(X\2\0\0\0idiposix\nsystem\n",
    "P05 BUILD": SYSTEM + b")R}X\1\0\0\0aK\1sb",
    "P05 a call of what a call made": SYSTEM + b")R)R",
    "P05 a call among a call's arguments": b"cnobody\nknows\n" + SYSTEM + b")R\x85R",
    "P05 a call as a dict's key": b"}" + SYSTEM + b")RNs",
    "P05 a call as a persistent id's neighbour": b"](" + SYSTEM + b")RNe",
    "P05 thrown away by POP": SYSTEM + b"X\2\0\0\0id\x85R0N",
    "P05 OBJ thrown away by POP": b"(" + SYSTEM + b"X\2\0\0\0ido0N",
    "P05 thrown away by POP_MARK": b"(" + SYSTEM + b")R1N",
    "P05 the name alone thrown away": SYSTEM + b"0N",
    "P05 kept in the memo alone": SYSTEM + b")Rq\xff0N",
}


@pytest.mark.parametrize("opcodes", CALLS.values(), ids=CALLS)
def test_p05_a_call_is_a_note_even_when_its_result_is_thrown_away(opcodes: bytes, tmp_path: Path) -> None:
    path = beside(tmp_path, Raw(opcodes))

    assert_inert(path, "posix.system", "dangerous")
    shown = [call["expression"] for call in scanned(path, "--explain")["pickles"][0]["calls"]]
    assert opcodes == CALLS["P05 the name alone thrown away"] or any("posix.system(" in text for text in shown)


@pytest.mark.parametrize("opcodes", [b"\x82\7", b"\x83\7\0", b"\x84\7\0\0\0"], ids=["P06 EXT1", "P06 EXT2", "P06 EXT4"])
def test_p06_a_number_of_the_registry_is_a_note(opcodes: bytes, tmp_path: Path) -> None:
    assert_inert(
        beside(tmp_path, Raw(opcodes + b")R")), "copyreg._extension_registry[7]", "unknown-globals", "malformed"
    )


def test_p04_state_and_items_of_a_note_stay_on_the_note(tmp_path: Path) -> None:
    path = beside(tmp_path, Raw(b"cnumpy\nprod\nN}X\1\0\0\0aK\1s\x86b"))

    assert_inert(path, "numpy.prod", "unknown-globals")


def test_p04_state_of_an_ordered_dict_changes_nothing(tmp_path: Path) -> None:
    state = dumps({"_metadata": {"": {"version": 1}}, "w": 5, "__class__": 1})[2:-1]

    path = pickled(tmp_path, SOUND[:-1] + state + b"b.")

    assert {name: tensor.bits().tolist() for name, tensor in open_checkpoint(path).items()} == {"w": [1, 2]}


# ---- P08 to P10: streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MALFORMED if name.startswith("P08")])
def test_p08_scan_names_the_payload_before_broken_bytes(name: str, tmp_path: Path) -> None:
    found = scanned(pickled(tmp_path, MALFORMED[name]))

    assert "posix.system" in names(found)
    assert {"malformed", "dangerous-global"} <= set(rules(found))


def test_p08_scan_names_what_stands_behind_the_place_where_we_stop(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"\x80\2K\1K\2\x930" + SYSTEM + b"X\2\0\0\0id\x85R.")

    assert_refused(path, "bare pickle")
    assert (scanned(path)["verdict"], names(scanned(path))) == ("malformed", {"posix.system"})


def test_p09_scan_reads_every_pickle_of_a_stream(tmp_path: Path) -> None:
    for data in (dumps(1) + dumps({"a": 1}) + ECHO, b"N." + ECHO, dumps([]) * 50 + ECHO):
        (tmp_path / "x.pkl").write_bytes(data)

        assert scanned(tmp_path / "x.pkl")["verdict"] == "dangerous"
        assert "posix.system" in names(scanned(tmp_path / "x.pkl"))


def test_p09_scan_reads_on_behind_the_pickle_of_a_checkpoint(tmp_path: Path) -> None:
    found = scanned(pickled(tmp_path, SOUND + ECHO))

    assert "posix.system" in names(found)
    assert found["verdict"] == "malformed"


def test_p10_a_magic_number_that_code_makes_is_none(tmp_path: Path) -> None:
    """A scanner that looks for the number in the bytes sees no checkpoint; torch would have run the code by then."""
    made = b"\x80\2cbuiltins\neval\nX\x18\0\0\x000x1950a86a20f9469cfc6c  \x85R."
    path = tmp_path / "x.pt"
    path.write_bytes(legacy_bytes(TENSORS, WEIGHTS).replace(LEGACY_MAGIC, made))

    assert_refused(path, "bare pickle")
    found = scanned(path)
    assert found["verdict"] in ("dangerous", "malformed")
    assert "builtins.eval" in names(found)


STORAGES = {"10": floats(0, 1, 2, 3, 4, 5), "9": floats(7, 8)}
VALUE = {"w": view("10", (2, 3)), "t": view("10", (3, 2), (1, 3)), "b": view("9", (2,))}


def storage(key: Any, numel: Any, part: Any = None, name: str = "FloatStorage") -> Persistent:
    return Persistent(("storage", Global("torch", name), key, "cpu", numel, part))


def tensor(where: Persistent, size: int, offset: int = 0) -> Call:
    return Call(Global("torch._utils", "_rebuild_tensor"), (where, offset, (size,), (1,)))


LEGACY: dict[str, tuple[bytes, type[ConverterError]]] = {
    "another version": (legacy_bytes(VALUE, STORAGES, version=1002), FormatError),
    "a version of text": (legacy_bytes(VALUE, STORAGES, version="1001"), FormatError),
    "a version that is a float": (legacy_bytes(VALUE, STORAGES, version=1001.0), FormatError),
    "a version 100,000 deep": (legacy_bytes(VALUE, STORAGES, version=Raw(b"N" + b"\x85" * 100_000)), FormatError),
    "a version that contains itself": (legacy_bytes(VALUE, STORAGES, version=Raw(b"]q\0h\0a")), FormatError),
    "no description of the machine": (LEGACY_MAGIC + dumps(1001) + dumps([]) + dumps({}) + dumps([]), FormatError),
    "keys that are no list": (legacy_bytes(VALUE, STORAGES, keys={"10": 1}), PickleError),
    "keys that are numbers": (legacy_bytes(VALUE, STORAGES, keys=[10, 9]), PickleError),
    "a key too few": (legacy_bytes(VALUE, STORAGES, keys=["10"]), LayoutError),
    "a key too many": (legacy_bytes(VALUE, STORAGES, keys=["10", "9", "8"]), LayoutError),
    "a key twice": (legacy_bytes(VALUE, STORAGES, keys=["10", "10", "9"]), LayoutError),
    "another count": (legacy_bytes(VALUE, STORAGES, counts={"10": 5}), LayoutError),
    "a negative count": (legacy_bytes(VALUE, STORAGES, counts={"10": -6}), LayoutError),
    "a count of 2^62": (legacy_bytes(VALUE, STORAGES, counts={"9": 1 << 62}), LayoutError),
    "keys in another order": (legacy_bytes(VALUE, STORAGES, keys=["9", "10"]), LayoutError),
    "bytes behind": (legacy_bytes(VALUE, STORAGES, after=b"!"), LayoutError),
    "a zip behind": (legacy_bytes(VALUE, STORAGES, after=b"PK\5\6" + bytes(18)), LayoutError),
    "a size of gigabytes in 300 bytes": (legacy_bytes({"a": tensor(storage("0", 1 << 30), 1)}, {"0": b"abcd"}), CutOffError),
    "a size past the file": (legacy_bytes({"a": tensor(storage("0", 1 << 40), 1)}, {"0": b"abcd"}), CutOffError),
    "a size past 2^60": (legacy_bytes({"a": tensor(storage("0", 1 << 62), 1)}, {"0": b"abcd"}), PickleError),
    "a negative size": (legacy_bytes({"a": tensor(storage("0", -1), 1)}, {"0": b"abcd"}), PickleError),
    "a storage of two classes": (
        legacy_bytes({"a": tensor(storage("0", 1), 1), "b": tensor(storage("0", 1, None, "IntStorage"), 1)}, {"0": b"abcd"}),
        LayoutError,
    ),
    "a storage of two sizes": (
        legacy_bytes({"a": tensor(storage("0", 1), 1), "b": tensor(storage("0", 0), 0)}, {"0": b"abcd"}), LayoutError,
    ),
    "a view past its storage": (legacy_bytes({"a": tensor(storage("0", 1), 2)}, {"0": b"abcd"}), LayoutError),
    "a pickle that is none": (legacy_bytes(VALUE, STORAGES, pickle=b"\xff"), PickleError),
    "an id that is none": (legacy_bytes({"a": Persistent("0")}, {}), PickleError),
    "nothing behind the magic number": (LEGACY_MAGIC, CutOffError),
    **{
        f"the part {part}": (legacy_bytes({"a": tensor(storage("10", 6, part), 1)}, {"10": STORAGES["10"]}), ConverterError)
        for part in (("p", 4, 3), ("p", -1, 2), ("p", 0, -1), ("p", 0, 7), ("p", 0), "p", (5, 0, 1), ("p", "0", 1), ("p", True, 1))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LEGACY)
def test_p10_a_legacy_stream_that_contradicts_itself_is_refused(name: str, tmp_path: Path) -> None:
    data, error = LEGACY[name]
    path = tmp_path / "x.bin"
    path.write_bytes(data)

    with pytest.raises(error):
        open_checkpoint(path)
    assert_malformed(path)


def test_p10_a_legacy_stream_runs_through_the_same_machine(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(legacy_bytes(TENSORS | {"x": LS}, WEIGHTS))

    assert_inert(path, "os.system", "dangerous")


@pytest.mark.parametrize("key", ["9", "10"])
def test_p10_a_part_with_the_key_of_a_storage_is_refused(key: str, tmp_path: Path) -> None:
    """torch.load keeps both in one table: which of them a tensor gets depends on the order in which they are mentioned."""
    value = {
        "part": tensor(storage("10", 6, (key, 2, 3)), 2, 1),
        "a": tensor(storage("10", 6), 6),
        "b": tensor(storage("9", 2), 2),
    }
    path = tmp_path / "x.bin"
    path.write_bytes(legacy_bytes(value, STORAGES))

    assert_refused(path, f"`{key}` is the key of a storage and of a view")


@pytest.mark.parametrize("key", ["8", "part"])
def test_p10_parts_of_storages_stay_what_they_are_whatever_they_are_called(key: str, tmp_path: Path) -> None:
    value = {
        "part": tensor(storage("10", 6, (key, 2, 3)), 2, 1),
        "a": tensor(storage("10", 6), 6),
        "b": tensor(storage("9", 2), 2),
    }
    path = tmp_path / "x.bin"
    path.write_bytes(legacy_bytes(value, STORAGES))

    for form in ("storages", "named"):
        assert run_command("extract", path, tmp_path / form, "--form", form).code == 0
        assert {name: tensor.bits().tolist() for name, tensor in open_checkpoint(tmp_path / form).items()} == {
            "part": [3, 4], "a": [0, 1, 2, 3, 4, 5], "b": [7, 8],
        }  # fmt: skip


def test_p10_a_tar_with_a_damaged_header_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(300))

    assert_refused(path, "tar archive: the checksum of its first header is wrong")
    assert scanned(path)["verdict"] == "malformed"


# ---- P11 to P13: work and memory ------------------------------------------------------------------------------------

TOO_LONG = {
    "P11 an integer of 1,025 bytes": b"\x8b" + struct.pack("<I", 1025) + bytes(1025) + b".",
    "P11 an integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "P11 a line of 5,000 bytes": b"V" + b"a" * 5000 + b"\n.",
    "P11 a name of 5,000 bytes": 2 * (b"X" + struct.pack("<I", 5000) + b"x" * 5000) + b"\x93.",
    "P12 10,001 open MARKs": b"(" * 10_001 + b"t" * 10_001 + b".",
    "P13 a memo number past 32 bits": b"Np4294967296\n.",
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_what_asks_for_more_than_any_checkpoint_needs_meets_a_limit(name: str, tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        value(TOO_LONG[name])
    assert_malformed(pickled(tmp_path, TOO_LONG[name]))


class TestP12Bombs:
    """Work and memory stay in proportion to the bytes."""

    @pytest.mark.parametrize("opcode", [b"\x85", b"]a", b"Q"], ids=["tuples", "lists", "persistent ids"])
    def test_p12_nesting_100_000_deep_recurses_nowhere(self, opcode: bytes) -> None:
        depth = 100_000
        data = b"]" * depth + b"a" * (depth - 1) + b"." if opcode == b"]a" else b"N" + opcode * depth + b"."

        node, seen = value(data), 0
        while node is not None and node != []:
            node, seen = node.value if type(node) is PersistentId else node[0], seen + 1
        assert seen >= depth - 1
        del node

    @pytest.mark.parametrize(
        "opcodes", [b"N" + b"\x85" * 20_000, b"]" * 20_000 + b"a" * 19_999, b"ca\nb\n" + b")R" * 10_000]
    )
    def test_p12_deep_values_beside_tensors_are_listed(self, opcodes: bytes, tmp_path: Path) -> None:
        path = beside(tmp_path, Raw(opcodes))

        assert run_command("inspect", path, "--json").code == 0
        assert run_command("inspect", path).code == 0
        assert run_command("scan", path, "--explain", "--no-fickling").code == (b")R" in opcodes)

    def test_p12_a_billion_laughs_stay_shared(self) -> None:
        data = b"]q\0" + b"(h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0lq\0" * 100 + b"h\0."

        with pytest.raises(PickleError, match="leaves 102 values"):
            value(data)
        node = value(b"]q\0" + b"0(" + b"h\0" * 10 + b"lq\0" + b"0(h\0h\0lq\0" * 99 + b".")
        assert len(node) == 2

    @pytest.mark.parametrize("unit", [b"2\x86", b"22\x87", b"N\x85\x86", b"q\0h\0\x86", b"\x85"])
    def test_p12_memory_grows_with_the_bytes_of_values_in_each_other(self, unit: bytes, tmp_path: Path) -> None:
        levels = some(60_000, 30_000)
        path = beside(tmp_path, Raw(b"N\x85" + unit * levels))
        tracemalloc.start()

        inspect(open_checkpoint(path))

        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 100 * len(unit) * levels + (12 << 20)

    def test_p12_values_may_contain_themselves(self) -> None:
        node = value(b"]q\0h\0a.")

        assert node[0] is node

    @pytest.mark.parametrize(
        "unit",
        [b"}K\1K\2s0", b"]K\1a0", b"cos\nsystem\n)R0", b"cos\nsystem\n)R}b0", b"Nq\0000", b"(t0", b"(K\1i\n\n0", b"\x8f0", b"N\x940"],
    )  # fmt: skip
    def test_p12_time_grows_with_the_bytes(self, unit: bytes) -> None:
        once, often = (steps(partial(value, unit * count + b"N.")) for count in (500, 5_000))

        assert often <= 11 * once
        with ends():
            value(unit * some(200_000, 50_000) + b"N.")

    def test_p12_build_again_and_again_takes_linear_time(self) -> None:
        with ends():
            made = value(b"cos\nsystem\n)R" + b"Nb" * 100_000 + b".")

            assert len(made.state) == 100_000

    # Large arguments, made once and passed to a function of the table again and again, for 5 bytes a call.
    @pytest.mark.parametrize(
        "call",
        [
            b"ctorch\nSize\nq\0(K\1q\2" + b"h\2" * 100_000 + b"t\x85q\1",
            b"ctorch\nSize\nq\0(K\1q\2" + b"h\2" * 100_000 + b"l\x85q\1",
            b"ctorch\ndevice\nq\0(X\x4e\0\0\0" + b"a" * 78 + b"q\2" + b"h\2" * 100_000 + b"tq\1",
            b"ctorch\ndevice\nq\0\x8b\0\4\0\0" + b"\xff" * 1024 + b"\x85q\1",
            b"ccollections\nOrderedDict\nq\0](K\1K\2\x86q\2" + b"h\2" * 100_000 + b"e\x85q\1",
            b"ctorch._utils\n_rebuild_qtensor\nq\0(NN(K\1q\2" + b"h\2" * 100_000 + b"ttq\1",
            b"ctorch._utils\n_rebuild_meta_tensor_no_storage\nq\0(N(K\1q\2" + b"h\2" * 100_000 + b"tNNtq\1",
        ],
        ids=["torch.Size of a tuple", "torch.Size of a list", "torch.device", "torch.device of an integer", "OrderedDict", "quantised", "meta"],
    )  # fmt: skip
    def test_p12_a_function_of_the_table_on_large_arguments_again_and_again(self, call: bytes, tmp_path: Path) -> None:
        path = pickled(tmp_path, b"\x80\2" + call + b"00](" + b"h\0h\1R" * 20_000 + b"e.")
        with ends():
            run_command("inspect", path, "--json")

    def test_p12_metadata_of_a_tensor_are_not_gone_through_again_and_again(self, tmp_path: Path) -> None:
        storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\2tQ"
        marks = b"}(X\4\0\0\0conjq\4\x89" + b"h\4\x89" * 100_000 + b"u"
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\nq\0(" + storage + b"K\0K\2\x85K\1\x85\x89N" + marks + b"tq\1"
        path = pickled(tmp_path, b"\x80\2" + tensor + b"00](" + b"h\0h\1R" * 20_000 + b"e.")
        with ends():
            assert_refused(path, "`conj` and `neg`")

    def test_p12_the_shape_of_a_tensor_without_data_does_not_multiply(self, tmp_path: Path) -> None:
        number = b"\x8b\0\4\0\0" + b"\xff" * 1023 + b"\x7fq\xf0"
        meta = (
            b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n("
            + number
            + b"h\xf0" * 50_000
            + b"t)\x89tR"
        )

        assert_refused(beside(tmp_path, Raw(meta)), "50,001 dimensions")
        assert_refused(beside(tmp_path, Raw(meta.replace(b"h\xf0" * 50_000, b""))), "63 bits")

    def test_p12_nesting_past_the_limit_is_refused(self, tmp_path: Path) -> None:
        value: Any = view("0", (2,))
        for _ in range(70):
            value = {"a": value}

        assert_refused(beside(tmp_path, value), "nested deeper")

    def test_p12_a_dict_that_holds_itself_and_a_tensor_is_refused(self, tmp_path: Path) -> None:
        value: dict[str, Any] = {"w": view("0", (2,))}
        value["self"] = value

        assert_refused(beside(tmp_path, value), "contains itself")

    def test_p12_a_list_that_holds_itself_is_listed(self, tmp_path: Path) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        catalogue = open_checkpoint(beside(tmp_path, cycle))

        assert [describe(other.value) for other in catalogue.others] == ["list of 1"]
        assert inner_tensors(catalogue.others[0].value) == []

    @pytest.mark.parametrize("tail", [0, 1000], ids=["tensors", "others"])
    def test_p12_containers_that_multiply_are_refused(self, tail: int, tmp_path: Path) -> None:
        value: Any = [view("0", (2,)), *[None] * tail]
        for _ in range(40):
            value = [value, value]
        with ends():
            assert_refused(beside(tmp_path, value), "multiply")

    def test_p12_long_keys_that_multiply_are_refused(self, tmp_path: Path) -> None:
        value: Any = view("0", (2,))
        for _ in range(40):
            value = {"k" * 1_000_000: value}
        with ends():
            for hostile in (value, [{"k" * 1_000_000: view("0", (2,))}] * 100):
                with pytest.raises(LimitError):
                    open_checkpoint(beside(tmp_path, hostile))

    def test_p12_names_of_deep_tensors_stay_short(self, tmp_path: Path) -> None:
        value: Any = Call(Global("mine", "Thing"), (view("0", (2,)),))
        for _ in range(60):
            value = {"k" * 100_000: value}
        with ends():
            found = [name for name, _ in inner_tensors(open_checkpoint(beside(tmp_path, value)).others[0].value)]
            assert [len(name) for name in found] == [1024]


P61 = (1 << 61) - 1  # the modulus of the hashes of Python's numbers


class TestP13Hashes:
    """Nothing that a file chooses decides how long a look-up takes."""

    def test_p13_memo_numbers_that_hash_alike_cost_nothing(self) -> None:
        data = b"N" + b"".join(b"p%d\n" % (P61 * k) for k in range(100_000)) + b"."
        with ends(), pytest.raises(LimitError):
            value(data)

    def test_p13_memo_numbers_that_are_looked_for_in_one_another_s_places_cost_nothing(self) -> None:
        """A dict searches for a key along a chain that depends only on the number; here other keys take all of it."""
        size, key = 1 << 17, 0xFFFFFFF0
        place, shift, chain = key % size, key, dict.fromkeys([key % size])
        while len(chain) < 0.6 * size:
            shift >>= 5
            place = (5 * place + shift + 1) % size
            chain[place] = None
        put, get = (opcode + struct.pack("<I", key) for opcode in (b"r", b"j"))
        data = (
            b"N" + b"".join(b"r" + struct.pack("<I", number) for number in chain) + put + (b"0" + get) * 20_000 + b"."
        )
        with ends():
            assert value(data) is None

    def test_p13_keys_that_hash_alike_cost_nothing(self) -> None:
        keys = b"".join(b"\x8a\x0a" + (P61 * k).to_bytes(10, "little") + b"N" for k in range(100_000))
        with ends():
            assert len(value(b"}(" + keys + b"u.")) == 200_000

    def test_p13_keys_with_a_hash_that_never_ends_cost_nothing(self) -> None:
        shared = b")q\0" + b"0h\0h\0\x86q\0" * 200  # a tuple whose hash visits 2^200 others

        assert len(value(b"}" + shared + b"Ns.")) == 2

    def test_p13_tensors_that_hash_alike_cost_nothing(self, tmp_path: Path) -> None:
        count = 4000
        strides = [tuple(1 + (n >> 2 * axis & 3) * P61 for axis in range(8)) for n in range(count)]
        assert len({hash(stride) for stride in strides}) == 1
        tensors = {f"h.{n}": view("0", (1,) * 8, stride) for n, stride in enumerate(strides)}
        path = write_checkpoint(tmp_path / "x.bin", tensors, {"0": floats(1)})
        with ends():
            report = inspect(open_checkpoint(path))
            assert len(fold(report.tensors)) == count

    def test_p13_token_ids_that_hash_alike_are_refused(self, tmp_path: Path) -> None:
        from converter.models.tokenizers.folder import read

        (tmp_path / "vocab.json").write_text(json.dumps({f"t{k}": P61 * k for k in range(10_000)}))
        (tmp_path / "merges.txt").write_text("")

        with pytest.raises(ManifestError, match="a number from 0 to 2"):
            read(tmp_path)


# ---- P14 to P18 -----------------------------------------------------------------------------------------------------


def test_p14_opcodes_of_any_protocol_are_read_under_any_other(tmp_path: Path) -> None:
    for start in (b"", b"\x80\0", b"\x80\1", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"):
        # SHORT_BINUNICODE and MEMOIZE of 4, STRING of 0, LONG1 of 2, SHORT_BINBYTES of 3
        path = pickled(tmp_path, start + SOUND[2:-1] + b"\x8c\1x\x94(S'a'\n\x8a\1\1C\1bts.")

        assert list(open_checkpoint(path)) == ["w"]
        assert scanned(path)["verdict"] == "plain"


@pytest.mark.parametrize(
    ("module", "name", "found"),
    [
        ("__builtin__", "eval", "builtins.eval"), ("copy_reg", "pickle", "copyreg.pickle"),
        ("UserDict", "UserDict", "collections.UserDict"), ("nobody", "knows", "nobody.knows"),
    ],
)  # fmt: skip
def test_p14_names_of_python_2_are_those_that_an_unpickler_imports(
    module: str, name: str, found: str, tmp_path: Path
) -> None:
    catalogue = open_checkpoint(beside(tmp_path, Global(module, name)))

    assert catalogue.unknown_globals() == [found]


FLOAT_STORAGE = Global("torch", "FloatStorage")
IDS: dict[str, Any] = {
    "text": "0",
    "a number": 5,
    "a pair": ("storage", "0"),
    "another tag": ("module", FLOAT_STORAGE, "0", "cpu", 2),
    "a tag that is bytes": (b"storage", FLOAT_STORAGE, "0", "cpu", 2),
    "six items": ("storage", FLOAT_STORAGE, "0", "cpu", 2, None),
    "a list": ["storage", FLOAT_STORAGE, "0", "cpu", 2],
    "a tuple within": (("storage", FLOAT_STORAGE, "0", "cpu", 2),),
    "a key that is a number": ("storage", FLOAT_STORAGE, 0, "cpu", 2),
    "a key that leads away": ("storage", FLOAT_STORAGE, "../data.pkl", "cpu", 2),
    "a key that leads to the root": ("storage", FLOAT_STORAGE, "/archive/data/0", "cpu", 2),
    "a key with a zero byte": ("storage", FLOAT_STORAGE, "0\0", "cpu", 2),
    "a key in another case": ("storage", FLOAT_STORAGE, "０", "cpu", 2),
    "a key of nothing": ("storage", FLOAT_STORAGE, "", "cpu", 2),
    "a key that is not there": ("storage", FLOAT_STORAGE, "7", "cpu", 2),
    "a key of 100,000 letters": ("storage", FLOAT_STORAGE, "x" * 100_000, "cpu", 2),
    "a class that is text": ("storage", "FloatStorage", "0", "cpu", 2),
    "a class outside the table": ("storage", Global("os", "system"), "0", "cpu", 2),
    "a class that nobody knows": ("storage", Global("torch", "FakeStorage"), "0", "cpu", 2),
    "a dtype for a class": ("storage", Global("torch", "float32"), "0", "cpu", 2),
    "a function for a class": ("storage", Global("torch._utils", "_rebuild_tensor_v2"), "0", "cpu", 2),
    "a negative count": ("storage", FLOAT_STORAGE, "0", "cpu", -2),
    "a count that is text": ("storage", FLOAT_STORAGE, "0", "cpu", "2"),
    "a count that is a float": ("storage", FLOAT_STORAGE, "0", "cpu", 2.0),
    "a count that is a bool": ("storage", FLOAT_STORAGE, "0", "cpu", True),
}


@pytest.mark.parametrize("name", IDS)
def test_p15_a_persistent_id_of_an_odd_shape_is_refused(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": Persistent(IDS[name])}, WEIGHTS)

    with pytest.raises((PickleError, LayoutError)):
        open_checkpoint(path)
    assert_malformed(path)


HIDDEN = {
    "P16 bytes": (dumps([ECHO]), "text at byte"),
    "P16 bytes of protocol 2": (dumps([dumps(LS)]), "text at byte"),
    "P16 text": (dumps([dumps(LS).decode("latin-1")]), "text at byte"),
    "P16 base64": (dumps([base64.b64encode(dumps(LS)).decode()]), "text at byte"),
    "P16 a pickle in a pickle in a pickle": (dumps([dumps([dumps(LS)])]), "text at byte"),
    "P16 a storage": (zip_bytes(checkpoint_entries({"w": view("0", (36,), dtype="U8")}, {"0": ECHO.ljust(36, b"\0")})), "archive/data/0"),
    "P16 a storage of a legacy stream": (legacy_bytes({"w": view("0", (36,), dtype="U8")}, {"0": ECHO.ljust(36, b"\0")}, itemsizes={"0": 1}), "storage 0"),
    "P16 a record beside": (zip_bytes([*checkpoint_entries(TENSORS, WEIGHTS), Entry("archive/x.pkl", ECHO)]), "archive/x.pkl"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "place"), HIDDEN.values(), ids=HIDDEN)
def test_p16_a_pickle_inside_data_is_found_by_scan(data: bytes, place: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    found = scanned(path)

    assert found["verdict"] == "dangerous"
    assert "dangerous-global" in rules(found)
    assert place in found["pickles"][-1]["place"]


def test_p16_a_pickle_inside_a_storage_is_weights_to_everyone_else(tmp_path: Path) -> None:
    data = ECHO.ljust(36, b"\0")
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (36,), dtype="U8")}, {"0": data})

    assert run_command("extract", path, tmp_path / "out").code == 0
    assert (tmp_path / "out" / "0").read_bytes() == data
    assert json.loads(run_command("inspect", path, "--json").out)["safety"]["verdict"] == "plain"


def test_p16_bytes_that_torch_would_load_are_an_argument_of_a_note(tmp_path: Path) -> None:
    path = beside(tmp_path, Call(Global("torch.storage", "_load_from_bytes"), (dumps(LS),)))

    assert_inert(path, "torch.storage._load_from_bytes", "dangerous")
    assert "os.system" in names(scanned(path))


LAST = {
    "a name like a format": Global("%s{0}{x!r}", "{}%n{0.__class__}"),
    "a name with escapes": Raw(b"\x8c\x08\x1b[2J\x1b[1m\x8c\x06a\r\nb\xc2\x9b\x93"),
    "a name that is empty": Global("", ""),
    "a name of blanks": Global(" \t", "\u3000\u2028"),
    "a name that is a path": Global("../../etc", "passwd"),
    "a name like markup": Global("[/red]", "[link=file:///]"),
    "a name of noncharacters": Global("\ufffe\U0010ffff", "\ue000"),
    "a name at the limit": Global("m" * 2048, "n" * 2048),
    "a call on its own result": Raw(b"cnobody\nknows\nq\xfa)Rh\xfa\x85R"),
    "arguments that hold themselves": Raw(b"cnobody\nknows\n]q\xfah\xfaa\x85R"),
    "state that holds the thing": Raw(b"cnobody\nknows\n)Rq\xfah\xfab"),
    "arguments 100,000 deep": Raw(b"cnobody\nknows\nN" + b"\x85" * 100_000 + b"R"),
    "keys that can't be hashed": Raw(b"}]Ns}Ns)Ns"),
    "a number of 1,024 bytes": Raw(b"\x8b\0\4\0\0" + b"\xff" * 1023 + b"\x7f"),
    "numbers that are none": [float("nan"), float("inf"), float("-inf"), -0.0],
    "a text of a million letters": "\u202e" * 1_000_000,
    "a key of a million letters": {"\x1b" * 1_000_000: 1},
    "a storage alone": Persistent(("storage", FLOAT_STORAGE, "0", "cpu", 2)),
    "a function of the table alone": Global("torch._utils", "_rebuild_tensor_v2"),
    "a dtype as a key": Raw(b"}ctorch\nfloat32\nNs"),
    "every kind of set": Raw(b"\x8f(K\1]\x90(N\x91\x86"),
    "bytes like a terminal": b"\x1b]52;c;aGVsbG8=\x07" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("name", LAST)
def test_p17_nothing_breaks_what_looks_at_it(name: str, tmp_path: Path) -> None:
    path = beside(tmp_path, LAST[name])

    for command in (("inspect", path), ("inspect", path, "--all"), ("scan", path, "--explain", "--no-fickling")):
        ended = run_command(*command)
        assert ended.code in (0, 1)
        assert all(character == "\n" or character.isprintable() for character in ended.out + ended.err)
    for asked in (("inspect", path, "--json", "--stats"), ("scan", path, "--explain", "--json", "--no-fickling")):
        document = run_command(*asked).out
        assert document.isascii()
        json.loads(document, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert run_command("convert", path, tmp_path / "x.safetensors").code in (0, 2)


def test_p17_an_integer_past_a_raised_limit_is_still_shown(tmp_path: Path) -> None:
    path = beside(tmp_path, Raw(b"\x8b" + struct.pack("<I", 10_000) + b"\xff" * 9_999 + b"\x7f"))
    for command in (("inspect", path), ("inspect", path, "--json"), ("scan", path, "--explain", "--no-fickling")):
        assert run_command("--limit", "integer=20000", *command).code == 0


TAMPERING = [
    ("fickling.analysis", "check_safety"), ("fickling.fickle", "Pickled"), ("picklescan.scanner", "scan_file_path"),
    ("modelscan.modelscan", "ModelScan"), ("converter.limits", "using"), ("converter.pickles.closed_table", "TABLE"), ("converter.cli.app", "app"),
    ("sys.modules", "clear"), ("pickle", "Unpickler"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), TAMPERING, ids=[f"P18 {m}.{n}" for m, n in TAMPERING])
def test_p18_naming_a_scanner_or_ourselves_is_naming_anything_else(module: str, name: str, tmp_path: Path) -> None:
    path = beside(tmp_path, Call(Global(module, name), ("opcodes=1",)))

    assert_inert(path, f"{module}.{name}", scanned(path)["verdict"])

    assert scanned(path)["verdict"] != "plain"
    assert limits() == Limits()
    assert ("os", "system") not in TABLE


def test_p18_fickling_gets_bytes_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = beside(tmp_path, Call(Global("fickling.hook", "run_hook"), (str(tmp_path / "ran"),)))
    before = everything(tmp_path)

    done = run_command("scan", path, "--json")

    assert json.loads(done.out)["verdict"] != "plain"
    assert "fickling" not in sys.modules
    assert everything(tmp_path) == before
