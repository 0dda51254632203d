"""We give what torch.load(weights_only=True) gives, or we refuse: tried on checkpoints that could make a difference.

Values are made at random in the forms that torch writes, with arguments that two readers could understand differently;
then their opcodes are mutated. A child process reads each with torch and with this package and prints what differs. Longer:
`python -m tests.peers.test_same_weights SEED COUNT`.
"""

from __future__ import annotations

import io
import pickletools
import random
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.dtypes import BY_TORCH
from converter.errors import ConverterError
from converter.formats.torch import legacy, reader
from converter.io.source import Memory
from converter.pickles.closed_table import SETTERS
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import (
    CLASSES,
    Call,
    Global,
    Persistent,
    Pickler,
    Raw,
    checkpoint_entries,
    dumps,
    legacy_bytes,
    zip_bytes,
)

ROOT = Path(__file__).parents[2]
NBYTES = 48  # bytes of each storage: it holds whole elements of every dtype
STORAGES = {key: bytes((37 * at + 11 * int(key)) % 250 + 1 for at in range(NBYTES)) for key in "012"}
HOOKS = Call(Global("collections", "OrderedDict"))
V2 = Global("torch._utils", "_rebuild_tensor_v2")
V3 = Global("torch._utils", "_rebuild_tensor_v3")
WITH_STATE = Global("torch._utils", "_rebuild_parameter_with_state")
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
DTYPES = sorted(name for name in BY_TORCH if name in dir(torch))
KEYS = ("a", "b", "c", "a.b", 0, 1, True, False, 1.0, -0.0, 0.5, None, "0", "1", b"a", 1 << 55, float(1 << 55), "True")
NOTES = (None, 1, "x", 2.5, b"y", (1, 2), [1], {"k": 1})


