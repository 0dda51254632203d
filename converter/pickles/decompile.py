"""Writes what a pickle would run as a line of Python for people to read. The line is text; nothing evaluates it."""

from __future__ import annotations

from typing import Any, Final

from converter.pickles.closed_table import Special, Typed
from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry, Value, ValueRow
from converter.pickles.walk import describe
from converter.tensors.tensor import Tensor

LENGTH: Final = 400  # characters of one expression
_DEPTH: Final = 8
_ITEMS: Final = 6  # shown per container
_TEXT: Final = 120  # characters shown per string: the beginning is enough to recognise a payload


def expression(value: object) -> str:
    """Write an inert value as the expression that would make it, cut at LENGTH characters."""
    text = _written(value, _DEPTH, [LENGTH])
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _written(value: Any, depth: int, left: list[int]) -> str:
    """`left` is how many characters may still be written: without a limit, values that share values would multiply the text."""
    if left[0] <= 0 or depth < 0:
        return "…"
    if type(value) is Opaque or type(value) is Value:
        text = _called(value, depth, left)
    elif type(value) is Dict:
        pairs = [
            f"{_written(key, depth - 1, left)}: {_written(inner, depth - 1, left)}"
            for key, inner in zip(value[: 2 * _ITEMS : 2], value[1 : 2 * _ITEMS : 2], strict=True)
        ]
        text = f"{{{_joined(pairs, len(value) // 2)}}}"
    elif type(value) is tuple or type(value) is list:
        items = _joined([_written(inner, depth - 1, left) for inner in value[:_ITEMS]], len(value))
        text = f"[{items}]" if type(value) is list else f"({items}{',' if len(value) == 1 else ''})"
    elif type(value) is str or type(value) is bytes:
        text = repr(value[:_TEXT]) + ("…" if len(value) > _TEXT else "")
    elif type(value) is PersistentId:
        text = f"persistent_load({_written(value.value, depth - 1, left)})"
    elif isinstance(value, TableEntry | ValueRow | Tensor | Special | Typed):
        text = describe(value)
    elif type(value) is int and value.bit_length() > 64:
        text = f"{value:#x}"[:_TEXT]  # hexadecimal: Python refuses to write very long integers in decimal
    else:
        text = repr(value)
    left[0] -= len(text)
    return text


def _called(value: Opaque | Value, depth: int, left: list[int]) -> str:
    name = f"{value.module}.{value.name}"
    if value.callee is not None:
        name = _written(value.callee, depth - 1, left)
    if value.args is None:
        text = name
    else:
        items: Any = value.args if type(value.args) is tuple else [value.args]
        arguments = [_written(inner, depth - 1, left) for inner in items[:_ITEMS]]
        if value.kwargs is not None:
            arguments.append(f"**{_written(value.kwargs, depth - 1, left)}")
        text = f"{name}({_joined(arguments, len(items))})"
    states = value.state or []
    for state in states[:_ITEMS]:
        text += f".__setstate__({_written(state, depth - 1, left)})"
    return text if len(states) <= _ITEMS else f"{text}.…"


def _joined(items: list[str], count: int) -> str:
    return ", ".join([*items, "…"] if count > _ITEMS else items)
