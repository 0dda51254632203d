"""Checkpoints made at random, byte by byte, with everything in them that torch and we could understand differently."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.build.checkpoints import (
    CLASSES,
    UNTYPED,
    Call,
    Entry,
    Global,
    Persistent,
    Pickler,
    Raw,
    legacy_bytes,
    row_major,
)
from tests.peers.oracle.programs import joined, mutated, split

_NAMES = ("w", "b", "w.b", "layer.0.w", "0", "1", "state_dict", "model", "module", "a", "tensor", "", "\u00e9", "W")
_KEYS: tuple[Any, ...] = (0, 1, True, False, None, 1.0, 2, "1", "True", "None", b"w", b"1", (1,), ("a", 1), -1, 2**70)
_UTILS = "torch._utils"
_HOOKS = Call(Global("collections", "OrderedDict"))
_LOCATIONS: tuple[Any, ...] = (
    "meta",
    "cuda:0",
    "CPU",
    "cpu:0",
    b"cpu",
    "",
    None,
    "mps",
    "xla:0",
    "cpu\n",
    "hpu",
    "meta:0",
)


@dataclass
class Weights:
    """A checkpoint: its `data.pkl` and storages, and how its archive is to be written."""

    pickle: bytes
    legacy: bytes
    storages: dict[str, bytes]
    itemsizes: dict[str, int]
    byteorder: bytes | None


class Tree:
    """Makes a value with tensors in it. `odd` is how often something is written in an unusual way."""

    def __init__(self, rng: random.Random, odd: float) -> None:
        self.rng, self.odd = rng, odd
        self.storages: dict[str, bytes] = {}
        self.dtypes: dict[str, str] = {}
        for key in rng.sample(("0", "1", "2", "10", "a", "A"), rng.randrange(1, 4)):
            self.dtypes[key] = rng.choice(tuple(CLASSES)) if rng.random() < 0.8 else rng.choice(tuple(UNTYPED))
            self.storages[key] = rng.randbytes(rng.choice((0, 16, 32, 48)))
            if self.dtypes[key] == "BOOL":
                self.storages[key] = bytes(byte & 1 for byte in self.storages[key])
        self.made: list[Any] = []

    def is_odd(self) -> bool:
        return self.rng.random() < self.odd

    def storage(self, legacy: Any = None) -> tuple[Any, str, int]:
        """A persistent id, its dtype, and its number of elements."""
        rng = self.rng
        key = rng.choice(tuple(self.storages))
        dtype = self.dtypes[key]
        if self.is_odd():
            dtype = rng.choice((*CLASSES, *UNTYPED))
        name, itemsize = CLASSES.get(dtype, ("UntypedStorage", 1))
        module = "torch" if dtype in CLASSES else "torch.storage"
        if self.is_odd() and self.is_odd():
            module, name = rng.choice((("torch.storage", name), ("torch.cuda", name), ("torch", "UntypedStorage"), ("torch", "TypedStorage"),
                                       ("torch.storage", "TypedStorage"), ("torch", "QInt8Storage"), ("x", name)))  # fmt: skip
        count = len(self.storages[key]) // itemsize
        if self.is_odd():
            count = rng.choice((count, count, 0, 1, max(0, count - 1), count + 1, 2 * count))
        location: Any = "cpu"
        if self.is_odd() and self.is_odd():
            location = rng.choice(_LOCATIONS)
        said: Any = key
        if self.is_odd() and self.is_odd():
            said = rng.choice(
                (
                    int(key) if key.isdigit() else key,
                    key.encode(),
                    key.swapcase(),
                    f"./{key}",
                    f"0/../{key}",
                    f"{key}\0",
                )
            )
        return Persistent(("storage", Global(module, name), said, location, count)), dtype, count

    def tensor(self) -> Any:
        rng = self.rng
        if self.made and rng.random() < 0.2:
            return rng.choice(self.made)
        storage, dtype, count = self.storage()
        untyped = dtype in UNTYPED
        if untyped:
            count //= UNTYPED[dtype][1]
        shape = self.shape(count)
        stride = row_major(shape)
        if len(shape) == 2 and rng.random() < 0.3:
            shape, stride = shape[::-1], stride[::-1]
        offset = rng.randrange(max(1, count - _numel(shape) + 1))
        if self.is_odd():
            stride = tuple(rng.choice((0, 1, 2, step)) for step in stride)
        args: tuple[Any, ...] = (storage, offset, shape, stride, False, _HOOKS)
        if self.is_odd() and self.is_odd():
            args = (storage, rng.choice((offset, True, -1)), rng.choice((list(shape), shape, Call(Global("torch", "Size"), (shape,)))),
                    stride, rng.choice((True, False, 0, None)), rng.choice((_HOOKS, None, {})))  # fmt: skip
        function = "_rebuild_tensor_v2"
        if untyped or (self.is_odd() and rng.random() < 0.5):
            kind = (
                UNTYPED[dtype][0]
                if untyped
                else rng.choice(("float32", "float64", "int8", "uint16", "complex64", "bool"))
            )
            function, args = "_rebuild_tensor_v3", (*args, Global("torch", kind))
        elif rng.random() < 0.05:
            function, args = "_rebuild_tensor", args[:4]
        if function != "_rebuild_tensor" and self.is_odd():
            args = (
                *args,
                rng.choice(({}, None, {}, {"conj": True}, {"neg": False}, {"conj": False}, {"x": True}, {"conj": 1})),
            )
        made: Any = Call(Global(_UTILS, function), args)
        if self.is_odd() and self.is_odd():
            made = replace(
                made, state=rng.choice(({}, {"x": 1}, args[:4], None, (None, {"data": 1}), {"data": storage}))
            )
        if rng.random() < 0.25:
            made = self.wrapped(made)
        self.made.append(made)
        return made

    def wrapped(self, tensor: Any) -> Any:
        """A parameter, or a tensor with a state."""
        rng = self.rng
        grad = rng.random() < 0.1  # integers can't have it
        state: Any = rng.choice(({}, {"note": 1}, ((), {}), (None, {"note": 1}), None, ({"note": 1}, {"note": 2})))
        if self.is_odd():
            name = rng.choice(
                (
                    "data",
                    "requires_grad",
                    "real",
                    "grad",
                    "names",
                    "shape",
                    "T",
                    "_backward_hooks",
                    "imag",
                    "__class__",
                    "__dict__",
                )
            )
            value: Any = rng.choice((1, True, None, tensor, "x", {}))
            if self.made:
                value = rng.choice((value, rng.choice(self.made)))
            state = rng.choice(({name: value}, ({}, {name: value}), (None, {name: value})))
        way = rng.randrange(4)
        if way == 0:
            return Call(Global(_UTILS, "_rebuild_parameter"), (tensor, grad, _HOOKS))
        if way == 1:
            return Call(Global(_UTILS, "_rebuild_parameter_with_state"), (tensor, grad, _HOOKS, state))
        if way == 2:
            kind = rng.choice(
                (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"), Global("torch", "FloatTensor"))
            )
            args = tensor.args if isinstance(tensor, Call) else ()
            return Call(
                Global("torch._tensor", "_rebuild_from_type_v2"),
                (Global(_UTILS, "_rebuild_tensor_v2"), kind, args, state),
            )
        return Call(Global("torch.nn.parameter", "Parameter"), (tensor, grad))

    def shape(self, count: int) -> tuple[int, ...]:
        rng = self.rng
        found = rng.choice(((count,), (count, 1), (1, count), (count // 2, 2), (), (0,), (2, count // 2), (1,)))
        return found if not self.is_odd() else rng.choice((found, (count + 1,), (1, 1, 1), (2, 0, 3), (True,)))

    def value(self, depth: int = 0) -> Any:
        rng = self.rng
        way = rng.randrange(10)
        if depth > 2 or way < 5:
            return self.tensor() if rng.random() < 0.85 else self.plain()
        if way < 6:
            return [self.value(depth + 1) for _ in range(rng.randrange(3))]
        if way < 7:
            return tuple(self.value(depth + 1) for _ in range(rng.randrange(3)))
        return self.dict(depth)

    def plain(self) -> Any:
        rng = self.rng
        return rng.choice((1, "text", None, True, 2.5, "", [], {}, (), Call(Global("torch", "Size"), ((1, 2),)), Global("torch", "float32"),
                           Call(Global("torch", "device"), ("cpu",)), Call(Global("collections", "Counter"), ({"a": 1},)),
                           Call(Global("builtins", "set"), ([1, 2],)), Call(Global("_codecs", "encode"), ("abc", "latin1"))))  # fmt: skip

    def dict(self, depth: int) -> Any:
        rng = self.rng
        names: list[Any] = rng.sample(_NAMES, rng.randrange(1, 4))
        if self.is_odd():
            names = [rng.choice(_KEYS), rng.choice(_KEYS), rng.choice(_NAMES)]
        pairs = [(key, self.value(depth + 1)) for key in names]
        way = rng.randrange(4)
        if way == 0:
            # Python 2 passed a list of pairs; the list may be named elsewhere, too.
            items = [[key, value] for key, value in pairs]
            if self.is_odd():
                self.made.append(items)
            return Call(Global("collections", "OrderedDict"), (items,))
        return _Pairs(pairs, rng.choice(("dict", "OrderedDict", "dict")))


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


@dataclass(eq=False)
class _Pairs:
    """A dict that may have keys that are equal, and any order."""

    pairs: list[tuple[Any, Any]]
    kind: str


class _Pickler(Pickler):
    """The builder's pickler, which writes these, too."""

    def save(self, value: Any) -> None:
        if type(value) is not _Pairs:
            super().save(value)
            return
        if self._known(id(value)):
            return
        self._alive.append(value)
        if value.kind == "dict":
            self.save(Raw(b"}"))
        else:
            self.save(Global("collections", "OrderedDict"))
            self.save(Raw(b")R"))
        self._put(id(value))
        self.save(Raw(b"("))
        for key, inner in value.pairs:
            self.save(key)
            self.save(inner)
        self.save(Raw(b"u"))


