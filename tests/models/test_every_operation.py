"""A family that uses every operation of a row, from its JSON alone: to GGUF, back again bit for bit, and through the engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.errors import ConverterError, UnsupportedError
from converter.inference.engine import compute
from converter.models import families
from converter.opening import open_checkpoint
from converter.resources import schemas
from converter.verification.verify import Options, verify
from tests.models.test_whole_families import write

# Positions begin at the third row, embeddings are stored a quarter as large as they are used, and the tied head has a
# width of its own. No such model exists.
EGRET: dict[str, Any] = {
    "name": "egret", "title": "Egret", "model_type": "egret", "told": True, "gguf_name": "egret",
    "prefixes": ["", "egret."], "layers": "n_layer",
    "sizes": [
        {"name": "n_layer", "config": ["layers"]},
        {"name": "n_head", "config": ["heads"], "divides": "n_embd"},
        {"name": "n_embd", "config": ["width"]},
        {"name": "n_inner", "config": ["inner"]},
        {"name": "n_positions", "config": ["length"]},
        {"name": "vocab_size", "config": ["vocabulary"]},
        {"name": "n_qkv", "value": "3*n_embd"},
        {"name": "n_rows", "value": "n_positions+2"},
        {"name": "head_size", "value": "n_embd/n_head"},
    ],
    "settings": [
        {"name": "act", "default": "relu2"},
        {"name": "eps", "default": 1e-5},
        {"name": "larger", "default": 4.0},
        {"name": "alpha", "default": 0.5},
        {"name": "tie_word_embeddings", "default": True, "compared": False},
    ],
    "activation": {"setting": "act", "names": {"relu2": ["relu2"]}},
    "gguf": {},
    "gguf_made": [{"gguf": "blk.{layer}.attn_output.bias", "shape": ["n_embd"], "value": "zeros"}],
    "forward": {"norm": "layer", "epsilon": "eps", "positions": "learned", "scale": "1"},
    "metadata": [
        {"key": "egret.block_count", "type": "u32", "value": "n_layer"},
        {"key": "egret.head_count", "type": "u32", "value": "n_head"},
        {"key": "egret.embedding_length", "type": "u32", "value": "n_embd"},
        {"key": "egret.feed_forward_length", "type": "u32", "value": "n_inner"},
        {"key": "egret.context_length", "type": "u32", "value": "n_positions"},
        {"key": "egret.larger", "type": "f32", "value": "larger"},
        {"key": "egret.alpha", "type": "f32", "value": "alpha"},
        {"key": "egret.eps", "type": "f32", "value": "eps"},
    ],
    "rows": [
        # scale
        {"name": "words.weight", "also": ["shared.weight"], "shape": ["vocab_size", "n_embd"], "gguf": "token_embd.weight", "gguf_scale": {"by": "larger"}},
        # rows from, and scale
        {"name": "places.weight", "shape": ["n_rows", "n_embd"], "gguf": "position_embd.weight", "gguf_f32": True, "gguf_rows_from": "2", "gguf_scale": {"by": "larger"}},
        {"name": "layers.{layer}.n1.weight", "shape": ["n_embd"], "gguf": "blk.{layer}.attn_norm.weight"},
        {"name": "layers.{layer}.n1.bias", "shape": ["n_embd"], "gguf": "blk.{layer}.attn_norm.bias"},
        # drop
        {"name": "layers.{layer}.mask", "shape": ["n_positions", "n_positions"], "kind": "buffer", "value": "causal"},
        # transpose, heads, an order of thirds (k, q, v here), and a scale of the queries alone
        {"name": "layers.{layer}.kqv.weight", "shape": ["n_embd", "n_qkv"], "gguf": "blk.{layer}.attn_qkv.weight", "gguf_transposed": True, "gguf_moves": [{"order": [1, 0, 2]}, {"groups": "3", "only": "2", "one": "n_head", "other": "head_size"}], "gguf_scale": {"by": "1/larger", "rows": "n_embd"}},
        {"name": "layers.{layer}.kqv.bias", "shape": ["n_qkv"], "gguf": "blk.{layer}.attn_qkv.bias", "gguf_moves": [{"order": [1, 0, 2]}, {"groups": "3", "only": "2", "one": "n_head", "other": "head_size"}], "gguf_scale": {"by": "1/larger", "rows": "n_embd"}},
        {"name": "layers.{layer}.o.weight", "shape": ["n_embd", "n_embd"], "gguf": "blk.{layer}.attn_output.weight"},
        {"name": "layers.{layer}.n2.weight", "shape": ["n_embd"], "gguf": "blk.{layer}.ffn_norm.weight"},
        {"name": "layers.{layer}.n2.bias", "shape": ["n_embd"], "gguf": "blk.{layer}.ffn_norm.bias"},
        {"name": "layers.{layer}.up.weight", "shape": ["n_inner", "n_embd"], "gguf": "blk.{layer}.ffn_up.weight"},
        # zeros
        {"name": "layers.{layer}.up.bias", "shape": ["n_inner"], "gguf": "blk.{layer}.ffn_up.bias", "optional": True, "gguf_zeros": True},
        {"name": "layers.{layer}.down.weight", "shape": ["n_embd", "n_inner"], "gguf": "blk.{layer}.ffn_down.weight"},
        {"name": "norm.weight", "shape": ["n_embd"], "gguf": "output_norm.weight"},
        {"name": "norm.bias", "shape": ["n_embd"], "gguf": "output_norm.bias"},
        # fold: the head is the embedding times another number
        {"name": "head.weight", "shape": ["vocab_size", "n_embd"], "gguf": "output.weight", "prefixed": False, "tied_to": "words.weight", "optional": True, "gguf_untied": True, "gguf_scale": {"by": "alpha"}},
    ],
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "egret", "layers": 2, "heads": 2, "width": 8, "inner": 12, "length": 10, "vocabulary": 11,
    "act": "relu2", "eps": 1e-5, "larger": 4.0, "alpha": 0.5, "tie_word_embeddings": True,
}  # fmt: skip
Arrays = dict[str, np.ndarray[Any, Any]]


def state(*, first: str = "words.weight", head: bool = False) -> Arrays:
    chance = np.random.default_rng(4)
    shapes = {first: (11, 8), "places.weight": (12, 8), "norm.weight": (8,), "norm.bias": (8,)}
    for layer in range(2):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "n1.weight": (8,), "n1.bias": (8,), "kqv.weight": (8, 24), "kqv.bias": (24,), "o.weight": (8, 8),
                "n2.weight": (8,), "n2.bias": (8,), "up.weight": (12, 8), "down.weight": (8, 12),
            }.items()
        }  # fmt: skip
    if head:
        shapes["head.weight"] = (11, 8)
    return {name: chance.standard_normal(shape, np.float32) * np.float32(0.6) for name, shape in shapes.items()}


def masked(tensors: Arrays) -> Arrays:
    return tensors | {f"layers.{layer}.mask": np.tri(10, dtype=np.float32) for layer in range(2)}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    every = (*families.families(), families.read(EGRET))
    monkeypatch.setattr(families, "families", lambda: iter(every))


@pytest.fixture
def egret(tmp_path: Path) -> Path:
    return write(tmp_path / "egret", masked(state()), **CONFIG)


def expected(w32: Arrays, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The logits in float64, by the model's own tensors."""
    w = {name: array.astype(np.float64) for name, array in w32.items()}
    n = len(tokens)

    def norm(x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        centred = x - x.mean(-1, keepdims=True)
        found: np.ndarray[Any, Any] = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return found * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = 4 * (w["words.weight"][tokens] + w["places.weight"][2 : 2 + n])
    for layer in range(2):
        p = f"layers.{layer}."
        k, q, v = np.split(norm(x, p + "n1") @ w[p + "kqv.weight"] + w[p + "kqv.bias"], 3, axis=1)
        heads = []
        for head in range(2):
            # The elements of queries and keys lie head by head within each of the 4 elements of a head.
            own = list(range(head * 4, head * 4 + 4))
            order = np.arange(8).reshape(2, 4).T.reshape(-1)[own]
            scores = q[:, order] @ k[:, order].T / 4 + np.triu(np.full((n, n), -np.inf), 1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, own])
        x = x + np.concatenate(heads, 1) @ w[p + "o.weight"].T
        x = x + np.maximum(norm(x, p + "n2") @ w[p + "up.weight"].T, 0) ** 2 @ w[p + "down.weight"].T
    found: np.ndarray[Any, Any] = norm(x, "norm") @ (0.5 * w.get("head.weight", w["words.weight"])).T
    return found


