"""From a folder that transformers saved to llama.cpp's server, and back, with everything that the folder says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from converter.conversion.convert import convert
from converter.errors import ManifestError
from converter.models.tokenizers import library
from converter.opening import open_checkpoint
from converter.verification.verify import Options, verify
from tests.peers.llama import Model
from tests.peers.texts import texts

END, PAD, TOOL = "<|endoftext|>", "<|pad|>", "<tool_call>"
PROMPT = "The tokenizer <tool_call> don't"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
# llama.cpp's server aborts when it refuses a file, so it runs in a process of its own.
SERVE = """
import json, sys, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.n_ctx, settings.n_gpu_layers, settings.warmup = sys.argv[1], 64, 0, False
server = xllamacpp.Server(settings)
request = {"prompt": sys.argv[2], "n_predict": 8, "temperature": 0.0, "return_tokens": True, "ignore_eos": True, "verbose": True}
print(json.dumps(server.handle_completions(request)["__verbose"]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(200, 5), trainer)
    tokenizer.add_tokens([TOOL])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    torch.manual_seed(4)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=64, n_inner=128, n_positions=64, vocab_size=len(fast),
        bos_token_id=0, eos_token_id=0, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def gguf(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    convert(open_checkpoint(folder), path, dtype="f32")
    return path


def test_the_server_takes_text_and_gives_the_text_of_transformers(folder: Path, gguf: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = ids
        for _ in range(8):
            scores = model(wanted).logits[:, -1]
            scores[:, 0] = -torch.inf  # the server doesn't end either
            wanted = torch.cat([wanted, scores.argmax(-1, keepdim=True)], 1)
    expected = wanted[0, ids.shape[1] :].tolist()

    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(gguf), PROMPT], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr[-400:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["tokens_evaluated"] == ids.shape[1]
    assert answer["tokens"] == expected
    assert answer["content"] == tokenizer.decode(expected)


@pytest.mark.parametrize("first", ["folder", "gguf"])
def test_a_prompt_is_split_by_the_tokenizer_of_the_source(folder: Path, gguf: Path, first: str) -> None:
    source, copy = (folder, gguf) if first == "folder" else (gguf, folder)
    options = Options(level="inference", prompt=PROMPT)

    output = verify(open_checkpoint(source), [copy], options).outputs[0]

    assert output.inference is not None
    assert output.inference["tokens"] == len(AutoTokenizer.from_pretrained(folder)(PROMPT).input_ids)


def test_a_tokenizer_that_the_library_can_not_use_is_a_sentence() -> None:
    with pytest.raises(ManifestError, match="`tokenizers` can't split a text with `x`: "):
        library.split("{}", "a", "x")


def test_gguf_new_metadata_changes_it(gguf: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("gguf-new-metadata")
    target = tmp_path / "y.gguf"

    done = subprocess.run(
        [program, "--general-name", "Another", gguf, target], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr[-400:]
    changed = open_checkpoint(target)
    assert changed.metadata["general.name"] == "Another"
    assert verify(open_checkpoint(gguf), [target]).outputs[0].verdict == "identical"
    loaded = Model(target)
    assert loaded.tokens(PROMPT, special=True) == Model(gguf).tokens(PROMPT, special=True)
    loaded.close()


def test_the_folder_that_comes_back_is_the_first(folder: Path, gguf: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(gguf), tmp_path / "back", to="safetensors")

    first, again = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "back"))
    made = texts(1000, 9, (END, PAD, TOOL))
    assert again(made)["input_ids"] == first(made)["input_ids"]
    assert again.get_vocab() == first.get_vocab()
    assert again.special_tokens_map == first.special_tokens_map
    assert again.chat_template == first.chat_template == TEMPLATE
    one, other = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, tmp_path / "back"))
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_the_server_draws_as_generation_config_says(folder: Path, tmp_path: Path) -> None:
    asked = {"temperature": 0.35, "top_k": 7, "top_p": 0.6, "min_p": 0.02}
    saved = GenerationConfig(**asked, do_sample=True, repetition_penalty=1.25, eos_token_id=[0, 5], bos_token_id=0)
    shutil.copytree(folder, tmp_path / "model")
    saved.save_pretrained(tmp_path / "model")
    request = SERVE.replace(', "temperature": 0.0', "").replace(', "ignore_eos": True', "")
    convert(open_checkpoint(tmp_path / "model"), tmp_path / "x.gguf")
    convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "back", to="safetensors")

    done = subprocess.run(
        [sys.executable, "-c", request, str(tmp_path / "x.gguf"), "a"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    drawn = json.loads(done.stdout.splitlines()[-1])["generation_settings"]
    back = GenerationConfig.from_pretrained(tmp_path / "back")

    assert {name: drawn[name] for name in asked} == pytest.approx(asked)
    assert drawn["repeat_penalty"] == pytest.approx(1.25)
    assert 5 in Model(tmp_path / "x.gguf").ends()
    for name in (*asked, "do_sample", "repetition_penalty", "eos_token_id", "bos_token_id"):
        assert getattr(back, name) == getattr(saved, name), name
