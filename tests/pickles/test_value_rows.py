"""Plain values that the closed table knows: values that the standard library and numpy write are named, shown and carried over."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import LimitError
from converter.opening import open_checkpoint
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from converter.pickles.value_rows import VALUES
from converter.pickles.values import Pickled
from converter.pickles.walk import describe
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import Call, Global, Raw, dumps, write_checkpoint
from tests.build.rebuilt import SIX, TENSOR

Open = Callable[..., Catalogue]
ZONE = datetime.timezone(datetime.timedelta(hours=2))


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, **options: Any) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, SIX, **options))

    return open_with


def made(data: bytes) -> Pickled:
    return run(data, TABLE)


def unknown(data: bytes) -> set[str]:
    """The globals outside of the table, in a run for `convert` and in one for `scan`."""
    found = [{f"{m}.{n}" for m, n in run(data, table).globals if (m, n) not in TABLE} for table in (TABLE, VALUES)]
    assert found[0] == found[1]
    return found[0]


PLAIN: dict[str, tuple[Any, str | None]] = {
    "set": ({1, 2, 3}, "set of 3"),
    "frozenset": (frozenset((1, 2)), "frozenset of 2"),
    "bytes": (b"\x80abc", "bytes of 4"),
    "bytearray": (bytearray(b"abc"), None),
    "complex": (1 + 2j, "builtins.complex(1.0, 2.0)"),
    "range": (range(1, 9, 2), "builtins.range(1, 9, 2)"),
    "slice": (slice(1, 2), "builtins.slice(1, 2, None)"),
    "Counter": (collections.Counter("abb"), "dict of 2"),
    "defaultdict": (collections.defaultdict(list, {1: [2]}), "dict of 1"),
    "defaultdict of OrderedDict": (collections.defaultdict(collections.OrderedDict), "dict of 0"),
    "deque": (collections.deque([1, 2], 5), None),
    "Namespace": (argparse.Namespace(lr=0.1, name="x"), None),
    "SimpleNamespace": (types.SimpleNamespace(lr=0.1), None),
    "date": (datetime.date(2023, 3, 1), "2023-03-01"),
    "time": (datetime.time(1, 2, 3), "01:02:03"),
    "datetime": (datetime.datetime(2023, 3, 1, 12, 30, 5), "2023-03-01 12:30:05"),  # noqa: DTZ001
    "datetime with a zone": (datetime.datetime(2023, 3, 1, 12, 30, 5, tzinfo=ZONE), "2023-03-01 12:30:05"),
    "timedelta": (datetime.timedelta(1, 2), "datetime.timedelta(1, 2, 0)"),
    "Decimal": (decimal.Decimal("1.50"), 'decimal.Decimal("1.50")'),
    "UUID": (uuid.UUID(int=5), None),
    "Fraction": (fractions.Fraction(1, 3), None),
    "PurePosixPath": (pathlib.PurePosixPath("a/b"), None),
    "PosixPath": (pathlib.PosixPath("/a"), None),
    "PureWindowsPath": (pathlib.PureWindowsPath("c:/a"), None),
    "object": (object(), None),
    "int64 array": (np.arange(24), "ndarray i8 [24]"),
    "Fortran array": (np.asfortranarray(np.ones((2, 3), "f4")), "ndarray f4 [2, 3]"),
    "big-endian array": (np.ones(2, ">f4"), "ndarray >f4 [2]"),
    "object array": (np.array(["a", None], object), "ndarray O8 [2]"),
    "array with fields": (np.zeros(2, [("a", "f4")]), None),
    "text array": (np.array(["abc"]), "ndarray U3 [1]"),
    "datetime64": (np.array(["2020-01-01"], "M8[D]"), "ndarray M8 [1]"),
    "empty array": (np.zeros((0, 3)), "ndarray f8 [0, 3]"),
    "empty bytes": (b"", "bytes of 0"),
    "empty bytearray": (bytearray(), None),
    "array of aligned fields": (np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)), None),
    "array of fields in fields": (np.zeros(2, [("s", "U3"), ("n", [("x", ">i2")], (2, 3))]), None),
    "array of fields with objects": (np.zeros(2, [("a", "i4"), ("b", "O")]), None),
    "array of fields with titles": (np.zeros(2, [(("title", "a"), "i4")]), None),
    "array of no fields": (np.zeros(2, []), None),
    "dtype of arrays": (np.dtype(("f4", (2, 3))), None),
    "dtype with metadata": (np.dtype("i4", metadata={"a": 1}), None),
    "timedelta64": (np.timedelta64(25, "s"), None),
    "text scalar": (np.str_("abc"), None),
    "array of no dimensions": (np.array(2.0), "ndarray f8 []"),
    "object array of no dimensions": (np.array(None), "ndarray O8 []"),
    "Ellipsis": (..., None),
    "NotImplemented": (NotImplemented, None),
    "scalar": (np.float64(2), None),
    "bool scalar": (np.bool_(True), None),
    "dtype": (np.dtype("f4"), "numpy.dtype(f4)"),
    "dtype with fields": (np.dtype([("a", "<f4")]), None),
    "Generator": (np.random.default_rng(0), None),
    "RandomState": (np.random.RandomState(0), None),
    "PCG64": (np.random.PCG64(1), None),
    "MT19937": (np.random.MT19937(1), None),
    "Philox": (np.random.Philox(1), None),
    "SFC64": (np.random.SFC64(1), None),
    "SeedSequence": (np.random.SeedSequence(1), None),
    "RNG states": (("MT19937", np.arange(7), 624, 0, 0.0), "tuple of 5"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_are_known(name: str, protocol: int) -> None:
    value, text = PLAIN[name]
    data = pickle.dumps(value, protocol)

    assert unknown(data) == set()
    if text is not None and protocol >= 2 and name not in ("bytearray", "time"):
        assert describe(made(data).value) == text


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime.date(2024, 2, 3), "2024-02-03"), (datetime.time(4, 5, 6, 7), "04:05:06"), (datetime.time(0), "00:00:00"),
        (datetime.datetime(2024, 12, 31, 23, 59, 58, 9, ZONE), "2024-12-31 23:59:58"), (datetime.date(1, 1, 1), "0001-01-01"),
        (datetime.time(4, 5, 6, fold=1), "04:05:06"), (datetime.datetime(2024, 10, 27, 2, 30, tzinfo=ZONE, fold=1), "2024-10-27 02:30:00"),
    ],
)  # fmt: skip
def test_a_moment_is_shown_as_one_writes_it(moment: object, text: str, protocol: int) -> None:
    assert describe(made(pickle.dumps(moment, protocol)).value) == text


def called(module: str, name: str, *args: Any) -> bytes:
    return dumps(Call(Global(module, name), args))


ARRAY = Global("numpy", "ndarray")
MULTIARRAY = "numpy._core.multiarray"


def dtype(code: Any, state: Any, *options: Any) -> Call:
    return Call(Global("numpy", "dtype"), (code, *(options or (False, True))), state)


def numbers(flags: int = 0, order: str = "<") -> tuple[Any, ...]:
    return (3, order, None, None, None, -1, -1, flags)


def fields(nbytes: int, flags: int, **parts: Any) -> tuple[Any, ...]:
    return (3, "|", None, tuple(parts), parts, nbytes, 1, flags)


def array(of: Any, shape: tuple[Any, ...], data: Any) -> bytes:
    return dumps(Call(Global(MULTIARRAY, "_reconstruct"), (ARRAY, (0,), b"b"), (1, shape, of, False, data)))


F4 = dtype("f4", numbers())
U1 = dtype("u1", numbers(order="|"))
OBJECT = dtype("O8", numbers(63, "|"))
BUILT_TWICE = Raw(dumps(F4)[2:-1] + dumps(numbers())[2:-1] + b"b")
ODD = {
    "another codec": called("_codecs", "encode", "x", "rot13"),
    "a codec of a module": called("_codecs", "encode", "x", "mine"),
    "a codec with an error handler": called("_codecs", "encode", "x", "latin1", "mine"),
    "a factory that is unknown": called("collections", "defaultdict", Global("mine", "f")),
    "a class that is no ndarray": called(MULTIARRAY, "_reconstruct", Global("collections", "deque"), (0,), b"b"),
    "an unknown class": called(MULTIARRAY, "_reconstruct", Global("mine", "A"), (0,), b"b"),
    "an array of a size": called(MULTIARRAY, "_reconstruct", ARRAY, (1 << 40,), b"b"),
    "an array directly": called("numpy", "ndarray", (1 << 40,)),
    "an object scalar": called(MULTIARRAY, "scalar", OBJECT, b"12345678"),
    "a scalar of no dtype": called(MULTIARRAY, "scalar", "f4", b"1234"),
    "many bytes": called("builtins", "bytearray", 10**12),
    "many bytes, too": called("builtins", "bytes", 10**12),
    "text of anything": called("builtins", "str", [1]),
    "a large fraction": called("fractions", "Fraction", "1e999999999"),
    "_reconstructor of an unknown class": called("copyreg", "_reconstructor", Global("mine", "A"), Global("builtins", "object"), None),
    "_reconstructor of another base": called("copyreg", "_reconstructor", Global("argparse", "Namespace"), Global("builtins", "list"), [1]),
    "a generator of a callable": called("numpy.random._pickle", "__generator_ctor", "MT19937", Global("collections", "OrderedDict")),
    "a bit generator of a class": called("numpy.random._pickle", "__bit_generator_ctor", Global("collections", "deque")),
    **{
        f"a random generator's state {name}": dumps(
            Call(Global("numpy.random._pickle", "__bit_generator_ctor"), ("MT19937",), state)
        )
        for name, state in {
            "with a position behind its numbers": {"bit_generator": "MT19937", "state": {"pos": 625}},
            "with a position before its numbers": {"bit_generator": "MT19937", "state": {"pos": -1}},
            "with a place behind its buffer": {"bit_generator": "Philox", "buffer_pos": 5},
            "with a number that is a list": {"bit_generator": "MT19937", "state": {"pos": [1]}},
            "with another name": {"bit_generator": "MT19937", "capsule": 1},
            "that is a text": "MT19937",
            "with a seed that is none": ({"bit_generator": "PCG64"}, 1),
            "that goes on and on": {"state": {"state": {"state": 1}}},
        }.items()
    },
    "a namespace with arguments": called("argparse", "Namespace", 1),
    "attributes that are called": dumps(Call(Global("argparse", "Namespace"), (), {"__setstate__": Global("collections", "deque")})),
    "a method that APPENDS calls": dumps(Call(Global("types", "SimpleNamespace"), (), {"append": Global("collections", "deque")})),
    "attributes of an OrderedDict": dumps(Raw(b"ccollections\nOrderedDict\n)R" + dumps({"__setstate__": 1})[2:-1] + b"b")),
    "a state of something else": dumps(Call(Global("datetime", "date"), (b"\7\xe7\3\1",), {"a": 1})),
    **{
        f"a dtype {name}": dumps(of)
        for name, of in {
            "of numbers with an object's flags": dtype("f8", numbers(63)),
            "of objects with a number's flags": dtype("O8", numbers(0, "|")),
            "with a flag too many": dtype("f8", numbers(1 << 8)),
            "with two states": BUILT_TWICE,
            "that is not copied": dtype("f8", numbers(), False, False),
            "of one argument": Call(Global("numpy", "dtype"), ("f8",)),
            "of objects by a word": dtype("object", numbers(63, "|")),
            "of several": dtype("i4,O", numbers()),
            "of a class": dtype(Global("builtins", "object"), numbers(63, "|")),
            "of bytes in no order": dtype("f8", numbers(0, "|")),
            "of text of another size": dtype("U3", (3, "<", None, None, None, 4, 4, 8)),
            "of fields that are too large": dtype("V4", fields(4, 16, a=(dtype("f8", numbers()), 0))),
            "of a field before it": dtype("V8", fields(8, 16, a=(F4, -4))),
            "of fields whose objects are not told": dtype("V8", fields(8, 16, a=(OBJECT, 0))),
            "of numbers over objects": dtype("V8", fields(8, 27, a=(OBJECT, 0), b=(F4, 4))),
            "of a field without a state": dtype("V4", fields(4, 16, a=(Call(Global("numpy", "dtype"), ("f4", False, True)), 0))),
            "of arrays of another size": dtype("V8", (3, "|", (F4, (3,)), None, None, 8, 4, 0)),
            "of a version that nobody wrote": dtype("f8", (2, *numbers()[1:])),
        }.items()
    },
    "an array of too few bytes": array(F4, (2,), bytes(4)),
    "an array of too few objects": array(OBJECT, (2,), [None]),
    "an array of objects from bytes": array(OBJECT, (1,), bytes(8)),
    "an array of numbers from a list": array(F4, (1,), [1.0]),
    "an array of a dtype without a state": array(Call(Global("numpy", "dtype"), ("f4", False, True)), (1,), bytes(4)),
    "an array of a negative shape": array(F4, (-1, -1), bytes(4)),
    "a scalar of too few bytes": called(MULTIARRAY, "scalar", F4, b"123"),
    "a buffer of objects": called("numpy._core.numeric", "_frombuffer", bytes(8), OBJECT, (1,), "C"),
    "a buffer of another shape": called("numpy._core.numeric", "_frombuffer", bytes(8), F4, (-1,), "C"),
    "a few bytes by their count": called("builtins", "bytearray", 9),
    **{
        f"a {name} of a range": called(module, name, Call(Global("builtins", "range"), (1 << 31,)))
        for module, name in (("builtins", "frozenset"), ("builtins", "set"), ("builtins", "bytes"), ("builtins", "bytearray"),
                             ("collections", "deque"), ("decimal", "Decimal"), ("pathlib", "PurePath"))
    },
    "an array state of another kind": dumps(Call(Global(MULTIARRAY, "_reconstruct"), (ARRAY, (0,), b"b"), {"a": 1})),
}  # fmt: skip


GIVEN: list[tuple[str, tuple[Any, ...], bool]] = [
    ("builtins.set", (), True), ("builtins.set", ([1],), True), ("builtins.set", ([1], [2]), False), ("builtins.set", (1,), False),
    ("builtins.frozenset", (), True), ("builtins.frozenset", ([1],), True), ("builtins.frozenset", ({1: 2},), False),
    ("collections.deque", (), True), ("collections.deque", ([1], 5), True), ("collections.deque", ([1], None), True),
    ("collections.deque", ([1], "5"), False), ("collections.deque", ([1], 5, 6), False),
    ("collections.Counter", (), True), ("collections.Counter", ({"a": 1},), True), ("collections.Counter", ([1],), False),
    ("collections.Counter", ({"a": 1}, {}), False),
    ("collections.OrderedDict", (), True), ("collections.OrderedDict", ([["a", 1]],), True),
    ("collections.defaultdict", (), True), ("collections.defaultdict", (None,), True),
    ("collections.defaultdict", (None, {"a": 1}), True), ("collections.defaultdict", (1,), False),
    ("collections.defaultdict", (None, [1]), False), ("collections.defaultdict", (None, {}, {}), False),
    ("fractions.Fraction", ("1/3",), True), ("fractions.Fraction", ("-12",), True), ("fractions.Fraction", (1, 3), True),
    ("fractions.Fraction", ("1e5",), False), ("fractions.Fraction", (1.5,), False), ("fractions.Fraction", (b"1/3",), False),
    ("builtins.bytearray", (), True), ("builtins.bytearray", (b"a",), True), ("builtins.bytearray", ("a", "latin-1"), True),
    ("builtins.bytearray", ("a", "rot13"), False), ("builtins.bytearray", ([1],), False),
    ("builtins.bytes", (), True), ("builtins.bytes", ([1],), False), ("builtins.bytes", ("a", "latin-1"), False),
    ("builtins.complex", (1.0, 2), True), ("builtins.complex", ("1j",), False),
    ("builtins.range", (1, 9), True), ("builtins.range", (1.0,), False),
    ("decimal.Decimal", ("1.5",), True), ("decimal.Decimal", (1,), False),
    ("pathlib.PurePath", ("a", "b"), True), ("pathlib.PurePath", (b"a",), False),
    ("uuid.SafeUUID", (0,), True), ("uuid.SafeUUID", (None,), True), ("uuid.SafeUUID", (), False), ("uuid.SafeUUID", ("0",), False),
    ("argparse.Namespace", (), True), ("types.SimpleNamespace", (), True), ("types.SimpleNamespace", ({"a": 1},), False),
    ("torch.device", ("cpu",), True), ("torch.device", ("cuda", 1), True), ("torch.device", ("cuda", 1, 2), False),
    ("torch.device", (b"cpu",), False), ("torch.device", (None,), False),
    ("torch.serialization._get_layout", ("torch.strided",), True), ("torch.serialization._get_layout", (), False),
    ("torch.serialization._get_layout", (1,), False), ("torch.serialization._get_layout", ("torch.strided", 1), False),
]  # fmt: skip


def outside(data: bytes) -> set[str]:
    """The globals outside of the rows of plain values."""
    return {f"{m}.{n}" for m, n in run(data, VALUES).globals if (m, n) not in VALUES}


@pytest.mark.parametrize(("name", "args", "known"), GIVEN)
def test_arguments_that_are_written_are_known_and_others_are_not(name: str, args: tuple[Any, ...], known: bool) -> None:
    module, _, function = name.rpartition(".")

    assert outside(called(module, function, *args)) == (set() if known else {f"{name}(…)"})


NUMBER_TYPES = sorted(
    {kind.__name__ for kind in np.sctypeDict.values() if issubclass(kind, np.number | np.bool_)}
    - {"timedelta64", "bool", "bool_"}
)
NUMPY_DTYPES = sorted({kind.__name__ for kind in vars(np.dtypes).values() if isinstance(kind, type)} - {"StringDType"})


@pytest.mark.parametrize("name", [*NUMBER_TYPES, "bool", "bool_"])
@pytest.mark.parametrize(
    ("args", "known"),
    [((), True), ((1,), True), ((2.5,), True), ((True,), True)]
    + [(odd, False) for odd in (("1",), (b"1",), ([1],), ((1,),), (None,), (1, 2))],
)
def test_a_number_of_numpy_is_called_with_one_number_at_most(name: str, args: tuple[Any, ...], known: bool) -> None:
    assert unknown(called("numpy", name, *args)) == (set() if known else {f"numpy.{name}(…)"})


@pytest.mark.parametrize("name", NUMPY_DTYPES)
def test_a_class_of_dtypes_is_called_without_arguments(name: str) -> None:
    assert unknown(called("numpy.dtypes", name)) == set()
    assert unknown(called("numpy.dtypes", name, 1)) == {f"numpy.dtypes.{name}(…)"}


@pytest.mark.parametrize("name", ODD)
def test_known_globals_with_other_arguments_are_unknown(name: str) -> None:
    assert any(found.endswith("(…)") for found in unknown(ODD[name]))


@pytest.mark.parametrize(
    ("module", "name", "given"),
    [
        ("builtins", "bytearray", bytes(1000)),
        ("builtins", "frozenset", [None] * 1000),
        ("collections", "deque", [None] * 1000),
    ],
)
def test_one_value_that_many_calls_copy_is_refused(module: str, name: str, given: Any) -> None:
    calls = b"h\xc8h\xc9\x85R0" * 1000
    data = b"\x80\x04" + dumps(Global(module, name))[2:-1] + b"q\xc8" + dumps(given)[2:-1] + b"q\xc9" + calls + b"."

    with pytest.raises(LimitError, match="passed to more calls than a checkpoint needs"):
        made(data)


@pytest.mark.parametrize("array", ["int64 array", "Fortran array", "big-endian array"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_an_array_in_a_state_dict_is_a_tensor(array: str, protocol: int, opened: Open) -> None:
    expected = PLAIN[array][0]
    catalogue = opened(None, pickle=pickle.dumps({"n": 1, "a": expected}, protocol))

    assert list(catalogue) == ["a"]
    assert catalogue.unknown_globals() == []
    assert catalogue["a"].shape == expected.shape
    assert np.asarray(catalogue["a"]).tolist() == expected.tolist()
    assert b"".join(map(bytes, catalogue["a"].tiles())) == expected.astype(expected.dtype.newbyteorder("<")).tobytes()


def test_two_names_of_one_array_are_tied_and_arrays_lie_apart(opened: Open) -> None:
    one, two = np.full(3, 1, "f4"), np.full(3, 2, "f4")
    catalogue = opened(None, pickle=pickle.dumps({"a": [one], "b": [one], "c": two}, 2))

    assert catalogue.tied() == [["a.0", "b.0"]]
    assert [storage.key for storage in catalogue.storages] == ["0", "array 0", "array 1"]


def test_values_that_are_no_numbers_are_listed(opened: Open) -> None:
    values = {"o": np.array(["a"], object), "n": np.float64(2), "d": datetime.date(2023, 3, 1), "s": {1}}
    catalogue = opened({"w": TENSOR, **{key: Raw(pickle.dumps(value, 2)[2:-1]) for key, value in values.items()}})

    assert list(catalogue) == ["w"]
    assert [(other.name, other.kind, describe(other.value)) for other in catalogue.others] == [
        ("o", "numpy.ndarray", "ndarray O8 [1]"),
        ("n", "numpy._core.multiarray.scalar", "numpy._core.multiarray.scalar(numpy.dtype(f8), bytes of 8)"),
        ("d", "datetime.date", "2023-03-01"),
        ("s", "builtins.set", "set of 1"),
    ]


def test_tensors_inside_a_defaultdict_have_names(opened: Open) -> None:
    filled = Raw(b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R" + dumps({"k": TENSOR}, {"0": 24})[3:-1])

    assert list(opened({"d": filled})) == ["d.k"]
