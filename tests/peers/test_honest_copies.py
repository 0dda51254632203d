"""Copies that other programs made are never called different, and with one flipped bit always are.

Tiny models of five families with tokenizers of their own, saved by transformers, torch, safetensors, tokenizers and gguf,
whole or in shards, in three dtypes: 300 copies in all. HONEST_SEEDS sets how many models of each family there are.
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
from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.verification.verify import verify

SEEDS = range(int(os.environ.get("HONEST_SEEDS", "6")))
TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, how are you today? fine 123",
    "tokenizers split text into pieces and merge them again",
]


# ---- the models ---------------------------------------------------------------------------------------------------


def byte_level(folder: Path) -> int:
    """vocab.json and merges.txt, as GPT-2 has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.model.save(str(folder))
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 64}))
    return int(tokenizer.get_vocab_size())


def word_pieces(folder: Path) -> int:
    """vocab.txt, as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXT * 3, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    return int(tokenizer.get_vocab_size())


def unigram(folder: Path, special: list[str], settings: dict[str, Any]) -> int:
    """tokenizer.json in the form of the model's class."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def characters(folder: Path) -> int:
    """tokenizer.json, as the library writes LLaMA's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)])
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][: len(special)]
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = [start, {"Sequence": {"id": "A", "type_id": 0}}]
    known = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    document["post_processor"] = {"type": "TemplateProcessing", "single": text, "pair": text, "special_tokens": known}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"add_bos_token": True, "add_eos_token": False})
    )
    return int(tokenizer.get_vocab_size())


def gpt2(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = {"n_layer": 1 + seed % 3, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": byte_level(folder)}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **sizes,
            bos_token_id=0,
            eos_token_id=0,
            activation_function=("gelu_new", "gelu")[seed % 2],
            tie_word_embeddings=seed % 4 != 3,
        )
    )


def bert(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1 + seed % 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, max_position_embeddings=64, vocab_size=word_pieces(folder))
    kinds = (transformers.BertForMaskedLM, transformers.BertModel, transformers.BertForSequenceClassification)
    return kinds[seed % 3](config)


def albert(folder: Path, seed: int) -> transformers.PreTrainedModel:
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    size = unigram(folder, special, {"do_lower_case": True, "tokenizer_class": "AlbertTokenizer"})
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.AlbertConfig(**sizes, num_hidden_layers=2, max_position_embeddings=64, vocab_size=size)
    return (transformers.AlbertForMaskedLM, transformers.AlbertModel)[seed % 2](config)


def t5(folder: Path, seed: int) -> transformers.PreTrainedModel:
    tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    size = unigram(folder, ["<pad>", "</s>", "<unk>"], tokens | {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1 + seed % 2, "num_heads": 2, "vocab_size": size}
    gate = ("relu", "gated-gelu")[seed % 2]
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, feed_forward_proj=gate)
    return transformers.T5ForConditionalGeneration(config)


def llama(folder: Path, seed: int) -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1 + seed % 3, "num_attention_heads": 4, "intermediate_size": 32}
    more = {"num_key_value_heads": (1, 2, 4)[seed % 3], "rope_theta": (10000.0, 500000.0)[seed % 2]}
    config = transformers.LlamaConfig(**sizes, **more, vocab_size=characters(folder), tie_word_embeddings=seed % 4 == 1)
    return transformers.LlamaForCausalLM(config)


FAMILIES: dict[str, Callable[[Path, int], transformers.PreTrainedModel]] = {
    "gpt2": gpt2, "bert": bert, "albert": albert, "t5": t5, "llama": llama,
}  # fmt: skip


def old_config(config: Any) -> dict[str, Any]:
    """A config.json as transformers 4 wrote it: only what is no default, with the older names."""
    said: dict[str, Any] = json.loads(config.to_json_string())
    rope = said.pop("rope_parameters", None)
    if rope is not None:
        said["rope_theta"] = rope["rope_theta"]
    said.pop("dtype", None)
    said["vocab_size"] = config.vocab_size
    return said | {"torch_dtype": "float32", "transformers_version": "4.30.0"}


@dataclass
class Made:
    """A source, and the model that it was made from."""

    folder: Path
    model: transformers.PreTrainedModel


def source(family: str, seed: int, folder: Path) -> Made:
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = FAMILIES[family](folder, seed).eval()
    if seed % 2:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder)
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
    "safetensors alone": (safetensors_alone, "identical"),
    "weights only": (weights_only, "identical"),
    "tokenizers": (library_tokenizer, "identical"),
    "written again": (rewritten, "identical"),
}


def flip(output: Path, seed: int) -> None:
    """Flip a bit of an element of the largest tensor in the largest file."""
    files = [output] if output.is_file() else [file for file in output.iterdir() if file.is_file()]
    path = max((file for file in files if file.suffix != ".json"), key=lambda file: file.stat().st_size)
    tensor = max(open_checkpoint(path).values(), key=lambda tensor: tensor.nbytes)
    where = next(iter(tensor.storage.spans()))
    with path.open("r+b") as file:
        # The last byte of an element has its sign and most of its exponent.
        file.seek(where.start + (seed * 97 % tensor.size + 1) * tensor.dtype.itemsize - 1)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_of_other_programs_are_equal_and_damaged_ones_are_not(family: str, seed: int, tmp_path: Path) -> None:
    made = source(family, seed, tmp_path / "source")
    catalogue = open_checkpoint(made.folder)
    for name, (write, verdict) in COPIES.items():
        output = write(made, tmp_path / name)

        honest = verify(catalogue, [output]).outputs[0]
        flip(output, seed)
        damaged = verify(catalogue, [output]).outputs[0]

        wrong = (honest.tensors.different, honest.tensors.missing, honest.tensors.unexpected)
        assert (honest.verdict, wrong) == (verdict, ((), (), ())), name
        assert damaged.weights == "different", name
