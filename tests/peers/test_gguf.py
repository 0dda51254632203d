"""GGUF against gguf-py (readers and quantisers) and llama.cpp (does it load, what does it compute, how does it split text)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from converter.formats.gguf.blocks import KERNELS
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME, WEIGHED_ONLY
from converter.formats.gguf.metadata import Array
from converter.formats.gguf.names import canonical
from converter.formats.gguf.quantising import quantised
from converter.formats.records import GGUF
from converter.io.publish import Plan, publish
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build import plans
from tests.peers.llama import Model

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_inner": 256, "n_positions": 64}
# What can be made without an importance matrix.
MADE = [name for name in GGUF.dtypes if name.upper() not in WEIGHED_ONLY]


def encode(values: np.ndarray, name: str) -> np.ndarray:
    tiles = [np.ascontiguousarray(values).view("u1").reshape(-1).data]
    return np.concatenate([np.frombuffer(bytes(piece), "u1") for piece in quantised(iter(tiles), BY_NAME[name], "w")])


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((64, 1024)).astype("f4")
    sizes = np.exp(rng.uniform(-40, 8, (64, 1024))).astype("f4")
    halves = (rng.integers(-127, 128, (64, 1024)) / 2).astype("f4")
    halves[:, ::32] = 63.5
    return {
        "normal": normal,
        "of all sizes": sizes * np.sign(normal),
        "ties": rng.integers(-3, 4, (64, 1024)).astype("f4"),
        "halves": halves,
        "one sign": np.abs(normal),
        "zeros": np.zeros((2, 64), "f4"),
    }


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", arrays())
def test_blocks_equal_those_of_gguf_py(name: str, kind: str) -> None:
    values = arrays()[kind]
    expected = quants.quantize(values, GGMLQuantizationType[name])

    assert encode(values, name).tobytes() == expected.tobytes()
    decoded = np.empty(values.size, "<f4")
    dequantise(expected.reshape(-1), BY_NAME[name], decoded)
    assert decoded.tobytes() == quants.dequantize(expected, GGMLQuantizationType[name]).tobytes()


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.lists(st.floats(-65504, 65504, width=16), min_size=64, max_size=64))
@settings(max_examples=300, deadline=None)
def test_any_block_equals_that_of_gguf_py(name: str, data: list[float]) -> None:
    # + 0: if zeros differ in sign, ggml takes the first, and gguf-py whatever the processor's minimum returns
    values = np.array(data, "f4").reshape(2, 32) + np.float32(0)

    assert encode(values, name).tobytes() == quants.quantize(values, GGMLQuantizationType[name]).tobytes()


def model(folder: Path, vocab_size: int, **changes: Any) -> tuple[Path, GPT2LMHeadModel]:
    """A model as transformers makes it, with weights as large as trained ones, saved by torch with its config.json."""
    torch.manual_seed(11)
    config = GPT2Config(
        vocab_size=vocab_size, activation_function="gelu_new", bos_token_id=0, eos_token_id=0, **SIZES, **changes
    )
    lm = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    config.save_pretrained(folder)
    torch.save(lm.state_dict(), folder / "pytorch_model.bin")
    return folder, lm


def convert(folder: Path, target: Path, encoding: str, **options: Any) -> Path:
    source = open_checkpoint(folder)
    conversion = plans.gguf(source, config=source.config, encoding=encoding, **options)
    publish(Plan(conversion.files, folder=False), target)
    return target


def logits(path: Path, tokens: list[int]) -> np.ndarray:
    loaded = Model(path)
    try:
        return loaded.logits(tokens)
    finally:
        loaded.close()


TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 257, 64)]


@pytest.mark.parametrize(
    ("encoding", "bound"),
    [("f32", 5e-3), ("keep", 5e-3), ("f16", 2e-2), ("bf16", 0.15), ("q8_0", 0.15), ("q5_1", 1), ("q4_0", 2)],
)
@pytest.mark.parametrize("tied", [True, False])
def test_llama_cpp_computes_what_transformers_does(tmp_path: Path, encoding: str, bound: float, tied: bool) -> None:
    folder, lm = model(tmp_path, 257, tie_word_embeddings=tied)
    with torch.no_grad():
        expected = lm(torch.tensor([TOKENS])).logits[0].numpy()

    found = logits(convert(folder, tmp_path / "x.gguf", encoding), TOKENS)

    assert np.abs(found - expected).max() < bound, np.abs(expected).max()


@pytest.mark.parametrize("name", ["tiny", "tiny-13B"])
@pytest.mark.parametrize("encoding", MADE)
def test_llama_cpp_loads_samples_with_a_tokenizer_that_has_no_merges(tmp_path: Path, name: str, encoding: str) -> None:
    write_sample(tmp_path / "s", name)
    beside = tmp_path / "s" if name == "tiny" else None

    loaded = Model(convert(tmp_path / "s", tmp_path / "x.gguf", encoding, tokenizer=beside))

    assert np.isfinite(loaded.logits(TOKENS)).all()
    if beside:
        assert loaded.tokens("a b") == [64, 220, 65]  # GPT-2's own ids of these bytes
    loaded.close()


def test_llama_cpp_finds_the_parts_of_a_split_file(tmp_path: Path) -> None:
    folder, _ = model(tmp_path / "s", 257)
    source = open_checkpoint(folder)
    conversion = plans.gguf(source, config=source.config, encoding="f32", path="x.gguf", max_shard_size=200_000)
    publish(Plan(conversion.files, folder=True), tmp_path / "parts")

    assert len(conversion.files) > 2
    whole = logits(convert(folder, tmp_path / "x.gguf", "f32"), TOKENS)
    assert np.array_equal(logits(tmp_path / "parts" / conversion.files[0].path, TOKENS), whole)


@pytest.mark.parametrize("encoding", MADE)
def test_gguf_py_lists_the_same(tmp_path: Path, encoding: str) -> None:
    write_sample(tmp_path / "s", "tiny")
    path = convert(tmp_path / "s", tmp_path / "x.gguf", encoding, tokenizer=tmp_path / "s")
    ours, theirs = open_checkpoint(path), GGUFReader(path)

    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    metadata = {name: list(value) if isinstance(value, Array) else value for name, value in ours.metadata.items()}
    assert metadata == fields
    assert [tensor.name for tensor in theirs.tensors] == list(ours)
    for tensor in theirs.tensors:
        mine = ours[tensor.name]
        assert tuple(reversed(tensor.shape.tolist())) == mine.shape
        assert tensor.tensor_type.name == (mine.storage.encoding or mine.dtype.name)
        decoded = quants.dequantize(tensor.data, tensor.tensor_type).reshape(mine.shape)
        assert decoded.tobytes() == np.asarray(widened(mine.bits(), mine.dtype.name)).tobytes()


def widened(array: np.ndarray, dtype: str) -> np.ndarray:
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array.astype("<f4")


def test_what_gguf_py_writes_is_read(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "gpt2")
    writer.add_uint32("n", 7)
    writer.add_array("words", ["a", "", "ü"])
    writer.add_array("numbers", [1.5, -2.0])
    writer.add_bool("yes", True)
    writer.add_custom_alignment(128)
    values = np.random.default_rng(1).standard_normal((3, 64)).astype("f4")
    writer.add_tensor("plain", values)
    writer.add_tensor("blocks", quants.quantize(values, GGMLQuantizationType.Q5_1), raw_dtype=GGMLQuantizationType.Q5_1)
    writer.add_tensor("k", np.zeros((1, 144), "u1"), raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = open_checkpoint(tmp_path / "x.gguf")

    assert found.metadata["general.alignment"] == 128
    assert list(found.metadata["words"]) == ["a", "", "ü"]
    assert list(found.metadata["numbers"]) == [1.5, -2.0]
    assert np.array_equal(found["plain"].bits(), values)
    decoded = quants.dequantize(quants.quantize(values, GGMLQuantizationType.Q5_1), GGMLQuantizationType.Q5_1)
    assert np.array_equal(found["blocks"].bits(), decoded)
    assert found["k"].storage.encoding == "Q4_K"
    assert not found["k"].bits().any()


def texts() -> list[str]:
    rng = random.Random(3)
    words = [
        "the",
        "The",
        "don't",
        "we'll",
        "I'VE",
        "naïve",
        "Zürich",
        "日本語",
        "Привет",
        "123",
        "3.14",
        "x=y+1",
        "🙂",
        "https://a.b/c?d=e",
    ]
    gaps = [" ", "  ", "\n", "\n\n", "\t", " \n ", "...", ", ", "-", "", "\u00a0", "   \n"]
    made = ["".join(rng.choice(words) + rng.choice(gaps) for _ in range(rng.randint(1, 12))) for _ in range(88)]
    return [*made, "", " ", "   ", "\n", "a", " a", "a ", "ÿþ", "\x00\x01", "'s 's", "e\u0301", "<|endoftext|>"]


def test_the_tokenizer_splits_as_tokenizers_does(tmp_path: Path) -> None:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts() * 3, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save_model(str(tmp_path))
    reference = ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    folder, _ = model(tmp_path, reference.get_vocab_size() + 5)

    loaded = Model(convert(folder, tmp_path / "x.gguf", "f32", tokenizer=tmp_path))

    assert len(texts()) == 100
    assert [loaded.tokens(text) for text in texts()] == [reference.encode(text).ids for text in texts()]
    assert loaded.tokens("a<|endoftext|>", special=True)[-1] == reference.token_to_id("<|endoftext|>")
    loaded.close()


@pytest.mark.parametrize("encoding", ["f32", "q8_0"])
def test_transformers_runs_what_came_back(tmp_path: Path, encoding: str) -> None:
    folder, lm = model(tmp_path, 257)
    back = canonical(open_checkpoint(convert(folder, tmp_path / "x.gguf", encoding)))
    again = GPT2LMHeadModel(GPT2Config(**{k: v for k, v in (back.config or {}).items() if k != "model_type"})).eval()

    state = {name: torch.from_numpy(tensor.bits().copy()) for name, tensor in back.items()}
    missing = again.load_state_dict(state, strict=False)

    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], [])
    with torch.no_grad():
        expected, found = (which(torch.tensor([TOKENS])).logits for which in (lm, again))
    assert (found - expected).abs().max() <= (0 if encoding == "f32" else 0.15)
