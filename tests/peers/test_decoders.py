"""Each family on models that transformers made: what every output computes there, in llama.cpp and in our engine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("xllamacpp")

from converter.conversion.convert import convert  # noqa: E402
from converter.errors import UnsupportedError  # noqa: E402
from converter.formats import canonical  # noqa: E402
from converter.inference.engine import compute  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.verification.verify import Options, verify  # noqa: E402
from tests.peers import llama  # noqa: E402
from tests.peers.small_models import END, byte_level  # noqa: E402

COUNT = 64  # tokens
SIZES = {0: (2, 4, 64), 1: (3, 2, 96)}  # by the seed: layers, heads, width
Made = tuple[Any, dict[str, Any]]


def hf(seed: int, **more: Any) -> dict[str, Any]:
    layers, heads, width = SIZES[seed]
    return {
        "num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": width * 2,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **more,
    }  # fmt: skip


def old(seed: int, **more: Any) -> dict[str, Any]:
    layers, heads, width = SIZES[seed]
    return {"n_layer": layers, "n_head": heads, "n_embd": width, "bos_token_id": 0, "eos_token_id": 0} | more


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 500.0,
}  # fmt: skip
# A family's class and its config.json.
FAMILIES: dict[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "llama": lambda seed: ("Llama", hf(seed, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=bool(seed))),
    "llama3": lambda seed: ("Llama", hf(seed, num_key_value_heads=1, rope_parameters=LLAMA3)),
    "linear": lambda seed: ("Llama", hf(seed, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})),
    "wide heads": lambda seed: ("Llama", hf(seed, head_dim=48)),
    "mistral": lambda seed: ("Mistral", hf(seed, num_key_value_heads=2, sliding_window=None)),
    "qwen2": lambda seed: ("Qwen2", hf(seed, num_key_value_heads=2, tie_word_embeddings=bool(seed), rope_theta=1e6)),
    "gpt_neox": lambda seed: ("GPTNeoX", hf(seed, use_parallel_residual=not seed, rotary_pct=(0.25, 0.5)[seed])),
    "bloom": lambda seed: ("Bloom", {
        "n_layer": SIZES[seed][0], "n_head": (4, 6)[seed], "hidden_size": SIZES[seed][2], "seq_length": 128,
        "bos_token_id": 0, "eos_token_id": 0,
    }),
    "gptj": lambda seed: ("GPTJ", old(seed, n_positions=128, rotary_dim=(8, 16)[seed])),
    "codegen": lambda seed: ("CodeGen", old(seed, n_head=4, n_positions=128, rotary_dim=(8, 12)[seed])),
    "phi": lambda seed: ("Phi", hf(seed, intermediate_size=SIZES[seed][2] * 4, partial_rotary_factor=(0.5, 0.25)[seed])),
    "opt": lambda seed: ("OPT", hf(seed, ffn_dim=100, word_embed_proj_dim=SIZES[seed][2], pad_token_id=1)),
    "galactica": lambda seed: ("OPT", hf(
        seed, ffn_dim=100, word_embed_proj_dim=SIZES[seed][2], pad_token_id=1, enable_bias=False, activation_function="gelu",
    )),
    "gpt_neo": lambda seed: ("GPTNeo", {
        "num_layers": 4, "num_heads": SIZES[seed][1], "hidden_size": SIZES[seed][2], "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 2]], "window_size": (16, 256)[seed], "bos_token_id": 0, "eos_token_id": 0,
    }),
    "xglm": lambda seed: ("XGLM", {
        "num_layers": SIZES[seed][0], "attention_heads": SIZES[seed][1], "d_model": SIZES[seed][2], "ffn_dim": 100,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
    }),
}  # fmt: skip
NO_GGUF = ("opt", "galactica", "gpt_neo", "xglm")
TABLE = ("gpt_neox", "bloom", "gptj", "codegen", "phi")  # their activation is GELU
WRITTEN = [name for name in FAMILIES if name not in NO_GGUF]


def kind(name: str) -> Any:
    return getattr(transformers, f"{name}ForCausalLM")


def made(folder: Path, family: str, seed: int) -> Any:
    """A model with weights at random, saved as a .bin and, for the second seed, in shards."""
    folder.mkdir()
    name, config = FAMILIES[family](seed)
    size = byte_level(folder)
    tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = getattr(transformers, f"{name}Config")(**config, vocab_size=size)
        model = kind(name)(settings).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            # GPT-Neo does not divide the products of queries and keys, so that larger ones would multiply roundings.
            spread = 0.1 if value.ndim == 1 or name == "GPTNeo" else 0.15
            value.copy_(
                torch.randn_like(value) * spread
                + ("norm" in key or "ln_" in key) * (1 if key.endswith("weight") and value.ndim == 1 else 0)
            )
    state = model.state_dict()
    if seed == 0:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        if model.config.tie_word_embeddings:
            del state["lm_head.weight"]  # no shard has a second copy
        names = list(state)
        halves = (names[: len(names) // 2], names[len(names) // 2 :])
        weight_map = {}
        for number, half in enumerate(halves, 1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({key: state[key].clone() for key in half}, folder / file)
            weight_map |= dict.fromkeys(half, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    said = json.loads(model.config.to_json_string()) | ({"seq_length": 128} if name == "Bloom" else {})
    (folder / "config.json").write_text(json.dumps(said | {"architectures": [type(model).__name__]}))
    return model


def tokens(model: Any) -> list[int]:
    return np.random.default_rng(5).integers(1, model.config.vocab_size, COUNT).tolist()


def computed(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return found


def in_llama_cpp(path: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    model = llama.Model(path)
    try:
        return model.logits(ids, exact=True)
    finally:
        model.close()


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    found: np.ndarray[Any, Any] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return found


@pytest.mark.parametrize("seed", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_and_safetensors_compute_what_transformers_does(family: str, seed: int, tmp_path: Path) -> None:
    model = made(tmp_path / "source", family, seed)
    ids = tokens(model)
    source = open_checkpoint(tmp_path / "source")

    convert(source, tmp_path / "out", to="safetensors")

    expected = computed(model, ids)
    engine = compute(open_checkpoint(tmp_path / "source"))
    assert engine.family.model_type == model.config.model_type or engine.family.also
    np.testing.assert_allclose(engine.logits(ids), expected, rtol=0, atol=1e-4)
    again = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    np.testing.assert_array_equal(computed(again, ids), expected)
    assert engine.greedy(ids[:8], 12) == [*model.generate(
        torch.tensor([ids[:8]]), attention_mask=torch.ones(1, 8, dtype=torch.long), max_new_tokens=12, do_sample=False,
        pad_token_id=0, eos_token_id=None,
    )[0, 8:].tolist()]  # fmt: skip


@pytest.mark.parametrize("seed", SIZES)
@pytest.mark.parametrize("family", WRITTEN)
def test_gguf_computes_the_same_in_llama_cpp_and_comes_back(family: str, seed: int, tmp_path: Path) -> None:
    model = made(tmp_path / "source", family, seed)
    ids = tokens(model)
    source = open_checkpoint(tmp_path / "source")

    convert(source, tmp_path / "o.gguf")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    expected = log_softmax(computed(model, ids))
    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    # llama.cpp takes GELU from a table of halves. Two tokens may be nearly as likely as each other.
    likely = np.take_along_axis(expected, found.argmax(-1)[:, None], -1)[:, 0]
    assert (expected.max(-1) - likely).max() < 6e-3
    assert (found.argmax(-1) == expected.argmax(-1)).sum() >= COUNT - 1
    assert np.abs(found - expected).max() < (5e-3 if family in TABLE else 5e-5)
    report = verify(source, [tmp_path / "o.gguf", tmp_path / "back"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"] * 2
    assert [(output.inference or {})["max_difference"] for output in report.outputs] == [0, 0]
    back = open_checkpoint(tmp_path / "back")
    for name, tensor in source.items():
        assert (
            np.array_equal(back[name].bits(), tensor.bits())
            if name in back
            else "lm_head" in name or "embed_out" in name
        )


@pytest.mark.parametrize("dtype", ["q8_0", "q4_k_m"])
@pytest.mark.parametrize("family", WRITTEN)
def test_quantised_models_run(family: str, dtype: str, tmp_path: Path) -> None:
    model = made(tmp_path / "source", family, 0)
    ids = tokens(model)[:16]
    convert(open_checkpoint(tmp_path / "source"), tmp_path / "q.gguf", dtype=dtype)

    ours = log_softmax(compute(canonical(open_checkpoint(tmp_path / "q.gguf"))).logits(ids))
    found = log_softmax(in_llama_cpp(tmp_path / "q.gguf", ids))
    report = verify(open_checkpoint(tmp_path / "source"), [tmp_path / "q.gguf"], Options(level="inference"))

    assert np.abs(found - ours).max() < 0.5
    assert [output.verdict for output in report.outputs] == ["equivalent"]


@pytest.mark.parametrize("family", NO_GGUF)
def test_what_llama_cpp_can_not_compute_is_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    made(tmp_path / "source", family, 0)

    with pytest.raises(UnsupportedError, match=r"can't be written as GGUF, because .*: choose safetensors"):
        convert(open_checkpoint(tmp_path / "source"), tmp_path / "o.gguf")


def test_a_checkpoint_of_nanogpt_goes_to_gguf_and_computes_the_same(tmp_path: Path) -> None:
    """It is a GPT-2 whose matrices lie the other way, here compiled and without biases."""
    size = byte_level(tmp_path)
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=64, n_positions=128, vocab_size=size, activation_function="gelu", bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(torch.randn_like(value) * 0.15 + (1 if "ln_" in key else 0))
            if key.endswith("bias"):
                value.zero_()
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {
        f"_orig_mod.{key}": value.t().contiguous() if key.endswith(turned) else value
        for key, value in model.state_dict().items()
        if not key.endswith("bias")
    }
    torch.save({"model": state, "iter_num": 3}, tmp_path / "ckpt.pt")
    said = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 128, "vocab_size": size}
    (tmp_path / "config.json").write_text(json.dumps(said | {"bos_token_id": 0, "eos_token_id": 0}))
    ids, source = tokens(model), open_checkpoint(tmp_path / "ckpt.pt")

    convert(source, tmp_path / "o.gguf", tokenizer=tmp_path)

    np.testing.assert_allclose(compute(source).logits(ids), computed(model, ids), rtol=0, atol=1e-4)
    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    assert np.abs(found - log_softmax(computed(model, ids))).max() < 2e-2
    report = verify(source, [tmp_path / "o.gguf"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"]
