"""The machine runs tensors that C's pickler wrote in one step, and never with another result."""

from __future__ import annotations

import random
from typing import Any

import pytest

from converter.errors import ConverterError
from converter.limits import Limits, using
from converter.pickles import fast_tensors
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from converter.pickles.opcodes import OPCODES, decode
from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry
from tests.build.checkpoints import dumps, ordered, view
from tests.build.depth import some

SHAPES = [(), (6,), (2, 3), (300, 70000), (1, 2, 3), (1, 1, 2, 3), (1, 1, 1, 2, 3), (0, 4)]
SIZES = {str(key): 1 << 30 for key in range(200)}
FUNCTION = ("torch._utils", "_rebuild_tensor_v2")
# A tensor is the tuple of its arguments, except the hooks, which are not kept. So even nonsense can be built and compared.
PLAIN = {**TABLE, FUNCTION: TableEntry(*FUNCTION, lambda args: ("tensor", *args[:5], len(args)))}


def state_dict(count: int = 90) -> Any:
    """Tensors of all ranks and three dtypes, some transposed, some of one storage, with text between them."""
    items: dict[str, Any] = {}
    for index in range(count):
        shape = SHAPES[index * 5 % len(SHAPES)]
        stride = None if index % 3 or len(shape) != 2 else (1, shape[0])
        key, dtype = (str(index), ("F32", "U8", "F16")[index // 30]) if index % 7 else ("0", "F32")
        items[f"h.{index}.weight"] = view(key, shape, stride, index % 2, dtype)
        if index == 60:
            items["between"] = "h.1.weight"
    return ordered(**items)


def remembered(data: bytes) -> bytes:
    """A pickle of the value of a pickle and of everything in its memo."""
    puts = (OPCODES["BINPUT"][0], OPCODES["LONG_BINPUT"][0])
    gets = b"".join(b"j" + argument.to_bytes(4, "little") for code, argument, _ in decode(data) if code in puts)
    return b"\x80\x02(" + data[2:-1] + gets + b"t."


def outcome(data: bytes, *, fast: bool) -> tuple[Any, int]:
    """The result of running a pickle, in a form that can be compared, and how many tensors were run in one step."""
    matches, original = 0, fast_tensors.TENSOR

    def counted(data: bytes, position: int) -> Any:
        nonlocal matches
        match = original(data, position) if fast else None
        matches += match is not None
        return match

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_tensors, "TENSOR", counted)
        try:
            pickled = run(data, PLAIN)
        except ConverterError as error:
            return (type(error), str(error)), matches
    return (plain(pickled.value, {}), pickled.end, pickled.globals), matches


def plain(value: Any, seen: dict[int, int]) -> Any:
    """A value as tuples and text; mutable parts are numbered, so that sharing shows."""
    if type(value) is tuple:
        return tuple(plain(inner, seen) for inner in value)
    if type(value) is TableEntry:
        return value.module, value.name
    if type(value) is PersistentId:
        return "persistent", plain(value.value, seen)
    if type(value) not in (Dict, list, Opaque):
        return type(value).__name__, repr(value)
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)
    inside = value if type(value) is not Opaque else (value.module, value.name, value.args, value.state, value.items)
    return type(value).__name__, *(plain(inner, seen) for inner in inside)


def test_a_state_dict_and_its_memo_are_the_same() -> None:
    data = remembered(dumps(state_dict(), SIZES))

    found, matches = outcome(data, fast=True)

    assert matches >= 30
    assert found == outcome(data, fast=False)[0]


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_byte_changes_both_alike(seed: int) -> None:
    """Memo numbers, lengths, opcodes, counts: pickles that are almost right, 3,200 of them in a deep run."""
    data, draw, taken, count = remembered(dumps(state_dict(), SIZES)), random.Random(seed), 0, some(400, 24)
    for _ in range(count):
        changed = bytearray(data)
        position = draw.randrange(len(data) // 3, len(data))
        changed[position] = draw.choice((draw.randrange(256), changed[position] ^ 1, changed[position - 1], data[-9]))

        found, matches = outcome(bytes(changed), fast=True)

        assert found == outcome(bytes(changed), fast=False)[0]
        taken += matches
    assert taken > 2.5 * count


def test_an_entry_that_overwrites_what_the_tensor_uses_is_seen() -> None:
    """The PUT of a name onto the place of `storage`: the persistent id then starts with that name."""
    data, name, tag = dumps(state_dict(), SIZES), b"X\x0b\0\0\0h.87.weightr", b"X\x07\0\0\0storageq"
    at, place = data.index(name) + len(name), data[data.index(tag) + len(tag)]
    changed = data[:at] + bytes((place, 0, 0, 0)) + data[at + 4 :]

    found, matches = outcome(changed, fast=True)

    assert matches >= 30
    assert "('persistent', (('str', \"'h.87.weight'\")," in str(found)
    assert found == outcome(changed, fast=False)[0]


def test_opcodes_are_counted_alike() -> None:
    data = dumps(state_dict(), SIZES)
    exact = sum(1 for _ in decode(data))

    for fast in (True, False):
        for most, refused in ((exact, False), (exact - 1, True)):
            with using(Limits(opcodes=most)):
                found, _ = outcome(data, fast=fast)
            assert (str(found[1]).endswith(f": at most {most:,} are allowed")) == refused


def test_a_frame_around_tensors_is_kept_to() -> None:
    data = dumps(state_dict(), SIZES)
    for short in (0, 1, 40):
        framed = data[:2] + b"\x95" + (len(data) - 2 - short).to_bytes(8, "little") + data[2:]

        assert outcome(framed, fast=True)[0] == outcome(framed, fast=False)[0]
