"""Copies in F16 and BF16 of models that multiply roundings: equivalent, and not if something else is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from converter.conversion.convert import convert  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.verification.verify import Options, verify  # noqa: E402
from tests.peers.test_config_keys import made  # noqa: E402
from tests.peers.test_decoders import hf, save  # noqa: E402

FAMILIES = {
    "llama": ("Llama", hf(2, num_hidden_layers=6, num_key_value_heads=2)),
    "mistral": ("Mistral", hf(2, num_hidden_layers=6, num_key_value_heads=2, sliding_window=None)),
    "qwen2": ("Qwen2", hf(2, num_hidden_layers=6, num_key_value_heads=2)),
    "gpt_neox": ("GPTNeoX", hf(2, num_hidden_layers=6)),
}


def steep(folder: Path, family: str) -> torch.nn.Module:
    """A model of 256 whose matrices have a standard deviation of 0.2: its scores are in the tens."""
    name, config = FAMILIES[family]
    model = made(folder, name, config, {})
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn_like(value) * 0.2)
    save(model, folder, 1)
    return model


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_a_steep_model_is_equivalent_and_a_damaged_one_is_not(
    family: str, dtype: str, tmp_path: Path
) -> None:
    model = steep(tmp_path / "source", family)
    source = open_checkpoint(tmp_path / "source")
    convert(source, tmp_path / "good.gguf", dtype=dtype)
    convert(source, tmp_path / "good", to="safetensors", dtype={"f16": "float16", "bf16": "bfloat16"}[dtype])

    report = verify(source, [tmp_path / "good.gguf", tmp_path / "good"], Options(level="inference"))

    assert [output.verdict for output in report.outputs] == ["equivalent"] * 2
    assert all((output.inference or {})["shortcomings"] == [] for output in report.outputs)

    (tmp_path / "bad").mkdir()
    with torch.no_grad():
        first = next(value for name, value in model.named_parameters() if "layers.0" in name and value.ndim > 1)
        first.copy_(first.flip(0))
    save(model, tmp_path / "bad", 1)
    convert(open_checkpoint(tmp_path / "bad"), tmp_path / "bad.gguf", dtype=dtype, tokenizer=tmp_path / "source")
    worse = verify(source, [tmp_path / "bad.gguf"], Options(level="inference"))
    assert (worse.outputs[0].inference or {})["shortcomings"] != []
