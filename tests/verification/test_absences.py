"""What a copy may lack or spell otherwise, because transformers makes it again or knows it under both names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import examine, verify

Arrays = dict[str, np.ndarray]

RNG = np.random.default_rng(5)
TABLE = RNG.standard_normal((9, 4)).astype("<f4")
OTHER = RNG.standard_normal((9, 4)).astype("<f4")
HALF = TABLE.astype("<f2").astype("<f4")  # F16 loses nothing of it
ONE_OFF = TABLE.copy()
ONE_OFF[8, 3] += 1
ZEROS = np.zeros(9, "<f4")
LLAMA = {"model_type": "llama", "rope_theta": 500000.0, "tie_word_embeddings": True}
BERT = {"model_type": "bert"}
MASK = np.tri(6, dtype="?").reshape(1, 1, 6, 6)
BAND = (np.tri(6) - np.tri(6, k=-3)).astype("u1").reshape(1, 1, 6, 6)
FREQUENCIES = np.array([1.0, 0.001414213562373095], "<f4")  # 500000 to the power of 0 and -1/2
SLOWER = np.array([1.0, 0.01], "<f4")  # 10000 to the power of 0 and -1/2
SINUSOIDS = np.array(
    [
        [0.0, 0.0, 1.0, 1.0],
        [0.8414709848, 0.0099998333, 0.5403023059, 0.9999500004],
        [0.9092974268, 0.0199986667, -0.4161468365, 0.9998000067],
    ],
    "<f4",
)
WORDS = "bert.embeddings.word_embeddings.weight"


def written(folder: Path, arrays: Arrays, config: dict[str, Any] | None) -> Path:
    folder.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def check(tmp_path: Path, source: Arrays, copy: Arrays, config: dict[str, Any] | None) -> VerifiedOutput:
    """Verify a copy against its source and against the source's manifest, which must say the same."""
    whole, copied = written(tmp_path / "source", source, config), written(tmp_path / "copy", copy, config)
    golden = examine(expect(open_checkpoint(whole)), [whole]).golden()
    (tmp_path / "golden.json").write_text(golden.text())
    found = verify(open_checkpoint(whole), [copied]).outputs[0]
    again = verify(load(tmp_path / "golden.json"), [copied]).outputs[0]
    assert (again.verdict, again.tensors.missing) == (found.verdict, found.tensors.missing)
    return found