def checkpoint(rng: random.Random) -> Weights:
    """A checkpoint at random."""
    tree = Tree(rng, rng.choice((0.0, 0.02, 0.02, 0.05, 0.15)))
    value = tree.dict(0) if rng.random() < 0.8 else tree.value()
    sizes = {key: len(data) for key, data in tree.storages.items()}
    plain = _Pickler(sizes).dumps(value)
    legacy = plain
    if rng.random() < 0.2:
        legacy = _with_views(rng, plain)
    if rng.random() < 0.2:
        try:
            plain = joined(mutated(rng, split(plain), rng.choice((1, 1, 2))))
        except ValueError:
            plain = plain[:-1]
    order = rng.choice(
        (b"little",) * 40 + (b"big", b"big", b"big", b"big", None, None, b"", b"Little", b"little\n", b"native")
    )
    itemsizes = {key: CLASSES.get(dtype, ("", 1))[1] for key, dtype in tree.dtypes.items()}
    return Weights(plain, legacy, tree.storages, itemsizes, order)


def _with_views(rng: random.Random, data: bytes) -> bytes:
    """Give storages' ids the view that legacy streams have, as a sixth part of the tuple, which the builder leaves out."""
    pieces = split(data)
    made = []
    for piece in pieces:
        made += [b"N"] if piece == b"t" and rng.random() < 0.9 else []
        made.append(piece)
    return joined(made)


