"""Names the tensors of anything but a plain state dict: flattening, the choice of a root, and what is left over."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import Dtype
from converter.errors import LimitError, NamesError, RootError
from converter.limits import limits
from converter.pickles.buried import Buried
from converter.pickles.closed_table import Attributed, Special
from converter.pickles.keys import Keys
from converter.pickles.modules import Level, attributes, contents, items, state_dict
from converter.pickles.numpy_arrays import array_tensor, is_numeric
from converter.pickles.roots import below
from converter.pickles.values import Dict, Made, Opaque, TableEntry, Value, ValueRow
from converter.pickles.walk import holds_object, inside, is_bare, key_text
from converter.pickles.weights import Chosen, choose, is_training_state
from converter.tensors.catalogue import Other, Role, Unsupported
from converter.tensors.tensor import Tensor
from converter.words import Part, Root

if TYPE_CHECKING:
    from converter.pickles.flatten import Flattened

# What people call the types that stand for values here.
_KINDS: Final = {"Dict": "dict", "NoneType": "None", "Tensor": "tensor", "Attributed": "tensor", "Typed": "storage"}
_TENSORS: Final = (Tensor, Special, Attributed)
_SHARED: Final = 4  # steps per place. If more are needed, containers share containers so often that the file is a bomb
_FEW: Final = 8  # values that may be shared by any number of objects, because they are walked quickly
_AGAIN: Final = 1 << 16  # values that objects may share. Those of real files share none
_CLASSES: Final = 4  # names of whole modules side by side that are listed
_NUMBERED: Final = re.compile(r"\.___torch_mangle_\d+")  # TorchScript numbers a class that it compiles again
_LETTERS: Final = 256  # average bytes per name that are allowed


def name_all(flattened: Flattened, value: object, root: Root, module: Callable[[object], Level | None] | None) -> bool:
    """Put the tensors and everything else into `flattened`. Arguments and errors are as in `flatten`.

    Returns whether a prefix that every name has is a wrapper's: names in a part that the caller chose are left as they are.
    """
    held = _Held(value, module or state_dict)
    chosen = _choose(value, root, held)
    if not held(chosen.value) and held.closed:
        held = _Held(value, module or state_dict, objects=True)
        chosen = _choose(value, root, held)
    flattened.root = ".".join(chosen.keys)
    flattened.averaged = chosen.averaged
    averaged = frozenset(chosen.averaged)
    for name, inner in chosen.beside:
        role: Role = "averaged" if name in averaged else "weights" if held.is_weights(name, inner) else "beside"
        flattened.others.append(_other(name, inner, role))
    top = chosen.value
    if _is_tensor(top):
        _add(flattened, "tensor", top)
        return False
    seen: set[int] = set()
    subclass = False
    letters, most = 0, min(limits().names, _LETTERS * held.places + (1 << 20))
    buried = Buried() if held.entering or not held(top) else None
    for name, leaf in _leaves(top, held, _SHARED * held.places + 1024):
        letters += len(name) if name.isascii() else 4 * len(name)
        if letters + held.letters > most:
            raise LimitError(f"{held.places:,} values have names of more than {most:,} bytes: no more are read")
        if buried is not None and not is_training_state(name.rpartition(".")[2], leaf):
            value = leaf.value if isinstance(leaf, Other) else leaf
            found = [*buried(name, value)]
            flattened.unsupported += found
            if found and type(value) is bytes:
                continue  # listed as what the bytes hold; a container of such bytes is listed as itself, too
        _add(flattened, name, leaf)
        if not held.entering and not isinstance(leaf, Other | Tensor) and holds_object(leaf, seen):
            if isinstance(leaf, Special):
                subclass = True  # a later step refuses it by name, or leaves it out
            else:
                flattened.objects.append(name)
        if id(leaf) in held.buffers:
            flattened.buffers.append(name)
    flattened.entered = subclass or held.entering or not held.containers.isdisjoint(held.dicts)
    if held.modules:
        flattened.module = ", ".join([*dict.fromkeys(held.outermost(top))][:_CLASSES])
    if id(top) in held.hooks:
        flattened.hooked.append(f"{top.module}.{top.name}")
    flattened.hooked += held.hooked
    if id(top) in held.rest:
        flattened.others += [_other(key_text(key), inner, "setting") for key, inner in held.rest[id(top)].pairs()]
    for cls, modules in held.classes.items():
        flattened.others.append(_other(cls, modules, "setting"))
    if id(top) in held.modules:
        return False
    return type(root) is not str


def _is_tensor(value: object) -> bool:
    return isinstance(value, _TENSORS) or (type(value) is Value and is_numeric(value))


def _add(flattened: Flattened, name: str, leaf: object) -> None:
    if isinstance(leaf, Tensor):
        if name in flattened.tensors:
            raise NamesError(
                f"two tensors are both called `{name}`: a name is made of the keys that lead to a tensor, and two such "
                "paths give the same name"
            )
        flattened.tensors[name] = leaf
    elif is_numeric(leaf):
        made = flattened.arrays.get(id(leaf)) or array_tensor(leaf, f"array {len(flattened.arrays)}")
        flattened.arrays[id(leaf)] = made
        _add(flattened, name, made)
    elif isinstance(leaf, Attributed):
        _add(flattened, name, leaf.tensor)
        for attributes in leaf.attributes:
            flattened.others.append(_other(f"{name}.__dict__", attributes, "attribute"))
    elif isinstance(leaf, Special):
        flattened.unsupported.append(Unsupported(name, leaf.kind, leaf.dtype, leaf.shape))
    else:
        flattened.others.append(leaf if isinstance(leaf, Other) else _other(name, leaf))


def _other(name: str, value: object, role: Role = "beside") -> Other:
    if isinstance(value, Special):
        return Other(name, f"{value.kind} tensor", value, role)
    kind = f"{value.module}.{value.name}" if isinstance(value, Opaque | Value) else type(value).__name__
    if isinstance(value, TableEntry | ValueRow):
        kind = "dtype" if isinstance(value.value if isinstance(value, TableEntry) else None, Dtype) else "global"
    return Other(name, _KINDS.get(kind, kind), value, role)


def _choose(value: object, root: Root, held: _Held) -> Chosen:
    """The part that holds the weights, or the one that a root names."""
    if type(root) is str:
        chosen = _named(value, root, held)
    else:
        chosen = choose(value, held, held.parts, root if isinstance(root, Part) else None, objects=held.entering)
    if type(chosen.value) is Dict and any(held(inner) for inner in chosen.value[1::2]):
        held.containers.add(id(chosen.value))  # it may be a copy of a dict, without some of its parts
    held.containers.update(id(made) for made in chosen.made if any(held(inner) for inner in made[1::2]))
    return chosen


def _named(value: object, root: str, held: _Held) -> Chosen:
    try:
        return below(value, root, held.opened)
    except RootError:
        # It may be the beginning of names as they are printed: those begin below the part that is read without a root.
        usual = choose(value, held, held.parts, objects=held.entering).keys
        if usual:
            with contextlib.suppress(RootError):
                return below(value, ".".join((*usual, root)), held.opened)
        raise


class _Several(list[Any]):
    """Several containers that all hold one value."""


class _Held:
    """Tells which values lead to a tensor without passing something opaque. Call it with a value.

    Something opaque that may be passed is a whole module; an object of a subclass of dict; and an object with attributes, such as
    a trainer, on the way to a whole module. With `objects` objects of all classes may be passed, such as a graph, which is data.

    `places` counts the values in all containers; `modules` has the state dict of each whole module by its id, `rest` what else
    it has, and `classes` the same for the inner modules that were passed, by their class and their names. `hooks` are the ids
    of modules whose hooks may change their state dict, and `hooked` the paths of those that were passed. `buffers` are the
    ids of the modules' buffers, `dicts` what other opaque values hold, and `objects` which of those are not dicts but have
    attributes. Raises LayoutError where a dict on the way to a tensor has a key twice: readers differ in which of the two
    counts. Raises LimitError where modules share their dicts of parameters so often that they multiply.
    """

    def __init__(self, value: object, module: Callable[[object], Level | None], *, objects: bool = False) -> None:
        self.module = module
        self.entering = objects
        self.closed = isinstance(value, Made)  # whether there are objects; they are entered only if `objects` is true
        self.modules: dict[int, Dict] = {}
        self.rest: dict[int, Dict] = {}
        self.classes: dict[str, Dict] = {}
        self.tables: dict[int, bool] = {}  # whether a dict holds tensors by names, and nothing else
        self.hooks: set[int] = set()
        self.hooked: list[str] = []
        self.parts_seen: set[int] = set()
        self.shared = 0  # values in parts that an earlier object has, too
        self.letters = 0  # letters in the names of the modules that were noted
        self.buffers: set[int] = set()
        self.dicts: dict[int, Dict] = {}
        self.objects: set[int] = set()
        self.containers: set[int] = set()
        self.leading: set[int] = set()  # containers that lead to a whole module
        self.places = self.named = 0
        # Most values have one parent, and a list for each value would take much memory.
        parents: dict[int, Any] = {id(value): _Several()}
        leaves = [value] if _is_tensor(value) else []
        waiting: list[Any] = [value] if type(value) in (Dict, list, tuple) or self._opens(value) else []
        while waiting:
            node = waiting.pop()
            inside = self.opened(node)
            self.places += len(inside)
            for inner in inside[1::2] if type(inside) is Dict else inside:
                kind = type(inner)
                leaf = kind in _TENSORS or (kind is Value and is_numeric(inner))
                self.closed |= kind is Opaque or kind is Value
                # Empty containers lead nowhere.
                if (
                    leaf
                    or ((kind is tuple or kind is list or kind is Dict) and inner)
                    or (
                        (kind is Opaque or (objects and kind is Value))
                        and not leaf
                        and not is_bare(inner)
                        and self._opens(inner)
                    )
                ):
                    above = parents.get(id(inner))
                    if above is None:
                        parents[id(inner)] = node
                        (leaves if leaf else waiting).append(inner)
                    elif type(above) is _Several:
                        above.append(node)
                    elif above is not node:
                        parents[id(inner)] = _Several((above, node))
        keys = Keys()
        rising: list[Any] = leaves
        while rising:
            node = rising.pop()
            leads = id(node) in self.leading or id(node) in self.modules
            above = parents[id(node)]
            for parent in above if type(above) is _Several else (above,):
                at = id(parent)
                if at in self.objects and not leads and not objects:
                    continue
                if at in self.containers and (at in self.leading or not leads):
                    continue
                if at not in self.containers:
                    self.containers.add(at)
                    opened = self.opened(parent)
                    if type(opened) is Dict:
                        keys.check(opened)
                if leads:
                    self.leading.add(at)
                rising.append(parent)

    def __call__(self, value: object) -> bool:
        return id(value) in self.containers or _is_tensor(value)

    def _opens(self, value: object) -> bool:
        """Whether a value is opaque and holds something by name. The names of a whole module are made only once."""
        at = id(value)
        if at in self.modules or at in self.dicts:
            return True
        if (made := self.module(value)) is not None:
            self.modules[at] = made.names
            if made.hooked:
                self.hooks.add(at)
            if made.rest:
                self.rest[at] = made.rest
            if made.buffers:
                pairs = made.names.pairs()
                self.buffers |= {id(inner) for name, inner in pairs if type(name) is str and name in made.buffers}
            self.named += len(made.names)
            if self.named > limits().memo:
                raise LimitError(
                    f"whole modules have more than {limits().memo:,} names, because they share their parts"
                )
        elif self.entering:
            self._share(value)
            if (held := contents(value)) is not None:
                self.dicts[at] = held
                self.objects.add(at)
        elif (held := items(value)) is not None:
            self.dicts[at] = held
        elif (held := attributes(value)) is not None:
            self.dicts[at] = held
            self.objects.add(at)
        return at in self.modules or at in self.dicts

    def _share(self, value: Any) -> None:
        """Raise LimitError where objects share large parts so often that walking each object would multiply them."""
        state = value.state[-1] if isinstance(value, Made) and value.state else None
        parts = [state, *(state[:_FEW] if type(state) is tuple else ())]
        parts += [value.args, value.items] if isinstance(value, Made) else []
        for part in parts:
            if type(part) not in (Dict, list, tuple) or len(part) <= _FEW:
                continue
            if id(part) not in self.parts_seen:
                self.parts_seen.add(id(part))
                continue
            self.shared += len(part)
            if self.shared > _AGAIN:
                raise LimitError(f"objects share what they hold: more than {_AGAIN:,} values are in several of them")

    def opened(self, value: Any) -> Any:
        """The container itself, or the named parts of a whole module or another opaque object."""
        at = id(value)
        return self.modules[at] if at in self.modules else self.dicts.get(at, value)

    def is_weights(self, name: str, value: Any) -> bool:
        """Whether a part has the form of a state dict, or is a whole module, and is no training state."""
        if type(value) is not Dict or not value:
            return id(value) in self.modules and id(value) in self.containers
        if id(value) not in self.tables:
            self.tables[id(value)] = all(type(key) is str and _is_tensor(inner) for key, inner in value.pairs())
        return self.tables[id(value)] and not is_training_state(name.rpartition(".")[2], value)

    def parts(self, value: Any) -> Dict | None:
        """What lies side by side in a value that is not a whole module; None if it leads to no tensor by name."""
        if type(value) is Dict:
            return value
        return self.dicts.get(id(value)) if id(value) in self.containers else None

    def enters(self, inner: object, above: object) -> bool:
        """Whether names go on from `above` into what it holds. From an object they do so only on the way to a whole module."""
        at = id(inner)
        if id(above) in self.objects and not self.entering:
            return at in self.containers and (at in self.leading or at in self.modules)
        return at in self.containers

    def note(self, name: str, module: Any) -> None:
        """Note a module that was passed, once: its attributes below its class, and its path if it has hooks."""
        if id(module) in self.hooks:
            self.hooks.remove(id(module))
            self.letters += len(name) if name.isascii() else 4 * len(name)
            self.hooked.append(name)
        if (rest := self.rest.pop(id(module), None)) is not None:
            self.letters += len(name) if name.isascii() else 4 * len(name)
            self.classes.setdefault(_NUMBERED.sub("", f"{module.module}.{module.name}"), Dict()).extend((name, rest))

    def outermost(self, top: Any) -> Iterator[str]:
        """The classes of the whole modules that names from `top` on lead to, without those inside them."""
        waiting, seen = [top], {id(top)}
        while waiting:
            node = waiting.pop()
            if id(node) in self.modules:
                yield f"{node.module}.{node.name}"
                continue
            for _, inner in inside(self.opened(node)):
                if id(inner) not in seen and (id(inner) in self.leading or id(inner) in self.modules):
                    seen.add(id(inner))
                    waiting.append(inner)


def _leaves(top: object, held: _Held, most: int) -> Iterator[tuple[str, object]]:
    """Yield the names and values below `top`, in order. Containers without tensors are leaves themselves.

    Raises LimitError after `most` steps; a step into a container counts.
    """
    if id(top) not in held.containers:
        yield from ([("", top)] if type(top) is not Dict else ((key_text(key), inner) for key, inner in top.pairs()))
        return
    iterators = [inside(held.opened(top))]
    names, nodes, steps = [""], [top], 0
    yield from _attributes("", top, held)
    objects = {id(top)}  # an object is entered only once, because trainers and their parts hold one another
    while iterators:
        step = next(iterators[-1], None)
        if step is None:
            iterators.pop()
            names.pop()
            nodes.pop()
            continue
        steps += 1
        if steps > most:
            raise LimitError(
                f"it takes more than {most:,} steps to name its tensors: containers that share containers multiply"
            )
        key, inner = step
        name = f"{names[-1]}.{key}" if len(names) > 1 else key
        if held.enters(inner, nodes[-1]) and id(inner) not in objects:
            if len(iterators) >= limits().depth or len(name) > limits().line:
                raise LimitError(
                    f"`{name[:80]}` is nested deeper than {limits().depth} containers or {limits().line:,} characters, or "
                    "contains itself"
                )
            iterators.append(inside(held.opened(inner)))
            held.note(name, inner)
            yield from _attributes(name, inner, held)
            names.append(name)
            nodes.append(inner)
            if id(inner) in held.objects:
                objects.add(id(inner))
        elif id(nodes[-1]) in held.objects and not (held.entering and _is_tensor(inner)):
            yield name, _other(name, inner)  # even a tensor, if the weights are a module's
        elif id(inner) not in held.modules:
            yield name, inner
        else:
            # A module without tensors, such as torch.nn.ReLU, has no name in state_dict().
            held.note(name, inner)


def _attributes(name: str, node: Any, held: _Held) -> Iterator[tuple[str, object]]:
    """The attributes of an object whose class is a subclass of dict. Only its items are weights."""
    if type(node) is Opaque and node.state and id(node) in held.dicts and id(node) not in held.objects:
        yield name, _other(f"{name}.__dict__" if name else "__dict__", node.state[-1])
