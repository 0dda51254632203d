"""A family that its JSON alone takes to GGUF and back, through the engine and `verify`. No such model exists."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.errors import UnsupportedError
from converter.inference.engine import compute
from converter.models import families
from converter.models.recognition import recognise
from converter.opening import open_checkpoint
from converter.resources import schemas
from converter.sample import write_sample
from converter.verification.verify import Options, verify

CRANE: dict[str, Any] = {
    "name": "crane",
    "title": "Crane",
    "model_type": "crane",
    "told": True,
    "gguf_name": "crane",
    "prefixes": ["", "crane."],
    "layers": "n_layer",
    "sizes": [
        {"name": "n_layer", "config": ["layers"]},
        {"name": "n_head", "title": "number of heads", "config": ["heads"], "divides": "n_embd"},
        {"name": "n_kv", "config": ["kv_heads"], "value": "n_head", "divides": "n_head"},
        {"name": "n_embd", "config": ["width"]},
        {"name": "n_inner", "config": ["inner"]},
        {"name": "n_positions", "config": ["length"]},
        {"name": "vocab_size", "config": ["vocabulary"]},
        {"name": "head_size", "value": "n_embd/n_head"},
        {"name": "n_narrow", "value": "n_kv*head_size"},
        {"name": "n_qkv", "value": "n_embd+2*n_narrow"},
        {"name": "n_rot", "value": "head_size*turned"},
    ],
    "settings": [
        {"name": "act", "default": "silu"},
        {"name": "eps", "default": 1e-6, "config": ["norm.eps", "eps"]},
        {"name": "turned", "default": 0.5},
        {"name": "base", "default": 100.0},
        {"name": "wings", "default": True},
        {"name": "tie_word_embeddings", "default": False, "compared": False},
    ],
    "activation": {"setting": "act", "names": {"silu": ["silu"], "relu": ["relu"]}},
    "gguf": {"fixed": {"wings": True}},
    "gguf_made": [{"gguf": "blk.{layer}.attn_output.bias", "shape": ["n_embd"], "value": "zeros"}],
    "forward": {
        "norm": "rms",
        "epsilon": "eps",
        "positions": "rotary",
        "rotary": {"size": "n_rot", "base": "base", "pairs": "neighbours"},
    },
    "metadata": [
        {"key": "crane.block_count", "type": "u32", "value": "n_layer"},
        {"key": "crane.head_count", "type": "u32", "value": "n_head"},
        {"key": "crane.head_count_kv", "type": "u32", "value": "n_kv"},
        {"key": "crane.embedding_length", "type": "u32", "value": "n_embd"},
        {"key": "crane.feed_forward_length", "type": "u32", "value": "n_inner"},
        {"key": "crane.context_length", "type": "u32", "value": "n_positions"},
        {"key": "crane.eps", "type": "f32", "value": "eps"},
        {"key": "crane.rot", "type": "u32", "value": "n_rot", "gives": "turned", "back": "value*n_head/n_embd"},
        {"key": "crane.base", "type": "f32", "value": "base"},
        {"key": "crane.wings", "type": "bool", "value": "wings"},
        {"key": "crane.song", "type": "string", "value": "song", "optional": True},
    ],
    "rows": [
        {"name": "embed.weight", "shape": ["vocab_size", "n_embd"], "gguf": "token_embd.weight"},
        {"name": "layers.{layer}.n1.weight", "shape": ["n_embd"], "gguf": "blk.{layer}.attn_norm.weight"},
        {
            "name": "layers.{layer}.qkv.weight",
            "shape": ["n_qkv", "n_embd"],
            "gguf": "blk.{layer}.attn_qkv.weight",
            "gguf_moves": [{"groups": "n_head+2*n_kv", "only": "n_head+n_kv", "first": "n_rot", "one": "2", "other": "n_rot/2"}],
        },
        {"name": "layers.{layer}.o.weight", "shape": ["n_embd", "n_embd"], "gguf": "blk.{layer}.attn_output.weight"},
        {"name": "layers.{layer}.n2.weight", "shape": ["n_embd"], "gguf": "blk.{layer}.ffn_norm.weight"},
        {"name": "layers.{layer}.gate.weight", "shape": ["n_inner", "n_embd"], "gguf": "blk.{layer}.ffn_gate.weight"},
        {"name": "layers.{layer}.up.weight", "shape": ["n_embd", "n_inner"], "gguf": "blk.{layer}.ffn_up.weight", "gguf_transposed": True},
        {"name": "layers.{layer}.up.bias", "shape": ["n_inner"], "gguf": "blk.{layer}.ffn_up.bias", "optional": True, "gguf_zeros": True},
        {"name": "layers.{layer}.down.weight", "shape": ["n_embd", "n_inner"], "gguf": "blk.{layer}.ffn_down.weight"},
        {"name": "norm.weight", "shape": ["n_embd"], "gguf": "output_norm.weight"},
        {"name": "head.weight", "shape": ["vocab_size", "n_embd"], "gguf": "output.weight", "prefixed": False, "also": ["out.weight"], "tied_to": "embed.weight", "optional": True},
    ],
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "crane", "layers": 2, "heads": 4, "kv_heads": 2, "width": 32, "inner": 24, "length": 40, "vocabulary": 19,
    "norm": {"eps": 1e-5}, "act": "silu", "turned": 0.5, "base": 100.0, "wings": True, "tie_word_embeddings": False,
}  # fmt: skip


def state(head: str = "head.weight") -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(3)
    shapes = {"embed.weight": (19, 32), "norm.weight": (32,), head: (19, 32)}
    for layer in range(2):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "n1.weight": (32,), "qkv.weight": (64, 32), "o.weight": (32, 32), "n2.weight": (32,),
                "gate.weight": (24, 32), "up.weight": (32, 24), "down.weight": (32, 24),
            }.items()
        }  # fmt: skip
    found = {name: chance.standard_normal(shape, np.float32) * np.float32(0.3) for name, shape in shapes.items()}
    return {name: array + 1 if array.ndim == 1 else array for name, array in found.items()}


def write(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], **config: Any) -> Path:
    """A folder with a file of safetensors, written by hand."""
    folder.mkdir()
    header, data = {}, b""
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (*families.families(), families.read(CRANE))
    monkeypatch.setattr(families, "families", lambda: iter(both))


@pytest.fixture
def crane(tmp_path: Path) -> Path:
    return write(tmp_path / "crane", state())


def expected(tensors: dict[str, np.ndarray[Any, Any]], tokens: list[int]) -> np.ndarray[Any, Any]:
    """The logits, in float64 and as one formula after the other."""
    w = {name: array.astype(np.float64) for name, array in tensors.items()}

    def rms(x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        normed: np.ndarray[Any, Any] = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name]
        return normed

    n, size, turned = len(tokens), 8, 4
    angle = np.outer(np.arange(n), 100.0 ** -(np.arange(0, turned, 2) / turned))

    def turn(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        one, other, rest = x[:, : turned // 2], x[:, turned // 2 : turned], x[:, turned:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([one * cos - other * sin, other * cos + one * sin, rest], 1)

    x = w["embed.weight"][tokens]
    for layer in range(2):
        p = f"layers.{layer}."
        qkv = rms(x, p + "n1.weight") @ w[p + "qkv.weight"].T
        heads = []
        for head in range(4):
            q = turn(qkv[:, head * size : (head + 1) * size])
            k = turn(qkv[:, 32 + head // 2 * size : 32 + (head // 2 + 1) * size])
            v = qkv[:, 48 + head // 2 * size : 48 + (head // 2 + 1) * size]
            scores = q @ k.T / np.sqrt(size) + np.triu(np.full((n, n), -np.inf), 1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = x + np.concatenate(heads, 1) @ w[p + "o.weight"].T
        y = rms(x, p + "n2.weight")
        gate = y @ w[p + "gate.weight"].T
        x = x + gate / (1 + np.exp(-gate)) * (y @ w[p + "up.weight"]) @ w[p + "down.weight"].T
    logits: np.ndarray[Any, Any] = rms(x, "norm.weight") @ w.get("head.weight", w["embed.weight"]).T
    return logits


def test_what_is_left_out_has_the_default_of_what_config_json_calls_the_family() -> None:
    """Source: configuration_mistral.py and configuration_llama.py of transformers."""
    llama = families.family("llama")

    assert llama.setting("sliding_window", {"model_type": "mistral"}) == 4096
    assert llama.setting("sliding_window", {"model_type": "mistral", "sliding_window": None}) is None
    assert llama.setting("sliding_window", {"model_type": "mistral", "sliding_window": 8}) == 8
    assert llama.setting("sliding_window", {"model_type": "llama"}) is None


def test_the_document_is_as_the_schema_says() -> None:
    jsonschema.validate(CRANE, json.loads((schemas() / "architectures.schema.json").read_bytes()))


def test_the_engine_computes_what_the_formulas_say(crane: Path) -> None:
    tokens = [3, 18, 0, 7, 7, 11, 2]
    model = compute(open_checkpoint(crane))

    np.testing.assert_allclose(model.logits(tokens), expected(state(), tokens), rtol=0, atol=1e-5)
    longer = tokens + model.greedy(tokens, 20)
    assert longer[7:] == expected(state(), longer).argmax(-1)[6:-1].tolist()


def test_gguf_and_back_is_identical_and_computes_the_same(crane: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(crane), tmp_path / "o.gguf", no_tokenizer=True)
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    there = open_checkpoint(tmp_path / "o.gguf")
    qkv = state()["layers.1.qkv.weight"].reshape(8, 8, 32)
    moved = [head[[0, 2, 1, 3, 4, 5, 6, 7]] if number < 6 else head for number, head in enumerate(qkv)]
    np.testing.assert_array_equal(there["blk.1.attn_qkv.weight"].bits(), np.concatenate(moved))
    np.testing.assert_array_equal(there["blk.1.ffn_up.weight"].bits(), state()["layers.1.up.weight"].T)
    assert not there["blk.0.attn_output.bias"].bits().any()
    assert not there["blk.0.ffn_up.bias"].bits().any()
    assert there.metadata["crane.rot"] == 4
    assert there.metadata["crane.wings"] is True
    assert "crane.song" not in there.metadata
    back = open_checkpoint(tmp_path / "back")
    assert {f"crane.{name}" if name != "head.weight" else name for name in state()} == set(back)
    assert (back.config or {})["turned"] == 0.5
    report = verify(open_checkpoint(crane), [tmp_path / "o.gguf", tmp_path / "back"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical", "identical"]
    assert [(output.inference or {})["max_difference"] for output in report.outputs] == [0, 0]


def test_another_name_of_the_head_is_the_same_tensor(tmp_path: Path) -> None:
    other = write(tmp_path / "other", state("out.weight"))
    convert(open_checkpoint(other), tmp_path / "o.gguf", no_tokenizer=True)

    report = verify(open_checkpoint(other), [tmp_path / "o.gguf"], Options(level="inference"))

    assert [output.verdict for output in report.outputs] == ["identical"]
    assert "output.weight" in open_checkpoint(tmp_path / "o.gguf")


def test_a_copy_of_the_file_has_the_same_bytes_of_tensors(crane: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(crane), tmp_path / "o.gguf", no_tokenizer=True, dtype="q8_0")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "copy.gguf", no_tokenizer=True)

    one, two = (open_checkpoint(tmp_path / name) for name in ("o.gguf", "copy.gguf"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor.bits(), two[name].bits())
        assert tensor.storage.encoding == two[name].storage.encoding
    assert {tensor.storage.encoding for tensor in one.values()} == {None, "Q8_0"}


def test_a_changed_value_is_found_under_its_own_name(crane: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(crane), tmp_path / "o.gguf", no_tokenizer=True)
    data = bytearray((tmp_path / "o.gguf").read_bytes())
    storage = open_checkpoint(tmp_path / "o.gguf")["blk.1.attn_qkv.weight"].storage
    data[storage.offset + 32 * 4] ^= 1  # row 1 there is row 2 here
    (tmp_path / "o.gguf").write_bytes(data)

    report = verify(open_checkpoint(crane), [tmp_path / "o.gguf"])

    assert [(wrong.name, wrong.index) for wrong in report.outputs[0].tensors.different] == [
        ("layers.1.qkv.weight", (2, 0))
    ]


def test_zeros_that_are_none_any_more_are_not_left_out(crane: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(crane), tmp_path / "o.gguf", no_tokenizer=True)
    data = bytearray((tmp_path / "o.gguf").read_bytes())
    data[open_checkpoint(tmp_path / "o.gguf")["blk.0.attn_output.bias"].storage.offset + 1] = 1
    (tmp_path / "o.gguf").write_bytes(data)

    assert [output.verdict for output in verify(open_checkpoint(crane), [tmp_path / "o.gguf"]).outputs] == ["different"]


def test_names_and_shapes_alone_are_not_enough(crane: Path, tmp_path: Path) -> None:
    lone = open_checkpoint(crane / "model.safetensors")
    assert recognise(lone, None) is None
    assert recognise(lone, {key: value for key, value in CONFIG.items() if key != "model_type"}) is None
    assert recognise(lone, CONFIG | {"model_type": "stork"}) is None
    assert recognise(lone, CONFIG) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wings": False}, r"`config.json` says `wings` is False: llama.cpp's Crane has True"),
        ({"act": "gelu"}, r"`config.json` has the activation 'gelu': llama.cpp's Crane has only ReLU or SiLU"),
    ],
)
def test_what_llama_cpp_takes_for_granted_is_refused_otherwise(change: Any, message: str, tmp_path: Path) -> None:
    other = write(tmp_path / "other", state(), **change)

    with pytest.raises(UnsupportedError, match=message):
        convert(open_checkpoint(other), tmp_path / "o.gguf", no_tokenizer=True)


@pytest.mark.parametrize(("model", "key"), [("gpt_neox", "hidden_act"), ("tiny", "activation_function")])
def test_gelu_has_one_name_in_a_refusal_however_it_is_computed(model: str, key: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "m", model)
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "quick_gelu"}))

    with pytest.raises(UnsupportedError, match=r"has the activation 'quick_gelu': llama\.cpp's \S+ has only GELU$"):
        convert(open_checkpoint(tmp_path / "m"), tmp_path / "o.gguf")


def test_one_file_of_json_is_all_that_a_family_takes(tmp_path: Path) -> None:
    """Every command of the program, with the file beside those of the other families and nothing else changed."""
    package = schemas().parent
    (tmp_path / "converter").symlink_to(package / "converter")
    (tmp_path / "pyproject.toml").symlink_to(package / "pyproject.toml")
    shutil.copytree(schemas(), tmp_path / "schemas")
    document = CRANE | {"sample": CONFIG | {"vocabulary": 257}, "published": {"dtype": "F16", "shards": 2}}
    (tmp_path / "schemas" / "architectures" / "crane.json").write_text(json.dumps(document))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "converter", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "100"},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("sample", "m", "--model", "crane")
    assert run("inspect", "m").startswith("Crane with 2 layers of 32, complete")
    run("check", "m")
    run("convert", "m", "o.gguf", "--no-tokenizer")
    run("convert", "m", "q.gguf", "--no-tokenizer", "--dtype", "q8_0")
    run("convert", "o.gguf", "back", "--to", "safetensors")
    said = json.loads(run("verify", "m", "o.gguf", "q.gguf", "back", "--level", "inference", "--json"))
    assert [output["verdict"] for output in said["outputs"]] == ["equivalent"] * 3
