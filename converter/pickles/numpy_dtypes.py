"""What a pickled numpy dtype says about an array: how many bytes an item has, and whether it holds Python objects.

Source: numpy/_core/src/multiarray/descriptor.c (`arraydescr_reduce`, `arraydescr_setstate`). A dtype is
`dtype(code, False, True)` with the state (version, byte order, subarray, names, fields, size, alignment, flags) and, in
version 4, metadata. numpy takes sizes and flags from the state without a check, so everything must agree here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from converter.pickles.values import Dict, Opaque

_DTYPE: Final = ("numpy", "dtype")
_RECORDS: Final = (("numpy", "record"), ("numpy.rec", "record"), ("numpy", "void"))
_NUMBERS: Final = re.compile(r"b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[mM]8").fullmatch
_SIZED: Final = re.compile(r"[SUV](?:0|[1-9][0-9]{0,9})").fullmatch
_OBJECTS: Final = ("O4", "O8")
_OBJECT_FLAGS: Final = 63
_TEXTS: Final = {"S": (1, 1, 0), "U": (4, 4, 8)}  # bytes of a character, alignment, flags
_HOLDS: Final = 3  # the two flags of a dtype that holds objects: they stand together
_DEPTH: Final = 16


Layout = tuple[int, bool]  # the bytes of an item, and whether it holds objects
Seen = dict[int, tuple[object, Layout | None]]  # by identity: the dtype, which this keeps alive, and its layout


def layout(dtype: object, seen: Seen, depth: int = 0) -> Layout | None:
    """The layout of a dtype; None for one that numpy would not write like this.

    Dtypes may share their fields, so each is looked at once: `seen` has those that were.
    """
    if not isinstance(dtype, Opaque) or (dtype.module, dtype.name) != _DTYPE or depth > _DEPTH:
        return None
    if dtype.state is None or len(dtype.state) != 1:
        return None
    if id(dtype) not in seen:
        seen[id(dtype)] = dtype, None  # for a dtype that contains itself
        seen[id(dtype)] = dtype, _layout(dtype.args, dtype.state[0], seen, depth)
    return seen[id(dtype)][1]


def _layout(args: object, state: object, seen: Seen, depth: int) -> Layout | None:
    if type(args) is not tuple or len(args) != 3 or not _flag(args[1], 0) or not _flag(args[2], 1):
        return None
    if type(state) is not tuple or not _has_version(state):
        return None
    _, order, subarray, names, fields, size, alignment, flags = state[:8]
    if (
        type(order) is not str
        or order not in ("<", ">", "|", "=")
        or any(type(one) is not int for one in (size, alignment, flags))
    ):
        return None
    code, simple = args[0], subarray is None and names is None and fields is None
    if type(code) is str and _NUMBERS(code):
        return (int(code[1:]), False) if simple and (size, alignment, flags) == (-1, -1, 0) else None
    if type(code) is str and code in _OBJECTS:
        return (8, True) if simple and (size, alignment, flags) == (-1, -1, _OBJECT_FLAGS) else None
    if type(code) is str and _SIZED(code):
        if code[0] in _TEXTS:
            width, *rest = _TEXTS[code[0]]
            return (size, False) if simple and (size, alignment, flags) == (int(code[1:]) * width, *rest) else None
        if size != int(code[1:]):
            return None
    elif not (type(code) is Opaque and code.args is None and (code.module, code.name) in _RECORDS and size >= 0):
        return None
    parts = _parts(subarray, names, fields, size, seen, depth)
    if parts is None or not 0 <= flags < 256 or flags & _HOLDS != (_HOLDS if any(parts) else 0):
        return None
    return size, any(parts)


def _parts(subarray: Any, names: Any, fields: Any, size: int, seen: Seen, depth: int) -> list[bool] | None:
    """Whether each part of a compound dtype holds objects. None if the parts are odd, or don't fit into `size` bytes."""
    if subarray is not None:
        if names is not None or fields is not None or type(subarray) is not tuple or len(subarray) != 2:
            return None
        inner, shape = layout(subarray[0], seen, depth + 1), subarray[1]
        lengths = shape if type(shape) is tuple else (shape,)
        if inner is None or not all(type(one) is int and one >= 0 for one in lengths):
            return None
        count = 1
        for one in lengths:
            count = min(count * one, size + 1)
        return [inner[1]] if count * inner[0] == size else None
    if fields is None:
        return [] if names is None else None
    if type(names) is not tuple or type(fields) is not Dict or not all(type(name) is str for name in names):
        return None
    found, keys = [], set()
    for key, field in fields.pairs():
        if type(key) is not str or key in keys or type(field) is not tuple or not 2 <= len(field) <= 3:
            return None
        inner = layout(field[0], seen, depth + 1)
        if inner is None or type(field[1]) is not int or field[1] < 0 or field[1] + inner[0] > size:
            return None
        keys.add(key)
        found.append(inner[1])
    return found if keys.issuperset(names) else None


def _flag(value: object, wanted: int) -> bool:
    return type(value) in (int, bool) and value == wanted


def _has_version(state: tuple[Any, ...]) -> bool:
    """Whether a state has the version that its length says."""
    return len(state) in (8, 9) and type(state[0]) is int and state[0] == len(state) - 5
