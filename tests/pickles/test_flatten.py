"""Names: nested containers flattened, the root left out, collisions refused, and everything else listed."""

from __future__ import annotations

import decimal
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import FormatError, LayoutError, NamesError
from converter.opening import open_checkpoint
from converter.pickles.flatten import flatten
from converter.pickles.values import Dict, Opaque, TableEntry
from converter.pickles.walk import describe, inner_tensors
from converter.scanning.scan import scan
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import Call, Global, Raw, dumps, floats, ordered, view, write_checkpoint

T = view("0", (2,))
U = view("0", (2,), offset=1)
SHARED = {"a": T}
Open = Callable[..., Catalogue]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, root: str | None = None) -> Catalogue:
        path = write_checkpoint(tmp_path / "a.bin", value, {"0": floats(1, 2, 3)})
        return open_checkpoint(path, root=root)

    return open_with


NAMES: dict[str, tuple[Any, list[str]]] = {
    "a state dict": ({"b": T, "a": U}, ["b", "a"]),
    "an OrderedDict": (ordered(b=T, a=U), ["b", "a"]),
    "a bare tensor": (T, ["tensor"]),
    "nested dicts": ({"x": {"y": {"z": T}}, "w": U}, ["x.y.z", "w"]),
    "names that have dots": ({"x.y": {"z.w": T}}, ["x.y.z.w"]),
    "lists and tuples": ({"x": [T, (U, T)]}, ["x.0", "x.1.0", "x.1.1"]),
    "a list": ([T, None, U], ["0", "2"]),
    "whole numbers for keys": ({0: {"a": T}, 10: {"a": U}}, ["0.a", "10.a"]),
    "an empty name": ({"": T, "x": {"": U}}, ["", "x."]),
    "one dict at two places": ({"x": SHARED, "y": SHARED}, ["x.a", "y.a"]),
    "below state_dict": ({"state_dict": {"a": T}, "epoch": 3}, ["a"]),
    "below model": ({"epoch": 3, "model": ordered(a=T)}, ["a"]),
    "below module": ({"module": {"a": T}}, ["a"]),
    "a root that is a tensor": ({"model": T}, ["model"]),
    "a root that is a list": ({"model": [T]}, ["model.0"]),
    "a root among tensors": ({"model": {"a": T}, "b": U}, ["a"]),
    "two roots": ({"model": {"a": T}, "module": {"a": U}}, ["model.a", "module.a"]),
    "a root within a root": ({"model": {"state_dict": {"a": T}}}, ["a"]),
    "another key": ({"epochs": {"a": T}}, ["epochs.a"]),
    "an optimizer beside": (
        {"model": {"a": T}, "optimizer": {"state": {0: {"step": U}}}},
        ["a"],
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, opened: Open) -> None:
    value, expected = NAMES[name]

    assert list(opened(value)) == expected


class TestRoot:
    def test_found_is_told(self, opened: Open) -> None:
        catalogue = opened({"state_dict": {"a": T}, "epoch": 3, "args": {"lr": 0.1}})

        assert catalogue.facts["root"] == "state_dict"
        assert [(other.name, other.kind, describe(other.value)) for other in catalogue.others] == [
            ("epoch", "int", "3"),
            ("args", "dict", "dict of 1"),
        ]

    def test_chosen(self, opened: Open) -> None:
        value = {"model": {"a": T, "b": {"c": U}}, "optimizer": {"step": T}}

        assert list(opened(value, root="model")) == ["a", "b.c"]
        assert list(opened(value, root="model.b")) == ["c"]
        assert list(opened(value, root="model.a")) == ["tensor"]
        assert [other.name for other in opened(value, root="model").others] == ["optimizer"]

    def test_chosen_may_have_dots_itself(self, opened: Open) -> None:
        assert list(opened({"a.b": {"c": T}, "a": {"x": U}}, root="a.b")) == ["c"]

    @pytest.mark.parametrize("root", ["nothing", "model.nothing", "model.a.b", "mod"])
    def test_that_is_not_there_is_refused(self, root: str, opened: Open) -> None:
        with pytest.raises(FormatError, match="there is no"):
            opened({"model": {"a": T}}, root=root)


def twice(first: bytes, second: bytes) -> Any:
    key = b"X\1\0\0\0a"
    return Raw(b"}(" + key + first + key + second + b"u")


def pickled(value: Any) -> Raw:
    """A key as Python writes it, without PROTO and STOP, and without PUTs, which would overwrite the memo."""
    return Raw(pickletools.optimize(pickle.dumps(value, 2))[2:-1])


def device(*args: Any) -> Call:
    return Call(Global("torch", "device"), args)


def size(*lengths: int) -> Call:
    return Call(Global("torch", "Size"), (lengths,))


def keyed(*keys: Any) -> Raw:
    """A dict of one tensor below each key."""
    return Raw(b"}(" + b"".join(dumps(key)[2:-1] + dumps(T, {"0": 12})[2:-1] for key in keys) + b"u")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (((1,), (2,)), ["(1,)", "(2,)"]),
        (((1, "a"), ("1", "a")), ["(1, 'a')", "('1', 'a')"]),
        ((size(1), size(2, 3)), ["(1,)", "(2, 3)"]),
        ((device("cpu"), device("cuda:0"), device("cuda")), None),
        ((pickled(1 + 2j), pickled(3 + 0j)), ["builtins.complex(1.0, 2.0)", "builtins.complex(3.0, 0.0)"]),
        ((1, 2.5, None, False), ["1", "2.5", "None", "False"]),
        ((Global("torch", "float16"), Global("torch", "float32")), ["torch.float16", "torch.float32"]),
    ],
)
def test_keys_that_torch_tells_apart_have_names(keys: Any, names: list[str] | None, opened: Open) -> None:
    found = list(opened(keyed(*keys)))

    assert found == names if names is not None else len(set(found)) == len(keys)


