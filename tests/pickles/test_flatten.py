"""Names: nested containers flattened, the root left out, collisions refused, and everything else listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import FormatError
from converter.opening import open_checkpoint
from converter.pickles.flatten import flatten
from converter.pickles.values import Dict, Opaque, TableEntry
from converter.pickles.walk import describe, inner_tensors
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import Call, Global, Raw, floats, ordered, view, write_checkpoint

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


def twice(first: bytes, second: bytes) -> Any:
    key = b"X\1\0\0\0a"
    return Raw(b"}(" + key + first + key + second + b"u")


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

    def test_a_whole_module_has_no_tensors_of_its_own(self, opened: Open) -> None:
        catalogue = opened(Call(Global("mine", "Module"), (), {"weight": T}))

        assert len(catalogue) == 0
        assert [other.kind for other in catalogue.others] == ["mine.Module"]

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
