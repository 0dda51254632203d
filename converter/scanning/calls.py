"""Writes a call that a pickle would make in one short line, to be shown beside the global. It is text; nothing evaluates it."""

from __future__ import annotations

from typing import Any, Final

from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry
from converter.text import plural

LENGTH: Final = 160  # characters of one call
_TEXT: Final = 60  # shown per string
_ITEMS: Final = 3  # shown per container
_DEPTH: Final = 2
# Functions that make an array, and the positions of its dtype and its shape among their arguments.
_TENSORS: Final = frozenset(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"))
_PARAMETERS: Final = frozenset(("_rebuild_parameter", "_rebuild_parameter_with_state"))


def brief(call: Opaque) -> str:
    """Write a call with its arguments, cut at LENGTH characters; arrays are written as their shape and dtype."""
    left = [LENGTH]
    if call.callee is None:
        text = f"{call.module}.{call.name}"
    else:
        text = _written(call.callee, _DEPTH, left)
    if call.args is not None:
        text += f"({_arguments(call, _DEPTH, left)})"
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _written(value: Any, depth: int, left: list[int]) -> str:
    """`left` is how many characters may still be written: without a limit, values that share values would multiply the text."""
    if left[0] <= 0:
        return "…"
    kind = type(value)
    if kind is Opaque:
        text = _array(value) or _inner(value, depth, left)
    elif kind is Dict:
        text = "{}" if not value else f"{{{plural(len(value) // 2, 'key')}}}"
    elif kind is tuple or kind is list:
        inside = _items(value, depth, left) if depth > 0 or not value else "…"
        text = f"[{inside}]" if kind is list else f"({inside}{',' if len(value) == 1 else ''})"
    elif kind is str or kind is bytes:
        text = repr(value[:_TEXT]) + ("…" if len(value) > _TEXT else "")
    elif kind is TableEntry:
        text = f"{value.module}.{value.name}"
    elif value is None or kind is bool or kind is float or (kind is int and value.bit_length() <= 64):
        text = repr(value)
    else:
        text = "…"
    left[0] -= len(text)
    return text


def _items(values: Any, depth: int, left: list[int]) -> str:
    items = [_written(value, depth - 1, left) for value in values[:_ITEMS]]
    return ", ".join([*items, "…"] if len(values) > _ITEMS else items)


def _arguments(call: Opaque, depth: int, left: list[int]) -> str:
    inside = _items(call.args if type(call.args) is tuple else [call.args], depth, left)
    keywords = f"{'' if not inside else ', '}**…" if call.kwargs is not None else ""
    return inside + keywords


def _inner(value: Opaque, depth: int, left: list[int]) -> str:
    name = f"{value.module}.{value.name}"[:80]
    if value.args is None:
        return name
    return f"{name}({_arguments(value, depth - 1, left)})" if depth > 0 else f"{name}(…)"


def _array(value: Opaque) -> str | None:
    """A tensor or array as its shape and dtype, as far as the call that makes it tells them."""
    args = value.args
    if type(args) is not tuple:
        return None
    if value.module == "torch._utils" and value.name in _TENSORS and len(args) > 3:
        storage = args[0].value if type(args[0]) is PersistentId else None
        dtype = storage[1] if type(storage) is tuple and len(storage) > 1 else None
        return f"tensor {_shape(args[2])} {_name(dtype).removesuffix('Storage')}".rstrip()
    if value.module == "torch._utils" and value.name in _PARAMETERS and args and type(args[0]) is Opaque:
        return _array(args[0])
    if value.name == "_reconstruct" and value.state:
        state = value.state[0]
        if type(state) is tuple and len(state) == 5 and type(state[2]) is Opaque and type(state[2].args) is tuple:
            dtype = state[2].args[0] if state[2].args else ""
            return f"array {_shape(state[1])} {dtype if type(dtype) is str else ''}"[:60].rstrip()
    return None


def _shape(value: object) -> str:
    if type(value) is not tuple or len(value) > 8 or any(type(n) is not int or n.bit_length() > 64 for n in value):
        return "(…)"
    return repr(value)


def _name(value: object) -> str:
    return value.name[:40] if type(value) is Opaque or type(value) is TableEntry else ""
