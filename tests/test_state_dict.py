"""Names: nested containers flattened, the root left out, collisions refused, and everything else listed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import FormatError, LayoutError, LimitError
from converter.formats import open_checkpoint
from converter.machine import Dict, Known, Opaque
from converter.state_dict import describe, flatten, inner_tensors
from converter.tensors import Catalogue
from tests.checkpoints import Call, Global, Raw, dumps, floats, ordered, view, write_checkpoint

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
    "a root among tensors": ({"model": {"a": T}, "b": U}, ["model.a", "b"]),
    "two roots": ({"model": {"a": T}, "module": {"a": U}}, ["model.a", "module.a"]),
    "a root within a root": ({"model": {"state_dict": {"a": T}}}, ["state_dict.a"]),
    "another key": ({"weights": {"a": T}}, ["weights.a"]),
    "an optimizer beside": (
        {"model": {"a": T}, "optimizer": {"state": {0: {"step": U}}}},
        ["model.a", "optimizer.state.0.step"],
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, opened: Open) -> None:
    value, expected = NAMES[name]

    assert list(opened(value)) == expected


class TestRoot:
    def test_found_is_told(self, opened: Open) -> None:
        catalogue = opened({"state_dict": {"a": T}, "epoch": 3, "args": {"lr": 0.1}})

        assert catalogue.metadata["root"] == "state_dict"
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


DOUBLE: dict[str, Any] = {
    "dots collide": {"a": {"b": T}, "a.b": U},
    "a number and its text": {1: T, "1": U},
}


@pytest.mark.parametrize("name", DOUBLE)
def test_refuses_two_tensors_of_one_name(name: str, opened: Open) -> None:
    with pytest.raises(LayoutError, match=r"`(a\.b|1)`"):
        opened(DOUBLE[name])


def twice(first: bytes, second: bytes) -> Any:
    key = b"X\1\0\0\0a"
    return Raw(b"}(" + key + first + key + second + b"u")


@pytest.mark.parametrize("case", ["tensors", "dicts of different tensors", "a tensor and a number"])
def test_refuses_a_key_twice_in_one_dict(case: str, opened: Open) -> None:
    tensor = dumps(T, {"0": 12})[2:-1]
    below = [b"}X\1\0\0\0" + letter + tensor + b"s" for letter in (b"x", b"y")]
    value = {
        "tensors": twice(tensor, tensor),
        "dicts of different tensors": twice(*below),
        "a tensor and a number": twice(tensor, b"N"),
    }

    with pytest.raises(LayoutError, match="twice"):
        opened({"model": value[case]})


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
        catalogue = opened({"w": T, "args": Call(Global("argparse", "Namespace"), (), {"lr": 0.1})})

        assert [(other.name, other.kind) for other in catalogue.others] == [("args", "argparse.Namespace")]
        assert catalogue.unknown_globals() == ["argparse.Namespace"]

    def test_tensors_within_what_is_opaque_are_listed_not_carried(self, opened: Open) -> None:
        module = Call(Global("mine", "Module"), (T,), {"weight": U, "more": [T]})
        catalogue = opened({"w": T, "module": module})

        assert list(catalogue) == ["w"]
        assert [name for name, _ in inner_tensors(catalogue.others[0].value)] == ["0", "weight", "more.0"]

    def test_a_whole_module_has_no_tensors_of_its_own(self, opened: Open) -> None:
        catalogue = opened(Call(Global("mine", "Module"), (), {"weight": T}))

        assert len(catalogue) == 0
        assert [other.kind for other in catalogue.others] == ["mine.Module"]

    def test_tensors_behind_a_call_of_a_call_are_found(self, opened: Open) -> None:
        catalogue = opened({"x": Call(Call(Global("mine", "partial"), (T,)), ())})

        assert [name for name, _ in inner_tensors(catalogue.others[0].value)] == ["0"]


class TestBombs:
    def test_nesting_past_the_limit_is_refused(self, opened: Open) -> None:
        value: Any = T
        for _ in range(70):
            value = {"a": value}

        with pytest.raises(LimitError, match="nested deeper"):
            opened(value)

    def test_nesting_up_to_the_limit_is_read(self, opened: Open) -> None:
        value: Any = T
        for _ in range(60):
            value = [value]

        assert list(opened(value)) == [".".join("0" * 60)]

    def test_deep_values_without_tensors_are_others(self, opened: Open) -> None:
        assert list(opened({"w": T, "deep": Raw(b"N" + b"\x85" * 100_000)})) == ["w"]

    def test_a_dict_that_holds_itself_and_a_tensor_is_refused(self, opened: Open) -> None:
        value: dict[str, Any] = {"w": T}
        value["self"] = value

        with pytest.raises(LimitError, match="contains itself"):
            opened(value)

    def test_a_dict_that_holds_itself_beside_is_listed(self, opened: Open) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        catalogue = opened({"w": T, "cycle": cycle})

        assert [describe(other.value) for other in catalogue.others] == ["list of 1"]
        assert inner_tensors(catalogue.others[0].value) == []

    @pytest.mark.parametrize("tail", [0, 1000], ids=["tensors", "others"])
    def test_containers_that_multiply_are_refused(self, tail: int, opened: Open) -> None:
        value: Any = [T, *[None] * tail]
        for _ in range(40):
            value = [value, value]
        start = time.process_time()

        with pytest.raises(LimitError, match="multiply"):
            opened(value)
        assert time.process_time() - start < 1

    def test_long_keys_that_multiply_are_refused(self, opened: Open) -> None:
        value: Any = T
        for _ in range(40):
            value = {"k" * 1_000_000: value}
        start = time.process_time()

        with pytest.raises(LimitError):
            opened(value)
        with pytest.raises(LimitError):
            opened([{"k" * 1_000_000: T}] * 100)
        assert time.process_time() - start < 2

    def test_names_of_deep_tensors_stay_short(self, opened: Open) -> None:
        value: Any = Call(Global("mine", "Thing"), (T,))
        for _ in range(60):
            value = {"k" * 100_000: value}
        start = time.process_time()

        names = [name for name, _ in inner_tensors(opened(value).others[0].value)]
        assert [len(name) for name in names] == [1024]
        assert time.process_time() - start < 2

    def test_globals_with_names_without_end_are_refused(self, opened: Open) -> None:
        name = b"X" + (5000).to_bytes(4, "little") + b"x" * 5000

        with pytest.raises(LimitError, match="name of a global"):
            opened(Raw(name + name + b"\x93"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("short", '"short"'), ("x" * 100, '"' + "x" * 60 + '…"'), (None, "None"), (True, "True"), (3, "3"), (10**50, "1" + "0" * 39 + "…"),
        (1.5, "1.5"), (Dict([1, 2, 3, 4]), "dict of 2"), ([1], "list of 1"), ((), "tuple of 0"), (b"abc", "bytes of 3"),
        (Opaque("a", "b"), "a.b"), (Opaque("a", "b", ()), "a.b(…)"), (Opaque("a" * 4000, "b"), "a" * 90), (Known("a", "b"), "a.b"),
        (object(), "object"),
    ],
)  # fmt: skip
def test_describes_in_a_few_words(value: object, text: str) -> None:
    assert describe(value) == text


def test_nothing_is_flattened_to_nothing() -> None:
    assert (flatten(Dict()).tensors, flatten(None).tensors, flatten([]).others[0].kind) == ({}, {}, "list")
