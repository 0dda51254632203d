"""Copies that other programs made are never called different, and with one flipped bit always are.

Tiny models of seven families with tokenizers of their own, in the forms that lie on the Hub; copies by transformers, torch,
safetensors, numpy, tokenizers and gguf, whole or in shards, in three dtypes: 588 copies in all, each compared with its source, and 532
of them with the source's manifest, too. HONEST_SEEDS sets how many models of each family there are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file, save_model

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import examine, verify
from tests.peers.small_models import FAMILIES

DEFAULT = 4
SEEDS = range(int(os.environ.get("HONEST_SEEDS", str(DEFAULT))))
KINDS = ("gpt2", "bert", "albert", "roberta", "t5", "llama", "whisper")


# ---- the sources --------------------------------------------------------------------------------------------------


def old_config(config: Any) -> dict[str, Any]:
    """A config.json as transformers 4 wrote it: only what is no default, with the older names."""
    said: dict[str, Any] = json.loads(config.to_json_string())
    rope = said.pop("rope_parameters", None)
    if rope is not None:
        said["rope_theta"] = rope["rope_theta"]
    if said.pop("scale_decoder_outputs", True) is False:
        said["tie_word_embeddings"] = False
    said.pop("dtype", None)
    said["vocab_size"] = config.vocab_size
    return said | {"torch_dtype": "float32", "transformers_version": "4.30.0"}


@dataclass
class Made:
    """A source, and the model that it was made from."""

    folder: Path
    model: transformers.PreTrainedModel


def older(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """A state dict with the names and buffers that older versions of transformers had."""
    config = model.config
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
    }
    for name in list(state):
        stem, _, _ = name.rpartition(".")
        if name.endswith("position_embeddings.weight"):
            state[f"{stem.rpartition('.')[0]}.position_ids"] = torch.arange(len(state[name])).expand((1, -1))
            state[f"{stem.rpartition('.')[0]}.token_type_ids"] = torch.zeros((1, len(state[name])), dtype=torch.long)
        if name.endswith("self_attn.q_proj.weight") and config.model_type == "llama":
            wide = config.hidden_size // config.num_attention_heads
            base = config.rope_parameters["rope_theta"]
            state[name.replace("q_proj.weight", "rotary_emb.inv_freq")] = 1.0 / base ** (
                torch.arange(0, wide, 2).float() / wide
            )
        if name.endswith("attn.c_attn.weight"):
            mask = torch.tril(torch.ones((config.n_positions, config.n_positions), dtype=torch.uint8))
            state[name.replace("c_attn.weight", "bias")] = mask.view(1, 1, *mask.shape)
            state[name.replace("c_attn.weight", "masked_bias")] = torch.tensor(-1e4)
        if name == "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight":
            unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
            state[unused] = torch.randn_like(state[name])
    return state


def source(family: str, seed: int, folder: Path) -> Made:
    """Saved by transformers 5, by torch as older versions did, with each tied name a tensor of its own, or by torch."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = FAMILIES[family](folder, seed).eval()
    match seed % 4:
        case 0:
            model.save_pretrained(folder)
        case 1:
            torch.save(older(model), folder / "pytorch_model.bin")
        case 2:
            save_file(
                {name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors"
            )
        case _:
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
    model.config.architectures = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(old_config(model.config)))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return Made(folder, model)


# ---- the copies ---------------------------------------------------------------------------------------------------


def saved(dtype: torch.dtype, shard: str) -> Callable[[Made, Path], Path]:
    def write(made: Made, out: Path) -> Path:
        loaded = type(made.model).from_pretrained(made.folder, dtype=dtype)
        loaded.save_pretrained(out, max_shard_size=shard)
        transformers.AutoTokenizer.from_pretrained(made.folder).save_pretrained(out)
        return out

    return write


def beside(made: Made, out: Path) -> Path:
    """Put everything but the weights of the source into a folder."""
    out.mkdir()
    for file in made.folder.iterdir():
        if file.suffix not in (".bin", ".safetensors"):
            shutil.copy(file, out)
    return out


def torch_folder(made: Made, out: Path) -> Path:
    torch.save(made.model.state_dict(), beside(made, out) / "pytorch_model.bin")
    return out


