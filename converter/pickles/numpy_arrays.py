"""A numpy array in a pickle as a tensor. Its bytes lie in the pickle, row by row or column by column."""

from __future__ import annotations

import math
from typing import Final

from converter.dtypes import BOOL, C64, C128, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64
from converter.errors import LayoutError
from converter.io.source import Memory
from converter.pickles.values import Value
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.text import plural

DTYPES: Final = {
    "b1": BOOL, "i1": I8, "i2": I16, "i4": I32, "i8": I64, "u1": U8, "u2": U16, "u4": U32, "u8": U64,
    "f2": F16, "f4": F32, "f8": F64, "c8": C64, "c16": C128,
}  # fmt: skip
_BYTE_ORDERS: Final = "<>=|"


def array_parts(value: object) -> tuple[tuple[int, ...], str, bool, object] | None:
    """Shape, dtype (`<f4`), whether it lies column by column, and contents of an array; None for anything else."""
    if type(value) is not Value or value.module not in ("numpy", "numpy.core.numeric", "numpy._core.numeric"):
        return None
    if value.name == "ndarray" and value.state and type(value.state[-1]) is tuple and len(value.state[-1]) >= 4:
        shape, dtype, columns, data = value.state[-1][-4:]
    elif value.name == "_frombuffer" and type(value.args) is tuple and len(value.args) == 4:
        data, dtype, shape, order = value.args
        columns = order == "F"
    else:
        return None
    name = dtype_name(dtype)
    if name is None or type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        return None
    return shape, name, columns is True or columns == 1, data


def dtype_name(dtype: object) -> str | None:
    """The name of a dtype with its byte order, `<f4`; None for a dtype with fields, and for anything but a `numpy.dtype`."""
    if type(dtype) is not Value or (dtype.module, dtype.name) != ("numpy", "dtype") or type(dtype.args) is not tuple:
        return None
    name = dtype.args[0] if dtype.args else None
    if type(name) is not str:
        return None
    order = name[:1] if name[:1] and name[:1] in _BYTE_ORDERS else "<"
    name = name.lstrip(_BYTE_ORDERS)
    for state in dtype.state or ():
        if type(state) is not tuple or len(state) < 5 or state[2] is not None or state[3] is not None:
            return None
        order = state[1] if type(state[1]) is str and state[1] in _BYTE_ORDERS else order
    return f"{order}{name}"


def is_numeric(value: object) -> bool:
    """Whether a value is an array of numbers, from which `array_tensor` can make a tensor."""
    parts = array_parts(value)
    return parts is not None and parts[1][1:] in DTYPES and type(parts[3]) is bytes


def array_tensor(value: object, key: str) -> Tensor:
    """An array of numbers as a tensor on a storage of its own.

    Raises LayoutError if it has more or fewer bytes than its shape needs, or is not an array of numbers.
    """
    parts = array_parts(value)
    if parts is None or not isinstance(data := parts[3], bytes) or parts[1][1:] not in DTYPES:
        raise LayoutError(f"`{key}` is not an array of numbers")
    shape, name, columns, _ = parts
    dtype = DTYPES[name[1:]]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise LayoutError(
            f"a numpy array of {name} and shape {shape!s:.100} has {plural(len(data), 'byte')}, "
            f"not {math.prod(shape) * dtype.itemsize:,}"
        )
    storage = Storage(Memory(data, key), 0, len(data), key, byteorder="big" if name[0] == ">" else "little")
    stride = tuple(reversed(row_major(shape[::-1]))) if columns else row_major(shape)
    return Tensor(dtype, shape, stride, 0, storage)
