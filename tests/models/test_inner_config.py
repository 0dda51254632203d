"""nanoGPT keeps its settings in the checkpoint, under `model_args`: they stand for config.json, which it does not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.models.recognition import recognise
from converter.opening import open_checkpoint
from converter.verification.verify import Options, verify
from tests.build.checkpoints import floats, ordered, view, write_checkpoint

ARGS = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 3, "bias": False, "vocab_size": 5, "dropout": 0.0}
SHAPES = {
    "wte.weight": (5, 4), "wpe.weight": (3, 4), "h.0.ln_1.weight": (4,), "h.0.attn.c_attn.weight": (12, 4),
    "h.0.attn.c_proj.weight": (4, 4), "h.0.ln_2.weight": (4,), "h.0.mlp.c_fc.weight": (16, 4),
    "h.0.mlp.c_proj.weight": (4, 16), "ln_f.weight": (4,),
}  # fmt: skip


def checkpoint(path: Path, args: Any, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Path:
    """A checkpoint as train.py of nanoGPT saves one that torch.compile made, without the optimizer."""
    state, storages = {}, {}
    for number, (name, shape) in enumerate(shapes.items()):
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        stride = (shape[1], 1) if len(shape) > 1 else (1,)
        state[f"_orig_mod.transformer.{name}"] = view(str(number), shape, stride)
        storages[str(number)] = floats(*((number + at) % 7 / 8 for at in range(size)))
    if "wte.weight" in shapes:
        state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    value = {"model": ordered(**state), "model_args": args, "iter_num": 7, "best_val_loss": 1.5}
    return write_checkpoint(path, value, storages)


def test_its_settings_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    catalogue = open_checkpoint(checkpoint(tmp_path / "ckpt.pt", ARGS))

    assert catalogue.config == {"model_type": "nanogpt", **ARGS}
    assert catalogue.origin.notes == ("there is no config.json: the settings come from `model_args`",)
    found = recognise(catalogue, catalogue.config)
    assert found is not None
    assert (found.family.name, found.complete, found.contradictions) == ("nanogpt", True, ())
    assert (found.sizes["n_head"], found.sizes["n_positions"]) == (2, 3)


def test_gguf_needs_no_config_json(tmp_path: Path) -> None:
    source = open_checkpoint(checkpoint(tmp_path / "ckpt.pt", ARGS))

    convert(source, tmp_path / "o.gguf", no_tokenizer=True)

    metadata = open_checkpoint(tmp_path / "o.gguf").metadata
    assert (metadata["gpt2.attention.head_count"], metadata["gpt2.context_length"]) == (2, 3)
    report = verify(source, [tmp_path / "o.gguf"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"]


def test_a_folder_of_safetensors_gets_them_as_config_json(tmp_path: Path) -> None:
    source = open_checkpoint(checkpoint(tmp_path / "ckpt.pt", ARGS))

    convert(source, tmp_path / "out", to="safetensors")

    assert json.loads((tmp_path / "out" / "config.json").read_bytes()) == {"model_type": "nanogpt", **ARGS}
    report = verify(source, [tmp_path / "out"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"]


def test_a_config_json_beside_the_checkpoint_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nanogpt", **ARGS, "n_head": 4}))

    catalogue = open_checkpoint(checkpoint(tmp_path / "ckpt.pt", ARGS))

    assert (catalogue.config or {})["n_head"] == 4
    assert catalogue.origin.notes == ()


@pytest.mark.parametrize(
    ("args", "shapes"),
    [
        (ARGS | {"vocab_size": 6}, SHAPES),
        ({"n_layer": 1}, {"w": (2,)}),
        ({"dim": 4, "n_layers": 1}, {"layers.0.attention.wq.weight": (4, 4), "norm.weight": (4,)}),
        ([1, 2], SHAPES),
        ("n_layer", SHAPES),
    ],
    ids=["other sizes", "no model", "another family's", "a list", "a text"],
)
def test_what_does_not_describe_the_tensors_is_no_configuration(args: Any, shapes: Any, tmp_path: Path) -> None:
    catalogue = open_checkpoint(checkpoint(tmp_path / "ckpt.pt", args, shapes))

    assert catalogue.config is None
    assert "model_args" in [other.name for other in catalogue.others]
