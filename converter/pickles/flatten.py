"""From a pickle's inert value to named tensors: flattening, the root, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final

from converter.errors import FormatError, LayoutError, LimitError
from converter.limits import limits
from converter.pickles.closed_table import Special, Typed
from converter.pickles.machine import Dict, Known, Opaque, PersistentId
from converter.tensors.catalogue import Other, Unsupported
from converter.tensors.tensor import Tensor

# Where trainers put the state dict; when all tensors are below one of these, it is left out of their names.
ROOTS: Final = ("state_dict", "model", "module")
_SHARED: Final = 4  # times a place may be passed on average before containers that share look like a bomb
_ENTERED: Final = 100_000  # containers that are looked through for tensors that are only listed
_LETTERS: Final = 256  # bytes that a name may have on average
_PLAIN: Final = frozenset((str, bytes, bytearray, int, float, bool, NoneType, Known))


@dataclass(slots=True)
class Flattened:
    """The tensors by name in the order of the pickle, and what is no tensor."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    root: str = ""


def flatten(value: object, root: str | None = None) -> Flattened:
    """Name every tensor by the keys that lead to it, joined with dots; a bare tensor is called `tensor`.

    When all tensors are below one key of ROOTS, names start below it; `root` chooses another key. Lists count from 0.
    Raises FormatError for a root that is not there, LayoutError for two tensors of one name or a key that stands twice on
    the way to one, LimitError for nesting past the limit or containers shared so often that they multiply.
    """
    flattened = Flattened()
    if root is None and type(value) is Dict and (plain := _plain(value)) is not None:
        flattened.tensors = plain
        return flattened
    holding, places = _holding(value)
    top = value
    if root is not None:
        top, flattened.root = _chosen(value, root), root
    elif type(value) is Dict:
        below = [
            (key, inner) for key, inner in value.pairs() if id(inner) in holding or isinstance(inner, Tensor | Special)
        ]
        if len(below) == 1 and type(below[0][1]) is Dict and type(below[0][0]) is str and below[0][0] in ROOTS:
            flattened.root, top = below[0]
    if top is not value and type(value) is Dict:
        for key, inner in value.pairs():
            if inner is not top:
                flattened.others.append(_other(_key(key), inner))
    if isinstance(top, Tensor | Special):
        _add(flattened, "tensor", top)
        return flattened
    letters, most = 0, min(limits().names, _LETTERS * places + (1 << 20))
    for name, leaf in _leaves(top, holding, _SHARED * places + 1024):
        letters += len(name) if name.isascii() else 4 * len(name)
        if letters > most:
            raise LimitError(f"{places:,} values have names of more than {most:,} bytes: no more are read")
        _add(flattened, name, leaf)
    return flattened


def inner_tensors(value: object, most: int = 1000, seen: set[int] | None = None) -> list[tuple[str, Tensor | Special]]:
    """Name the first `most` tensors inside a value, through what is opaque too; each container is entered once.

    `seen` are those that were entered before, for another value that may share them; with 100,000 it ends.
    """
    found: list[tuple[str, Tensor | Special]] = []
    seen = set() if seen is None else seen
    # A name is joined when its turn comes: all of them would be large.
    waiting: list[tuple[str, str, object]] = [] if id(value) in seen else [("", "", value)]
    seen.add(id(value))
    while waiting and len(seen) < _ENTERED and len(found) < most:
        above, key, node = waiting.pop()
        name = _below(above, key)
        if isinstance(node, Tensor | Special):
            found.append((name, node))
        inside = []
        for key, inner in _inside(node):
            if isinstance(inner, Tensor) or (type(inner) not in _PLAIN and inner and id(inner) not in seen):
                seen.add(id(inner))
                inside.append((name, key, inner))
        waiting += reversed(inside)
    return found


def _below(name: str, key: str) -> str:
    """Join for display: names this deep are nobody's, and whole ones would grow with the square of the depth."""
    return f"{name}.{key[: limits().name]}"[: limits().name] if name and key else name or key[: limits().name]


def describe(value: object) -> str:
    """Say in a few words what a value is. Never more than about 100 characters, whatever the value holds."""
    if isinstance(value, str):
        return f'"{value[:60]}…"' if len(value) > 60 else f'"{value}"'
    if value is None or isinstance(value, bool | int | float):
        # Python refuses to write very long ones in decimal.
        text = f"{value:#x}" if isinstance(value, int) and value.bit_length() > 10_000 else str(value)
        return text if len(text) <= 40 else text[:40] + "…"
    if isinstance(value, Dict):
        return f"dict of {len(value) // 2:,}"
    if isinstance(value, list | tuple | bytes):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, Opaque):
        return f"{value.module}.{value.name}"[:90] + ("(…)" if value.args is not None else "")
    if isinstance(value, Known):
        return f"{value.module}.{value.name}"
    if isinstance(value, Special):
        return f"{value.kind} tensor"
    if isinstance(value, Typed):
        return f"storage of {value.storage.nbytes:,} bytes"
    return type(value).__name__