class Maker:
    """Makes values at random. `legacy` ones have persistent ids of the stream from before torch 1.6."""

    def __init__(self, chance: random.Random, *, legacy: bool) -> None:
        self.chance = chance
        self.legacy = legacy
        self.shared: list[Any] = []

    def rarely(self, usual: Any, *others: Any) -> Any:
        return self.chance.choice(others) if self.chance.random() < 0.12 else usual

    def storage(self) -> tuple[Any, int]:
        """A persistent id, and the bytes of an element."""
        chance = self.chance
        kind, itemsize = chance.choice([("FloatStorage", 4), *CLASSES.values()])
        known = Global(self.rarely("torch", "torch.cuda"), kind)
        if chance.random() < 0.2:
            known, itemsize = Global("torch.storage", self.rarely("UntypedStorage", "TypedStorage")), 1
        numel = self.rarely(NBYTES // itemsize, NBYTES // itemsize - 1, 1, 0, NBYTES)
        place = self.rarely("cpu", "meta", Raw(b"U\4meta"), Raw(b"U\3cpu"))
        id = (self.rarely("storage", Raw(b"U\7storage")), known, chance.choice("0012"), place, numel)
        view = self.rarely(None, *((str(n), n, 12 // itemsize) for n in (0, 1, 2, 7)), ("v", 1, 2), ("v", 0, 2))
        return Persistent((*id, view) if self.legacy else self.rarely(id, (*id, view))), itemsize

    def tensor(self) -> Any:
        chance = self.chance
        storage, itemsize = self.storage()
        most = NBYTES // itemsize
        rows, columns = chance.randint(0, 3), chance.randint(0, 2)
        shape, stride = chance.choice(
            [((most,), (1,)), ((rows, columns), (columns, 1)), ((rows, columns), (1, rows)), ((), ()), ((rows,), (0,))]
        )
        offset = self.rarely(0, 1, 2, most, -1)
        stride = self.rarely(stride, tuple(-step for step in stride), (1,))
        base = (storage, offset, shape, stride)
        if chance.random() < 0.1:
            return Call(Global("torch._utils", "_rebuild_tensor"), base)
        base += (self.rarely(False, True), self.rarely(HOOKS, None))
        metadata = self.rarely(None, {}, {"conj": True}, {"neg": True}, {"conj": False, "neg": False})
        rest = () if metadata is None else (metadata,)
        if chance.random() < 0.3:
            return Call(V3, (*base, Global("torch", chance.choice(DTYPES)), *rest))
        return Call(V2, (*base, *rest))

    def state(self) -> Any:
        chance = self.chance
        made = {
            self.rarely("note", *sorted(SETTERS), "shape", "__class__", "_x", 1): self.rarely(
                chance.choice(NOTES), self.tensor()
            )
            for _ in range(chance.randint(0, 2))
        }
        return self.rarely(made, (made, None), (None, made), None, ({}, made), [], Call(HOOKS.callee, (), made))

    def leaf(self, depth: int = 2) -> Any:
        chance = self.chance
        inner = depth and chance.random() < 0.35
        if not inner:
            return self.tensor()
        flag = self.rarely(True, False)
        kind = Global(*chance.choice([("torch", "Tensor"), ("torch.nn.parameter", "Parameter")]))
        tensor = self.leaf(depth - 1)
        parameter = Global("torch._utils", "_rebuild_parameter")
        made = chance.choice(
            [
                Call(parameter, (tensor, flag, HOOKS)),
                Call(WITH_STATE, (tensor, flag, HOOKS, self.state())),
                Call(FROM_TYPE, (WITH_STATE, kind, (tensor, flag, HOOKS, self.state()), self.state())),
                Call(FROM_TYPE, (parameter, kind, (tensor, flag, HOOKS), self.state())),
            ]
        )
        return Call(FROM_TYPE, (V2, kind, tensor.args, self.state())) if tensor.callee == V2 else made

    def value(self, depth: int = 3) -> Any:
        chance = self.chance
        if self.shared and chance.random() < 0.15:
            return chance.choice(self.shared)
        if not depth or chance.random() < 0.5:
            made = self.leaf() if chance.random() < 0.8 else chance.choice(NOTES)
        else:
            keys = [self.chance.choice(KEYS) for _ in range(chance.randint(0, 3))]
            values = [self.value(depth - 1) for _ in keys]
            pairs = [list(pair) for pair in zip(keys, values, strict=True)]
            made = chance.choice(
                [
                    values,
                    tuple(values),
                    Filled(b"}", keys, values),
                    Filled(b"ccollections\nOrderedDict\n)R", keys, values),
                    Filled(b"ccollections\nCounter\n)R", keys, values),
                    Call(HOOKS.callee, (pairs,)),
                    Call(HOOKS.callee, (self.rarely(pairs, *self.shared),)) if self.shared else values,
                    Filled(b"ccollections\nOrderedDict\n", keys, values, pairs),
                ]
            )
            self.shared += [pairs, values]
        self.shared.append(made)
        return made


class Filled:
    """A container with keys that may be equal; made by NEWOBJ of `arguments` if they are given."""

    def __init__(self, empty: bytes, keys: list[Any], values: list[Any], arguments: Any = None) -> None:
        self.empty, self.keys, self.values, self.arguments = empty, keys, values, arguments


class Writer(Pickler):
    def save(self, value: Any) -> None:
        if not isinstance(value, Filled):
            super().save(value)
            return
        if self._known(id(value)):
            return
        self._alive.append(value)
        self.out += value.empty
        if value.arguments is not None:
            super().save((value.arguments,))
            self.out += b"\x81"
        self._put(id(value))
        self.out += b"("
        for key, inner in zip(value.keys, value.values, strict=True):
            self.save(key)
            self.save(inner)
        self.out += b"u"


def written(value: Any) -> bytes:
    return Writer().dumps(value)


def tokens(pickle: bytes) -> list[bytes]:
    """The opcodes with their arguments."""
    starts = [at for _, _, at in pickletools.genops(pickle)]
    return [pickle[start:end] for start, end in zip(starts, [*starts[1:], len(pickle)], strict=True)]


POOL = [
    *tokens(dumps({"a": (1, 2.5, True, False, None, 1 << 70, -1, 0, 12), b"b": []}))[1:-1],
    *(b"h" + bytes([n]) for n in range(24)), *(b"q" + bytes([n]) for n in range(24)),
    *(b")", b"\x85", b"\x86", b"\x87", b"(", b"t", b"R", b"b", b"s", b"u", b"e", b"a", b"}", b"]", b"\x81", b"0", b"2", b"Q"),
    *(b"ctorch\nfloat16\n", b"ctorch\nSize\n", b"ctorch\nTensor\n", b"ctorch.nn.parameter\nParameter\n", b"U\1a", b"K\1", b"\x88"),
]  # fmt: skip


def mutated(pickle: bytes, chance: random.Random) -> bytes:
    found = tokens(pickle)
    for _ in range(chance.choice([0, 0, 1, 1, 2, 4])):
        if len(found) < 2:
            break
        at = chance.randrange(1, len(found))
        other = chance.randrange(1, len(found))
        match chance.randrange(6):
            case 0:
                found[at:at] = [chance.choice(POOL)]
            case 1:
                found[at] = chance.choice(POOL)
            case 2:
                found[at:at] = found[other : other + chance.randint(1, 6)]
            case 3:
                del found[at]
            case 4:
                found[at], found[other] = found[other], found[at]
            case _:
                found[at] = found[other]
    return b"".join(found).rstrip(b".") + b"."


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield files, each with a word that names it again."""
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        old = chance.random() < 0.2
        maker = Maker(chance, legacy=old)
        value = maker.value() if chance.random() < 0.3 else {name: maker.value() for name in "xyz"}
        pickle = mutated(written(value), chance)
        if old:
            widths = {key: chance.choice([1, 2, 4, 4, 8]) for key in STORAGES}
            keys = [key for key in STORAGES if key.encode() in pickle]
            data = legacy_bytes(None, {key: STORAGES[key] for key in keys}, itemsizes=widths, pickle=pickle)
        else:
            order = chance.choice([b"little", b"little", b"big", None])
            data = zip_bytes(checkpoint_entries(None, STORAGES, byteorder=order, pickle=pickle))
        yield f"{seed}-{number}", data


# ---- the two readers -----------------------------------------------------------------------------------------------------


def key_text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def named(value: Any, above: tuple[int, ...] = (), name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with the names that this package gives them. Raises ValueError for a value that contains itself."""
    if isinstance(value, torch.Tensor):
        yield name or "tensor", value
    elif isinstance(value, dict | list | tuple):
        if id(value) in above:
            raise ValueError("it contains itself")
        items = dict.items(value) if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from named(inner, (*above, id(value)), f"{name}.{key_text(key)}" if above else key_text(key))


def facts(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """Dtype, shape and bytes, row by row; None for a tensor that has no plain bytes."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return None
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
    bits = torch.empty(0, dtype=widths[tensor.element_size()])
    bits.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return BY_TORCH[str(tensor.dtype)[6:]].name, tuple(tensor.shape), bits.contiguous().numpy().tobytes()


def by_torch(data: bytes) -> list[tuple[str, tuple[Any, ...] | None]] | None:
    """The tensors, or None if torch raises anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(io.BytesIO(data), weights_only=True)
        return [(name, facts(tensor)) for name, tensor in named(value)]
    except Exception:
        return None


def by_us(data: bytes) -> Catalogue | None:
    try:
        source = Memory(data)
        return reader.read(source) if data[:2] == b"PK" else legacy.read(source)
    except ConverterError:
        return None


def difference(data: bytes) -> str | None:
    """How our tensors differ from torch's, although we do not refuse the file; `same` and `refused` mean no difference."""
    theirs = by_torch(data)
    if theirs is None:
        return "torch refuses"
    ours = by_us(data)
    if ours is None:
        return "refused"
    if "<" in "".join(name for name, _ in theirs):
        return "odd keys"  # classes, which have another text here
    unsupported = {other.name for other in ours.unsupported}
    known = {(use.module, use.name) for use in ours.globals if use.known}
    if len(known) < len(ours.globals):
        return "refused"  # a global outside the table is named in every report
    root = f"{ours.facts['root']}." if ours.facts.get("root") else ""  # the one part of a list
    if lost := [name for name, _ in theirs if not name.startswith(root)]:
        return f"DIFFERENT: {lost} are not below {root}"
    expected = {name.removeprefix(root): found for name, found in theirs}
    for name, (found, tensor) in {n: (f, ours.get(n)) for n, f in expected.items()}.items():
        if found is None or tensor is None:
            if tensor is not None or name not in unsupported:
                return f"DIFFERENT `{name}`: torch has {found}, we have {tensor} ({sorted(unsupported)})"
        elif (tensor.dtype.name, tensor.shape, b"".join(map(bytes, tensor.tiles()))) != found:
            return f"DIFFERENT `{name}`: torch has {found}, we have {tensor} {b''.join(map(bytes, tensor.tiles()))!r}"
    more = (set(ours) | unsupported) - set(expected)
    return f"DIFFERENT: we have {sorted(more)} and torch has not" if more else "same"


def main(seed: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    counts: dict[str, int] = {}
    for name, data in cases(seed, count):
        found = difference(data) or ""
        word = found.split(" `")[0].split(":")[0]
        counts[word] = counts.get(word, 0) + 1
        if word == "DIFFERENT":
            print(name, found[:600])
    print(counts)


def test_torch_and_we_give_the_same_weights_or_we_refuse() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.peers.test_same_weights", "1", "4000"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip

    assert "DIFFERENT" not in done.stdout, done.stdout
    assert "same" in done.stdout
    assert "refused" in done.stdout


def _on(place: str, *, dtype: Global | None = None, count: int = 12) -> Call:
    """A tensor on a FloatStorage of 48 bytes."""
    id = ("storage", Global("torch", "FloatStorage"), "0", place, 12)
    args = (Persistent(id), 0, (count,), (1,), False, HOOKS)
    return Call(V2, args) if dtype is None else Call(V3, (*args, dtype))


_PAIRS: list[Any] = [["a", _on("cpu")]]


@pytest.mark.parametrize(
    ("value", "names", "unsupported"),
    [
        pytest.param({"w": _on("meta")}, [], ["w"], id="no data: the storage is on the device meta"),
        pytest.param(
            {"x": Call(HOOKS.callee, (_PAIRS,)), "y": _PAIRS}, ["x.a", "y.0.1"], [], id="a list that is used twice"
        ),
        pytest.param(
            {"x": _PAIRS, "y": Call(HOOKS.callee, (_PAIRS,))}, ["x.0.1", "y.a"], [], id="the same, the other way round"
        ),
        pytest.param(
            {"w": _on("cpu", dtype=Global("torch", "float64"), count=6)}, ["w"], [], id="float64 on a FloatStorage"
        ),
        pytest.param(
            {"w": _on("cpu", dtype=Global("torch", "int8"), count=48)}, ["w"], [], id="int8 on a FloatStorage"
        ),
    ],
)
def test_what_two_readers_could_understand_differently_is_as_in_torch(
    value: Any, names: list[str], unsupported: list[str]
) -> None:
    data = zip_bytes(checkpoint_entries(None, {"0": STORAGES["0"]}, pickle=dumps(value)))

    ours = by_us(data)

    assert difference(data) == "same"
    assert ours is not None
    assert list(ours) == names
    assert [other.name for other in ours.unsupported] == unsupported


def test_every_attribute_with_a_setter_is_known() -> None:
    tensor = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    settable = set()
    for name in dir(tensor):
        held = next((kind.__dict__[name] for kind in type(tensor).__mro__ if name in kind.__dict__), None)
        if "__set__" in dir(type(held)) and not name.startswith("__"):
            try:
                setattr(tensor, name, getattr(tensor, name))
            except (AttributeError, RuntimeError):
                continue
            settable.add(name)

    assert settable <= SETTERS


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
