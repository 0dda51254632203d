"""Looks into an inert value: what it holds, which tensors are anywhere inside it, and a short description."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, Final

from converter.limits import limits
from converter.pickles.closed_table import Attributed, Special, Typed
from converter.pickles.numpy_arrays import array_parts, dtype_name
from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry, Value, ValueRow
from converter.tensors.tensor import Tensor

_ENTERED: Final = 100_000  # containers that are searched for tensors that are only listed
# Types of values that hold no other values.
_LEAVES: Final = frozenset((str, bytes, bytearray, int, float, bool, NoneType, TableEntry, ValueRow))

_CONTAINERS: Final = frozenset((list, tuple, Dict))
_OBJECTS: Final = frozenset((Value, Opaque))


def inside(node: object) -> Iterator[tuple[str, Any]]:
    """Yield the values that a value holds, with a name for each."""
    if type(node) is Dict:
        for key, inner in node.pairs():
            yield key_text(key), inner
    elif type(node) in (list, tuple):
        for index, inner in enumerate(node):  # type: ignore[arg-type]
            yield str(index), inner
    elif type(node) is Opaque or type(node) is Value:
        yield from _of_object(node)
    elif type(node) is Special:
        yield "", node.args
    elif type(node) is Attributed:
        for inner in (node.tensor, *node.attributes):
            yield "", inner
    elif type(node) is PersistentId:
        yield "", node.value


def _of_object(node: Any) -> list[tuple[str, Any]]:
    held = [("", inner) for inner in (node.callee, node.args, node.kwargs, *(node.state or ())) if inner]
    if node.items:
        pairs = inside(node.items) if type(node.items) is Dict else enumerate(node.items)
        held += [(str(key), inner) for key, inner in pairs]
    return held


def _held(node: Any) -> Iterable[tuple[str | int, Any]]:
    """The same as `inside`, but positions are numbers: walks meet far more values than they name."""
    kind = type(node)
    return enumerate(node) if kind is tuple or kind is list else _of_object(node) if kind in _OBJECTS else inside(node)


def key_text(key: object) -> str:
    """The text that stands for a dict's key in a tensor's name."""
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return _tuple(key, 0) if type(key) is tuple else describe(key)


def _tuple(key: tuple[object, ...], depth: int) -> str:
    """A short tuple as Python writes it: `(1, 'a')`."""
    if len(key) > 8 or depth == 2:
        return describe(key)
    parts = [
        _tuple(part, depth + 1) if type(part) is tuple else repr(part[:60]) if isinstance(part, str) else describe(part)
        for part in key
    ]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def inner_tensors(value: object, most: int = 1000, seen: set[int] | None = None) -> list[tuple[str, Tensor | Special]]:
    """The first `most` tensors inside a value, with their names. Each container is entered once, opaque values too.

    `seen` are the containers that were entered for an earlier value, which may share them. The search ends after
    100,000.
    """
    found: list[tuple[str, Tensor | Special]] = []
    seen = set() if seen is None else seen
    # A name is joined only when its value is entered, because the names of all waiting values would take much memory.
    waiting: list[tuple[str, str | int, object]] = [] if id(value) in seen else [("", "", value)]
    seen.add(id(value))
    while waiting and len(seen) < _ENTERED and len(found) < most:
        above, key, node = waiting.pop()
        name = below(above, str(key))
        if isinstance(node, Tensor | Special):
            found.append((name, node))
        entered = []
        for key, inner in _held(node):
            if isinstance(inner, Tensor) or not (_holds_nothing(inner) or id(inner) in seen):
                seen.add(id(inner))
                entered.append((name, key, inner))
                if len(seen) >= _ENTERED:
                    break
        waiting += reversed(entered)
    return found


def inner_bytes(value: object, seen: set[int]) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes in a value and what leads to them. `seen` are the containers that were entered, each of them once."""
    waiting: list[tuple[str, str | int, object]] = [("", "", value)] if id(value) not in seen else []
    seen.add(id(value))
    while waiting:
        above, key, node = waiting.pop()
        name = below(above, str(key))
        if type(node) is bytes:
            yield name, node
            continue
        entered = []
        for key, inner in _held(node):
            if type(inner) is bytes:
                entered.append((name, key, inner))
            elif not (id(inner) in seen or _holds_nothing(inner)):
                seen.add(id(inner))
                entered.append((name, key, inner))
        waiting += reversed(entered)