def legacy_stream(rng: random.Random, weights: Weights) -> bytes:
    """The same checkpoint as a stream from before torch 1.6."""
    pieces = split(weights.legacy)
    made = []
    for at, piece in enumerate(pieces):
        # The tuple of a persistent id has one part more here.
        if piece == b"t" and any(following == b"Q" for following in pieces[at + 1 : at + 3]):
            made.append(b"N")
        made.append(piece)
    keys = sorted(weights.storages)
    if rng.random() < 0.1:
        rng.shuffle(keys)
    if rng.random() < 0.05:
        keys = [*keys, rng.choice(keys)]
    return legacy_bytes(None, weights.storages, itemsizes=weights.itemsizes, keys=keys, pickle=joined(made),
                        after=rng.choice((b"",) * 9 + (b"\0", b"x" * 9)))  # fmt: skip


def records(rng: random.Random, weights: Weights, pickle: bytes | None = None) -> list[Entry]:
    """The records of the checkpoint's archive."""
    root = rng.choice(("archive",) * 30 + ("a/b", "x", "ARCHIVE", "data"))
    found = {
        "data.pkl": weights.pickle if pickle is None else pickle,
        ".format_version": b"1",
        ".storage_alignment": b"64",
    }
    if weights.byteorder is not None:
        found["byteorder"] = weights.byteorder
    found |= {f"data/{key}": data for key, data in weights.storages.items()}
    found |= {"version": b"3\n", ".data/serialization_id": b"0" * 40}
    return [Entry(f"{root}/{name}", data) for name, data in found.items()]
