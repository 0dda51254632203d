"""Rows of the closed table for plain values: what each builds from its arguments, without calling anything.

A global has a row if calling it with the accepted arguments only builds a value: the call runs no code that the file
chooses, reads no file and allocates no more than the file has. With any other arguments, the global counts as unknown,
as if it had no row. A global among the arguments needs a row of its own.

Sources: CPython's Lib (copyreg, collections, datetime, decimal, fractions, pathlib, uuid), numpy/_core/multiarray,
numpy/random/_pickle.py, torch/_weights_only_unpickler.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from converter.pickles.values import Dict, TableEntry, Value, ValueRow

Arguments = tuple[Any, ...]

_CODECS: Final = ("latin1", "latin-1", "iso-8859-1", "ascii", "utf-8", "utf8")  # Python would import others
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,4000}(?:/[0-9]{1,4000})?")
_NUMPY: Final = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2.0, and since
_SMALL: Final = 1 << 16  # the most bytes that a count may allocate
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
    """Whether BUILD with this state only sets attributes that Python never calls (such as `__setstate__` or `append`)."""
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


def _sized(args: Arguments) -> bool:
    """For bytes and bytearray: made from other bytes, or from a small count."""
    return not args or type(args[0]) is not int or args[0] <= _SMALL


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


def _array_state(state: object) -> bool:
    """(version, shape, dtype, whether Fortran order, bytes or a list of objects). The version may be missing."""
    if type(state) is not tuple or not 4 <= len(state) <= 5:
        return False
    shape, dtype, _, data = state[-4:]
    return type(shape) is tuple and _is_dtype(dtype) and type(data) in (bytes, list)


def _is_dtype(value: object) -> bool:
    return type(value) is Value and value.row.module in ("numpy", "numpy.dtypes")


def _dtype(args: Arguments) -> bool:
    return bool(args) and (type(args[0]) is str or _is_row(args[0])) and len(args) <= 3


def _scalar(args: Arguments) -> bool:
    """A dtype and the bytes of one element. `object` is refused: numpy would take the bytes for an address."""
    return (
        len(args) == 2
        and _is_dtype(args[0])
        and bool(args[0].args)
        and not str(args[0].args[0]).lstrip("|<>=").startswith("O")
        and type(args[1]) is bytes
    )


def _frombuffer(args: Arguments) -> bool:
    return len(args) == 4 and type(args[0]) is bytes and _is_dtype(args[1]) and type(args[2]) is tuple


def _fraction(args: Arguments) -> bool:
    """Numbers only: from a text such as `1e999999999`, Fraction would make a number of a gigabyte."""
    return all(type(a) is int or (type(a) is str and bool(_NUMBER.fullmatch(a))) for a in args)


def _bit_generator(args: Arguments) -> bool:
    return all(
        (type(a) is str and a in _BIT_GENERATORS) or (_is_row(a) and a.module.startswith("numpy.random.")) for a in args
    )


def _generator(args: Arguments) -> bool:
    return all((type(a) is Value and a.row.module.startswith("numpy.random.")) or _bit_generator((a,)) for a in args)


def _seed_sequence(args: Arguments) -> bool:
    return len(args) == 3 and _is_row(args[0], ("numpy.random.bit_generator", "SeedSequence")) and type(args[1]) is int


def _row(
    module: str,
    name: str,
    takes: Callable[[Arguments], bool] = _any,
    state: Callable[[object], bool] = _no,
    fills: str = "",
    make: Callable[[Arguments, bool], object] | None = None,
) -> ValueRow:
    return ValueRow(module, name, takes, state, fills, make)


SET: Final = _row("builtins", "set", fills="items")
FROZENSET: Final = _row("builtins", "frozenset")

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
    _row("builtins", "bytearray", _sized),
    _row("builtins", "bytes", _sized),
    *(_row("builtins", name) for name in ("complex", "slice", "range")),
    # Only without arguments, as factories of a defaultdict, because str(x) would write out everything that x holds.
    *(_row("builtins", name, _none) for name in ("object", "list", "dict", "tuple", "int", "float", "str", "bool")),
    _row("_codecs", "encode", make=_encoded),
    _row("copyreg", "_reconstructor", make=_reconstructed),
    _row("collections", "OrderedDict", make=_ordered),
    _row("collections", "Counter", fills="pairs", make=_counter),
    _row("collections", "defaultdict", make=_defaultdict),
    _row("collections", "deque", fills="items"),
    _row("argparse", "Namespace", _none, plain_attributes),
    _row("types", "SimpleNamespace", _none, plain_attributes),
    *(_row("datetime", name) for name in ("date", "time", "datetime", "timedelta", "timezone")),
    _row("decimal", "Decimal"),
    _row("fractions", "Fraction", _fraction),
    _row("uuid", "UUID", _none, plain_attributes),
    _row("uuid", "SafeUUID"),
    *(_row(module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS),
    _row("numpy", "ndarray", _no, _array_state),
    _row("numpy", "dtype", _dtype, lambda state: type(state) is tuple),
    *(_row("numpy", name, lambda args: len(args) < 2 and type((*args, 0)[0]) in (int, float, bool)) for name in _SCALARS),
    *(_row("numpy.dtypes", f"{name}DType", _none, lambda state: type(state) is tuple) for name in _DTYPES),
    *(_row(module, "_reconstruct", make=_ndarray) for module in _NUMPY),
    *(_row(module, "scalar", _scalar) for module in _NUMPY),
    *(_row(module, "_frombuffer", _frombuffer) for module in ("numpy.core.numeric", "numpy._core.numeric")),
    _row("numpy.random._pickle", "__generator_ctor", _generator, _any),
    _row("numpy.random._pickle", "__randomstate_ctor", _generator, _any),
    _row("numpy.random._pickle", "__bit_generator_ctor", _bit_generator, _any),
    *(_row(f"numpy.random.{module}", name, _no) for name, module in _BIT_GENERATORS.items()),
    _row("numpy.random.bit_generator", "SeedSequence", _no),
    _row("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", _seed_sequence, lambda state: type(state) is tuple),
    _row("torch", "device", lambda args: len(args) <= 2 and all(type(a) in (str, int) for a in args)),
    _row("torch.serialization", "_get_layout", lambda args: len(args) == 1 and type(args[0]) is str),
)  # fmt: skip

VALUES: Final = {(row.module, row.name): row for row in _ROWS}
