"""What numpy writes for its dtypes and arrays, as the checks of their rows in the closed table.

numpy believes what a pickle says of a dtype: its flags, its size, where its fields lie. Flags that do not fit the dtype
make numpy take bytes for addresses. So only those states are known that numpy itself writes for that dtype, and only
arrays that have exactly the bytes, or the objects, that their shape asks for (arraydescr_reduce and array_setstate of
numpy/_core/src/multiarray).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final, NamedTuple

from converter.pickles.values import Dict, Value

Arguments = tuple[Any, ...]

_CODE: Final = re.compile(r"([biufcOMmSUV])([0-9]{1,9})")
_SIZES: Final = {  # item sizes in bytes by kind of dtype; other kinds may have any size
    "b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8, 12, 16), "c": (8, 16, 24, 32), "O": (8,),
    "M": (8,), "m": (8,),
}  # fmt: skip
_FLAGS: Final = {"O": 63, "U": 8}  # flags of a dtype without fields, by its kind; other kinds have 0
_WITHOUT_ORDER: Final = "OSV"  # kinds without a byte order
_SIZED: Final = "SUV"  # kinds whose state says the size and the alignment; for the others it says -1
_ALIGNMENTS: Final = (1, 2, 4, 8, 16)
_OBJECTS: Final = 1  # the flag of a dtype that holds references
_FROM_FIELDS: Final = 0x1B  # the flags that a dtype takes over from its fields
_WITH_FIELDS: Final = (0, 16, 128, 144)  # its own flags: "needs Python" (16), "aligned" (128), both or neither
_RANDOM: Final = {  # the smallest and the largest value of each number in a random generator's state
    "pos": (0, 624), "buffer_pos": (0, 4), "has_uint32": (0, 1), "has_gauss": (0, 1), "uinteger": (0, (1 << 32) - 1),
    "state": (0, (1 << 128) - 1), "inc": (0, (1 << 128) - 1),
}  # fmt: skip
_ARRAYS: Final = (
    *(("numpy", "ndarray"), ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")),
    # joblib replaces the wrapper by its array at once. In files other than joblib's the wrapper is unknown.
    *(("joblib.numpy_pickle", "NumpyArrayWrapper"), ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper")),
)
_RANDOM_ARRAYS: Final = ("key", "counter", "buffer", "state")
_DIMENSIONS: Final = 64
_COUNT: Final = 1 << 63


class Layout(NamedTuple):
    """The bytes of one element of a dtype, and its flags."""

    nbytes: int
    flags: int

    @property
    def objects(self) -> bool:
        """Whether an element holds references to objects."""
        return bool(self.flags & _OBJECTS)


def dtype_arguments(args: Arguments) -> bool:
    """`numpy.dtype(code, False, True)`: the code that numpy writes for a dtype, and a copy of it, which BUILD changes."""
    return (
        len(args) == 3
        and _code(args[0]) is not None
        and all(type(flag) in (bool, int) for flag in args[1:])
        and args[1:] == (0, 1)
    )


def dtype_state(value: Value, state: object) -> bool:
    """Whether a state is what numpy writes for this dtype. A dtype has one state, and none after it was used."""
    value.checked = _layout(value.args, state) if value.state is None else None
    return value.checked is not None


def layout(value: object) -> Layout | None:
    """The layout of a dtype that is complete; None for anything else."""
    return value.checked if type(value) is Value and isinstance(value.checked, Layout) else None


def array_state(value: Value, state: object) -> bool:
    """(version, shape, dtype, whether Fortran order, bytes or a list of objects). The version may be missing."""
    if value.state is not None or type(state) is not tuple or not 4 <= len(state) <= 5:
        return False
    shape, dtype, columns, data = state[-4:]
    one = layout(dtype)
    if one is None or not _is_shape(shape) or type(columns) not in (bool, int):
        return False
    if one.objects:
        return type(data) is list and len(data) == math.prod(shape)
    # Python 2 wrote the bytes as a string, which numpy takes for Latin-1.
    return type(data) in (bytes, str) and len(data) == math.prod(shape) * one.nbytes


def scalar_arguments(args: Arguments) -> bool:
    """A dtype without objects and the bytes of one element. numpy would take the bytes of an object for an address."""
    one = layout(args[0]) if len(args) == 2 else None
    return one is not None and not one.objects and type(args[1]) in (bytes, str) and len(args[1]) == one.nbytes


def frombuffer_arguments(args: Arguments) -> bool:
    """The bytes of an array, its dtype, its shape, and its order."""
    one = layout(args[1]) if len(args) == 4 else None
    return (
        one is not None
        and not one.objects
        and type(args[0]) in (bytes, bytearray)
        and _is_shape(args[2])
        and args[3] in ("C", "F")
        and len(args[0]) == math.prod(args[2]) * one.nbytes
    )


def generator_state(value: Value, state: object) -> bool:
    """A dict of numbers and arrays, as numpy writes it for Generator, RandomState and bit generators; perhaps with the seed.

    numpy does not check the positions, and would read beyond the numbers of a generator.
    """
    if type(state) is tuple and len(state) == 2:
        state, seed = state
        if seed is not None and (type(seed) is not Value or seed.module != "numpy.random.bit_generator"):
            return False
    return state is None or (type(state) is Dict and _is_random(state, 1))


def _is_random(state: Dict, depth: int) -> bool:
    for name, held in state.pairs():
        if type(name) is not str:
            return False
        if type(held) is Dict:
            if name != "state" or not depth or not _is_random(held, depth - 1):
                return False
        elif type(held) is Value:
            if name not in _RANDOM_ARRAYS or not _is_array(held):
                return False
        elif type(held) in (int, bool) and name in _RANDOM:
            least, most = _RANDOM[name]
            if not least <= held <= most:
                return False
        elif (name, type(held)) not in (("bit_generator", str), ("gauss", float), ("gauss", int)):
            return False
    return True


def seed_state(_: Value, state: object) -> bool:
    """(entropy, children spawned, pool, size of the pool, spawn key) of a SeedSequence."""
    return (
        type(state) is tuple
        and len(state) == 5
        and type(state[1]) is int
        and _is_array(state[2])
        and type(state[3]) is int
        and type(state[4]) is tuple
    )


def _is_array(value: object) -> bool:
    return type(value) is Value and (value.module, value.name) in _ARRAYS


def _code(code: object) -> tuple[str, int] | None:
    """The kind and the bytes of a dtype by its code, such as `f8`."""
    match = _CODE.fullmatch(code) if type(code) is str else None
    if match is None:
        return None
    kind, size = match[1], int(match[2])
    return (kind, 4 * size if kind == "U" else size) if size in _SIZES.get(kind, (size,)) else None


def _is_shape(shape: object) -> bool:
    return (
        type(shape) is tuple
        and len(shape) <= _DIMENSIONS
        and all(type(length) is int and 0 <= length < _COUNT for length in shape)
    )


def _layout(args: Any, state: object) -> Layout | None:
    found = _code(args[0]) if args else None
    if found is None or type(state) is not tuple or (len(state), state[:1]) not in ((8, (3,)), (9, (4,))):
        return None
    kind, nbytes = found
    _, order, subarray, names, fields, size, alignment, flags, *metadata = state
    if order not in (("|",) if kind in _WITHOUT_ORDER or nbytes == 1 else ("<", ">")):
        return None
    if metadata and not (_is_unit(metadata[0]) if kind in "Mm" else type(metadata[0]) is Dict):
        return None
    if any(type(number) is not int for number in (size, alignment, flags)) or not -128 <= flags < 256:
        return None
    if kind in _SIZED:
        if size != nbytes or alignment not in _ALIGNMENTS:
            return None
    elif (size, alignment) != (-1, -1):
        return None
    flags &= 0xFF  # numpy 1 wrote the flags as a signed byte
    if subarray is None and names is None and fields is None:
        return Layout(nbytes, flags) if flags == _FLAGS.get(kind, 0) else None
    if kind != "V" or (subarray is None) == (names is None):
        return None
    if names is None:
        expected = _of_subarray(subarray, nbytes) if fields is None else None
        return Layout(nbytes, flags) if flags == expected else None
    inherited = _of_fields(names, fields, nbytes)
    if inherited is None or flags not in [inherited | more for more in _WITH_FIELDS]:
        return None
    return Layout(nbytes, flags)


def _is_unit(value: object) -> bool:
    """What the state of datetime64 holds in addition: metadata, and the unit, such as (b"ns", 1, 1, 1)."""
    return (
        type(value) is tuple
        and len(value) == 2
        and (value[0] is None or type(value[0]) is Dict)
        and type(value[1]) is tuple
        and [*map(type, value[1])] in ([bytes, int, int, int], [str, int, int, int])
    )


def _of_subarray(subarray: object, nbytes: int) -> int | None:
    """The flags of a dtype that is an array of another."""
    if type(subarray) is not tuple or len(subarray) != 2 or not _is_shape(subarray[1]):
        return None
    one = layout(subarray[0])
    return one.flags if one is not None and one.nbytes * math.prod(subarray[1]) == nbytes else None


def _of_fields(names: object, fields: object, nbytes: int) -> int | None:
    """The flags that a dtype takes over from its fields, which are `{name: (dtype, offset)}`, or with a title.

    None if a field is missing or does not lie within the dtype, or if anything lies over references.
    """
    if type(names) is not tuple or type(fields) is not Dict or any(type(name) is not str for name in names):
        return None
    flags, spans = 0, {}
    for name, field in fields.pairs():
        one = layout(field[0]) if type(field) is tuple and 2 <= len(field) <= 3 else None
        if one is None or type(name) is not str or type(field[1]) is not int or field[1] < 0:
            return None
        if field[1] + one.nbytes > nbytes:
            return None
        flags |= one.flags & _FROM_FIELDS
        spans[name] = (field[1], field[1] + one.nbytes)
    if not spans.keys() >= set(names) or len(set(names)) != len(names):
        return None
    if flags & _OBJECTS:
        ends = sorted(spans[name] for name in names)
        if any(end > start for (_, end), (start, _) in pairwise(ends)):
            return None
    return flags


# By the names that `value_rows` has for them: it imports this module only when a pickle holds a value of numpy.
CHECKS: Final[Mapping[str, Callable[..., bool]]] = {
    "array_state": array_state,
    "dtype_arguments": dtype_arguments,
    "dtype_state": dtype_state,
    "frombuffer_arguments": frombuffer_arguments,
    "generator_state": generator_state,
    "scalar_arguments": scalar_arguments,
    "seed_state": seed_state,
}
