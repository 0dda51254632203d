"""Objects that hold tensors: a graph, a data set, a named tuple. They are data, so their tensors have names; nothing is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.api import convert, extract
from converter.errors import LimitError, UnsafeError, UnsupportedError
from converter.formats import open_file
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import Call, Global, Persistent, Raw, dumps, floats, ordered, view, write_checkpoint

T = view("0", (2,))
U = view("1", (3,))
TWO = {"0": floats(1, 2), "1": floats(3, 4, 5)}
STORAGE = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 2))
SIZES = {"0": 8, "1": 12}
Open = Callable[..., Catalogue]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, **options: Any) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.pt", value, TWO), **options)

    return open_with


def _opcodes(value: Any) -> bytes:
    return dumps(value, SIZES)[2:-1]


def made(cls: str, args: tuple[Any, ...] = (), state: Any = None, filled: bytes = b"") -> Raw:
    """An object as pickle writes it: NEWOBJ of a class, opcodes that fill it, and BUILD of a state."""
    module, _, name = cls.rpartition(".")
    build = b"" if state is None else _opcodes(state) + b"b"
    return Raw(f"c{module}\n{name}\n".encode() + _opcodes(args) + b"\x81" + filled + build)


def called(cls: str, state: Any) -> Call:
    return Call(Global(*cls.rsplit(".", 1)), (), state)


STORE = called("torch_geometric.data.storage.GlobalStorage", {"_mapping": {"x": T, "edge_index": U}})
# A file's value, the names of its tensors, and the names of the rest.
DATA: dict[str, tuple[Any, list[str], list[str]]] = {
    "a graph": (
        called("torch_geometric.data.data.Data", {"_cls": Global("torch_geometric.data.data", "DataEdgeAttr"), "_store": STORE}),
        ["_store._mapping.x", "_store._mapping.edge_index"],
        ["_cls"],
    ),
    "a list of graphs": ([STORE, 3], ["0._mapping.x", "0._mapping.edge_index"], ["1"]),
    "attributes": (made("mine.Box", state={"x": T, "n": 3}), ["x"], ["n"]),
    "slots": (made("mine.Slots", state=(None, {"a": T, "b": "k"})), ["a"], ["b"]),
    "attributes and slots": (made("mine.Slots", state=({"c": U}, {"a": T})), ["c", "a"], []),
    "a named tuple": (made("mine.Pair", (T, {"z": U})), ["0", "1.z"], []),
    "a list of a class of its own": (made("mine.List", filled=b"(" + _opcodes(T) + _opcodes(U) + b"e"), ["0", "1"], []),
    "keys and attributes": (
        made("mine.Output", state={"seen": U}, filled=b"(" + _opcodes("x") + _opcodes(T) + b"u"), ["x"], ["__dict__"]
    ),
    "keys and attributes in a list": (
        [made("mine.Output", state={"seen": U}, filled=b"(" + _opcodes("x") + _opcodes(T) + b"u"), U], ["0.x", "1"], ["0.__dict__"]
    ),
    "keys and attributes alone in a list": (
        [made("mine.Output", state={"seen": U}, filled=b"(" + _opcodes("x") + _opcodes(T) + b"u")], ["x"], ["__dict__"]
    ),
    "keys and attributes in an object": (
        made("mine.Box", state={"out": called("mine.Output", {"seen": U}), "x": T}), ["out.seen", "x"], []
    ),
    "a position and an attribute": (made("mine.List", state={"seen": U}, filled=b"(" + _opcodes(T) + b"e"), ["0", "seen"], []),
    "a state that a method takes": (made("mine.State", state=(T, 3)), ["__setstate__.0"], ["__setstate__.1"]),
    "a namespace": (called("argparse.Namespace", {"x": T, "lr": 1}), ["x"], ["lr"]),
    "a deque": (Call(Global("collections", "deque"), ([T],)), [], [""]),
    "below the model's key": ({"epoch": 3, "model": called("mine.Table", {"rows": T})}, ["rows"], ["epoch"]),
    "training state beside it": (
        called("mine.Fitter", {"table": called("mine.Table", {"rows": T}), "optimizer": called("mine.Adam", {"v": U})}),
        ["table.rows"],
        ["optimizer"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_tensors_in_objects_have_names(name: str, opened: Open) -> None:
    value, names, others = DATA[name]

    catalogue = opened(value)

    assert list(catalogue) == names
    assert [other.name for other in catalogue.others] == others


@pytest.mark.parametrize("name", [name for name, (_, names, _) in DATA.items() if names])
def test_they_are_converted_without_a_flag_and_the_rest_is_named(name: str, tmp_path: Path) -> None:
    value, names, others = DATA[name]
    path = write_checkpoint(tmp_path / "a.pt", value, TWO)

    report = convert(path, tmp_path / "a.safetensors")

    assert sorted(open_file(tmp_path / "a.safetensors")) == sorted(names)
    assert [part.name for part in report.dropped] == others
    unknown = open_checkpoint(path).unknown_globals()
    assert [note for note in report.notes if "its pickle names" in note and "nothing was called" in note] == (
        list(report.notes) if unknown else []
    )


def test_an_object_that_holds_itself_is_entered_once(opened: Open) -> None:
    node = Raw(b"cmine\nNode\n)\x81q\x63}(" + _opcodes("w") + _opcodes(T) + _opcodes("next") + b"h\x63ub")

    assert list(opened(node)) == ["w"]


def test_where_a_state_dict_is_objects_hold_no_weights(opened: Open) -> None:
    catalogue = opened({"state_dict": {"w": T}, "config": called("mine.Config", {"mean": U})})

    assert list(catalogue) == ["w"]
    assert [other.name for other in catalogue.others] == ["config"]


def test_an_optimizer_itself_is_no_model_but_can_be_asked_for(tmp_path: Path) -> None:
    optimizer = called("torch.optim.adam.Adam", {"defaults": {}, "state": {0: {"exp_avg": T}}, "param_groups": []})
    path = write_checkpoint(tmp_path / "a.pt", optimizer, TWO)

    with pytest.raises(UnsupportedError, match="none of which looks like a model's weights; root='NAME'"):
        convert(path, tmp_path / "a.safetensors")
    assert list(open_checkpoint(path, root="state")) == ["0.exp_avg"]


class TestTheFlag:
    """--ignore-globals is needed where something unknown lies among the weights, or is dangerous."""

    CONFIG = called("trainers.Config", {"lr": 0.1})

    def checked(self, value: Any, folder: Path, **options: Any) -> dict[str, str]:
        path = write_checkpoint(folder / "a.pt", value, TWO)
        report = convert(path, folder / "a.safetensors", force=True, **options)
        extract(path, folder / "out", force=True, **options)
        assert json.loads((folder / "out" / "manifest.json").read_bytes())
        return {part.name: part.reason for part in report.dropped}

    def test_is_not_needed_for_what_lies_beside_the_weights(self, tmp_path: Path) -> None:
        value = {"state_dict": {"w": T}, "config": self.CONFIG, "cls": Global("trainers", "Model")}

        assert self.checked(value, tmp_path) == dict.fromkeys(("config", "cls"), "not part of the model's weights")

    @pytest.mark.parametrize("depth", ["", "in a list", "in a dict"])
    def test_is_needed_among_the_weights(self, depth: str, tmp_path: Path) -> None:
        inner = {"": self.CONFIG, "in a list": [1, [self.CONFIG]], "in a dict": {"a": {"b": self.CONFIG}}}[depth]
        value = {"state_dict": {"w": T, "packed": inner}, "epoch": 3}

        with pytest.raises(UnsafeError, match=r"names `trainers\.Config`.*ignore_globals=True"):
            self.checked(value, tmp_path)
        assert list(self.checked(value, tmp_path, ignore_globals=True)) == ["epoch", "packed"]

    def test_is_needed_where_no_value_shows_what_was_named(self, tmp_path: Path) -> None:
        dropped_again = Raw(b"ctrainers\nrun\n0" + _opcodes({"w": T}))

        with pytest.raises(UnsafeError, match=r"names `trainers\.run`"):
            self.checked(dropped_again, tmp_path)

    def test_is_needed_for_what_is_dangerous(self, tmp_path: Path) -> None:
        value = {"state_dict": {"w": T}, "config": Call(Global("os", "system"), ("true",))}

        with pytest.raises(UnsafeError, match=r"names `os\.system`"):
            self.checked(value, tmp_path)

    def test_is_needed_for_a_module_whose_parameter_is_unknown(self, tmp_path: Path) -> None:
        parts = {"_parameters": {"w": T, "v": Call(Global("mine", "Packed"), (U,))}, "_buffers": {}, "_modules": {}}

        with pytest.raises(UnsafeError, match=r"names `mine\.Packed`"):
            self.checked(called("models.Net", parts), tmp_path)

    def test_does_not_take_a_tensor_of_an_unknown_kind_along(self, tmp_path: Path) -> None:
        subclass = Call(Global("torch._tensor", "_rebuild_from_type_v2"), (Global("torch._utils", "_rebuild_tensor_v2"), Global("mine", "Tensor"), (STORAGE, 0, (2,), (1,), False, ordered()), {}))  # fmt: skip

        with pytest.raises(UnsupportedError, match="`w` is a subclass"):
            self.checked({"model": {"w": subclass, "v": T}, "config": self.CONFIG}, tmp_path)


def test_shards_are_judged_together(tmp_path: Path) -> None:
    weights = {"weight_map": {"w": "pytorch_model-00001-of-00002.bin", "v": "pytorch_model-00002-of-00002.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(weights))
    write_checkpoint(tmp_path / "pytorch_model-00001-of-00002.bin", {"w": T}, {"0": TWO["0"]})
    write_checkpoint(
        tmp_path / "pytorch_model-00002-of-00002.bin", {"v": U, "x": called("mine.Packed", {})}, {"1": TWO["1"]}
    )

    with pytest.raises(UnsafeError, match=r"names `mine\.Packed`"):
        convert(tmp_path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("kind", ["arguments", "items of a state"])
def test_objects_that_share_what_they_hold_do_not_multiply(kind: str, opened: Open) -> None:
    many = b"(" + b"K\x01" * 3000 + _opcodes(T) + b"tq\x70"
    build = {"arguments": b"h\x72h\x70\x81", "items of a state": b"h\x72)\x81Nh\x70\x86b"}[kind]
    objects = Raw(b"cmine\nNode\nq\x720" + many + b"0](" + 3000 * build + b"e")

    with pytest.raises(LimitError, match=r"objects share what they hold|passed to more calls"):
        opened(objects)
