"""Which keys of a dict are equal in Python: 1, True, 1.0 and complex(1, 0) are one key, "a" and b"a" are two."""

from __future__ import annotations

import math
from typing import Any, Final

from converter.dtypes import Dtype
from converter.errors import LayoutError, LimitError
from converter.limits import limits
from converter.pickles.values import Dict, Opaque, TableEntry, Value
from converter.pickles.walk import key_text

_COMPLEX: Final = ("builtins", "complex")
_DEVICE: Final = ("torch", "device")
_LAYOUT: Final = ("torch.serialization", "_get_layout")

Token = tuple[Any, ...]


class Keys:
    """Checks dicts for keys that are equal. A tuple that many keys share is looked at once."""

    def __init__(self) -> None:
        self.tuples: dict[int, int | None] = {}  # by id
        self.numbers: dict[Token, int] = {}  # by the tokens of a tuple's parts

    def check(self, node: Dict) -> None:
        """Raise LayoutError if two keys are equal or may be: readers differ in which of the two counts."""
        keys = node[::2]
        if set(map(type, keys)) == {str} and len(set(keys)) == len(keys):
            return
        seen: dict[Token, object] = {}
        for key in keys:
            token = self.token(key)
            if token is None:
                if len(keys) == 1:
                    return
                raise LayoutError(
                    f"the key `{key_text(key)[:80]}` of a dict with tensors may be equal to another key of that dict, and "
                    "then it is not known which of two tensors counts"
                )
            if token in seen:
                raise LayoutError(_equal(seen[token], key))
            seen[token] = key

    def token(self, key: object, depth: int = 0) -> Token | None:
        """A token that is equal for two keys exactly if Python calls them equal; None if that can't be told."""
        if type(key) is tuple:
            if id(key) not in self.tuples:
                self.tuples[id(key)] = self._tuple(key, depth)
            number = self.tuples[id(key)]
            return None if number is None else ("tuple", number)
        if isinstance(key, str | bytes):
            return type(key).__name__, key
        if isinstance(key, int | float):
            return _number(key)
        if type(key) is TableEntry:  # one name for all aliases: torch.half is torch.float16
            return ("dtype", key.value.torch) if isinstance(key.value, Dtype) else None
        if type(key) is Value:
            return _value(key)
        if type(key) is Opaque and key.args is None:
            return "global", key.module, key.name
        # A tensor, or an object that calling a class makes, is equal only to itself.
        return (None,) if key is None else ("object", id(key))

    def _tuple(self, key: tuple[Any, ...], depth: int) -> int | None:
        if depth >= limits().depth:
            raise LimitError(f"a key is a tuple in more than {limits().depth} tuples")
        parts = [self.token(part, depth + 1) for part in key]
        return None if None in parts else self.numbers.setdefault(tuple(parts), len(self.numbers))


def _number(key: int | float) -> Token:
    if isinstance(key, float):
        if math.isnan(key):  # equal to nothing but itself
            return "object", id(key)
        if not key.is_integer():
            return "number", key.hex()
    # As text, because a file could choose integers whose hashes collide.
    return "number", f"{int(key):x}"


def _value(key: Value) -> Token | None:
    args: Any = key.args if type(key.args) is tuple else ()
    which = (key.module, key.name)
    if which == _COMPLEX and len(args) == 2:
        try:
            real, imaginary = map(float, args)
        except OverflowError:
            return None
        if math.isnan(real) or math.isnan(imaginary):
            return "object", id(key)
        return _number(real) if not imaginary else ("complex", _number(real), _number(imaginary))
    if which == _DEVICE and args and type(args[0]) is str:
        kind, _, number = args[0].partition(":")
        place = args[1] if len(args) == 2 else number or None
        if place is not None and not (str(place).isascii() and str(place).isdecimal()):
            return None
        return "device", kind, None if place is None else str(place).lstrip("0")
    if which == _LAYOUT:
        return "layout", *args
    return None


def _equal(one: object, other: object) -> str:
    names = key_text(one)[:80], key_text(other)[:80]
    if names[0] == names[1]:
        return f"the key `{names[0]}` occurs twice in one dict"
    return f"the keys `{names[0]}` and `{names[1]}` of one dict are equal in Python, which keeps one of their tensors"
