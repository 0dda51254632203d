"""The forward pass against transformers and llama.cpp, on checkpoints that torch wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from converter.conversion.convert import convert
from converter.errors import FormatError, ModelError, UnsupportedError
from converter.formats.gguf.names import canonical
from converter.inference import evaluate
from converter.inference.decoder import Decoder
from converter.inference.engines import LlamaCpp, Transformers
from converter.models.families import family
from converter.opening import open_checkpoint
from converter.sample import write_sample

ACTIVATIONS = ("erf", "tanh")
CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "activation_function": "gelu", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_inner": 256,
    "n_positions": 200, "vocab_size": 257, "layer_norm_epsilon": 1e-05, "scale_attn_weights": True,
    "tie_word_embeddings": True,
}  # fmt: skip
# A folder of 111M/, 590M/, … as the published ones are: pytorch_model.bin and config.json.
CHECKPOINTS = Path(os.environ.get("CEREBRAS_TOOL_CHECKPOINTS", "none"))
LARGE = [name for name in ("111M", "590M") if (CHECKPOINTS / name).is_dir()]
GELUS = {
    "gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_python_tanh": "tanh",
    "gelu_accurate": "tanh", "gelu_fast": "tanh",
}  # fmt: skip


@pytest.fixture(params=["bare names", "transformer."])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(**CONFIG, bos_token_id=None, eos_token_id=None))
    state = {}
    for name, value in model.transformer.state_dict().items():
        value = torch.randn_like(value) * 0.2
        matrix = value.ndim == 2 and name.startswith("h.")
        state[("" if request.param == "bare names" else "transformer.") + name] = (
            value.t().contiguous().t() if matrix else value
        )
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    write_sample(tmp_path / "sample", "tiny", seed=5)
    return tmp_path / "sample"


def test_every_name_of_an_activation_is_held_against_transformers() -> None:
    known = family("gpt2").activation

    assert known is not None
    assert {name: activation for activation, names in known.names.items() for name in names} == GELUS


@pytest.mark.parametrize("gelu", GELUS)
@pytest.mark.parametrize("count", [1, 2, 60, 200])
def test_logits_are_those_of_transformers(saved: Path, gelu: str, count: int) -> None:
    config = CONFIG | {"activation_function": gelu}
    tokens = np.random.default_rng(count).integers(0, 257, (2, count))
    model = GPT2LMHeadModel.from_pretrained(saved, config=GPT2Config(**config, bos_token_id=None, eos_token_id=None))

    found = Decoder(open_checkpoint(saved), config=config).logits(tokens)

    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(tokens)).logits.numpy()
    assert Decoder(open_checkpoint(saved), config=config).activation == GELUS[gelu]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_greedy_tokens_are_those_of_transformers(saved: Path) -> None:
    state = torch.load(saved / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"lm_head.weight": torch.randn(257, 64)}, saved / "pytorch_model.bin")
    (saved / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": False}))
    model = GPT2LMHeadModel.from_pretrained(saved).eval()
    given = [250, 3, 17, 99]
    prompt = torch.tensor([given])
    options = {"max_new_tokens": 150, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 4:].tolist()

    assert len(set(expected)) > 5
    assert Decoder(open_checkpoint(saved)).greedy(given, 150) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ["pytorch_model.bin", "out.safetensors", "out"])
def test_transformers_is_a_witness(saved: Path, activation: str, output: str, tmp_path: Path) -> None:
    source = open_checkpoint(saved)
    if output.startswith("out"):
        convert(open_checkpoint(saved), tmp_path / output, to="safetensors")
    reference = evaluate.reference(Decoder(source, activation=activation), evaluate.builtin_tokens(257, 200))

    found = evaluate.compare(reference, Transformers(tmp_path / output, CONFIG, activation, family("gpt2")))

    limit = evaluate.threshold(source, open_checkpoint(tmp_path / output), "transformers")
    assert evaluate.shortcomings(found, limit) == []
    assert found.max_difference <= 1e-4
    assert found.greedy_difference is None


def test_a_witness_that_computes_the_other_gelu_is_noticed(saved: Path) -> None:
    source = open_checkpoint(saved)
    reference = evaluate.reference(Decoder(source), [1, 2, 3], 4)

    found = evaluate.compare(reference, Transformers(saved, CONFIG, "tanh", family("gpt2")))

    assert evaluate.shortcomings(found, evaluate.threshold(source, source, "transformers"))


def test_what_transformers_can_not_load_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(FormatError, match="transformers can't load"):
        Transformers(tmp_path / "model.safetensors", CONFIG, "erf", family("gpt2"))
    with pytest.raises(UnsupportedError, match=r"reads .safetensors and .bin files"):
        Transformers(tmp_path / "model.gguf", CONFIG, "erf", family("gpt2"))


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_llama_cpp_is_a_witness_for_the_tanh_gelu(sampled: Path, dtype: str, tmp_path: Path) -> None:
    convert(open_checkpoint(sampled), tmp_path / "tiny.gguf", dtype=dtype)
    source, output = open_checkpoint(sampled), canonical(open_checkpoint(tmp_path / "tiny.gguf"))
    reference = evaluate.reference(Decoder(source, activation="tanh"), evaluate.builtin_tokens(257, 64))

    found = evaluate.compare(reference, LlamaCpp(tmp_path / "tiny.gguf", 257))

    assert evaluate.shortcomings(found, evaluate.threshold(source, output, "llama.cpp")) == []
    assert (found.engine, found.activation, found.other_not_finite) == ("llama.cpp", "tanh", 0)


def test_what_llama_cpp_can_not_run_is_a_sentence(saved: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(saved), tmp_path / "no-tokenizer.gguf", no_tokenizer=True)

    for name in ("no-tokenizer.gguf", "pytorch_model.bin", "absent.gguf"):
        with pytest.raises(FormatError, match=r"llama.cpp can't run .* it needs a GGUF file with its tokenizer"):
            LlamaCpp(tmp_path / name, 257).logits([1, 2])


def test_a_prompt_becomes_the_tokens_of_the_tokenizer_files(tmp_path: Path) -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["the cat sat on the mat", "the dog ate the cat"] * 9, vocab_size=300)
    tokenizer.save_model(str(tmp_path))

    found = evaluate.encode("the cat ate été", tokenizer.to_str, "here", 300, 64)

    assert found == tokenizer.encode("the cat ate été").ids
    with pytest.raises(ModelError, match="the prompt holds no token"):
        evaluate.encode("", tokenizer.to_str, "here", 300, 64)


@pytest.mark.large
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", LARGE)
def test_logits_of_the_published_sizes_are_those_of_transformers(name: str, activation: str) -> None:
    source = open_checkpoint(CHECKPOINTS / name)
    reference = evaluate.reference(Decoder(source, activation=activation), evaluate.builtin_tokens(50257, 2048), 8)

    found = evaluate.compare(reference, Transformers(CHECKPOINTS / name, source.config, activation, family("gpt2")))

    assert found.max_difference <= 1e-4
    assert (found.top1_agreement, found.greedy_difference) == (1, None)
