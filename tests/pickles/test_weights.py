"""Which part of a checkpoint the weights are; averaged weights beside the model's; and what is reported as left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converter
from converter.errors import FormatError, WordError
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
    assert [other.role for other in catalogue.others if other.kind == "dict"] == ["beside"]


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
