"""Models that are nearly of a known family: none is taken for one, written as GGUF or computed as if it were one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.conversion.surgery import cut, rules
from converter.errors import ConverterError
from converter.inference.engine import compute
from converter.models.recognition import recognise
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import Options, verify
from tests.models.test_whole_families import write

Shapes = dict[str, tuple[int, ...]]
Change = Callable[[Shapes, dict[str, Any]], None]


class NearMiss(NamedTuple):
    """A sample, what is done to its tensors and settings, and what is said of it; None if it is no known family."""

    sample: str
    change: Change
    said: str | None


def added(name: str, *shape: int) -> Change:
    """A tensor more in each of the layers."""

    def change(tensors: Shapes, _: dict[str, Any]) -> None:
        tensors.update({name.replace("*", str(layer)): shape for layer in range(3)})

    return change


def without(end: str) -> Change:
    """All tensors whose names end so are absent."""

    def change(tensors: Shapes, _: dict[str, Any]) -> None:
        gone = [name for name in tensors if name.endswith(end)]
        assert gone
        for name in gone:
            del tensors[name]

    return change


def renamed(old: str, new: str) -> Change:
    def change(tensors: Shapes, _: dict[str, Any]) -> None:
        assert any(old in name for name in tensors)
        found = {name.replace(old, new): shape for name, shape in tensors.items()}
        tensors.clear()
        tensors.update(found)

    return change


def shaped(end: str, *shape: int) -> Change:
    def change(tensors: Shapes, _: dict[str, Any]) -> None:
        assert any(name.endswith(end) for name in tensors)
        tensors.update({name: shape for name in tensors if name.endswith(end)})

    return change


def said(**settings: Any) -> Change:
    return lambda _, config: config.update(settings)


def both(*changes: Change) -> Change:
    def change(tensors: Shapes, config: dict[str, Any]) -> None:
        for one in changes:
            one(tensors, config)

    return change


LAYER = "model.layers.*."
NEAR = {
    "Qwen3: norms of queries and keys": NearMiss("llama", both(added(f"{LAYER}self_attn.q_norm.weight", 16), said(model_type="qwen3")), None),
    "the same, called llama": NearMiss("llama", added(f"{LAYER}self_attn.q_norm.weight", 16), "unexpected"),
    "LLaMA with biases that it should not have": NearMiss("llama", added(f"{LAYER}self_attn.o_proj.bias", 64), "contradictions"),
    "LLaMA with one bias of four": NearMiss("llama", both(added(f"{LAYER}self_attn.o_proj.bias", 64), said(attention_bias=True)), "missing"),
    "Mistral with biases": NearMiss("llama", both(added(f"{LAYER}self_attn.o_proj.bias", 64), said(model_type="mistral", attention_bias=True)), "contradictions"),
    "OLMo 2: norms after, none before": NearMiss("llama", renamed("input_layernorm", "post_feedforward_layernorm"), "missing"),
    "one norm of two": NearMiss("llama", without("post_attention_layernorm.weight"), "missing"),
    "norms with biases": NearMiss("llama", added(f"{LAYER}input_layernorm.bias", 64), "unexpected"),
    "modules of another name": NearMiss("llama", renamed("self_attn", "attention"), None),
    "Phi-3: gate and up in one matrix": NearMiss("llama", both(without("up_proj.weight"), renamed("gate_proj", "gate_up_proj")), "missing"),
    "Mixtral: experts": NearMiss("llama", both(renamed("mlp.", "block_sparse_moe.experts.0."), said(model_type="mixtral")), None),
    "keys of another width": NearMiss("llama", shaped("k_proj.weight", 48, 64), "mismatched"),
    "a head of other tokens": NearMiss("llama", shaped("lm_head.weight", 300, 64), "mismatched"),
    "Gemma, which multiplies embeddings": NearMiss("llama", said(model_type="gemma"), None),
    "Qwen2 without biases": NearMiss("qwen2", without("proj.bias"), "missing"),
    "Qwen2, called llama": NearMiss("qwen2", said(model_type="llama"), None),
    "Qwen2 with a bias more": NearMiss("qwen2", added(f"{LAYER}self_attn.o_proj.bias", 64), "unexpected"),
    "GPT-NeoX without biases": NearMiss("gpt_neox", without("dense.bias"), "missing"),
    "GPT-NeoX Japanese": NearMiss("gpt_neox", said(model_type="gpt_neox_japanese"), None),
    "GPT-NeoX with other modules": NearMiss("gpt_neox", renamed("query_key_value", "qkv"), None),
    "Falcon, called bloom": NearMiss("bloom", both(without("layernorm.bias"), renamed("self_attention.dense", "self_attention.out")), None),
    "BLOOM without the first norm": NearMiss("bloom", without("word_embeddings_layernorm.weight"), "missing"),
    "BTLM: other positions and a gate": NearMiss("gpt2", both(without("wpe.weight"), added("h.*.mlp.c_fc2.weight", 64, 256), said(model_type="btlm")), None),
    "muP with GPT-2's tensors": NearMiss("gpt2", said(model_type="btlm", mup_embeddings_scale=10.0), "contradictions"),
    "GPT-2 with cross-attention": NearMiss("gpt2", added("h.*.crossattention.c_attn.weight", 64, 128), "unexpected"),
    "GPT-1": NearMiss("gpt2", both(without("ln_f.weight"), without("ln_f.bias"), renamed("wte", "tokens_embed"), renamed("wpe", "positions_embed")), None),
    "GPT-2 without biases": NearMiss("gpt2", without("c_fc.bias"), "missing"),
    "GPT-J without the head's bias": NearMiss("gptj", without("lm_head.bias"), "missing"),
    "GPT-J with biases of queries": NearMiss("gptj", added("transformer.h.*.attn.q_proj.bias", 64), "unexpected"),
    "CodeGen with fewer keys": NearMiss("codegen", shaped("qkv_proj.weight", 128, 64), "mismatched"),
    "Phi with RMS norms": NearMiss("phi", without("layernorm.bias"), "missing"),
    "Phi with norms of queries": NearMiss("phi", both(added(f"{LAYER}self_attn.q_layernorm.weight", 16), said(qk_layernorm=True)), "unexpected"),
    "OPT 350M: embeddings of another width": NearMiss("opt", both(added("decoder.project_in.weight", 64, 32), shaped("embed_tokens.weight", 257, 32)), "contradictions"),
    "OPT without the biases that it should have": NearMiss("opt", without("fc1.bias"), "missing"),
    "Galactica with biases": NearMiss("opt", said(enable_bias=False), "contradictions"),
    "Galactica without norms, called OPT": NearMiss("galactica", said(layer_norm_elementwise_affine=True), "missing"),
    "XGLM without biases": NearMiss("xglm", without("fc1.bias"), "missing"),
    "XGLM with a table of positions": NearMiss("xglm", added("model.embed_positions.weight", 130, 64), "unexpected"),
    "GPT-Neo with biases of queries": NearMiss("gpt_neo", added("transformer.h.*.attn.attention.q_proj.bias", 64), "unexpected"),
}  # fmt: skip

# What no layer has is not used, as in transformers: older files of XGLM have such a table.
OUTSIDE = ("XGLM with a table of positions",)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Shapes, dict[str, Any]]]:
    folder, found = tmp_path_factory.mktemp("samples"), dict[str, tuple[Shapes, dict[str, Any]]]()

    def read(name: str) -> tuple[Shapes, dict[str, Any]]:
        if name not in found:
            write_sample(folder / name, name, sparse=True)
            catalogue = open_checkpoint(folder / name)
            shapes = {key: tensor.shape for key, tensor in catalogue.items() if tensor.dtype.floating}
            found[name] = shapes, dict(catalogue.config or {})
        shapes, config = found[name]
        return dict(shapes), dict(config)

    return read


@pytest.mark.parametrize("name", NEAR)
def test_a_near_miss_is_not_taken_for_a_model_of_the_family(
    name: str, sample: Callable[[str], tuple[Shapes, dict[str, Any]]], tmp_path: Path
) -> None:
    near = NEAR[name]
    shapes, config = sample(near.sample)
    near.change(shapes, config)
    folder = write(tmp_path / "m", {key: np.zeros(shape, np.float32) for key, shape in shapes.items()})
    (folder / "config.json").write_text(json.dumps(config))
    source = open_checkpoint(folder)

    found = recognise(source, source.config)

    if near.said is None:
        assert found is None
    else:
        assert found is not None
        assert getattr(found, near.said)
    with pytest.raises(ConverterError):
        convert(source, tmp_path / "o.gguf", no_tokenizer=True)
    if name in OUTSIDE:
        compute(source)
    else:
        with pytest.raises(ConverterError):
            compute(source)


def test_what_changes_nothing_can_be_left_out_as_the_messages_say(
    sample: Callable[[str], tuple[Shapes, dict[str, Any]]], tmp_path: Path
) -> None:
    shapes, config = sample("llama")
    extra = "model.layers.1.self_attn.rotary_emb.cos_cached"
    folder = write(
        tmp_path / "m",
        {key: np.ones(shape, np.float32) for key, shape in (shapes | {extra: (9, 2)}).items() if "inv_freq" not in key},
    )
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))

    with pytest.raises(ConverterError, match="leaves out those that change nothing"):
        convert(open_checkpoint(folder), tmp_path / "o.gguf", no_tokenizer=True)
    with pytest.raises(
        ConverterError,
        match=r"cos_cached` of .* is not computed here, .*: if it changes nothing, give convert and verify",
    ):
        compute(open_checkpoint(folder))

    left_out = rules(exclude=[extra])
    convert(open_checkpoint(folder), tmp_path / "o.gguf", no_tokenizer=True, surgery=left_out)
    source = cut(open_checkpoint(folder), left_out).catalogue
    report = verify(source, [tmp_path / "o.gguf"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"]
