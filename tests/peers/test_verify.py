"""Copies that other programs made, and other engines as witnesses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import Options, verify


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def test_what_transformers_saves_is_identical_to_what_torch_saved(tmp_path: Path) -> None:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 32, "vocab_size": 99}
    model = GPT2LMHeadModel(GPT2Config(**sizes, activation_function="gelu"))
    (tmp_path / "source").mkdir()
    torch.save(model.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    model.save_pretrained(tmp_path / "saved")

    output = verify(open_checkpoint(tmp_path / "source"), [tmp_path / "saved"]).outputs[0]

    assert (output.verdict, output.tensors.different) == ("identical", ())


@pytest.mark.parametrize(("engine", "name"), [("transformers", "x.safetensors"), ("llama.cpp", "x.gguf")])
@pytest.mark.parametrize("dtype", ["keep", "f16"])
def test_other_engines_compute_the_copy_as_numpy_does_the_source(
    engine: str, name: str, dtype: str, tiny: Path, tmp_path: Path
) -> None:
    convert(open_checkpoint(tiny), tmp_path / name, dtype=dtype)

    options = Options(level="inference", engine=engine)
    output = verify(open_checkpoint(tiny), [tmp_path / name], options).outputs[0]

    assert output.verdict == ("identical" if dtype == "keep" else "equivalent"), output.tensors.different
    assert output.inference is not None
    assert output.inference["engine"] == engine
    assert output.inference["greedy_difference"] is None
