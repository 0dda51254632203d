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
from converter.conversion.surgery import rules  # noqa: E402
from converter.errors import UnsupportedError  # noqa: E402
from converter.formats import canonical  # noqa: E402
from converter.inference.engine import compute  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.verification.verify import Options, verify  # noqa: E402
from tests.peers import llama  # noqa: E402
from tests.peers.small_models import END, byte_level  # noqa: E402

COUNT = 64  # tokens
SIZES = ((2, 4, 64), (3, 2, 96), (2, 4, 256))  # layers, heads, width; blocks of K-quants need rows of 256
# The seed of the weights, which of the sizes, and in how many files they lie.
VARIANTS = {"one file": (0, 0, 1), "shards": (1, 1, 2), "small shards": (2, 0, 3), "large file": (3, 1, 1)}
WIDE = (4, 2, 1)


def hf(size: int, **more: Any) -> dict[str, Any]:
    layers, heads, width = SIZES[size]
    return {
        "num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": width * 2,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **more,
    }  # fmt: skip


def old(size: int, **more: Any) -> dict[str, Any]:
    layers, heads, width = SIZES[size]
    return {"n_layer": layers, "n_head": heads, "n_embd": width, "bos_token_id": 0, "eos_token_id": 0} | more


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 500.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
# A family's class and its config.json, by which of the sizes it has.
FAMILIES: dict[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "gpt2": lambda size: ("GPT2", old(size, n_positions=128, n_ctx=128, tie_word_embeddings=size != 1)),
    "llama": lambda size: ("Llama", hf(size, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=size == 1)),
    "llama3": lambda size: ("Llama", hf(size, num_key_value_heads=1, rope_parameters=LLAMA3)),
    "linear": lambda size: ("Llama", hf(size, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})),
    "biases": lambda size: ("Llama", hf(size, num_key_value_heads=2, attention_bias=True, mlp_bias=size == 1)),
    "yarn": lambda size: ("Qwen2", hf(size, num_key_value_heads=2, rope_parameters=YARN)),
    "wide heads": lambda size: ("Llama", hf(size, head_dim=48)),
    "mistral": lambda size: ("Mistral", hf(size, num_key_value_heads=2, sliding_window=None)),
    "qwen2": lambda size: ("Qwen2", hf(size, num_key_value_heads=2, tie_word_embeddings=size == 1, rope_theta=1e6)),
    "gpt_neox": lambda size: ("GPTNeoX", hf(size, use_parallel_residual=size != 1, rotary_pct=(0.25, 0.5, 0.25)[size])),
    "bloom": lambda size: ("Bloom", {
        "n_layer": SIZES[size][0], "n_head": (4, 6, 8)[size], "hidden_size": SIZES[size][2], "seq_length": 128,
        "bos_token_id": 0, "eos_token_id": 0,
    }),
    "gptj": lambda size: ("GPTJ", old(size, n_positions=128, rotary_dim=(8, 16, 32)[size])),
    "codegen": lambda size: ("CodeGen", old(size, n_head=4, n_positions=128, rotary_dim=(8, 12, 32)[size])),
    "phi": lambda size: ("Phi", hf(size, intermediate_size=SIZES[size][2] * 4, partial_rotary_factor=(0.5, 0.25, 0.5)[size])),
    "opt": lambda size: ("OPT", hf(size, ffn_dim=100, word_embed_proj_dim=SIZES[size][2], pad_token_id=1)),
    "galactica": lambda size: ("OPT", hf(
        size, ffn_dim=100, word_embed_proj_dim=SIZES[size][2], pad_token_id=1, enable_bias=False, activation_function="gelu",
        layer_norm_elementwise_affine=size == 1,
    )),
    "gpt_neo": lambda size: ("GPTNeo", {
        "num_layers": 4, "num_heads": SIZES[size][1], "hidden_size": SIZES[size][2], "max_position_embeddings": 128,
        "attention_types": [[["global", "local"], 2]], "window_size": (16, 256)[size], "bos_token_id": 0, "eos_token_id": 0,
    }),
    "xglm": lambda size: ("XGLM", {
        "num_layers": SIZES[size][0], "attention_heads": SIZES[size][1], "d_model": SIZES[size][2], "ffn_dim": 100,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
    }),
}  # fmt: skip
NO_GGUF = ("opt", "galactica", "gpt_neo", "xglm")
TABLE = ("gpt2", "gpt_neox", "bloom", "gptj", "codegen", "phi")  # their activation is GELU
WRITTEN = [name for name in FAMILIES if name not in NO_GGUF]


def kind(name: str) -> Any:
    return getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")