def measure(value: object, seen: set[int] | None = None) -> tuple[int, int]:
    """How many tensors are anywhere inside a value, and how many bytes they have. A tensor or container counts once.

    `seen` are those that were counted for another value; the count ends with 100,000.
    """
    seen = set() if seen is None else seen
    count = nbytes = 0
    waiting = [value]
    while waiting and len(seen) < _ENTERED:
        node = waiting.pop()
        if id(node) in seen or type(node) in _LEAVES:
            continue
        seen.add(id(node))
        if isinstance(node, Tensor | Special):
            count += 1
            nbytes += node.nbytes if isinstance(node, Tensor) else 0
        waiting += [inner for _, inner in _held(node) if not _holds_nothing(inner)]
    return count, nbytes


def _holds_nothing(value: Any) -> bool:
    """Whether nothing can be inside a value. A pickle writes an empty container, or an empty set, with one byte."""
    kind = type(value)
    return kind in _LEAVES or (kind in _CONTAINERS and not value) or (kind in _OBJECTS and is_bare(value))


def is_bare(value: Any) -> bool:
    """Whether an object of some class was made without arguments, and holds nothing."""
    return not (value.args or value.items or value.state or value.callee or value.kwargs)


def holds_object(value: object, seen: set[int]) -> bool:
    """Whether anything in a value is of a class or function outside the closed table. `seen` is as in `measure`."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if type(node) is Opaque or len(seen) >= _ENTERED:
            return True
        if id(node) not in seen and type(node) not in _LEAVES:
            seen.add(id(node))
            held: Any = node if type(node) in (list, tuple) else [inner for _, inner in inside(node)]
            waiting += [inner for inner in held if type(inner) is Opaque or not _holds_nothing(inner)]
    return False


def below(name: str, key: str) -> str:
    """Join two names for display, and cut them: whole names would grow with the square of the depth.

    A name that is full is the name of everything below it, and not copied: a walk keeps one for each level that it is in.
    """
    most = limits().name
    return f"{name}.{key[:most]}"[:most] if name and key and len(name) < most else name or key[:most]


def describe(value: object) -> str:
    """Describe a value in a few words, never more than about 100 characters."""
    if isinstance(value, str):
        return f'"{value[:60]}…"' if len(value) > 60 else f'"{value}"'
    if value is None or isinstance(value, bool | int | float):
        # Python refuses to write very long integers in decimal.
        text = f"{value:#x}" if isinstance(value, int) and value.bit_length() > 10_000 else str(value)
        return text if len(text) <= 40 else text[:40] + "…"
    if isinstance(value, Dict):
        return f"dict of {len(value) // 2:,}"
    if isinstance(value, Typed):
        return f"storage {value.dtype.name} of {value.storage.nbytes // value.dtype.itemsize:,}"
    if isinstance(value, list | tuple | bytes):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, Value):
        return _value(value)
    if type(value) is Opaque:
        return f"{value.module}.{value.name}"[:90] + ("(…)" if value.args is not None else "")
    if isinstance(value, TableEntry | ValueRow):
        return f"{value.module}.{value.name}"
    if isinstance(value, Tensor):
        return f"tensor {value.dtype.name} {list(value.shape)!s:.60}"
    if isinstance(value, Special):
        return f"{value.kind} tensor"
    if isinstance(value, Attributed):
        return "tensor with attributes"
    return type(value).__name__


def _value(value: Value) -> str:
    """A value of the table as people write it: `ndarray f4 [2, 3]`, `datetime.date(2023, 3, 1)`, `set of 3`."""
    if (parts := array_parts(value)) is not None:
        return f"ndarray {parts[1].lstrip('<=|')} {list(parts[0])!s:.60}"
    if value.name == "dtype" and (name := dtype_name(value)):
        return f"numpy.dtype({name.lstrip('<=|')})"
    args: Any = value.args if type(value.args) is tuple else ()
    if value.module == "datetime" and args and type(args[0]) is bytes and (text := _date(args[0])):
        return text
    if value.name in ("set", "frozenset", "deque"):
        held = (*args[:1], *([value.items] if value.items else []))
        return f"{value.name} of {sum(len(part) for part in held if isinstance(part, list | tuple)):,}"
    shown = ", ".join(describe(arg)[:30] for arg in args[:4])
    return f"{value.module}.{value.name}({shown})"[:100]


def _date(data: bytes) -> str | None:
    """A date or time from the bytes that Python pickles it as (Modules/_datetimemodule.c)."""
    if len(data) not in (4, 6, 10):
        return None
    # The highest bit of the month, or of the hour where there is no date, is `fold`: which of two equal hours it is.
    date = f"{int.from_bytes(data[:2]):04}-{data[2] & 0x7F:02}-{data[3]:02}" if len(data) != 6 else ""
    clock = data[4:7] if len(data) == 10 else bytes((data[0] & 0x7F, *data[1:3])) if len(data) == 6 else b""
    return " ".join(filter(None, (date, ":".join(f"{part:02}" for part in clock))))
