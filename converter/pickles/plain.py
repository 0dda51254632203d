"""Inert values as JSON: numbers, texts, and containers and small arrays of these, such as a trainer's epoch."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

from converter.dtypes import Dtype
from converter.pickles.modules import state_dict
from converter.pickles.numpy_arrays import array_parts, dtype_name
from converter.pickles.values import Dict, Opaque, TableEntry, Value
from converter.pickles.walk import describe, key_text

_DEEP: Final = 8  # containers inside one another
_LEAVES: Final = 4096  # numbers and texts in one value
_LETTERS: Final = 1 << 18
_ELEMENTS: Final = 1024  # elements of an array
_BITS: Final = 64  # bits of an integer; not every JSON reader takes more
_CODES: Final = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e",
    "f4": "f", "f8": "d",
}  # fmt: skip  # numpy's name of a dtype: that of `struct`
_LISTS: Final = ("set", "frozenset", "deque")
_NAMED: Final = frozenset(("datetime", "pathlib", "pathlib._local", "torch", "decimal", "fractions"))


@dataclass(frozen=True, slots=True)
class Plain:
    """A value that JSON can hold."""

    value: Any


class _NotPlainError(Exception):
    """The value holds something that JSON can't hold, or too much."""


class Plainly:
    """Turns values into JSON, with at most `leaves` numbers and texts and `letters` characters in all.

    Values may share containers, so they could be much larger in JSON than in the pickle.
    """

    def __init__(self, leaves: int = 100_000, letters: int = 1 << 22) -> None:
        self._leaves, self._letters = leaves, letters
        self._own = self._own_letters = 0

    def __call__(self, value: object) -> Plain | None:
        """The value as JSON; None if it holds a tensor, an object, bytes, or more than the limits allow."""
        self._own, self._own_letters = min(_LEAVES, self._leaves), min(_LETTERS, self._letters)
        leaves, letters = self._own, self._own_letters
        try:
            return Plain(self._plain(value, _DEEP))
        except _NotPlainError:
            return None
        finally:
            self._leaves -= leaves - max(0, self._own)
            self._letters -= letters - max(0, self._own_letters)

    def _plain(self, value: Any, depth: int) -> Any:
        self._own -= 1
        if self._own < 0 or depth < 0:
            raise _NotPlainError
        if value is None or type(value) is bool:
            return value
        if type(value) is tuple or type(value) is list:
            return [self._plain(inner, depth - 1) for inner in value]
        if type(value) is str:
            return self._text(value)
        if type(value) is int:
            if value.bit_length() > _BITS:
                raise _NotPlainError
            return value
        if type(value) is float:
            return _number(value)
        if type(value) is Dict:
            return self._object(value, depth)
        if type(value) is TableEntry and isinstance(value.value, Dtype):
            return self._text(describe(value))
        if type(value) is Value:
            return self._value(value, depth)
        if type(value) is Opaque and value.args is not None and not value.items and state_dict(value) is None:
            return self._attributes(value, depth)
        raise _NotPlainError

    def _text(self, text: str) -> str:
        self._own_letters -= len(text)
        if self._own_letters < 0:
            raise _NotPlainError
        return text

    def _object(self, value: Dict, depth: int) -> dict[str, Any]:
        made = {self._text(key_text(key)): self._plain(inner, depth - 1) for key, inner in value.pairs()}
        if 2 * len(made) != len(value):
            raise _NotPlainError
        return made

    def _attributes(self, value: Opaque | Value, depth: int) -> Any:
        """An object that has nothing but attributes, such as argparse.Namespace."""
        if not value.state or len(value.state) != 1 or type(value.state[0]) is not Dict:
            raise _NotPlainError
        return self._object(value.state[0], depth)

    def _value(self, value: Value, depth: int) -> Any:
        args: Any = value.args if type(value.args) is tuple else ()
        if (array := array_parts(value)) is not None:
            return self._array(*array)
        if value.name == "scalar" and len(args) == 2:
            return self._array((), dtype_name(args[0]) or "", False, args[1])
        if value.name in _LISTS and value.module in ("builtins", "collections"):
            held = [*args[:1], *([value.items] if value.items else [])]
            return [self._plain(inner, depth - 1) for part in held if type(part) in (list, tuple) for inner in part]
        if value.state:
            return self._attributes(value, depth)
        if value.module in _NAMED:
            return self._text(describe(value))
        raise _NotPlainError

    def _array(self, shape: tuple[int, ...], dtype: str, columns: bool, data: object) -> Any:
        code, count = _CODES.get(dtype[1:]), math.prod(shape)
        if code is None or not isinstance(data, bytes) or count > min(_ELEMENTS, self._own):
            raise _NotPlainError
        if len(data) != count * struct.calcsize("<" + code) or (columns and len(shape) > 1):
            raise _NotPlainError
        self._own -= count
        numbers: list[Any] = [
            _number(n) for n in struct.unpack(f"{'>' if dtype[0] == '>' else '<'}{count}{code}", data)
        ]
        for length in reversed(shape):
            if not length:
                return []
            numbers = [numbers[start : start + length] for start in range(0, len(numbers), length)]
        return numbers[0]


def _number(value: Any) -> Any:
    """A number, or the name of a number that JSON does not have (NaN, Infinity)."""
    if type(value) is float and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