# A tensor, the config.json, and whether a copy may lack it.
BUFFERS: dict[str, tuple[str, np.ndarray, dict[str, Any] | None, bool]] = {
    "positions": ("bert.embeddings.position_ids", np.arange(7, dtype="<i8").reshape(1, 7), BERT, True),
    "positions as floats": ("text_model.embeddings.position_ids", np.arange(7, dtype="<f4").reshape(1, 7), None, True),
    "positions in another order": ("bert.embeddings.position_ids", np.arange(7)[::-1].reshape(1, 7), BERT, False),
    "types": ("roberta.embeddings.token_type_ids", np.zeros((1, 7), "<i8"), None, True),
    "types that are none": ("roberta.embeddings.token_type_ids", np.ones((1, 7), "<i8"), None, False),
    "another tensor of zeros": ("roberta.embeddings.token_type_id", np.zeros((1, 7), "<i8"), None, False),
    "frequencies": ("model.layers.0.self_attn.rotary_emb.inv_freq", FREQUENCIES, LLAMA, True),
    "frequencies in F16": ("model.layers.0.self_attn.rotary_emb.inv_freq", FREQUENCIES.astype("<f2"), LLAMA, True),
    "frequencies of another base": ("model.rotary_emb.inv_freq", FREQUENCIES, {"model_type": "llama"}, False),
    "frequencies of a model that is not known": ("model.rotary_emb.inv_freq", FREQUENCIES, {"model_type": "own"}, False),
    "frequencies without a config.json": ("model.rotary_emb.inv_freq", FREQUENCIES, None, False),
    "frequencies of a base that is no number": (
        "model.rotary_emb.inv_freq", FREQUENCIES, {"model_type": "llama", "rope_theta": 10**400}, False,
    ),
    "frequencies of all layers": ("esm.rotary_embeddings.inv_freq", SLOWER, {"model_type": "esm", "rope_theta": 10000.0}, True),
    "frequencies of a layer of ESM": (
        "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq", SLOWER, {"model_type": "esm"}, True,
    ),
    "frequencies of ESM that do not follow": ("esm.rotary_embeddings.inv_freq", FREQUENCIES, {"model_type": "esm"}, False),
    "frequencies under another name": ("model.rotary_pos_emb.inv_freq", FREQUENCIES, LLAMA, True),
    "frequencies with a name that only ends alike": ("model.own_inv_freq", FREQUENCIES, LLAMA, False),
    "a window that is none": ("transformer.h.1.attn.attention.bias", BAND, {"model_type": "gpt_neo", "window_size": 10**40}, False),
    "a causal mask": ("gpt_neox.layers.0.attention.bias", MASK, None, True),
    "a causal mask of floats": ("h.0.attn.bias", MASK.astype("<f4"), {"model_type": "openai-gpt"}, True),
    "a window": ("transformer.h.1.attn.attention.bias", BAND, {"model_type": "gpt_neo", "window_size": 3}, True),
    "a window of another size": ("transformer.h.1.attn.attention.bias", BAND, {"model_type": "gpt_neo", "window_size": 2}, False),
    "a mask with a hole": ("gpt_neox.layers.0.attention.bias", MASK ^ (np.arange(36).reshape(1, 1, 6, 6) == 6), None, False),
    "the bias of a layer": ("layers.0.attention.bias", np.tri(6, dtype="<f4")[5], None, False),
    "what a mask puts in": ("gpt_neox.layers.0.attention.masked_bias", np.array(-1e9, "<f4"), None, True),
    "another number": ("gpt_neox.layers.0.attention.masked_bias", np.array(-5, "<f4"), None, False),
    "what T5 does not use": (
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", OTHER, {"model_type": "t5"}, True,
    ),
    "what T5 does use": ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", OTHER, {"model_type": "t5"}, False),
    "sinusoids": ("model.encoder.embed_positions.weight", SINUSOIDS, {"model_type": "marian"}, True),
    "trained positions": ("model.encoder.embed_positions.weight", OTHER, {"model_type": "marian"}, False),
    "sinusoids of a model that trains them": ("model.encoder.embed_positions.weight", SINUSOIDS, {"model_type": "bart"}, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_copy_may_lack_what_transformers_makes_again(kind: str, tmp_path: Path) -> None:
    name, array, config, may = BUFFERS[kind]

    found = check(tmp_path, {"w": TABLE, name: array}, {"w": TABLE}, config)

    assert found.verdict == ("identical" if may else "different")
    said = found.left_out + tuple(note.name for note in found.notes if note.detail == "nothing is computed with it")
    assert (said, found.tensors.missing) == (((name,), ()) if may else ((), (name,)))
    assert (name in found.left_out) == (may and kind != "what T5 does not use")


@pytest.mark.parametrize(
    "kind", [kind for kind, (*_, may) in BUFFERS.items() if may and kind != "what T5 does not use"]
)
def test_a_copy_may_have_what_older_versions_saved(kind: str, tmp_path: Path) -> None:
    name, array, config, _ = BUFFERS[kind]

    found = check(tmp_path, {"w": TABLE}, {"w": TABLE, name: array}, config)

    assert (found.verdict, found.tensors.unexpected) == ("identical", ())


# The tensors of a source that stores a tied tensor twice, the config.json, and the names that a copy lacks and may lack.
TIES: dict[str, tuple[Arrays, dict[str, Any] | None, tuple[str, ...], bool]] = {
    "a head": ({"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE}, LLAMA, ("lm_head.weight",), True),
    "a head where config.json says nothing": (
        {"transformer.word_embeddings.weight": TABLE, "lm_head.weight": TABLE}, {"model_type": "bloom"}, ("lm_head.weight",), True,
    ),
    "a head of a model that ties it": ({"wte.weight": TABLE, "lm_head.weight": TABLE}, {"model_type": "gpt2"}, ("lm_head.weight",), True),
    "a head that is its own": ({"model.embed_tokens.weight": TABLE, "lm_head.weight": ONE_OFF}, LLAMA, ("lm_head.weight",), False),
    "a head of another dtype": (
        {"model.embed_tokens.weight": HALF.astype("<f2"), "lm_head.weight": HALF}, LLAMA, ("lm_head.weight",), False,
    ),
    "a head of RWKV": ({"rwkv.embeddings.weight": TABLE, "head.weight": TABLE}, LLAMA, ("head.weight",), True),
    "a head of ModernBERT": (
        {"model.embeddings.tok_embeddings.weight": TABLE, "decoder.weight": TABLE}, {"model_type": "modernbert"}, ("decoder.weight",), True,
    ),
    "a head of a model that does not tie it": (
        {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE}, {"model_type": "llama"}, ("lm_head.weight",), False,
    ),
    "a head of a model that is not known": (
        {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE}, {"model_type": "own"}, ("lm_head.weight",), False,
    ),
    "a head without a config.json": ({"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE}, None, ("lm_head.weight",), False),
    "a matrix that is no head": ({"model.embed_tokens.weight": TABLE, "model.up.weight": TABLE}, LLAMA, ("model.up.weight",), False),
    "BERT's head": (
        {WORDS: TABLE, "cls.predictions.bias": ZEROS, "cls.predictions.decoder.weight": TABLE, "cls.predictions.decoder.bias": ZEROS},
        BERT, ("cls.predictions.decoder.bias", "cls.predictions.decoder.weight"), True,
    ),
    "a bias that is not BERT's head's": (
        {WORDS: TABLE, "cls.predictions.bias": ZEROS, "bert.pooler.dense.bias": ZEROS}, BERT, ("bert.pooler.dense.bias",), False,
    ),
    "BERT's head and its bias": (
        {WORDS: TABLE, "cls.predictions.bias": ZEROS, "cls.predictions.decoder.bias": ZEROS},
        BERT, ("cls.predictions.bias", "cls.predictions.decoder.bias"), False,
    ),
    "T5's embeddings": (
        {"shared.weight": TABLE, "encoder.embed_tokens.weight": TABLE, "decoder.embed_tokens.weight": TABLE},
        {"model_type": "t5", "tie_word_embeddings": False}, ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight"), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIES)
def test_a_copy_may_lack_the_second_one_of_what_the_model_ties(kind: str, tmp_path: Path) -> None:
    source, config, lacks, may = TIES[kind]

    copy = {name: array for name, array in source.items() if name not in lacks}
    found = check(tmp_path, {"w": OTHER} | source, {"w": OTHER} | copy, config)

    assert (found.left_out, found.tensors.missing) == ((lacks, ()) if may else ((), lacks))


def test_damage_of_the_one_that_is_left_is_found(tmp_path: Path) -> None:
    source = {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE}

    found = check(tmp_path, source, {"model.embed_tokens.weight": ONE_OFF}, LLAMA)

    assert [(one.name, one.what) for one in found.tensors.different] == [
        ("model.embed_tokens.weight", "one element changed")
    ]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"),
        ("encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
        ("encoder.pos_conv_embed.conv.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ],
)
def test_older_and_newer_names_are_the_same(older: str, newer: str, damaged: bool, tmp_path: Path) -> None:
    for number, (name, other) in enumerate([(older, newer), (newer, older)]):
        (tmp_path / str(number)).mkdir()
        found = check(tmp_path / str(number), {name: TABLE}, {other: ONE_OFF if damaged else TABLE}, None)

        assert found.verdict == ("different" if damaged else "identical")
        assert (found.tensors.missing, found.tensors.unexpected) == ((), ())


def test_frequencies_may_move_from_the_layers_to_one_place(tmp_path: Path) -> None:
    """As transformers 5 saves ESM: what older versions have in each layer is there once."""
    layers = {f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq": SLOWER for layer in range(2)}

    found = check(
        tmp_path, {"w": TABLE, **layers}, {"w": TABLE, "esm.rotary_embeddings.inv_freq": SLOWER}, {"model_type": "esm"}
    )

    assert (found.verdict, found.tensors.missing, found.tensors.unexpected, found.tensors.different) == (
        "identical",
        (),
        (),
        (),
    )
    assert found.left_out == tuple(layers)


def test_the_metadata_of_safetensors_tie_names_of_a_source(tmp_path: Path) -> None:
    """As `safetensors.torch.save_model` writes it: of tied names only the first is stored."""
    metadata = {"shared.weight": "decoder.embed_tokens.weight", "format": "pt"}
    save_file({"decoder.embed_tokens.weight": TABLE, "w": OTHER}, tmp_path / "a.safetensors", metadata=metadata)
    save_file({"shared.weight": TABLE, "w": OTHER}, tmp_path / "b.safetensors")
    save_file({"shared.weight": ONE_OFF, "w": OTHER}, tmp_path / "c.safetensors")
    save_file({"w": OTHER}, tmp_path / "d.safetensors")

    copies = [tmp_path / f"{name}.safetensors" for name in "bcd"]
    found = verify(open_checkpoint(tmp_path / "a.safetensors"), copies).outputs

    assert [output.verdict for output in found] == ["identical", "different", "different"]
    assert [(one.name, one.index) for one in found[1].tensors.different] == [("shared.weight", (8, 3))]
    assert found[2].tensors.missing == ("decoder.embed_tokens.weight", "shared.weight")


def test_a_tensor_under_another_name_is_named_by_both(tmp_path: Path) -> None:
    """Only where its shape and its elements are the same: what else is missing has no such note."""
    source = {"a": TABLE, "b": OTHER, "c": TABLE.T, "d": ZEROS}

    found = check(tmp_path, source, {"a": TABLE, "x": OTHER, "y": TABLE, "d": ZEROS}, {})

    notes = {(one.name, one.what): one.detail for one in found.tensors.different}
    assert found.verdict == "different"
    assert notes == {("b", "renamed"): "the output has its elements under the name `x`"}
    assert (found.tensors.missing, found.tensors.unexpected) == (("b", "c"), ("x", "y"))


def test_a_tensor_is_renamed_once_and_one_of_equal_elements_never(tmp_path: Path) -> None:
    """A new model has many tensors of zeros or ones, which say nothing about names."""
    ones = np.ones(8, "<f4")
    source = {"a.weight": TABLE, "b.weight": OTHER, "a.bias": ones, "b.bias": ones * 0}

    copy = {"x.weight": TABLE, "y.weight": TABLE, "z.weight": OTHER, "x.bias": ones, "y.bias": ones, "z.bias": ones * 0}
    found = check(tmp_path, source, copy, {})

    assert [(one.name, one.detail) for one in found.tensors.different] == [
        ("a.weight", "the output has its elements under the name `x.weight`"),
        ("b.weight", "the output has its elements under the name `z.weight`"),
    ]