def _plain(value: Dict) -> dict[str, Tensor] | None:
    """Give the tensors of a dict of names and tensors and nothing else: then there is nothing to flatten."""
    names, tensors = value[::2], value[1::2]
    if set(map(type, names)) != {str} or set(map(type, tensors)) != {Tensor} or sum(map(len, names)) > limits().names:
        return None
    found = dict(zip(names, tensors, strict=True))
    return found if len(found) == len(names) else None


def _add(flattened: Flattened, name: str, leaf: object) -> None:
    if isinstance(leaf, Tensor):
        if name in flattened.tensors:
            raise LayoutError(f"two tensors are both called `{name}`")
        flattened.tensors[name] = leaf
    elif isinstance(leaf, Special):
        flattened.unsupported.append(Unsupported(name, leaf.kind, leaf.dtype, leaf.shape))
    else:
        flattened.others.append(_other(name, leaf))


def _other(name: str, value: object) -> Other:
    kind = f"{value.module}.{value.name}" if isinstance(value, Opaque) else type(value).__name__
    return Other(name, "dict" if kind == "Dict" else "None" if value is None else kind, value)


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return describe(key)


def _chosen(value: object, root: str) -> object:
    keys: list[str] = []
    node = value
    while root:
        if type(node) is not Dict:
            raise FormatError(f"there is no `{root}` in the checkpoint: it is no dict there")
        keys = [_key(key) for key, _ in node.pairs()]
        fits = [key for key in keys if root == key or root.startswith(key + ".")]
        if not fits:
            listed = ", ".join(f"`{key}`" for key in keys[:12]) or "nothing"
            raise FormatError(f"there is no `{root}` in the checkpoint: its keys are {listed}")
        key = max(fits, key=len)
        node = node[2 * keys.index(key) + 1]
        root = root[len(key) + 1 :]
    return node


def _inside(node: object) -> Iterator[tuple[str, Any]]:
    """Give what a value holds, with a name for each."""
    if type(node) is Dict:
        for key, inner in node.pairs():
            yield _key(key), inner
    elif type(node) in (list, tuple):
        for index, inner in enumerate(node):  # type: ignore[arg-type]
            yield str(index), inner
    elif type(node) is Opaque:
        for inner in (node.callee, node.args, node.kwargs, *(node.state or ())):
            yield "", inner
        for index, inner in enumerate(node.items or ()):
            yield str(index), inner
    elif type(node) is Special:
        yield "", node.args
    elif type(node) is PersistentId:
        yield "", node.value


class _Several(list[Any]):
    """Containers that hold one and the same value."""


def _holding(value: object) -> tuple[set[int], int]:
    """Give the ids of the plain containers that lead to a tensor without passing something opaque, and count places.

    Raises LayoutError where one of them has a key twice: which of the two counts differs from reader to reader.
    """
    parents: dict[int, Any] = {id(value): _Several()}  # of most there is one, and a list of it would be large
    leaves, places = [value] if isinstance(value, Tensor | Special) else [], 0
    waiting: list[Any] = [value] if type(value) in (Dict, list, tuple) else []
    while waiting:
        node = waiting.pop()
        places += len(node)
        for inner in node[1::2] if type(node) is Dict else node:
            kind = type(inner)
            leaf = kind is Tensor or kind is Special
            if leaf or ((kind is tuple or kind is list or kind is Dict) and inner):  # what is empty leads nowhere
                above = parents.get(id(inner))
                if above is None:
                    parents[id(inner)] = node
                    (leaves if leaf else waiting).append(inner)
                elif type(above) is _Several:
                    above.append(node)
                elif above is not node:
                    parents[id(inner)] = _Several((above, node))
    holding: set[int] = set()
    rising: list[Any] = leaves
    while rising:
        above = parents[id(rising.pop())]
        for parent in above if type(above) is _Several else (above,):
            if id(parent) not in holding:
                holding.add(id(parent))
                rising.append(parent)
                if type(parent) is Dict:
                    _check_keys(parent)
    return holding, places


def _check_keys(node: Dict) -> None:
    names: set[str] = set()
    for key in node[::2]:
        if type(key) in (str, int, bytes):
            name = _key(key)
            if name in names:
                raise LayoutError(f"the key `{name[:80]}` stands twice in one dict")
            names.add(name)


def _leaves(top: object, holding: set[int], most: int) -> Iterator[tuple[str, object]]:
    """Give names and values below `top`, in order. Containers without tensors are leaves themselves.

    Raises LimitError after `most` steps, those into containers included.
    """
    if id(top) not in holding:
        yield from ([("", top)] if type(top) is not Dict else ((_key(key), inner) for key, inner in top.pairs()))
        return
    iterators = [_inside(top)]
    names, steps = [""], 0
    while iterators:
        step = next(iterators[-1], None)
        if step is None:
            iterators.pop()
            names.pop()
            continue
        steps += 1
        if steps > most:
            raise LimitError(
                f"it takes more than {most:,} steps to name its tensors: containers that share containers multiply"
            )
        key, inner = step
        name = f"{names[-1]}.{key}" if len(names) > 1 else key
        if id(inner) in holding:
            if len(iterators) >= limits().depth or len(name) > limits().line:
                raise LimitError(
                    f"`{name[:80]}` is nested deeper than {limits().depth} containers or {limits().line:,} characters, or "
                    "contains itself"
                )
            iterators.append(_inside(inner))
            names.append(name)
        else:
            yield name, inner
