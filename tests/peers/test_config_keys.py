"""Keys of config.json that are seldom other than usual: each is computed as transformers does, or refused with a reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("xllamacpp")

from converter.conversion.convert import convert  # noqa: E402
from converter.errors import ConverterError  # noqa: E402
from converter.inference.engine import compute  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.verification.verify import Options, verify  # noqa: E402
from tests.peers.small_models import END, byte_level  # noqa: E402
from tests.peers.test_decoders import computed, hf, in_llama_cpp, kind, log_softmax, old, save  # noqa: E402

COUNT = 48  # tokens
OPT = hf(0, ffn_dim=100, word_embed_proj_dim=64, pad_token_id=1)
ALIBI = {"n_layer": 2, "n_head": 4, "hidden_size": 64, "seq_length": 128, "bos_token_id": 0, "eos_token_id": 0}
ROPE = {"rope_type": "default", "rope_theta": 500.0}
SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 500.0},
    "yarn with its own bounds": {
        "rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 40, "rope_theta": 1e4, "beta_fast": 16.0, "beta_slow": 2.0,
    },
    "yarn without a length": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 700.0},
}  # fmt: skip
# A class, its config.json, and what is added to the config.json that is written.
SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama: heads of their own size": ("Llama", hf(0, head_dim=20), {}),
    "mistral: heads of their own size": ("Mistral", hf(0, head_dim=48, num_key_value_heads=2, sliding_window=None), {}),
    "qwen2: heads of the usual size": ("Qwen2", hf(0, head_dim=16, num_key_value_heads=2), {}),
    "phi: fewer heads of keys": ("Phi", hf(0, num_key_value_heads=2), {}),
    "gpt2: another inner width": ("GPT2", old(0, n_positions=128, n_inner=100), {}),
    "gptj: another inner width": ("GPTJ", old(0, n_positions=128, rotary_dim=8, n_inner=100), {}),
    "bloom: five heads": ("Bloom", ALIBI | {"n_head": 5, "hidden_size": 80}, {}),
    "bloom: slow but exact, in one piece": ("Bloom", ALIBI | {"slow_but_exact": True, "pretraining_tp": 1}, {}),
    "gpt_neox: the inner object's base counts": ("GPTNeoX", hf(0, rope_parameters=ROPE), {"rope_theta": 1e6}),
    "llama: the inner object's base counts": ("Llama", hf(0, rope_parameters=ROPE), {"rope_theta": 1e6}),
    "qwen2: the inner object's base counts": ("Qwen2", hf(0, num_key_value_heads=2, rope_parameters=ROPE), {"rope_theta": 1e6}),
    "phi: the inner object's base counts": ("Phi", hf(0, rope_parameters=ROPE | {"partial_rotary_factor": 0.5}), {"rope_theta": 1e6}),
    "llama: rope_scaling hides rope_parameters": ("Llama", hf(0, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}), {
        "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 700.0}, "rope_parameters": ROPE,
    }),
    "llama: a window, which only Mistral has": ("Llama", hf(0), {"sliding_window": 8}),
    "llama: names that change nothing": ("Llama", hf(0), {
        "embedding_multiplier": 1.0, "layer_types": ["full_attention"] * 2, "use_parallel_residual": False, "architectures": ["LLaMAForCausalLM"],
    }),
    "gpt_neox: all names of its rotary part": ("GPTNeoX", hf(0), {"partial_rotary_factor": 0.25, "rotary_pct": 0.25, "rope_theta": 1e4}),
    **{
        f"{family}: {kind}": (name, hf(0, **more, rope_parameters=rope | partial), {})
        for family, name, more, partial in (
            ("llama", "Llama", {"num_key_value_heads": 2}, {}), ("mistral", "Mistral", {"num_key_value_heads": 2, "sliding_window": None}, {}),
            ("qwen2", "Qwen2", {"num_key_value_heads": 2}, {}), ("gpt_neox", "GPTNeoX", {}, {"partial_rotary_factor": 0.5}),
            ("phi", "Phi", {}, {"partial_rotary_factor": 0.5}),
        )
        for kind, rope in SCALED.items()
    },
    "llama: a scaling of 2023": ("Llama", hf(0, rope_parameters=SCALED["yarn"]), {
        "rope_parameters": None, "rope_theta": 500.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "finetuned": True},
    }),
    "gptj: tied": ("GPTJ", old(0, n_positions=128, rotary_dim=8, tie_word_embeddings=True), {}),
    "codegen: tied": ("CodeGen", old(0, n_positions=128, rotary_dim=8, tie_word_embeddings=True), {}),
    "phi: tied": ("Phi", hf(0, tie_word_embeddings=True), {}),
    "llama: biases of attention": ("Llama", hf(0, num_key_value_heads=2, attention_bias=True), {}),
    "llama: all biases": ("Llama", hf(0, attention_bias=True, mlp_bias=True, tie_word_embeddings=True), {}),
    "llama: biases of the MLP": ("Llama", hf(0, mlp_bias=True), {}),
    "gpt_neox: no biases of attention": ("GPTNeoX", hf(0, attention_bias=False), {}),
    "gpt_neox: its first names": ("GPTNeoX", hf(0, rope_parameters=ROPE | {"partial_rotary_factor": 0.5}), {
        "rope_parameters": None, "rotary_emb_base": 500, "rotary_pct": 0.5,
    }),
    "gpt_neox: a name that it does not have": ("GPTNeoX", hf(0, rope_parameters={"rope_type": "default", "rope_theta": 1e4}), {
        "rope_parameters": None, "rope_theta": 500.0,
    }),
    "gpt_neox: a part that no whole number of elements is": ("GPTNeoX", hf(0, rope_parameters=ROPE | {"partial_rotary_factor": 0.4}), {}),
    "phi: a part that no whole number of elements is": ("Phi", hf(0, rope_parameters=ROPE | {"partial_rotary_factor": 0.4}), {}),
}  # fmt: skip


def made(folder: Path, name: str, config: dict[str, Any], said: dict[str, Any]) -> Any:
    """A saved model with a tokenizer, and with these keys in its config.json as well."""
    folder.mkdir()
    vocabulary = byte_level(folder)
    tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(name)(getattr(transformers, f"{name}Config")(**config, vocab_size=vocabulary)).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            norm = ("norm" in key or "ln_" in key) and value.ndim == 1 and key.endswith("weight")
            spread = 0.1 if value.ndim == 1 or name == "GPTNeo" else 1.2 / value.shape[-1] ** 0.5
            value.copy_(torch.randn_like(value) * spread + norm)
    save(model, folder, 1)
    config = json.loads((folder / "config.json").read_text()) | said
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return model


def tokens(model: Any, count: int = COUNT) -> list[int]:
    return np.random.default_rng(7).integers(1, model.config.vocab_size, count).tolist()


@pytest.mark.parametrize("case", SAME)
def test_a_key_is_computed_as_transformers_does_and_comes_back(case: str, tmp_path: Path) -> None:
    model = made(tmp_path / "source", *SAME[case])
    ids, source = tokens(model), open_checkpoint(tmp_path / "source")
    # transformers reads the file that we read
    expected = computed(type(model).from_pretrained(tmp_path / "source", dtype=torch.float32).eval(), ids)
    np.testing.assert_array_equal(expected, computed(model, ids))

    np.testing.assert_allclose(compute(source).logits(ids), expected, rtol=0, atol=1e-4)
    convert(source, tmp_path / "out", to="safetensors")
    convert(source, tmp_path / "o.gguf")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    assert np.abs(found - log_softmax(expected)).max() < 5e-3
    outputs = [tmp_path / name for name in ("out", "o.gguf", "back")]
    report = verify(source, outputs, Options(level="inference"))
    assert [(output.verdict, (*output.beside, *output.computes)) for output in report.outputs] == [
        ("identical", ())
    ] * 3
    again = type(model).from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    np.testing.assert_array_equal(computed(again, ids), expected)


# What is refused: what the message says when GGUF is asked for, and when the model is computed; None if that is no error.
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str | None, str | None]] = {
    "qwen2: heads that are wider than the model": ("Qwen2", hf(0, head_dim=20, num_key_value_heads=2), {}, (
        r"the 4 heads of 20 elements are 80 wide together, and those of llama.cpp's Qwen2 must be as wide as the model, 64: choose "
    ), None),
    "bloom: slow but exact, in two pieces": ("Bloom", ALIBI | {"slow_but_exact": True, "pretraining_tp": 2}, {},
        "leaves out the biases", "leaves out the biases"),
    "llama: yarn with a factor of its own": ("Llama", hf(0, rope_parameters=SCALED["yarn"] | {"attention_factor": 1.3}), {},
        "llama.cpp derives what YaRN multiplies cosines by", None),
    "llama: yarn with two factors": ("Llama", hf(0, rope_parameters=SCALED["yarn"] | {"mscale": 1.3, "mscale_all_dim": 0.7}), {},
        "llama.cpp derives what YaRN multiplies cosines by", None),
    **{f"{name}: Llama 3's scaling": (kind, hf(0, **({"num_key_value_heads": 2} if kind == "Qwen2" else {}), rope_parameters={
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        "rope_theta": 500.0,
    }), {}, r"`rope_scaling.rope_type` is 'llama3': llama\.cpp's .* has \[", None)
       for name, kind in (("qwen2", "Qwen2"), ("gpt_neox", "GPTNeoX"), ("phi", "Phi"))},
    "qwen2: yarn that is not rounded": ("Qwen2", hf(0, num_key_value_heads=2, rope_parameters=SCALED["yarn"] | {"truncate": False}), {},
        "llama.cpp rounds the pairs", None),
    "bloom: residuals of normed x": ("Bloom", ALIBI | {"apply_residual_connection_post_layernorm": True}, {},
        "`apply_residual_connection_post_layernorm` is True", "`apply_residual_connection_post_layernorm` is True"),
    "opt: norms after": ("OPT", OPT | {"do_layer_norm_before": False}, {}, "llama.cpp has no architecture for it", None),
    "opt: narrow embeddings": ("OPT", OPT | {"word_embed_proj_dim": 32}, {}, "llama.cpp has no architecture for it", None),
    "opt: the 350M": ("OPT", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 48}, {}, "llama.cpp has no architecture", None),
    "opt: the 350M without biases and norms' weights": ("OPT", OPT | {
        "do_layer_norm_before": False, "word_embed_proj_dim": 48, "enable_bias": False, "layer_norm_elementwise_affine": False,
    }, {}, "llama.cpp has no architecture", None),
    "gpt_neo: all layers look back at all tokens": ("GPTNeo", {
        "num_layers": 2, "num_heads": 4, "hidden_size": 64, "max_position_embeddings": 128, "attention_types": [[["global"], 2]],
        "bos_token_id": 0, "eos_token_id": 0,
    }, {}, "has queries, keys and values in one matrix", None),
    "gpt_neox: five elements turned": ("GPTNeoX", hf(0, hidden_size=80, rope_parameters=ROPE | {"partial_rotary_factor": 0.25}), {},
        "5 elements of a head would be turned", "turns 5 elements of a head"),
    "phi: heads of their own size": ("Phi", hf(0, head_dim=20), {}, "llama.cpp's Phi must be as wide as the model, 64", None),
}  # fmt: skip
HEADS = {
    "llama": ("Llama", hf(0), "lm_head.weight"), "mistral": ("Mistral", hf(0, num_key_value_heads=2), "lm_head.weight"),
    "qwen2": ("Qwen2", hf(0, num_key_value_heads=2), "lm_head.weight"), "gpt_neox": ("GPTNeoX", hf(0), "embed_out.weight"),
    "gptj": ("GPTJ", old(0, n_positions=128, rotary_dim=8), "lm_head.weight"), "phi": ("Phi", hf(0), "lm_head.weight"),
    "codegen": ("CodeGen", old(0, n_positions=128, rotary_dim=8), "lm_head.weight"),
    "bloom": ("Bloom", ALIBI | {"tie_word_embeddings": False}, "lm_head.weight"),
    "gpt2": ("GPT2", old(0, n_positions=128, tie_word_embeddings=False), "lm_head.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_written_or_computed_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    name, config, said, gguf, engine = REFUSED[case]
    model = made(tmp_path / "source", name, config, said)
    ids, source = tokens(model), open_checkpoint(tmp_path / "source")

    if gguf is not None:
        with pytest.raises(ConverterError, match=gguf):
            convert(source, tmp_path / "o.gguf")
        assert not (tmp_path / "o.gguf").exists()
    if engine is None:
        np.testing.assert_allclose(compute(source).logits(ids), computed(model, ids), rtol=0, atol=1e-4)
    else:
        with pytest.raises(ConverterError, match=engine):
            compute(source).logits(ids)
    convert(source, tmp_path / "out", to="safetensors")
    again = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    np.testing.assert_array_equal(computed(again, ids), computed(model, ids))


@pytest.mark.parametrize("family", HEADS)
def test_a_model_that_lacks_its_own_head_is_neither_written_nor_computed(family: str, tmp_path: Path) -> None:
    name, config, head = HEADS[family]
    made(tmp_path / "source", name, config, {})
    state = torch.load(tmp_path / "source" / "pytorch_model.bin")
    del state["lm_head.weight" if head not in state else head]
    torch.save(state, tmp_path / "source" / "pytorch_model.bin")
    source = open_checkpoint(tmp_path / "source")

    with pytest.raises(ConverterError, match=rf"has no `{head}`|lacks `{head}`"):
        convert(source, tmp_path / "o.gguf")
    with pytest.raises(ConverterError, match=rf"has no `{head}`|lacks `{head}`"):
        compute(source)
    # what the message advises
    config = json.loads((tmp_path / "source" / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    convert(open_checkpoint(tmp_path / "source"), tmp_path / "o.gguf")
    compute(open_checkpoint(tmp_path / "source"))
