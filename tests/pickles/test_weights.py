"""Which part of a checkpoint the weights are; averaged weights beside the model's; and what is reported as left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import FormatError, LayoutError, WordError
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue
from converter.words import Part, Root
from tests.build.checkpoints import floats, view, write_checkpoint

Open = Callable[..., Catalogue]
TWO = {"0": floats(1, 2), "1": floats(3, 4)}
MODEL, AVERAGED = view("0", (2,)), view("1", (2,))


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, root: Root = None) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.pt", value, TWO), root=root)

    return open_with


def held(catalogue: Catalogue) -> dict[str, str]:
    return {name: tensor.storage.key for name, tensor in catalogue.items()}


BESIDE: dict[str, tuple[Any, str]] = {
    "params_ema": ({"params": {"c.w": MODEL}, "params_ema": {"c.w": AVERAGED}}, "params_ema"),
    "timm": ({"state_dict": {"c.w": MODEL}, "state_dict_ema": {"c.w": AVERAGED}}, "state_dict_ema"),
    "first": ({"ema": {"c.w": AVERAGED}, "model": {"c.w": MODEL}}, "ema"),
    "a wrapper": ({"model": {"c.w": MODEL}, "ema": {"module": {"c.w": AVERAGED}, "updates": 3}}, "ema"),
    "a prefix": ({"model": {"c.w": MODEL}, "ema": {"module.c.w": AVERAGED}}, "ema"),
    "deeper": ({"model": {"state_dict": {"c.w": MODEL}, "ema": {"c.w": AVERAGED}}}, "model.ema"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_the_model_is_taken_and_the_averaged_weights_named(kind: str, opened: Open) -> None:
    value, name = BESIDE[kind]
    catalogue = opened(value)

    assert held(catalogue) == {"c.w": "0"}
    assert catalogue.facts["averaged"] == (name,)
    assert [(other.name, other.role) for other in catalogue.others] == [(name, "averaged")]


@pytest.mark.parametrize("kind", BESIDE)
def test_the_averaged_weights_are_taken_when_they_are_asked_for(kind: str, opened: Open) -> None:
    value, name = BESIDE[kind]
    catalogue = opened(value, Part.EMA)

    assert held(catalogue) == {"c.w": "1"}
    assert catalogue.facts["root"].startswith(name)
    assert [other.role for other in catalogue.others if other.kind == "dict"] == ["weights"]


# Spelled out here again, and not taken from the tables.
MODELS = [
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "model_weights",
    "model_state",
    "network_state_dict",
    "net_state_dict",
    "module_state_dict",
    "state",
]
AVERAGES = [
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "params_ema",
    "ema_params",
    "model_ema_state_dict",
    "shadow_params",
]


@pytest.mark.parametrize("word", MODELS)
def test_each_usual_key_of_a_model_is_found_beside_the_optimizer(word: str, opened: Open) -> None:
    assert held(opened({"optimizer": {"state": {0: AVERAGED}, "param_groups": []}, word: {"c.w": MODEL}})) == {
        "c.w": "0"
    }


@pytest.mark.parametrize("word", AVERAGES)
def test_each_usual_key_of_averaged_weights_is_found(word: str, opened: Open) -> None:
    value = {word: {"c.w": AVERAGED}, "model": {"c.w": MODEL}}

    assert (held(opened(value)), held(opened(value, Part.EMA))) == ({"c.w": "0"}, {"c.w": "1"})


def test_averaged_weights_alone_are_the_weights(opened: Open) -> None:
    value = {"ema": {"c.w": AVERAGED}, "model": None, "epoch": 3}

    assert held(opened(value)) == held(opened(value, Part.EMA)) == {"c.w": "1"}


def test_one_object_below_two_keys_is_named_once_more(opened: Open) -> None:
    weights = {"c.w": MODEL}

    assert [other.name for other in opened({"model": weights, "ema": weights}).others] == ["ema"]


def test_refuses_averaged_weights_that_are_not_there(opened: Open) -> None:
    with pytest.raises(FormatError, match="no averaged weights below any of their usual keys"):
        opened({"model": {"c.w": MODEL}, "mean": {"c.w": AVERAGED}}, Part.EMA)


def test_refuses_to_choose_among_several(opened: Open) -> None:
    value = {"model": {"c.w": MODEL}, "ema": {"c.w": AVERAGED}, "model_ema": {"c.w": AVERAGED}}

    assert opened(value).facts["averaged"] == ("ema", "model_ema")
    with pytest.raises(FormatError, match="2 times, below `ema`, `model_ema`: --root NAME"):
        opened(value, Part.EMA)


def test_functions_take_them(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pt", BESIDE["timm"][0], TWO)

    assert held(converter.open(path, ema=True)) == {"c.w": "1"}
    with pytest.raises(WordError, match="`ema` already chooses a part"):
        converter.open(path, root="state_dict", ema=True)
    with converter.open(path) as catalogue, pytest.raises(WordError, match="give ema to `open`"):
        converter.inspect(catalogue, ema=True)
    converter.convert(path, tmp_path / "a.safetensors", ema=True)
    assert converter.verify(path, tmp_path / "a.safetensors", ema=True).ok
    assert not converter.verify(path, tmp_path / "a.safetensors").ok


CONTAINERS: dict[str, tuple[Any, str]] = {
    "Opacus": ({"module_state_dict": {"_module.c.w": MODEL}, "optimizer_state_dict": {"state": {0: AVERAGED}}}, "0"),
    "Demucs": ({"klass": "HTDemucs", "kwargs": {"depth": 2}, "state": {"c.w": MODEL}}, "0"),
    "Composer": ({"state": {"model": {"c.w": MODEL}, "optimizers": {"Adam": {"state": AVERAGED}}}, "rng": []}, "0"),
    "a state beside the model": ({"model": {"c.w": MODEL}, "state": {"seen": AVERAGED}}, "0"),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_weights_stand_below_the_key_of_their_library(kind: str, opened: Open) -> None:
    value, key = CONTAINERS[kind]

    assert held(opened(value)) == {"c.w": key}


def test_the_state_of_an_optimizer_is_no_model(opened: Open) -> None:
    value = {"step": 2, "state": {0: {"exp_avg": MODEL}}, "param_groups": [{"lr": 0.1}]}

    assert "exp_avg" not in held(opened(value))


RANDOM = view("1", (8,), dtype="U8")
OPTIMIZER = {"state": {0: {"exp_avg": AVERAGED}}, "param_groups": [{"lr": 0.1}]}
TRAINING: dict[str, tuple[Any, list[str], list[str]]] = {
    "beside two nets": (
        {"g": {"c.w": MODEL}, "d": {"c.w": MODEL}, "rng": RANDOM, "epoch": 1},
        ["g.c.w", "d.c.w"],
        ["rng"],
    ),
    "of a GPU": (
        {"g": {"c.w": MODEL}, "d": {"c.w": MODEL}, "cuda_rng_state": RANDOM},
        ["g.c.w", "d.c.w"],
        ["cuda_rng_state"],
    ),
    "a loss beside a net": ({"encoder": {"c.w": MODEL}, "train_loss": AVERAGED}, ["encoder.c.w"], ["train_loss"]),
    "beside a bare tensor": ({"w": MODEL, "torch_rng_state": RANDOM, "epoch": 1}, ["w"], ["torch_rng_state"]),
    "but nothing beside tensors alone": ({"w": MODEL, "torch_rng_state": RANDOM}, ["w", "torch_rng_state"], []),
    "a scale is no random state": ({"w": MODEL, "random_scale": AVERAGED, "epoch": 1}, ["w", "random_scale"], []),
    "nor is a loss beside tensors": ({"w": MODEL, "loss": AVERAGED, "epoch": 1}, ["w", "loss"], []),
    "nor what a model calls so": ({"a.w": MODEL, "rng": RANDOM, "epoch": 1}, ["a.w", "rng"], []),
    "an optimizer in each of two parts": (
        {"a": {"net": {"c.w": MODEL}, "update": OPTIMIZER}, "b": {"net": {"c.w": MODEL}, "update": OPTIMIZER}},
        ["a.net.c.w", "b.net.c.w"],
        ["a.update", "b.update"],
    ),
    "an optimizer of another form": (
        {"a": {"actor": {"c.w": MODEL}, "critic": {"c.w": MODEL}, "optimizer": {"exp_avg": [AVERAGED]}}},
        ["a.actor.c.w", "a.critic.c.w"],
        ["a.optimizer"],
    ),
    "two levels down": (
        {"run": {"a": {"nets": {"g": {"c.w": MODEL}, "d": {"c.w": MODEL}}, "opts": OPTIMIZER}}, "step": 1},
        ["run.a.nets.g.c.w", "run.a.nets.d.c.w"],
        ["run.a.opts"],
    ),
    "in a list of agents": (
        {"agents": [{"actor": {"c.w": MODEL}, "o": OPTIMIZER}, {"actor": {"c.w": MODEL}, "o": OPTIMIZER}]},
        ["agents.0.actor.c.w", "agents.1.actor.c.w"],
        ["agents.0.o", "agents.1.o"],
    ),
    "random numbers further down": (
        {"a": {"actor": {"c.w": MODEL}, "rng_state": RANDOM}, "b": {"actor": {"c.w": MODEL}}},
        ["a.actor.c.w", "b.actor.c.w"],
        ["a.rng_state"],
    ),
    "but not what a nested model calls so": (
        {"encoder": {"optical.w": MODEL, "optim": {"w": MODEL}}, "decoder": {"c.w": MODEL}},
        ["encoder.optical.w", "encoder.optim.w", "decoder.c.w"],
        [],
    ),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_a_tensor_of_the_training_is_no_weight(kind: str, opened: Open) -> None:
    value, names, left = TRAINING[kind]
    catalogue = opened(value)

    assert list(catalogue) == names
    assert [other.name for other in catalogue.others if other.kind != "int"] == left


LISTS: dict[str, tuple[Any, list[str], list[str]]] = {
    "with an optimizer": (({"c.w": MODEL}, OPTIMIZER), ["c.w"], ["1"]),
    "with an optimizer first": ([OPTIMIZER, {"c.w": MODEL}], ["c.w"], ["0"]),
    "with a count": ([{"c.w": MODEL}, 3, None], ["c.w"], ["1", "2"]),
    "with a checkpoint": (({"state_dict": {"c.w": MODEL}, "epoch": 1}, OPTIMIZER), ["c.w"], ["1", "0.epoch"]),
    "alone": ([{"c.w": MODEL}], ["c.w"], []),
    "of lists": ([[{"c.w": MODEL}, OPTIMIZER], 5], ["c.w"], ["1", "0.1"]),
    "of two lists": ([[{"c.w": MODEL}], [{"c.w": AVERAGED}]], ["0.0.c.w", "1.0.c.w"], []),
    "of two nets": (({"c.w": MODEL}, {"c.w": AVERAGED}, OPTIMIZER), ["0.c.w", "1.c.w"], ["2"]),
    "of a net and a tensor": ([{"c.w": MODEL}, AVERAGED], ["0.c.w", "1"], []),
    "of tensors": ([MODEL, AVERAGED], ["0", "1"], []),
    "of one tensor": ([MODEL], ["0"], []),
    "below a key": ({"model": [{"c.w": MODEL}, OPTIMIZER], "epoch": 1}, ["c.w"], ["epoch", "model.1"]),
    "of tensors below a key": ({"model": [MODEL, AVERAGED], "epoch": 1}, ["model.0", "model.1"], ["epoch"]),
    "of averaged tensors": (
        {"shadow_params": [MODEL, AVERAGED], "decay": 0.9},
        ["shadow_params.0", "shadow_params.1"],
        ["decay"],
    ),
}


@pytest.mark.parametrize("kind", LISTS)
def test_the_weights_in_a_list_are_found(kind: str, opened: Open) -> None:
    value, names, left = LISTS[kind]
    catalogue = opened(value)

    assert list(catalogue) == names
    assert [other.name for other in catalogue.others] == left


WRAPPED: dict[str, tuple[Any, list[str], str, list[str]]] = {
    "a trainer": (
        {"trainer": {"net": {"c.w": MODEL}, "optim": OPTIMIZER}},
        ["c.w"],
        "trainer.net",
        ["trainer.optim"],
    ),
    "beside a count": (
        {"checkpoint": {"model": {"w": MODEL}, "epoch": 3}, "version": 1},
        ["w"],
        "checkpoint.model",
        ["version", "checkpoint.epoch"],
    ),
    "a chain": ({"checkpoint": {"model": {"state_dict": {"c.w": MODEL}}}}, ["c.w"], "checkpoint.model.state_dict", []),
    "averaged weights": (
        {"run": {"ema": {"c.w": MODEL}, "optimizer": OPTIMIZER}},
        ["c.w"],
        "run.ema",
        ["run.optimizer"],
    ),
    "a model without trainer keeps its names": ({"lm": {"net": {"w": MODEL}}}, ["lm.net.w"], "", []),
    "so does one of two parts": (
        {"a": {"net": {"c.w": MODEL}}, "b": {"net": {"c.w": MODEL}}},
        ["a.net.c.w", "b.net.c.w"],
        "",
        [],
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_part_that_wraps_a_checkpoint_is_gone_into(kind: str, opened: Open) -> None:
    value, names, root, left = WRAPPED[kind]
    catalogue = opened(value)

    assert list(catalogue) == names
    assert catalogue.facts["root"] == root
    assert [other.name for other in catalogue.others] == left


def test_training_state_that_a_root_names_is_read(opened: Open) -> None:
    value = {"a": {"net": {"c.w": MODEL}, "update": OPTIMIZER}, "b": {"net": {"c.w": MODEL}}}

    assert list(opened(value, "a.update.state")) == ["0.exp_avg"]


def test_a_number_chooses_a_part_of_a_list(opened: Open) -> None:
    value = ({"c.w": MODEL}, {"c.w": AVERAGED}, OPTIMIZER)

    assert held(opened(value, "1")) == {"c.w": "1"}
    assert list(opened(value, "2.state")) == ["0.exp_avg"]
    with pytest.raises(FormatError, match="the keys of the checkpoint are `0`, `1`, `2`"):
        opened(value, "3")


def _looped(kind: str) -> Any:
    """A container that leads to itself where the weights are looked for, and holds a tensor besides."""
    value: dict[str, Any] = {"w": MODEL}
    parts: list[Any] = [{"epoch": 1}]
    match kind:
        case "a dict":
            value["model"] = value
        case "averaged weights":
            value["ema"] = value
        case "two dicts":
            value["state_dict"] = {"model": value}
        case "a list in a dict":
            value["model"] = [value, 3]
        case "a dict in a list":
            parts.append({"model": parts, "w": MODEL})
            return parts
        case "deep":
            for _ in range(70):
                value = {"epoch": 1, "model": value}
    return value


@pytest.mark.parametrize(
    "kind", ["a dict", "averaged weights", "two dicts", "a list in a dict", "a dict in a list", "deep"]
)
def test_what_leads_to_itself_is_refused_at_once(kind: str, opened: Open) -> None:
    with pytest.raises(LayoutError, match="nested deeper than 64 containers or contains itself"):
        opened(_looped(kind))
