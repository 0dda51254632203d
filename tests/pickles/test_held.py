"""Whole modules inside anything: lists, objects, functions that make them, or a class with its own `__getstate__`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.api import convert
from converter.errors import LimitError
from converter.limits import Limits
from converter.opening import open_checkpoint
from converter.pickles.walk import inner_tensors
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import Call, Global, Raw, dumps, floats, ordered, view, write_checkpoint

T = view("0", (2,))
U = view("0", (2,), offset=1)
Open = Callable[..., Catalogue]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, **options: Any) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, {"0": floats(1, 2, 3)}), **options)

    return open_with


def attributes(*, parameters: Any = None, modules: Any = None, **more: Any) -> dict[str, Any]:
    return {"training": True, "_parameters": parameters or {}, "_buffers": {}, "_modules": modules or {}, **more}


def module(parameters: Any = None, modules: Any = None, **more: Any) -> Call:
    return Call(Global("models", "Net"), (), attributes(parameters=parameters, modules=modules, **more))


NET = module({"w": T})
OPTIMIZER = Call(
    Global("torch.optim.adam", "Adam"), (), {"defaults": {}, "state": {0: {"exp_avg": U}}, "param_groups": []}
)


def holder(**inside: Any) -> Call:
    return Call(Global("trainers", "Trainer"), (), inside)


# A file's value, the names of its weights, and the other names that are listed.
WRAPPED: dict[str, tuple[Any, list[str], list[str]]] = {
    "a state of two parts": (Call(Global("models", "Net"), (), (attributes(parameters={"w": T}), 7)), ["w"], []),
    "a state of attributes and slots": (
        Call(Global("m", "N"), (), (attributes(parameters={"w": T}), {"x": 1})),
        ["w"],
        [],
    ),
    "an argument of a function": (
        Call(Global("torch.fx.graph_module", "reduce_graph_module"), (attributes(parameters={"w": T}), "import torch")),
        ["w"],
        [],
    ),
    "a compiled module": (
        Call(Global("torch._dynamo.eval_frame", "OptimizedModule"), (NET, None)),
        ["_orig_mod.w"],
        [],
    ),
    "a trainer": (holder(model=NET, optimizer=OPTIMIZER, step=3), ["w"], ["optimizer", "step"]),
    "a trainer below a key": (
        {"trainer": holder(net=NET, best=U), "epoch": 3},
        ["trainer.net.w"],
        ["trainer.best", "epoch"],
    ),
    "an agent of two": (
        holder(actor=NET, critic=module({"v": U}), gamma=0.9),
        ["actor.w", "critic.v"],
        ["gamma"],
    ),
    "a list in a trainer": (holder(nets=[NET, module({"v": U})], best=U), ["nets.0.w", "nets.1.v"], ["best"]),
    "an object without a module": (holder(best=U, step=3), ["best"], ["step"]),
    "an optimizer": (OPTIMIZER, [], ["defaults", "state", "param_groups"]),
    "modules side by side": (
        {"generator": NET, "discriminator": module({"v": U})},
        ["generator.w", "discriminator.v"],
        [],
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names(name: str, opened: Open) -> None:
    value, names, others = WRAPPED[name]

    catalogue = opened(value)

    assert list(catalogue) == names
    listed = [other.name for other in catalogue.others]
    assert [other for other in others if other not in listed] == []


def test_a_dict_of_a_class_of_its_own_holds_what_was_put_in(opened: Open) -> None:
    munch = Raw(b"cmunch\nMunch\n)\x81(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b" + dumps(T, {"0": 12})[2:-1] + b"u")

    catalogue = opened({"model": munch, "epoch": 1})

    assert (list(catalogue), catalogue.facts["root"]) == (["b"], "model")
    assert [(other.name, other.value) for other in catalogue.others] == [("epoch", 1), ("a", 1)]
    assert list(opened(munch, root="b")) == ["tensor"]


def test_the_classes_side_by_side_are_named(opened: Open) -> None:
    assert opened({"generator": NET, "epoch": 1}).facts["module"] == "models.Net"
    other = Call(Global("models", "Critic"), (), attributes(parameters={"v": U}))
    assert opened(holder(actor=NET, critic=other)).facts["module"] == "models.Critic, models.Net"
    assert opened({"w": T, "epoch": 1}).facts["module"] == ""


@pytest.mark.parametrize("kind", ["UninitializedParameter", "UninitializedBuffer"])
def test_what_a_lazy_layer_has_not_made_yet_is_listed(kind: str, opened: Open) -> None:
    lazy = Call(Global("torch.nn.parameter", kind), (True,))

    catalogue = opened(module(modules={"0": module({"weight": lazy}), "1": NET}))

    assert list(catalogue) == ["1.w"]
    assert [(one.name, one.kind) for one in catalogue.unsupported] == [("0.weight", "uninitialised")]


def test_parameters_as_keys_are_told_apart(opened: Open) -> None:
    tensor = ordered(a=T)
    assert list(opened({"model": tensor, "optimizer": {"state": {T: {"step": T}, U: {"step": U}}}})) == ["a"]


def test_modules_that_share_their_parameters_do_not_multiply(opened: Open) -> None:
    limits = Limits(memo=1000)
    many = {f"p{number}": number for number in range(5)} | {"w": T}

    with pytest.raises(LimitError, match="because they share their parts"):
        opened([module(many) for _ in range(200)], limits=limits)


def layer(name: str, **more: Any) -> Call:
    return Call(Global("layers", name), (), attributes(**more))


class TestWhatStateDictLacks:
    """Attributes of modules that have no name in `state_dict()`: the outermost module's by name, all others by class."""

    NET = module(
        modules={
            "body": layer("Conv", parameters={"w": T}, stride=2, scale=U),
            "act": layer("Relu", inplace=True),
            "head": layer("Conv", parameters={"w": U}, stride=1),
        },
        anchors=U,
    )

    def test_is_listed_by_name_and_by_class(self, opened: Open) -> None:
        catalogue = opened(self.NET)

        assert list(catalogue) == ["body.w", "head.w"]
        assert [(other.name, other.role) for other in catalogue.others] == [
            ("anchors", "setting"), ("layers.Conv", "setting"), ("layers.Relu", "setting"),
        ]  # fmt: skip
        assert [name for name, _ in inner_tensors(catalogue.others[1].value)] == ["body.scale"]
        assert catalogue.others[2].value == ["act", ["inplace", True]]

    def test_is_named_in_what_a_copy_lacks_with_its_size(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "a.pt", {"model": self.NET, "epoch": 3}, {"0": floats(1, 2, 3)})

        dropped = {part.name: (part.reason, part.tensors, part.nbytes) for part in convert(path, tmp_path / "a.safetensors").dropped}  # fmt: skip

        reason = "attributes that are not in state_dict(), those of inner modules by their class"
        assert dropped == {
            "epoch": ("not part of the model's weights", 0, 0),
            "anchors": (reason, 1, 8),
            "layers.Conv": (reason, 1, 8),
            "layers.Relu": (reason, 0, 0),
        }

    def test_has_the_buffers_that_are_not_saved(self, opened: Open) -> None:
        skipped = Call(Global("builtins", "set"), (["tmp"],))
        net = module({"w": T}, {"head": layer("Head", parameters={"v": U})}, _non_persistent_buffers_set=skipped)
        net.state["_buffers"] = {"tmp": U, "kept": T, "none": None}

        catalogue = opened(net)

        assert list(catalogue) == ["w", "kept", "head.v"]
        assert [other.name for other in catalogue.others] == ["tmp"]

    def test_names_the_outermost_of_several_modules_by_class_too(self, opened: Open) -> None:
        catalogue = opened({"generator": self.NET, "discriminator": layer("Net", parameters={"w": T}, depth=3)})

        assert [other.name for other in catalogue.others] == ["models.Net", "layers.Conv", "layers.Relu", "layers.Net"]

    def test_names_a_shared_module_once(self, opened: Open) -> None:
        shared = layer("Conv", parameters={"w": T}, stride=2)
        catalogue = opened(module(modules={"a": shared, "b": shared}))

        assert list(catalogue) == ["a.w", "b.w"]
        assert [other.value for other in catalogue.others] == [["a", ["stride", 2]]]
