"""Rows of the closed table for plain values: what each builds from its arguments, without calling anything.

A global has a row if calling it with the accepted arguments only builds a value: the call runs no code that the file
chooses, reads no file and allocates no more than the file has. With any other arguments, the global counts as unknown,
as if it had no row. A global among the arguments needs a row of its own.

Sources: CPython's Lib (copyreg, collections, datetime, decimal, fractions, pathlib, uuid), numpy/_core/multiarray,
numpy/random/_pickle.py, torch/_weights_only_unpickler.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from converter.pickles.values import Dict, TableEntry, Value, ValueRow

Arguments = tuple[Any, ...]

# Python would import any other codec by its name.
_CODECS: Final = ("latin1", "latin-1", "iso-8859-1", "ascii", "utf-8", "utf8")
_NUMBER: Final = r"[+-]?[0-9]{1,4000}(?:/[0-9]{1,4000})?"  # compiled only where a pickle has a Fraction
_NUMPY: Final = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2.0, and since
_LONG: Final = 1024  # characters; shorter texts, such as the parts of paths, are used again and again
_BIT_GENERATORS: Final = {
    "MT19937": "_mt19937", "PCG64": "_pcg64", "PCG64DXSM": "_pcg64", "Philox": "_philox", "SFC64": "_sfc64",
}  # fmt: skip


def _no(_: object) -> bool:
    return False


def _any(_: object) -> bool:
    return True


def _none(args: Arguments) -> bool:
    return not args


def plain_attributes(state: object) -> bool:
    """Whether BUILD with this state only sets attributes that Python never calls. It does call `__setstate__` and `append`."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    for part in parts:
        if part is None:
            continue
        if type(part) is not Dict:
            return False
        for key in part[::2]:
            if type(key) is not str or key.startswith("__") or key in ("append", "extend", "add"):
                return False
    return True


def _is_row(value: object, *names: tuple[str, str]) -> bool:
    return type(value) is ValueRow and (not names or (value.module, value.name) in names)


def _known(value: object) -> bool:
    return type(value) in (ValueRow, TableEntry)


def copied(args: object) -> int:
    """How many bytes and items of its arguments, or of its state, a value may have copied."""
    if type(args) is not tuple:
        return 0
    return sum(
        len(arg)
        for arg in args
        if type(arg) in (bytes, bytearray, list, tuple, Dict) or (type(arg) is str and len(arg) > _LONG)
    )


def _bytes(args: Arguments, new: bool) -> object:
    """`bytes()`, which protocols 0 to 2 write for no bytes. A count is refused: it would allocate that many."""
    return b"" if not new and not args else None


def _bytearray(args: Arguments, new: bool) -> object:
    """From bytes, or as protocols 0 to 2 write it from text as Latin-1. A count is refused: it would allocate that many."""
    if new or not args:
        return Value(BYTEARRAY, ()) if not args else None
    data = args[0] if len(args) == 1 else _encoded(args, new)
    return Value(BYTEARRAY, (data,)) if type(data) in (bytes, bytearray) else None


def _items(args: Arguments) -> bool:
    """A list of items, which the file holds, and not a range or another value that makes more of them."""
    return not args or (len(args) == 1 and (type(args[0]) is list or args[0] == ()))


def _deque(args: Arguments) -> bool:
    return _items(args[:1]) and len(args) <= 2 and all(most is None or type(most) is int for most in args[1:])


def _all(*types: type) -> Callable[[Arguments], bool]:
    """Arguments of these types only, so that nothing iterates over them or asks them for anything."""
    return lambda args: all(type(arg) in types for arg in args)


def _encoded(args: Arguments, new: bool) -> object:
    if new or not 1 <= len(args) <= 2 or type(args[0]) is not str or (args[1:] and args[1] not in _CODECS):
        return None
    return args[0].encode(*args[1:])


def _ordered(args: Arguments, new: bool) -> object:
    """For `scan`, which needs no items. The closed table has another entry, which keeps them."""
    return Dict() if new or not args or (len(args) == 1 and type(args[0]) in (list, Dict)) else None


def _counter(args: Arguments, new: bool) -> object:
    if new or not args:
        return Dict()
    return Dict(args[0]) if len(args) == 1 and type(args[0]) is Dict else None


def _defaultdict(args: Arguments, new: bool) -> object:
    if not new and args and not (args[0] is None or _known(args[0])):
        return None
    if new or len(args) < 2:
        return Dict()
    return Dict(args[1]) if len(args) == 2 and type(args[1]) is Dict else None


def _reconstructed(args: Arguments, new: bool) -> object:
    """copyreg._reconstructor(cls, object, None), which protocols 0 and 1 write in place of NEWOBJ."""
    if new or len(args) != 3 or not _is_row(args[1], ("builtins", "object")) or args[2] is not None:
        return None
    row = args[0]
    return row.made((), True) if type(row) is ValueRow else None


def _ndarray(args: Arguments, new: bool) -> object:
    """`_reconstruct(ndarray, (0,), b"b")` of numpy, which makes an empty array; BUILD fills it."""
    if new or len(args) != 3 or not _is_row(args[0], ("numpy", "ndarray")) or args[1] != (0,):
        return None
    return Value(args[0], ())


def _fraction(args: Arguments) -> bool:
    """Numbers only: from a text such as `1e999999999`, Fraction would make a number of a gigabyte."""
    return all(type(a) is int or (type(a) is str and bool(re.fullmatch(_NUMBER, a))) for a in args)


