"""Whole models of transformers, one of each family: their names, order, dtypes and bytes are those of `state_dict()`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

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
    whole = name not in PARAMETRIZED

    def saved() -> Any:
        return model if whole else model.state_dict()

    torch.save(saved(), tmp_path / "whole.pt")
    assert difference(tmp_path / "whole.pt", model.state_dict()) == ""

    model.half()
    torch.save({"epoch": 3, "model": saved()}, tmp_path / "half.pt", _use_new_zipfile_serialization=False)
    assert difference(tmp_path / "half.pt", model.state_dict()) == ""