def test_the_document_is_as_the_schema_says() -> None:
    jsonschema.validate(EGRET, json.loads((schemas() / "architectures.schema.json").read_bytes()))


def test_the_engine_computes_what_the_formulas_say(egret: Path) -> None:
    tokens = [3, 10, 0, 7, 7]

    np.testing.assert_allclose(compute(open_checkpoint(egret)).logits(tokens), expected(state(), tokens), atol=1e-3)


def test_every_operation_is_in_the_file(egret: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(egret), tmp_path / "o.gguf", no_tokenizer=True)

    there, w = open_checkpoint(tmp_path / "o.gguf"), state()
    np.testing.assert_array_equal(there["token_embd.weight"].bits(), 4 * w["words.weight"])
    np.testing.assert_array_equal(there["output.weight"].bits(), w["words.weight"] / 2)
    np.testing.assert_array_equal(there["position_embd.weight"].bits(), 4 * w["places.weight"][2:])
    k, q, v = np.split(w["layers.1.kqv.weight"].T, 3)
    order = np.arange(8).reshape(2, 4).T.reshape(-1)
    np.testing.assert_array_equal(there["blk.1.attn_qkv.weight"].bits(), np.concatenate([q[order] / 4, k[order], v]))
    k, q, v = np.split(w["layers.0.kqv.bias"], 3)
    np.testing.assert_array_equal(there["blk.0.attn_qkv.bias"].bits(), np.concatenate([q[order] / 4, k[order], v]))
    assert not there["blk.0.ffn_up.bias"].bits().any()
    assert "blk.0.mask" not in there
    assert (
        list(there.metadata["cerebras_tool.rows_before.position_embd.weight"])
        == w["places.weight"][:2].ravel().tolist()
    )