def _bit_generator(args: Arguments) -> bool:
    return all(
        (type(a) is str and a in _BIT_GENERATORS) or (_is_row(a) and a.module.startswith("numpy.random.")) for a in args
    )


def _generator(args: Arguments) -> bool:
    return all((type(a) is Value and a.row.module.startswith("numpy.random.")) or _bit_generator((a,)) for a in args)


def _seed_sequence(args: Arguments) -> bool:
    return len(args) == 3 and _is_row(args[0], ("numpy.random.bit_generator", "SeedSequence")) and type(args[1]) is int


def _no_state(_: Value, state: object) -> bool:
    return False


def _attributes(_: Value, state: object) -> bool:
    return plain_attributes(state)


def _of_numpy(name: str) -> Callable[..., bool]:
    """Wrap a check of `numpy_rows`, so that it is imported only if a pickle holds numpy values: state dicts have none."""

    def check(*args: object) -> bool:
        return _numpy_checks()[name](*args)

    return check


@cache
def _numpy_checks() -> Mapping[str, Callable[..., bool]]:
    from converter.pickles.numpy_rows import CHECKS

    return CHECKS


def _row(
    module: str,
    name: str,
    takes: Callable[[Arguments], bool] = _any,
    state: Callable[[Value, object], bool] = _no_state,
    fills: str = "",
    make: Callable[[Arguments, bool], object] | None = None,
) -> ValueRow:
    return ValueRow(module, name, takes, state, fills, make)


SET: Final = _row("builtins", "set", _items, fills="items")
FROZENSET: Final = _row("builtins", "frozenset", _items)
BYTEARRAY: Final = _row("builtins", "bytearray", make=_bytearray)

_PATHS: Final = ("PurePath", "PurePosixPath", "PureWindowsPath", "Path", "PosixPath", "WindowsPath")
_SCALARS: Final = (
    *("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "intc", "uintc"),
    *("longlong", "ulonglong", "float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble"),
)
_DTYPES: Final = (
    *("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "LongLong", "ULongLong"),
    *("Float16", "Float32", "Float64", "LongDouble", "Complex64", "Complex128", "CLongDouble", "Str", "Bytes", "Void"),
    *("DateTime64", "TimeDelta64", "Object"),
)

_ROWS: Final = (
    SET,
    FROZENSET,
    BYTEARRAY,
    _row("builtins", "bytes", make=_bytes),
    _row("builtins", "complex", _all(int, float)),
    _row("builtins", "range", _all(int)),
    _row("builtins", "slice"),
    *(_row("builtins", name, _no) for name in ("Ellipsis", "NotImplemented")),
    # Accepted only without arguments, as factories of a defaultdict, because str(x) would write out everything that x holds.
    *(_row("builtins", name, _none) for name in ("object", "list", "dict", "tuple", "int", "float", "str", "bool")),
    _row("_codecs", "encode", make=_encoded),
    _row("copyreg", "_reconstructor", make=_reconstructed),
    _row("collections", "OrderedDict", make=_ordered),
    _row("collections", "Counter", fills="pairs", make=_counter),
    _row("collections", "defaultdict", make=_defaultdict),
    _row("collections", "deque", _deque, fills="items"),
    _row("argparse", "Namespace", _none, _attributes),
    _row("types", "SimpleNamespace", _none, _attributes),
    *(_row("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    _row("decimal", "Decimal", _all(str)),
    _row("fractions", "Fraction", _fraction),
    _row("uuid", "UUID", _none, _attributes),
    _row("uuid", "SafeUUID", lambda args: len(args) == 1 and (args[0] is None or type(args[0]) is int)),
    *(_row(module, name, _all(str)) for module in ("pathlib", "pathlib._local") for name in _PATHS),
    _row("numpy", "ndarray", _no, _of_numpy("array_state")),
    _row("numpy", "dtype", _of_numpy("dtype_arguments"), _of_numpy("dtype_state")),
    *(_row("numpy", name, lambda args: len(args) < 2 and type((*args, 0)[0]) in (int, float, bool)) for name in _SCALARS),
    *(_row("numpy.dtypes", f"{name}DType", _none) for name in _DTYPES),
    *(_row(module, "_reconstruct", make=_ndarray) for module in _NUMPY),
    *(_row(module, "scalar", _of_numpy("scalar_arguments")) for module in _NUMPY),
    *(_row(module, "_frombuffer", _of_numpy("frombuffer_arguments")) for module in ("numpy.core.numeric", "numpy._core.numeric")),
    _row("numpy.random._pickle", "__generator_ctor", _generator, _of_numpy("generator_state")),
    _row("numpy.random._pickle", "__randomstate_ctor", _generator, _of_numpy("generator_state")),
    _row("numpy.random._pickle", "__bit_generator_ctor", _bit_generator, _of_numpy("generator_state")),
    *(_row(f"numpy.random.{module}", name, _no) for name, module in _BIT_GENERATORS.items()),
    _row("numpy.random.bit_generator", "SeedSequence", _no),
    _row("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", _seed_sequence, _of_numpy("seed_state")),
    _row("torch", "device", lambda args: len(args) <= 2 and all(type(a) in (str, int) for a in args)),
    _row("torch.serialization", "_get_layout", lambda args: len(args) == 1 and type(args[0]) is str),
)  # fmt: skip

VALUES: Final = {(row.module, row.name): row for row in _ROWS}
