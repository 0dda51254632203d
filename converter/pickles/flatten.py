"""From a pickle's inert value to named tensors: flattening, the root, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from converter.dtypes import Dtype
from converter.errors import FormatError, LayoutError, LimitError
from converter.limits import limits
from converter.pickles.closed_table import Attributed, Special
from converter.pickles.numpy_arrays import array_tensor, is_numeric
from converter.pickles.values import Dict, Opaque, TableEntry, Value
from converter.pickles.walk import inside, key_text
from converter.tensors.catalogue import Other, Unsupported
from converter.tensors.tensor import Tensor

# Keys below which trainers put the state dict; when all tensors are below one of these, names leave it out.
ROOTS: Final = ("state_dict", "model", "module")
_TENSORS: Final = (Tensor, Special, Attributed)
_SHARED: Final = 4  # steps per place; where it takes more, containers share containers so often that it is a bomb
_LETTERS: Final = 256  # bytes that a name may have on average


@dataclass(slots=True)
class Flattened:
    """The tensors by name in the order of the pickle, and what is no tensor."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    arrays: dict[int, Tensor] = field(default_factory=dict)  # those made of numpy's arrays, by the array's id
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
        below = [(key, inner) for key, inner in value.pairs() if id(inner) in holding or _is_tensor(inner)]
        if len(below) == 1 and type(below[0][1]) is Dict and type(below[0][0]) is str and below[0][0] in ROOTS:
            flattened.root, top = below[0]
    if top is not value and type(value) is Dict:
        for key, inner in value.pairs():
            if inner is not top:
                flattened.others.append(_other(key_text(key), inner))
    if _is_tensor(top):
        _add(flattened, "tensor", top)
        return flattened
    letters, most = 0, min(limits().names, _LETTERS * places + (1 << 20))
    for name, leaf in _leaves(top, holding, _SHARED * places + 1024):
        letters += len(name) if name.isascii() else 4 * len(name)
        if letters > most:
            raise LimitError(f"{places:,} values have names of more than {most:,} bytes: no more are read")
        _add(flattened, name, leaf)
    return flattened


def _is_tensor(value: object) -> bool:
    return isinstance(value, _TENSORS) or is_numeric(value)


def _plain(value: Dict) -> dict[str, Tensor] | None:
    """The tensors of a dict that holds names and tensors and nothing else; None where it holds anything more."""
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
    elif is_numeric(leaf):
        made = flattened.arrays.get(id(leaf)) or array_tensor(leaf, f"array {len(flattened.arrays)}")
        flattened.arrays[id(leaf)] = made
        _add(flattened, name, made)
    elif isinstance(leaf, Attributed):
        _add(flattened, name, leaf.tensor)
        for attributes in leaf.attributes:
            flattened.others.append(_other(f"{name}.__dict__", attributes))
    elif isinstance(leaf, Special):
        flattened.unsupported.append(Unsupported(name, leaf.kind, leaf.dtype, leaf.shape))
    else:
        flattened.others.append(_other(name, leaf))


def _other(name: str, value: object) -> Other:
    kind = f"{value.module}.{value.name}" if isinstance(value, Opaque) else type(value).__name__
    return Other(name, "dict" if kind == "Dict" else "None" if value is None else kind, value)


def _chosen(value: object, root: str) -> object:
    keys: list[str] = []
    node = value
    while root:
        if type(node) is not Dict:
            raise FormatError(f"there is no `{root}` in the checkpoint: it is no dict there")
        keys = [key_text(key) for key, _ in node.pairs()]
        fits = [key for key in keys if root == key or root.startswith(key + ".")]
        if not fits:
            listed = ", ".join(f"`{key}`" for key in keys[:12]) or "nothing"
            raise FormatError(f"there is no `{root}` in the checkpoint: its keys are {listed}")
        key = max(fits, key=len)
        node = node[2 * keys.index(key) + 1]
        root = root[len(key) + 1 :]
    return node


class _Several(list[Any]):
    """Containers that hold one and the same value."""


def _holding(value: object) -> tuple[set[int], int]:
    """The ids of the plain containers that lead to a tensor without passing something opaque, and the number of places.

    Raises LayoutError where one of them has a key twice: readers differ in which of the two counts.
    """
    parents: dict[int, Any] = {id(value): _Several()}  # most have one: a list for each would be large
    leaves, places = [value] if _is_tensor(value) else [], 0
    waiting: list[Any] = [value] if type(value) in (Dict, list, tuple) else []
    while waiting:
        node = waiting.pop()
        places += len(node)
        for inner in node[1::2] if type(node) is Dict else node:
            kind = type(inner)
            leaf = kind in _TENSORS or (kind is Value and is_numeric(inner))
            if leaf or ((kind is tuple or kind is list or kind is Dict) and inner):  # empty ones lead nowhere
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
    keys = node[::2]
    if set(map(type, keys)) == {str} and len(set(keys)) == len(keys):
        return
    names: set[str] = set()
    for key in keys:
        name = _identity(key)
        if name in names:
            raise LayoutError(f"the key `{key_text(key)[:80]}` stands twice in one dict")
        names.add(name)


def _identity(key: object) -> str:
    """A text that is the same for keys that Python takes for equal (1, True and 1.0), or that have the same name here.

    Keys other than text, bytes and numbers are told apart by their descriptions only, which may be the same for two.
    """
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    if isinstance(key, bool):
        key = int(key)
    if isinstance(key, Value):
        return key.name  # devices and dtypes may be equal and written in two ways
    if isinstance(key, TableEntry) and isinstance(key.value, Dtype):
        return key.value.torch  # which has aliases: torch.half is torch.float16
    return key_text(key)


def _leaves(top: object, holding: set[int], most: int) -> Iterator[tuple[str, object]]:
    """Yield the names and values below `top`, in order. Containers without tensors are leaves themselves.

    Raises LimitError after `most` steps; a step into a container counts.
    """
    if id(top) not in holding:
        yield from ([("", top)] if type(top) is not Dict else ((key_text(key), inner) for key, inner in top.pairs()))
        return
    iterators = [inside(top)]
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
            iterators.append(inside(inner))
            names.append(name)
        else:
            yield name, inner