def torch_alone(made: Made, out: Path) -> Path:
    out.mkdir()
    torch.save({"state_dict": made.model.state_dict(), "epoch": 3}, out / "x.ckpt")
    return out / "x.ckpt"


def torch_legacy(made: Made, out: Path) -> Path:
    torch.save(made.model.state_dict(), beside(made, out) / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return out


def another_order(made: Made, out: Path) -> Path:
    state = dict(reversed(list(made.model.state_dict().items())))
    torch.save(state, beside(made, out) / "pytorch_model.bin", pickle_protocol=4)
    return out


def parallel(made: Made, out: Path) -> Path:
    """As torch.nn.parallel names it."""
    state = {f"module.{name}": tensor for name, tensor in made.model.state_dict().items()}
    torch.save(state, beside(made, out) / "pytorch_model.bin")
    return out


def columns_first(made: Made, out: Path) -> Path:
    """Every matrix lies column by column, and tied names stay one tensor."""
    turned: dict[int, torch.Tensor] = {}
    state = {}
    for name, tensor in made.model.state_dict().items():
        turned.setdefault(tensor.data_ptr(), tensor.t().contiguous().t() if tensor.ndim == 2 else tensor)
        state[name] = turned[tensor.data_ptr()]
    torch.save(state, beside(made, out) / "pytorch_model.bin")
    return out


def once(made: Made) -> dict[str, torch.Tensor]:
    """The state dict without second names."""
    first = {tensor.data_ptr(): name for name, tensor in reversed(list(made.model.state_dict().items()))}
    kept = set(first.values())
    return {name: tensor for name, tensor in made.model.state_dict().items() if name in kept}


def one_storage(made: Made, out: Path) -> Path:
    """All tensors are views of one storage, as in programs that shard a model's parameters."""
    state = once(made)
    together = torch.cat([tensor.reshape(-1).float() for tensor in state.values()])
    starts = np.cumsum([0, *(tensor.numel() for tensor in state.values())])
    views = [together[start : start + tensor.numel()] for start, tensor in zip(starts, state.values(), strict=False)]
    shaped = {name: view.view(tensor.shape) for (name, tensor), view in zip(state.items(), views, strict=True)}
    torch.save(shaped, beside(made, out) / "pytorch_model.bin")
    return out


def module(made: Made, out: Path) -> Path:
    out.mkdir()
    torch.save(made.model, out / "x.pt")
    return out / "x.pt"


def trained(made: Made, out: Path) -> Path:
    out.mkdir()
    optimizer = torch.optim.AdamW(made.model.parameters())
    torch.save({"model": made.model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, out / "x.pt")
    return out / "x.pt"


def arrays(made: Made, out: Path) -> Path:
    out.mkdir()
    np.savez(out / "x.npz", **{name: tensor.numpy() for name, tensor in once(made).items()})
    return out / "x.npz"


def every_default(made: Made, out: Path) -> Path:
    save_file(once(made), beside(made, out) / "model.safetensors", metadata={"format": "pt"})
    transformers.AutoConfig.from_pretrained(made.folder).to_json_file(out / "config.json", use_diff=False)
    return out


def no_default(made: Made, out: Path) -> Path:
    save_file(once(made), beside(made, out) / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(made.folder)
    (out / "config.json").write_text(json.dumps(config.to_diff_dict(), indent=4, sort_keys=True))
    return out


def sorted_tokenizer(made: Made, out: Path) -> Path:
    """tokenizer.json alone, with its keys in order and in ASCII."""
    save_file(once(made), beside(made, out) / "model.safetensors")
    fast = transformers.AutoTokenizer.from_pretrained(made.folder)
    for name in ("vocab.json", "merges.txt", "vocab.txt"):
        (out / name).unlink(missing_ok=True)
    (out / "tokenizer.json").write_text(
        json.dumps(json.loads(fast.backend_tokenizer.to_str()), indent=4, sort_keys=True)
    )
    return out


def safetensors_alone(made: Made, out: Path) -> Path:
    out.mkdir()
    save_model(made.model, str(out / "x.safetensors"))
    return out / "x.safetensors"


def weights_only(made: Made, out: Path) -> Path:
    made.model.save_pretrained(out)
    for file in out.glob("*.json"):
        file.unlink()
    return out


def library_tokenizer(made: Made, out: Path) -> Path:
    """tokenizer.json as the library writes it, beside the source's config.json."""
    made.model.save_pretrained(out)
    shutil.copy(made.folder / "config.json", out)
    fast = transformers.AutoTokenizer.from_pretrained(made.folder)
    fast.backend_tokenizer.save(str(out / "tokenizer.json"))
    return out


def rewritten(made: Made, out: Path) -> Path:
    """For GPT-2 a GGUF that gguf-py wrote again; for the others transformers' own copy of a copy."""
    if made.model.config.model_type != "gpt2":
        return saved(torch.float32, "5GB")(
            Made(saved(torch.float32, "30KB")(made, out / "first"), made.model), out / "again"
        )
    out.mkdir()
    convert(open_checkpoint(made.folder), out / "first.gguf")
    reader = gguf.GGUFReader(out / "first.gguf")
    writer = gguf.GGUFWriter(out / "again.gguf", "gpt2")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out / "again.gguf"


COPIES: dict[str, tuple[Callable[[Made, Path], Path], str]] = {
    "transformers": (saved(torch.float32, "5GB"), "identical"),
    "transformers in shards": (saved(torch.float32, "20KB"), "identical"),
    "transformers BF16": (saved(torch.bfloat16, "5GB"), "equivalent"),
    "transformers F16 in shards": (saved(torch.float16, "20KB"), "equivalent"),
    "torch": (torch_folder, "identical"),
    "torch alone": (torch_alone, "identical"),
    "torch legacy": (torch_legacy, "identical"),
    "torch in another order": (another_order, "identical"),
    "torch in parallel": (parallel, "identical"),
    "torch column by column": (columns_first, "identical"),
    "torch in one storage": (one_storage, "identical"),
    "a whole module": (module, "identical"),
    "beside an optimizer": (trained, "identical"),
    "numpy": (arrays, "identical"),
    "config.json with every default": (every_default, "identical"),
    "config.json without defaults": (no_default, "identical"),
    "tokenizer.json in order": (sorted_tokenizer, "identical"),
    "safetensors alone": (safetensors_alone, "identical"),
    "weights only": (weights_only, "identical"),
    "tokenizers": (library_tokenizer, "identical"),
    "written again": (rewritten, "identical"),
}


WEIGHTS = (".bin", ".safetensors", ".pt", ".ckpt", ".npz", ".gguf")


def flip(output: Path, seed: int) -> None:
    """Flip a bit of an element of the largest tensor in the largest file of weights."""
    files = [output] if output.is_file() else [file for file in output.iterdir() if file.suffix in WEIGHTS]
    path = max(files, key=lambda file: file.stat().st_size)
    tensor = max(open_checkpoint(path).values(), key=lambda tensor: tensor.nbytes)
    where = next(iter(tensor.storage.spans()))
    with path.open("r+b") as file:
        # The last byte of an element has its sign and most of its exponent.
        file.seek(where.start + (tensor.offset + seed * 97 % tensor.size + 1) * tensor.dtype.itemsize - 1)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_a_default_run_compares_588_copies_and_532_of_them_with_a_manifest() -> None:
    models = len(KINDS) * DEFAULT
    identical = [verdict for _, verdict in COPIES.values() if verdict == "identical"]

    assert (models * len(COPIES), models * len(identical)) == (588, 532)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", KINDS)
def test_copies_of_other_programs_are_equal_and_damaged_ones_are_not(family: str, seed: int, tmp_path: Path) -> None:
    made = source(family, seed, tmp_path / "source")
    catalogue = open_checkpoint(made.folder)
    manifest = tmp_path / "golden.json"
    manifest.write_text(examine(expect(catalogue), [made.folder]).golden().text())
    for name, (write, verdict) in COPIES.items():
        output = write(made, tmp_path / name)

        honest = [verify(catalogue, [output]).outputs[0]]
        if verdict == "identical":  # a manifest has no digests of other dtypes
            honest.append(verify(load(manifest), [output]).outputs[0])
        flip(output, seed)
        damaged = verify(catalogue, [output]).outputs[0]

        for found in honest:
            wrong = (found.tensors.different, found.tensors.missing, found.tensors.unexpected)
            assert (found.verdict, wrong) == (verdict, ((), (), ())), name
        assert damaged.weights == "different", name
