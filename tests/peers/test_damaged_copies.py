"""Copies that other programs made of a damaged model: each kind of damage is found in each, and has its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from converter.opening import open_checkpoint
from converter.verification.verify import verify
from tests.build.damage import CONTENT, MATRICES, STRUCTURE, Model, companions, gguf_name, model, write_source


def state(made: Model) -> dict[str, torch.Tensor]:
    """What transformers loads: matrices as [in, out], and the second name of the embedding if it has one."""
    return {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.from_numpy(array.copy(order="C"))
        for name, array in made.tensors.items()
    }


def by_torch(made: Model, out: Path, *, zipped: bool = True) -> Path:
    out.mkdir()
    companions(made, out)
    torch.save(state(made), out / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return out


def by_torch_of_old(made: Model, out: Path) -> Path:
    return by_torch(made, out, zipped=False)


def by_safetensors(made: Model, out: Path) -> Path:
    out.mkdir()
    companions(made, out)
    save_file(state(made), out / "model.safetensors", metadata={"format": "pt"})
    return out


def by_transformers(made: Model, out: Path) -> Path:
    """save_pretrained in shards, with the damaged config.json."""
    known = {key: value for key, value in made.config.items() if key != "torch_dtype"}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**known)).save_pretrained(
        out, state_dict=state(made), max_shard_size="40KB"
    )
    for name in ("vocab.json", "merges.txt"):
        (out / name).unlink(missing_ok=True)
    config = (out / "config.json").read_text()
    companions(made, out)
    (out / "config.json").write_text(config)
    return out


def by_gguf(made: Model, out: Path) -> Path:
    out.mkdir()
    config = made.config
    writer = gguf.GGUFWriter(out / "x.gguf", "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_string("cerebras_tool.activation_function", config["activation_function"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(made.vocab)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in made.vocab])
    writer.add_token_merges(made.merges)
    writer.add_eos_token_id(config["eos_token_id"])
    for name, array in made.tensors.items():
        turned = name.endswith(MATRICES) and array.ndim == 2
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(array.T if turned else array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out / "x.gguf"


PROGRAMS: dict[str, Callable[[Model, Path], Path]] = {
    "torch": by_torch, "torch as a stream": by_torch_of_old, "safetensors": by_safetensors,
    "transformers": by_transformers, "gguf-py": by_gguf,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(model(), tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_undamaged_copy_is_identical(program: str, source: Path, tmp_path: Path) -> None:
    output = verify(open_checkpoint(source), [PROGRAMS[program](model(), tmp_path / "copy")]).outputs[0]

    assert (output.verdict, output.tensors.different) == ("identical", ())


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_damage_is_named(program: str, source: Path, tmp_path: Path) -> None:
    catalogue, missed = open_checkpoint(source), {}
    for number, (kind, (change, name, what)) in enumerate((CONTENT | STRUCTURE).items()):
        made = copy.deepcopy(model())
        change(made)

        output = verify(catalogue, [PROGRAMS[program](made, tmp_path / str(number))]).outputs[0]

        tensors = output.tensors
        found = {(one.name, one.what) for one in tensors.different}
        found |= {(one, "missing") for one in tensors.missing} | {(one, "unexpected") for one in tensors.unexpected}
        if output.verdict != "different" or not found & {(name, what), (gguf_name(name), what)}:
            missed[kind] = (output.verdict, found)
    assert len(CONTENT | STRUCTURE) == 63
    assert missed == {}
