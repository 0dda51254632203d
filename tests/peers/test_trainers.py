"""Trainers' checkpoints: `convert` gives weights that `load_state_dict(strict=True)` of the model accepts, and that are equal to its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from converter.api import convert  # noqa: E402
from tests.peers.zoo.checks import define_vision_operators  # noqa: E402
from tests.peers.zoo.trainers import (  # noqa: E402
    LIBRARIES,
    PLAIN,
    Written,
)


@pytest.fixture(scope="module", autouse=True)
def vision_operators() -> None:
    """timm and transformers import torchvision, where it is installed."""
    define_vision_operators()


@pytest.mark.parametrize("name", PLAIN)
def test_a_trainers_checkpoint_gives_the_model(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = PLAIN[name](tmp_path)
    assert_taken(written, tmp_path)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.filterwarnings("ignore")
def test_so_does_that_of_a_librarys_trainer(name: str, tmp_path: Path) -> None:
    for library in (name, *(("accelerate",) if name == "transformers" else ())):
        pytest.importorskip(library, exc_type=ImportError)
    assert_taken(LIBRARIES[name](tmp_path), tmp_path)


def assert_taken(written: Written, folder: Path) -> None:
    """Convert it, and load what was written into the emptied model: one of the names of tied tensors is enough."""
    from safetensors.torch import load_model

    path, model, options = written
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    convert(path, folder / "m.safetensors", **options)
    for value in model.state_dict().values():
        value.zero_()
    load_model(model, folder / "m.safetensors", strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key