def model_of(family: str, seed: int, size: int, vocabulary: int) -> Any:
    """A model with weights at random."""
    name, config = FAMILIES[family](size)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = getattr(transformers, f"{name}Config")(**config, vocab_size=vocabulary)
        model = kind(name)(settings).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            # GPT-Neo does not divide the products of queries and keys, so that larger ones would multiply roundings.
            spread = 0.1 if value.ndim == 1 or name == "GPTNeo" else 1.2 / SIZES[size][2] ** 0.5
            value.copy_(
                torch.randn_like(value) * spread
                + ("norm" in key or "ln_" in key) * (1 if key.endswith("weight") and value.ndim == 1 else 0)
            )
    return model


def save(model: Any, folder: Path, shards: int) -> None:
    """The model as people have it: config.json, and what torch.save writes."""
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        if model.config.tie_word_embeddings:
            del state["lm_head.weight"]  # no shard has a second copy
        names, weight_map = list(state), {}
        for number in range(shards):
            part = names[len(names) * number // shards : len(names) * (number + 1) // shards]
            file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
            torch.save({key: state[key].clone() for key in part}, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    said = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(said))


def made(folder: Path, family: str, variant: tuple[int, int, int]) -> Any:
    """A saved model with a tokenizer."""
    seed, size, shards = variant
    folder.mkdir()
    vocabulary = byte_level(folder)
    tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    model = model_of(family, seed, size, vocabulary)
    save(model, folder, shards)
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


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_and_safetensors_compute_what_transformers_does(
    family: str, variant: tuple[int, int, int], tmp_path: Path
) -> None:
    model = made(tmp_path / "source", family, variant)
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


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("family", WRITTEN)
def test_gguf_computes_the_same_in_llama_cpp_and_comes_back(
    family: str, variant: tuple[int, int, int], tmp_path: Path
) -> None:
    model = made(tmp_path / "source", family, variant)
    ids = tokens(model)
    source = open_checkpoint(tmp_path / "source")

    convert(source, tmp_path / "o.gguf")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    expected = log_softmax(computed(model, ids))
    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    most = 5e-3 if family in TABLE else 5e-5  # llama.cpp takes GELU from a table of halves
    assert np.abs(found - expected).max() < most
    # The likeliest token is the same but where two tokens are nearer to each other than that.
    second, first = np.sort(expected, -1)[:, -2:].T
    clear = first - second > 2 * most
    assert clear.sum() >= COUNT - 8
    assert (found.argmax(-1) == expected.argmax(-1))[clear].all()
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
    again = type(model).from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    np.testing.assert_array_equal(computed(again, ids), computed(model, ids))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_k_m"])
@pytest.mark.parametrize("family", WRITTEN)
def test_quantised_models_run(family: str, dtype: str, tmp_path: Path) -> None:
    model = made(tmp_path / "source", family, WIDE)
    ids = tokens(model)[:16]
    convert(open_checkpoint(tmp_path / "source"), tmp_path / "q.gguf", dtype=dtype)

    ours = log_softmax(compute(canonical(open_checkpoint(tmp_path / "q.gguf"))).logits(ids))
    found = log_softmax(in_llama_cpp(tmp_path / "q.gguf", ids))
    report = verify(open_checkpoint(tmp_path / "source"), [tmp_path / "q.gguf"], Options(level="inference"))

    encodings = {tensor.storage.encoding for tensor in open_checkpoint(tmp_path / "q.gguf").values()}
    assert {"q8_0": "Q8_0", "q4_k_m": "Q4_K"}[dtype] in encodings
    assert np.abs(found - ours).max() < 0.5
    assert [output.verdict for output in report.outputs] == ["equivalent"]


@pytest.mark.parametrize("family", NO_GGUF)
def test_what_llama_cpp_can_not_compute_is_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    made(tmp_path / "source", family, VARIANTS["shards"])

    with pytest.raises(UnsupportedError, match=r"can't be written as GGUF, because .*: choose safetensors"):
        convert(open_checkpoint(tmp_path / "source"), tmp_path / "o.gguf")


@pytest.mark.parametrize("biased", [False, True], ids=["without biases", "with biases"])
@pytest.mark.parametrize("variant", [VARIANTS["one file"], VARIANTS["large file"], WIDE], ids=["one", "large", "wide"])
def test_a_checkpoint_of_nanogpt_goes_to_gguf_and_comes_back(
    variant: tuple[int, int, int], biased: bool, tmp_path: Path
) -> None:
    """It is a GPT-2 whose matrices lie the other way, here compiled."""
    seed, size, _ = variant
    folder = tmp_path / "source"
    folder.mkdir()
    model = model_of("gpt2", seed, size, byte_level(folder))
    model.config.activation_function = "gelu"
    model = transformers.GPT2LMHeadModel(model.config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(torch.randn_like(value) * (0.1 if value.ndim == 1 else 1.2 / SIZES[size][2] ** 0.5))
            if "ln_" in key and key.endswith("weight"):
                value.add_(1)
            if key.endswith("bias") and not biased:
                value.zero_()
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {
        f"_orig_mod.{key}": value.t().contiguous() if key.endswith(turned) else value
        for key, value in model.state_dict().items()
        if biased or not key.endswith("bias")
    }
    layers, heads, width = SIZES[size]
    said = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": 128, "bias": biased}
    said |= {"vocab_size": model.config.vocab_size, "dropout": 0.0}
    torch.save({"model": state, "model_args": said, "iter_num": 3}, folder / "ckpt.pt")
    ids, source = tokens(model), open_checkpoint(folder / "ckpt.pt")
    expected = log_softmax(computed(model, ids))

    convert(source, tmp_path / "o.gguf", tokenizer=folder)
    convert(source, tmp_path / "out", to="safetensors")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")
    for dtype in ("q8_0", "q4_k_m"):
        convert(source, tmp_path / f"{dtype}.gguf", dtype=dtype, tokenizer=folder)

    np.testing.assert_allclose(compute(source).logits(ids), computed(model, ids), rtol=0, atol=1e-4)
    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    assert np.abs(found - expected).max() < 2e-2  # the model has the exact GELU, and llama.cpp the one with tanh
    outputs = [tmp_path / name for name in ("o.gguf", "out", "back", "q8_0.gguf", "q4_k_m.gguf")]
    report = verify(source, outputs, Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"] * 3 + ["equivalent"] * 2
    for path in outputs[3:]:
        ours = log_softmax(compute(canonical(open_checkpoint(path))).logits(ids))
        assert np.abs(log_softmax(in_llama_cpp(path, ids)) - ours).max() < 0.5


@pytest.mark.parametrize("numbered", [False, True], ids=["phi-msft", "mixformer-sequential"])
@pytest.mark.parametrize("variant", [VARIANTS["one file"], VARIANTS["large file"]], ids=["one", "large"])
def test_phi_with_its_first_names_goes_to_gguf_and_comes_back(
    variant: tuple[int, int, int], numbered: bool, tmp_path: Path
) -> None:
    """Its queries, keys and values were one matrix. At the very first, all modules were numbered, which takes renames."""
    seed, size, _ = variant
    folder = tmp_path / "source"
    folder.mkdir()
    model = model_of("phi", seed, size, byte_level(folder))
    layers, heads, width = SIZES[size]
    held = model.state_dict()
    first = ("layers.0.wte", f"layers.{layers + 1}.ln", f"layers.{layers + 1}.linear")
    later = ("transformer.embd.wte", "lm_head.ln", "lm_head.linear")
    own = dict(
        zip(("model.embed_tokens", "model.final_layernorm", "lm_head"), first if numbered else later, strict=True)
    )
    renames = [f"{old}.*={new}.*" for old, new in zip(first, later, strict=True)]
    inner = {"input_layernorm": "ln", "self_attn.dense": "mixer.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    state = {}
    for layer in range(layers):
        block = f"layers.{layer + 1}" if numbered else f"transformer.h.{layer}"
        renames.append(f"layers.{layer + 1}.*=transformer.h.{layer}.*")
        own |= {f"model.layers.{layer}.{old}": f"{block}.{new}" for old, new in inner.items()}
        for part in ("weight", "bias"):
            parts = [held[f"model.layers.{layer}.self_attn.{one}_proj.{part}"] for one in "qkv"]
            state[f"{block}.mixer.Wqkv.{part}"] = torch.cat(parts)
    state |= {
        f"{new}.{part}": held[f"{old}.{part}"]
        for old, new in own.items()
        for part in ("weight", "bias")
        if f"{old}.{part}" in held
    }
    torch.save(state, folder / "pytorch_model.bin")
    said = {
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "n_inner": None,
        "n_positions": 128,
        "activation_function": "gelu_new",
    }
    said |= {"model_type": "mixformer-sequential" if numbered else "phi-msft", "vocab_size": model.config.vocab_size}
    said |= {"rotary_dim": int(model.config.rope_parameters["partial_rotary_factor"] * width / heads)}
    (folder / "config.json").write_text(json.dumps(said))
    ids, source = tokens(model), open_checkpoint(folder)

    convert(source, tmp_path / "out", to="safetensors", surgery=rules(rename=renames if numbered else ()))
    source = open_checkpoint(tmp_path / "out") if numbered else source
    convert(source, tmp_path / "o.gguf")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    np.testing.assert_allclose(compute(source).logits(ids), computed(model, ids), rtol=0, atol=1e-4)
    found = log_softmax(in_llama_cpp(tmp_path / "o.gguf", ids))
    assert np.abs(found - log_softmax(computed(model, ids))).max() < 5e-3
    report = verify(source, [tmp_path / "o.gguf", tmp_path / "back"], Options(level="inference"))
    assert [output.verdict for output in report.outputs] == ["identical"] * 2
