"""A small GPT-2 as arrays, written in every form without converter's writers; and ways to damage a copy."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from tests.build.checkpoints import View, view, write_checkpoint
from tests.build.gguf_files import F32, Info, gguf, key

N_LAYER, N_HEAD, N_EMBD, N_INNER, N_POSITIONS, VOCAB = 3, 4, 32, 128, 16, 40
MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
GGUF = {
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output", "ln_1": "attn_norm",
    "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


@dataclass
class Model:
    """Tensors as [in, out] arrays by bare name, and what lies beside them."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    vocab: list[str]
    merges: list[str]
    tied: bool = False  # lm_head.weight is wte.weight
    masks: bool = True
    prefix: str = "transformer."
    absent: set[str] = field(default_factory=set)  # files that are not written


def model(
    seed: int = 7,
    *,
    n_layer: int = N_LAYER,
    n_head: int = N_HEAD,
    n_embd: int = N_EMBD,
    n_inner: int = N_INNER,
    n_positions: int = N_POSITIONS,
    vocab_size: int = VOCAB,
    dtype: str = "<f4",
    scale: float = 1.0,
) -> Model:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocab_size, n_embd), "wpe.weight": (n_positions, n_embd)}
    for layer in range(n_layer):
        shapes |= {
            f"h.{layer}.ln_1.weight": (n_embd,), f"h.{layer}.ln_1.bias": (n_embd,),
            f"h.{layer}.attn.c_attn.weight": (n_embd, 3 * n_embd), f"h.{layer}.attn.c_attn.bias": (3 * n_embd,),
            f"h.{layer}.attn.c_proj.weight": (n_embd, n_embd), f"h.{layer}.attn.c_proj.bias": (n_embd,),
            f"h.{layer}.ln_2.weight": (n_embd,), f"h.{layer}.ln_2.bias": (n_embd,),
            f"h.{layer}.mlp.c_fc.weight": (n_embd, n_inner), f"h.{layer}.mlp.c_fc.bias": (n_inner,),
            f"h.{layer}.mlp.c_proj.weight": (n_inner, n_embd), f"h.{layer}.mlp.c_proj.bias": (n_embd,),
        }  # fmt: skip
    shapes |= {"ln_f.weight": (n_embd,), "ln_f.bias": (n_embd,)}
    config = {
        "activation_function": "gelu", "architectures": ["GPT2LMHeadModel"], "eos_token_id": vocab_size - 1,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_embd": n_embd, "n_head": n_head, "n_inner": n_inner,
        "n_layer": n_layer, "n_positions": n_positions, "torch_dtype": "float32", "vocab_size": vocab_size,
    }  # fmt: skip
    vocab = [chr(ord("a") + i) for i in range(26)] + [f"{a}b" for a in "abcdefghijklmnopqrstuvwxyz"]
    vocab = [*vocab[: min(vocab_size - 1, 39)], "<|endoftext|>"]
    merges = [f"{token[0]} {token[1]}" for token in vocab[26:-1]]
    tensors = {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    return Model(tensors, config, vocab, merges)


def write_source(made: Model, folder: Path) -> Path:
    """Write the published form: matrices are transposed views, masks lie between."""
    folder.mkdir(parents=True, exist_ok=True)
    value: dict[str, View] = {}
    storages: dict[str, bytes] = {}
    for name, array in made.tensors.items():
        if name == "lm_head.weight" and made.tied:
            value[name] = value[f"{made.prefix}wte.weight"]
            continue
        turned = name.endswith(MATRICES) and array.ndim == 2
        data = np.ascontiguousarray(array.T if turned else array)
        stride = (1, array.shape[0]) if turned else None
        full = name if name == "lm_head.weight" else made.prefix + name
        value[full] = view(str(len(storages)), array.shape, stride, dtype=_dtype(array))
        storages[str(len(storages))] = data.tobytes()
        if made.masks and name.endswith("ln_1.bias"):
            length = made.config["n_positions"]
            mask = np.tril(np.ones((1, 1, length, length), "u1"))
            value[full.replace("ln_1.bias", "attn.bias")] = view(str(len(storages)), mask.shape, dtype="U8")
            storages[str(len(storages))] = mask.tobytes()
    write_checkpoint(folder / "pytorch_model.bin", value, storages)
    companions(made, folder)
    return folder


def write_parameters(made: Model, folder: Path, form: str = "storages") -> Path:
    write_source(made, folder / "checkpoint")
    extract(open_checkpoint(folder / "checkpoint"), folder / "out", form=form)
    return folder / "out"


def write_safetensors(made: Model, folder: Path) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in made.tensors.items():
        if name == "lm_head.weight" and made.tied:
            continue
        full = name if name == "lm_head.weight" else made.prefix + name
        end = len(data) + array.nbytes
        header[full] = {"dtype": _dtype(array), "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(array).tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    companions(made, out)
    return out


def write_gguf(made: Model, folder: Path) -> Path:
    config = made.config
    keys = [
        key("general.architecture", "string", "gpt2"),
        key("gpt2.context_length", "u32", config["n_positions"]),
        key("gpt2.embedding_length", "u32", config["n_embd"]),
        key("gpt2.block_count", "u32", config["n_layer"]),
        key("gpt2.feed_forward_length", "u32", config["n_inner"]),
        key("gpt2.attention.head_count", "u32", config["n_head"]),
        key("gpt2.vocab_size", "u32", config["vocab_size"]),
        key("gpt2.attention.layer_norm_epsilon", "f32", config["layer_norm_epsilon"]),
        key("cerebras_tool.activation_function", "string", config["activation_function"]),
        key("tokenizer.ggml.eos_token_id", "u32", config["eos_token_id"]),
    ]
    if "vocab.json" not in made.absent:
        kinds = [3 if token.startswith("<|") else 1 for token in made.vocab]
        keys += [
            key("tokenizer.ggml.model", "string", "gpt2"),
            key("tokenizer.ggml.tokens", "array:string", made.vocab),
            key("tokenizer.ggml.token_type", "array:i32", kinds),
            key("tokenizer.ggml.merges", "array:string", made.merges),
        ]
    infos, data = [], b""
    for name, array in made.tensors.items():
        if name == "lm_head.weight" and made.tied:
            continue
        turned = name.endswith(MATRICES) and array.ndim == 2
        stored = np.ascontiguousarray(array.T if turned else array)
        number = {"F32": F32, "F64": 28, "I32": 26, "F16": 1, "I8": 24}[_dtype(array)]
        infos.append(Info(gguf_name(name), tuple(reversed(stored.shape)), number, len(data)))
        data += stored.tobytes() + bytes(-stored.nbytes % 32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out.gguf").write_bytes(gguf(keys, infos, data))
    return folder / "out.gguf"


FORMS: dict[str, Callable[[Model, Path], Path]] = {
    "parameters": write_parameters,
    "safetensors": write_safetensors,
    "gguf": write_gguf,
}


def gguf_name(name: str) -> str:
    if name.startswith("h."):
        _, layer, rest = name.split(".", 2)
        stem, _, kind = rest.rpartition(".")
        return f"blk.{layer}.{GGUF.get(stem, stem)}.{kind}"
    stem, _, kind = name.rpartition(".")
    return f"{GGUF.get(stem, stem)}.{kind}"


def _dtype(array: np.ndarray) -> str:
    return {"f4": "F32", "f8": "F64", "f2": "F16", "i4": "I32", "i1": "I8", "u1": "U8"}[array.dtype.str[1:]]


def companions(made: Model, folder: Path) -> None:
    """Write config.json and the tokenizer."""
    files = {
        "config.json": json.dumps(made.config),
        "vocab.json": json.dumps({token: number for number, token in enumerate(made.vocab)}),
        "merges.txt": "\n".join(["#version: 0.2", *made.merges, ""]),
    }
    for name, text in files.items():
        if name not in made.absent:
            (folder / name).write_text(text)


# ---- damage: what is done, and how verify must name it -----------------------------------------------------------


def bf16(array: np.ndarray) -> np.ndarray:
    return (array.view("<u4") & 0xFFFF0000).view("<f4")


def flip(array: np.ndarray, at: int, bit: int) -> None:
    array.reshape(-1).view("<u4")[at] ^= np.uint32(1 << bit)


def swap(tensors: dict[str, np.ndarray], one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]


def thirds(array: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
    parts = np.split(array, 3, axis=-1)
    return np.concatenate([parts[i] for i in order], axis=-1)


def laid_out_transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T).reshape(array.shape)


Change = Callable[[Model], None]
ATTN, PROJ, FC, DOWN = (
    "h.1.attn.c_attn.weight",
    "h.1.attn.c_proj.weight",
    "h.0.mlp.c_fc.weight",
    "h.2.mlp.c_proj.weight",
)
BIAS, NORM = "h.1.mlp.c_fc.bias", "h.2.ln_1.weight"


def edit(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Replace a tensor by what `change` returns, or changes in place."""

    def apply(made: Model) -> None:
        array = made.tensors[name].copy()
        result = change(array)
        made.tensors[name] = array if result is None else np.ascontiguousarray(result)

    return apply


def put(at: Any, value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[at] = value

    return change


def swapped(*pairs: tuple[str, str]) -> Change:
    def apply(made: Model) -> None:
        for one, other in pairs:
            swap(made.tensors, one, other)

    return apply


def _layers(made: Model) -> None:
    for name in [name for name in made.tensors if name.startswith("h.0.")]:
        swap(made.tensors, name, name.replace("h.0.", "h.2."))


def _rows(array: np.ndarray) -> None:
    array[[3, 7]] = array[[7, 3]]


def _columns(array: np.ndarray) -> np.ndarray:
    return array[:, np.r_[8:16, 0:8, 16:32]]  # two heads are swapped


def _shift(array: np.ndarray) -> np.ndarray:
    return np.roll(array.reshape(-1), 1).reshape(array.shape)


# id: (what is done, the tensor, how verify names it)
CONTENT: dict[str, tuple[Change, str, str]] = {
    "square matrix transposed": (edit(PROJ, lambda a: a.T), PROJ, "transposed"),
    "wide matrix laid out transposed": (edit(FC, laid_out_transposed), FC, "transposed"),
    "tall matrix laid out transposed": (edit(DOWN, laid_out_transposed), DOWN, "transposed"),
    "wide matrix laid out the other way round": (
        edit(FC, lambda a: a.reshape(a.shape[::-1]).T), FC, "transposed",
    ),
    "qkv matrix laid out transposed": (edit(ATTN, laid_out_transposed), ATTN, "transposed"),
    "layers swapped": (_layers, "h.0.attn.c_proj.weight", "swapped with h.2.attn.c_proj.weight"),
    "layers swapped, vectors too": (_layers, "h.2.ln_2.bias", "swapped with h.0.ln_2.bias"),
    "one matrix of two layers swapped": (swapped((FC, "h.2.mlp.c_fc.weight")), FC, "swapped with h.2.mlp.c_fc.weight"),
    "one bias of two layers swapped": (swapped((BIAS, "h.0.mlp.c_fc.bias")), BIAS, "swapped with h.0.mlp.c_fc.bias"),
    "norms swapped": (swapped((NORM, "h.2.ln_2.weight"), ("h.2.ln_1.bias", "h.2.ln_2.bias")), NORM, "ln_1 and ln_2 swapped"),
    "biases of norms swapped": (swapped(("h.0.ln_1.bias", "h.0.ln_2.bias")), "h.0.ln_2.bias", "ln_1 and ln_2 swapped"),
    "weight and bias swapped": (swapped((NORM, "h.2.ln_1.bias")), NORM, "bias and weight swapped"),
    "final norm swapped with another": (swapped(("ln_f.weight", NORM)), "ln_f.weight", f"swapped with {NORM}"),
    "q and k swapped": (edit(ATTN, lambda a: thirds(a, (1, 0, 2))), ATTN, "q and k swapped"),
    "k and v swapped": (edit(ATTN, lambda a: thirds(a, (0, 2, 1))), ATTN, "k and v swapped"),
    "q and v swapped": (edit(ATTN, lambda a: thirds(a, (2, 1, 0))), ATTN, "q and v swapped"),
    "q, k, v one on": (edit(ATTN, lambda a: thirds(a, (1, 2, 0))), ATTN, "q, k and v permuted"),
    "q, k, v two on": (edit(ATTN, lambda a: thirds(a, (2, 0, 1))), ATTN, "q, k and v permuted"),
    "q and k of the bias swapped": (
        edit("h.0.attn.c_attn.bias", lambda a: thirds(a, (1, 0, 2))), "h.0.attn.c_attn.bias", "q and k swapped",
    ),
    "bias zeroed": (edit(BIAS, put(slice(None), 0)), BIAS, "zeroed"),
    "matrix zeroed": (edit(DOWN, put(slice(None), 0)), DOWN, "zeroed"),
    "end of the embedding zeroed": (edit("wte.weight", put(slice(30, None), 0)), "wte.weight", "partly zeroed"),
    "one element zeroed": (edit(NORM, put(5, 0)), NORM, "partly zeroed"),
    "lowest bit flipped": (edit(FC, lambda a: flip(a, 77, 0)), FC, "one flipped bit"),
    "sign bit flipped": (edit(FC, lambda a: flip(a, 4000, 31)), FC, "one flipped bit"),
    "exponent bit flipped": (edit("wpe.weight", lambda a: flip(a, 100, 24)), "wpe.weight", "one flipped bit"),
    "bit of the first element flipped": (edit("wte.weight", lambda a: flip(a, 0, 12)), "wte.weight", "one flipped bit"),
    "bit of the last element flipped": (edit("ln_f.bias", lambda a: flip(a, N_EMBD - 1, 3)), "ln_f.bias", "one flipped bit"),
    "one element NaN": (edit(DOWN, put((3, 3), np.nan)), DOWN, "NaN"),
    "a row NaN": (edit("wte.weight", put(9, np.nan)), "wte.weight", "NaN"),
    "one element infinite": (edit(DOWN, put((3, 3), np.inf)), DOWN, "one element changed"),
    "one element changed": (edit(BIAS, put(7, 0.123)), BIAS, "one element changed"),
    "two elements changed": (edit(PROJ, put(([1, 9], [3, 30]), 0.5)), PROJ, "changed"),
    "negated": (edit(DOWN, lambda a: -a), DOWN, "negated"),
    "scaled": (edit(PROJ, lambda a: a * np.float32(0.125)), PROJ, "scaled"),
    "a norm scaled": (edit(NORM, lambda a: a * np.float32(2)), NORM, "scaled"),
    "rounded to F16": (edit(FC, lambda a: a.astype("f2").astype("<f4")), FC, "rounded to F16"),
    "bytes in the other order": (edit(PROJ, lambda a: a.byteswap()), PROJ, "byte order"),
    "one element late": (edit("wpe.weight", _shift), "wpe.weight", "shifted"),
    "two rows swapped": (edit("wte.weight", _rows), "wte.weight", "rows in another order"),
    "rows reversed": (edit("wte.weight", lambda a: a[::-1]), "wte.weight", "rows in another order"),
    "two heads swapped": (edit(PROJ, _columns), PROJ, "columns in another order"),
    "a bias reversed": (edit(BIAS, lambda a: a[::-1]), BIAS, "elements in another order"),
    "copied from another layer": (
        lambda made: made.tensors.update({FC: made.tensors["h.1.mlp.c_fc.weight"]}), FC, "a copy of h.1.mlp.c_fc.weight",
    ),
    "filled with one number": (edit(PROJ, put(slice(None), 0.02)), PROJ, "changed"),
    "a little noise": (edit(PROJ, lambda a: a + np.linspace(0, 1e-3, a.size, dtype="<f4").reshape(a.shape)), PROJ, "changed"),
    "another seed": (lambda made: made.tensors.update({PROJ: model(8).tensors[PROJ]}), PROJ, "changed"),
}  # fmt: skip


def drop(name: str) -> Change:
    def apply(made: Model) -> None:
        del made.tensors[name]

    return apply


def rename(name: str, other: str) -> Change:
    def apply(made: Model) -> None:
        made.tensors = {other if n == name else n: array for n, array in made.tensors.items()}

    return apply


def add(name: str, array: np.ndarray) -> Change:
    return lambda made: made.tensors.update({name: array})


def setting(key: str, value: Any) -> Change:
    return lambda made: made.config.update({key: value})


def _tokens(made: Model) -> None:
    made.vocab[3], made.vocab[4] = made.vocab[4], made.vocab[3]


def _merges(made: Model) -> None:
    made.merges.reverse()


STRUCTURE: dict[str, tuple[Change, str, str]] = {
    "a bias is missing": (drop(BIAS), BIAS, "missing"),
    "a matrix is missing": (drop(FC), FC, "missing"),
    "the final norm is missing": (drop("ln_f.weight"), "ln_f.weight", "missing"),
    "one more tensor": (add("h.1.mlp.gate.weight", np.ones((4, 4), "<f4")), "h.1.mlp.gate.weight", "unexpected"),
    "a tensor renamed": (rename(BIAS, "h.1.mlp.c_xx.bias"), BIAS, "renamed"),
    "a vector cut": (edit(NORM, lambda a: a[:-1]), NORM, "another shape"),
    "a matrix reshaped": (edit(FC, lambda a: a.reshape(2 * N_EMBD, -1)), FC, "another shape"),
    "a matrix transposed with its shape": (edit(FC, lambda a: a.T), FC, "transposed"),
    "an embedding with a row less": (edit("wpe.weight", lambda a: a[:-1]), "wpe.weight", "another shape"),
    "floats called integers": (edit(PROJ, lambda a: a.view("<i4")), PROJ, "another dtype"),
    "a head of its own": (
        lambda made: made.tensors.update({"lm_head.weight": made.tensors["wte.weight"] + 1}), "lm_head.weight", "unexpected",
    ),
    "epsilon wrong": (setting("layer_norm_epsilon", 1e-6), "config.json", "layer_norm_epsilon is wrong"),
    "heads wrong": (setting("n_head", 8), "config.json", "n_head is wrong"),
    "activation wrong": (setting("activation_function", "gelu_new"), "config.json", "activation_function is wrong"),
    "end of text wrong": (setting("eos_token_id", 3), "config.json", "eos_token_id is wrong"),
    "positions wrong": (setting("n_positions", 32), "config.json", "n_positions is wrong"),
}  # fmt: skip