@pytest.mark.parametrize("dtype", ["keep", "f16"])
def test_the_way_back_is_identical(dtype: str, egret: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(egret), tmp_path / "o.gguf", no_tokenizer=True, dtype=dtype)
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    back, w = open_checkpoint(tmp_path / "back"), state()
    assert {f"egret.{name}" for name in w} == set(back)
    assert {key: (back.config or {})[key] for key in ("larger", "alpha", "tie_word_embeddings")} == {
        "larger": 4.0, "alpha": 0.5, "tie_word_embeddings": True,
    }  # fmt: skip
    for name, array in w.items():
        matrix = dtype == "f16" and array.ndim == 2 and name != "places.weight"
        found = back[f"egret.{name}"].bits()
        np.testing.assert_array_equal(found, array.astype(np.float16) if matrix else array)
    report = verify(open_checkpoint(egret), [tmp_path / "o.gguf", tmp_path / "back"], Options(level="inference"))
    word = "identical" if dtype == "keep" else "equivalent"
    assert [output.verdict for output in report.outputs] == [word, word]
    if dtype == "keep":
        assert [(output.inference or {})["max_difference"] for output in report.outputs] == [0, 0]


def test_a_head_of_its_own_stays_one(tmp_path: Path) -> None:
    tensors = state(head=True)
    source = write(tmp_path / "source", masked(tensors), **CONFIG | {"tie_word_embeddings": False})

    convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    np.testing.assert_array_equal(open_checkpoint(tmp_path / "back")["head.weight"].bits(), tensors["head.weight"])
    np.testing.assert_array_equal(
        open_checkpoint(tmp_path / "o.gguf")["output.weight"].bits(), tensors["head.weight"] / 2
    )
    report = verify(open_checkpoint(source), [tmp_path / "o.gguf", tmp_path / "back"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical", "identical"]


def test_another_name_of_a_tensor_is_the_same_tensor(tmp_path: Path) -> None:
    source = write(tmp_path / "source", state(first="shared.weight"), **CONFIG)
    convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)

    report = verify(open_checkpoint(source), [tmp_path / "o.gguf"], Options(level="inference"))

    assert [output.verdict for output in report.outputs] == ["identical"]


def test_a_gpt_neox_with_a_tied_head_has_one_in_gguf_because_llama_cpp_asks_for_it(tmp_path: Path) -> None:
    neox = families.family("gpt_neox")
    config = {**neox.sample, "num_hidden_layers": 1, "tie_word_embeddings": True}
    chance = np.random.default_rng(2)
    tensors = {
        row.named("gpt_neox."): chance.standard_normal(row.shape, np.float32)
        for row in neox.rows(neox.sizes(config), config=config)
        if row.kind == "parameter" and not row.tied_to
    }
    source = write(tmp_path / "source", tensors, **config)

    convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    there, back = open_checkpoint(tmp_path / "o.gguf"), open_checkpoint(tmp_path / "back")
    np.testing.assert_array_equal(there["output.weight"].bits(), tensors["gpt_neox.embed_in.weight"])
    assert set(back) == set(tensors)
    assert (back.config or {})["tie_word_embeddings"] is True
    report = verify(open_checkpoint(source), [tmp_path / "o.gguf"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"]


def test_a_head_that_was_changed_is_not_left_out(egret: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(egret), tmp_path / "o.gguf", no_tokenizer=True)
    data = bytearray((tmp_path / "o.gguf").read_bytes())
    data[open_checkpoint(tmp_path / "o.gguf")["output.weight"].storage.offset + 2] ^= 1
    (tmp_path / "o.gguf").write_bytes(data)

    assert [output.verdict for output in verify(open_checkpoint(egret), [tmp_path / "o.gguf"]).outputs] == ["different"]


def test_a_changed_product_is_found_under_its_own_name(egret: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(egret), tmp_path / "o.gguf", no_tokenizer=True)
    data = bytearray((tmp_path / "o.gguf").read_bytes())
    data[open_checkpoint(tmp_path / "o.gguf")["position_embd.weight"].storage.offset + 8 * 4] ^= 1  # its second row
    (tmp_path / "o.gguf").write_bytes(data)

    report = verify(open_checkpoint(egret), [tmp_path / "o.gguf"])

    assert [(wrong.name, wrong.index) for wrong in report.outputs[0].tensors.different] == [("places.weight", (3, 0))]


@pytest.mark.parametrize("larger", [10.0, 3, 0.1])
def test_products_that_are_rounded_are_refused_and_the_advice_works(larger: float, tmp_path: Path) -> None:
    source = write(tmp_path / "source", state(), **CONFIG | {"larger": larger})
    said = r"is rounded, and would not come back, .*: choose safetensors, and compare it with (level='tensors'|--level tensors)"

    with pytest.raises(UnsupportedError, match=said):
        convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)
    assert not (tmp_path / "o.gguf").exists()

    convert(open_checkpoint(source), tmp_path / "out", to="safetensors")
    with pytest.raises(UnsupportedError, match=said):
        verify(open_checkpoint(source), [tmp_path / "out"], Options(level="inference"))
    report = verify(open_checkpoint(source), [tmp_path / "out"], Options(level="tensors"))
    assert [output.verdict for output in report.outputs] == ["identical"]


@pytest.mark.parametrize("value", [3e38, 1e-45], ids=["too large", "too small"])
def test_so_are_those_that_f32_can_not_hold(value: float, tmp_path: Path) -> None:
    tensors = state()
    tensors["words.weight"][10, 7] = value
    source = write(tmp_path / "source", tensors, **CONFIG)

    with pytest.raises(ConverterError, match=r"is too large or too small for F32: choose safetensors"):
        convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)
    assert not (tmp_path / "o.gguf").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_what_is_no_usual_number_comes_back(value: float, tmp_path: Path) -> None:
    tensors = state()
    tensors["words.weight"][10, 7] = value
    source = write(tmp_path / "source", tensors, **CONFIG)

    convert(open_checkpoint(source), tmp_path / "o.gguf", no_tokenizer=True)

    assert [output.verdict for output in verify(open_checkpoint(source), [tmp_path / "o.gguf"]).outputs] == [
        "identical"
    ]