@pytest.mark.parametrize(
    "keys", [(1, "1"), (b"a", "a"), (None, "None"), ((1,), "(1,)"), (pickled(1 + 2j), "builtins.complex(1.0, 2.0)")]
)
def test_keys_that_are_written_alike_are_refused_by_their_names(keys: Any, opened: Open, tmp_path: Path) -> None:
    with pytest.raises(NamesError, match="both called"):
        opened(keyed(*keys))
    assert scan([tmp_path / "a.bin"], fickling=False).verdict == "plain"


EQUAL: Any = [
    (1, pickled(1 + 0j)), (True, 1), (1.0, 1), (0.0, -0.0), (2.0**80, 2**80), (pickled(-0j), 0), (pickled(2.5 + 0j), 2.5),
    ((1,), (True,)), ((1, (2,)), (1.0, (pickled(2 + 0j),))), (size(1), (1,)), (device("cuda:0"), device("cuda", 0)),
    (Global("torch", "half"), Global("torch", "float16")), ("a", "a"), (pickled(np.float64(1)), 1), (1, pickled(np.int8(1))),
    ((pickled(np.float64(1)),), (1,)), (pickled(decimal.Decimal(1)), 1),
]  # fmt: skip


@pytest.mark.parametrize("keys", EQUAL)
def test_keys_that_are_or_may_be_equal_are_refused(keys: Any, opened: Open) -> None:
    with pytest.raises(LayoutError, match=r"occurs twice|are equal|may be equal") as refused:
        opened(keyed(*keys))
    assert not isinstance(refused.value, NamesError)


def test_tuples_in_tuples_are_looked_at_once(opened: Open) -> None:
    deep = b"N\x85" + b"q\xc8h\xc8\x86" * 40
    with pytest.raises(LayoutError, match="occurs twice"):
        opened(keyed(Raw(deep), Raw(deep)))


def test_a_key_twice_where_no_tensor_is_matters_to_nobody(opened: Open) -> None:
    assert list(opened({"a": T, "args": twice(b"N", b"N")})) == ["a"]


class TestOthers:
    def test_are_listed_with_their_kind(self, opened: Open) -> None:
        catalogue = opened(
            {"w": T, "epoch": 3, "name": "x", "none": None, "args": {"a": 1}, "list": [1], "bytes": b"x"}
        )

        assert [(other.name, other.kind) for other in catalogue.others] == [
            ("epoch", "int"), ("name", "str"), ("none", "None"), ("args", "dict"), ("list", "list"), ("bytes", "bytes"),
        ]  # fmt: skip

    def test_that_are_opaque_are_listed_by_name(self, opened: Open) -> None:
        catalogue = opened({"w": T, "args": Call(Global("trainers", "Namespace"), (), {"lr": 0.1})})

        assert [(other.name, other.kind) for other in catalogue.others] == [("args", "trainers.Namespace")]
        assert catalogue.unknown_globals() == ["trainers.Namespace"]

    def test_tensors_within_what_is_opaque_are_listed_not_carried(self, opened: Open) -> None:
        module = Call(Global("mine", "Module"), (T,), {"weight": U, "more": [T]})
        catalogue = opened({"w": T, "module": module})

        assert list(catalogue) == ["w"]
        assert [name for name, _ in inner_tensors(catalogue.others[0].value)] == ["0", "weight", "more.0"]

    def test_what_a_function_makes_of_a_tensor_is_unknown(self, opened: Open) -> None:
        catalogue = opened(Call(Global("mine", "rebuild"), (T,)))

        assert len(catalogue) == 0
        assert [other.kind for other in catalogue.others] == ["mine.rebuild"]

    def test_tensors_behind_a_call_of_a_call_are_found(self, opened: Open) -> None:
        catalogue = opened({"x": Call(Call(Global("mine", "partial"), (T,)), ())})

        assert [name for name, _ in inner_tensors(catalogue.others[0].value)] == ["0"]


def test_nesting_up_to_the_limit_is_read(opened: Open) -> None:
    value: Any = T
    for _ in range(60):
        value = [value]

    assert list(opened(value)) == [".".join("0" * 60)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("short", '"short"'), ("x" * 100, '"' + "x" * 60 + '…"'), (None, "None"), (True, "True"), (3, "3"), (10**50, "1" + "0" * 39 + "…"),
        (1.5, "1.5"), (Dict([1, 2, 3, 4]), "dict of 2"), ([1], "list of 1"), ((), "tuple of 0"), (b"abc", "bytes of 3"),
        (Opaque("a", "b"), "a.b"), (Opaque("a", "b", ()), "a.b(…)"), (Opaque("a" * 4000, "b"), "a" * 90), (TableEntry("a", "b"), "a.b"),
        (object(), "object"),
    ],
)  # fmt: skip
def test_describes_in_a_few_words(value: object, text: str) -> None:
    assert describe(value) == text


def test_nothing_is_flattened_to_nothing() -> None:
    assert (flatten(Dict()).tensors, flatten(None).tensors, flatten([]).others[0].kind) == ({}, {}, "list")
