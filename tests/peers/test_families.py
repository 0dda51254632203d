"""Whole models of transformers, one of each family: their names, order, dtypes and bytes are those of `state_dict()`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.peers.zoo.checks import difference  # noqa: E402
from tests.peers.zoo.families import FAMILIES, make  # noqa: E402

# torch.save refuses modules with parametrizations (their convolutions have a weight_norm): only their state dicts are saved.
PARAMETRIZED = ("wav2vec2", "hubert", "vits", "encodec")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_has_the_names_of_its_state_dict(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(name)
    saved = model.state_dict() if name in PARAMETRIZED else model
    torch.save(saved, tmp_path / "m.pt")
    assert difference(tmp_path / "m.pt", model.state_dict()) == ""


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit", "whisper", "clip"])
def test_so_has_one_of_halves_below_a_key_in_a_stream(name: str, tmp_path: Path) -> None:
    model = make(name).half()
    torch.save({"epoch": 3, "model": model}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert difference(tmp_path / "m.pt", model.state_dict()) == ""
