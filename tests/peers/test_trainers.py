"""Trainers' checkpoints: `convert` gives what `load_state_dict(strict=True)` of the model takes, equal to its weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from converter.api import convert  # noqa: E402
from tests.peers.zoo.trainers import PLAIN  # noqa: E402


@pytest.mark.parametrize("name", PLAIN)
def test_a_trainers_checkpoint_gives_the_model(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, model, options = PLAIN[name](tmp_path)
    expected = {key: value.clone() for key, value in model.state_dict().items()}

    convert(path, tmp_path / "m.safetensors", **options)

    for value in model.state_dict().values():
        value.zero_()
    load_model(
        model, tmp_path / "m.safetensors", strict=True
    )  # load_state_dict() of all, with one name of those that are tied
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key
