"""Every kind of fault is named, and nothing honest is called one."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

import converter
from converter.checking.rules import RULES
from converter.errors import ForeignFileError, SourceError, UnsupportedError
from converter.reports.checking import CheckReport
from converter.sample import write_sample
from tests.build.checkpoints import (
    Call,
    Global,
    View,
    checkpoint_entries,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.damage import BIAS, FC, edit, flip, model, put, write_gguf, write_safetensors, write_source
from tests.build.forked import Forked
from tests.build.gguf_files import Q8_0, Info, gguf

Arrays = dict[str, np.ndarray]
NAN, INF = float("nan"), float("inf")
DTYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "u2": "BF16", "i8": "I64", "u1": "U8", "i1": "I8", "b1": "BOOL"}


def llama(layers: int = 8, *, seed: int = 1, rows: int = 64) -> Arrays:
    """A small network of an architecture that has no rows here."""
    rng = np.random.default_rng(seed)
    made = {"model.embed_tokens.weight": rng.standard_normal((rows, 32)).astype("<f4")}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name, shape in (("self_attn.q_proj", (32, 32)), ("self_attn.o_proj", (32, 32)), ("mlp.up_proj", (64, 32))):
            made[f"{at}{name}.weight"] = rng.standard_normal(shape).astype("<f4")
        made[f"{at}mlp.up_proj.bias"] = np.zeros(64, "<f4")
        made[f"{at}input_layernorm.weight"] = np.ones(32, "<f4") + rng.standard_normal(32).astype("<f4") / 10
    return made


def save(folder: Path, arrays: Arrays, config: dict[str, Any] | None = None, name: str = "model.safetensors") -> Path:
    """Write safetensors, byte by byte."""
    header: dict[str, Any] = {}
    data = b""
    for tensor, array in arrays.items():
        end = len(data) + array.nbytes
        dtype = DTYPES[array.dtype.str[1:]]
        header[tensor] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def shorter(path: Path, nbytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:-nbytes])
    return path


def changed(at: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], Path]:
    """A file of the small network, one tensor of which is changed."""

    def make(folder: Path) -> Path:
        arrays = llama()
        result = change(arrays[at])
        if result is not None:
            arrays[at] = result
        return save(folder, arrays)

    return make


def gpt2(change: Callable[[Any], Any], write: Callable[..., Path] = write_source) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = model()
        change(made)
        return write(made, folder)

    return make


def without(name: str) -> Callable[[Path], Path]:
    return gpt2(lambda made: made.tensors.pop(name))


def config(**changes: Any) -> Callable[[Path], Path]:
    return gpt2(lambda made: made.config.update(changes))


def lacking(*names: str) -> Callable[[Path], Path]:
    """The small network without the tensors whose names start like these."""
    return lambda folder: save(folder, {name: array for name, array in llama().items() if not name.startswith(names)})


def beside(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_source(model(), folder)
        (folder / name).write_text(text)
        return folder

    return make


def cut(write: Callable[..., Path], nbytes: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(model(), folder)
        return shorter(path if path.is_file() else next(path.glob("*.[bs]*[ns]")), nbytes)

    return make


def cut_legacy(folder: Path) -> Path:
    path = folder / "old.pt"
    path.write_bytes(legacy_bytes({"w": view("0", (8,))}, {"0": floats(*range(8))})[:-5])
    return path


def damaged(folder: Path) -> Path:
    path = write_source(model(), folder) / "pytorch_model.bin"
    data = bytearray(path.read_bytes())
    at = data.index(model().tensors["wpe.weight"].tobytes())
    data[at + 7] ^= 1
    path.write_bytes(data)
    return path


def damaged_optimizer(folder: Path) -> Path:
    moments = floats(*range(40, 60))
    value = {"model": {"w.weight": view("0", (2, 2))}, "optimizer": {"state": [view("1", (20,))]}}
    path = write_checkpoint(folder / "t.pt", value, {"0": floats(1, 2, 3, 4), "1": moments})
    data = bytearray(path.read_bytes())
    data[data.index(moments) + 3] ^= 8
    path.write_bytes(data)
    return path


def index(*names: str, shards: tuple[str, ...] = ("a.safetensors", "b.safetensors")) -> Callable[[Path], Path]:
    """Two shards and an index; only the shards in `shards` are written, and the index names further tensors."""

    def make(folder: Path) -> Path:
        arrays = llama()
        halves = [dict(list(arrays.items())[:20]), dict(list(arrays.items())[20:])]
        files = {"a.safetensors": halves[0], "b.safetensors": halves[1]}
        for name in shards:
            save(folder, files[name], name=name)
        weight_map = {tensor: file for file, half in files.items() for tensor in half}
        weight_map |= dict.fromkeys(names, "b.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return make


def alone(folder: Path) -> Path:
    from tests.build.gguf_files import key

    keys = [key("split.no", "u16", 1), key("split.count", "u16", 3), key("split.tensors.count", "i32", 3)]
    path = folder / "m-00002-of-00003.gguf"
    path.write_bytes(gguf(keys, [Info("w.weight", (8,))], floats(*range(8))))
    return path


def blocks_with_nan(folder: Path) -> Path:
    block = struct.pack("<e", NAN) + bytes(range(32))
    path = folder / "q.gguf"
    path.write_bytes(gguf([], [Info("w.weight", (32, 2), Q8_0)], struct.pack("<e", 1) + bytes(range(32)) + block))
    return path


def last_norm(value: float, *, layers: float | None = None) -> Callable[[Path], Path]:
    """The small network with a normalisation after its layers; `layers` is the value of those in them."""

    def make(folder: Path) -> Path:
        made = llama() | {"model.norm.weight": np.full(32, value, "<f4")}
        for name in [name for name in made if name.endswith("input_layernorm.weight") and layers is not None]:
            made[name] = np.full(32, layers, "<f4")
        return save(folder, made)

    return make


def half_zero(array: np.ndarray) -> None:
    array[: len(array) // 2] = 0


def small_bf16(array: np.ndarray) -> np.ndarray:
    raw = (array.view("<u4") >> 16).astype("<u2")
    raw[0, 0] = 0x7FC0
    return raw


def halves(array: np.ndarray) -> np.ndarray:
    array[1, 1] = INF
    return array.astype("<f2")


def flipped(array: np.ndarray) -> None:
    array[0, 5] = 0.3
    flip(array, 5, 30)


def poisoned(folder: Path) -> Path:
    value = {"w.weight": view("0", (2, 2)), "x": Call(Global("posix", "system"), ("true",))}
    return write_checkpoint(folder / "x.bin", value, {"0": floats(1, 2, 3, 4)})


def wrong_mask(folder: Path) -> Path:
    path = write_source(model(), folder) / "pytorch_model.bin"
    data = path.read_bytes()
    mask = np.tril(np.ones((16, 16), "u1"))
    other = mask.copy()
    other[3, 9] = 1
    # The first mask is exchanged, and its CRC is that of the new bytes.
    value: dict[str, View] = {}
    storages: dict[str, bytes] = {}
    made = model()
    for name, array in made.tensors.items():
        value[made.prefix + name] = view(str(len(storages)), array.shape)
        storages[str(len(storages))] = array.tobytes()
        if name.endswith("ln_1.bias"):
            layer = name.split(".")[1]
            value[f"{made.prefix}h.{layer}.attn.bias"] = view(str(len(storages)), (1, 1, 16, 16), dtype="U8")
            storages[str(len(storages))] = (other if layer == "1" else mask).tobytes()
    assert data
    return write_checkpoint(path, value, storages)


def variances(folder: Path) -> Path:
    return save(folder, {"bn.running_var": np.array([1, 2, -0.5], "<f4"), "bn.weight": np.ones(3, "<f4")})


def twice(folder: Path) -> Path:
    made = llama()
    made[Q] = made["model.layers.2.self_attn.q_proj.weight"].copy()
    return save(folder, made)


def add(name: str, size: int) -> Callable[[Any], None]:
    return lambda made: made.tensors.update({name: np.ones(size, "<f4")})


def head(more: float) -> Callable[[Any], None]:
    """A head beside the embedding, which is larger by `more`."""
    return lambda made: made.tensors.update({"lm_head.weight": made.tensors["wte.weight"] + np.float32(more)})


def no_header(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 8) + b'{"a": ] ')
    return path


def unused(folder: Path) -> Path:
    return write_checkpoint(
        folder / "x.bin", {"w.weight": view("0", (2, 2))}, {"0": floats(1, 2, 3, 4), "1": floats(5)}
    )


def without_crcs(folder: Path) -> Path:
    """As torch writes it with `torch.serialization.set_crc32_options(False)`."""
    entries = [
        replace(
            one, central={"crc32": 0}, descriptor=struct.pack("<4s3L", b"PK\7\x08", 0, len(one.data), len(one.data))
        )
        for one in checkpoint_entries({"w.weight": view("0", (2, 2))}, {"0": floats(1, 2, 3, 4)})
    ]
    (folder / "x.bin").write_bytes(zip_bytes(entries))
    return folder / "x.bin"


def sparse(folder: Path) -> Path:
    layout = Call(Global("torch.serialization", "_get_layout"), ("torch.sparse_coo",))
    places, numbers = view("0", (2, 1), dtype="I64"), view("1", (1,))
    made = Call(Global("torch._utils", "_rebuild_sparse_tensor"), (layout, (places, numbers, (2, 2))))
    value = {"s.weight": made, "w.weight": view("2", (2, 2))}
    return write_checkpoint(folder / "x.bin", value, {"0": bytes(16), "1": floats(7), "2": floats(1, 2, 3, 4)})


def no_tensor(folder: Path) -> Path:
    return write_checkpoint(folder / "x.bin", {"epoch": 3}, {})


def longer_vocabulary(made: Any) -> None:
    made.vocab[-1:] = ["<|endoftext|>", "zz", "zzz"]


Q, UP = "model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.up_proj.weight"
NORM = "model.layers.5.input_layernorm.weight"
FAULTS: dict[str, tuple[Callable[[Path], Path], str, str]] = {  # what is done, the rule, and the name
    "a zip that ends too early": (cut(write_source, 2000), "cut-off", ""),
    "a safetensors file that ends too early": (cut(write_safetensors, 100), "cut-off", ""),
    "a GGUF file that ends too early": (cut(write_gguf, 500), "cut-off", ""),
    "a legacy file that ends too early": (cut_legacy, "cut-off", ""),
    "a flipped bit in a record with a CRC": (damaged, "damaged", "transformer.wpe.weight"),
    "a flipped bit in the optimizer's state": (damaged_optimizer, "damaged", ""),
    "a shard that is not there": (index(shards=("a.safetensors",)), "not-whole", ""),
    "a tensor that no shard holds": (index("model.norm.weight"), "missing", "model.norm.weight"),
    "the second part of three": (alone, "not-whole", ""),
    "a parameter of GPT-2 that is not there": (without("h.1.ln_2.bias"), "missing", "transformer.h.1.ln_2.bias"),
    "a parameter of another shape": (gpt2(edit(FC, lambda a: a[:, :100])), "shape", "transformer." + FC),
    "a layer that is not there": (lacking("model.layers.4."), "missing", "model.layers.4"),
    "one of five layers that is not there": (
        lambda folder: save(folder, {name: array for name, array in llama(5).items() if ".layers.2." not in name}),
        "missing", "model.layers.2",
    ),
    "a layer without a matrix": (lacking(UP), "missing", "model.layers.3"),
    "no tensor at all": (no_tensor, "empty", ""),
    "NaN in F32": (changed(Q, put((3, 4), NAN)), "nan", Q),
    "NaN in BF16": (changed(Q, small_bf16), "nan", Q),
    "NaN in a bias": (gpt2(edit(BIAS, put(7, NAN))), "nan", "transformer." + BIAS),
    "NaN in the scale of a block": (blocks_with_nan, "nan", "w.weight"),
    "infinity in F16": (changed(Q, halves), "infinite", Q),
    "minus infinity among weights": (changed(Q, put((0, 0), -INF)), "infinite", Q),
    "nothing but infinity": (changed(Q, lambda a: np.full_like(a, INF)), "infinite", Q),
    "a matrix of zeros among the layers": (changed(Q, put(..., 0)), "dead", Q),
    "a scale of zeros among the layers": (changed(NORM, put(..., 0)), "dead", NORM),
    "a last normalisation of zeros": (last_norm(0), "dead", "model.norm.weight"),
    "a matrix of one value among the layers": (changed(Q, put(..., 0.25)), "constant", Q),
    "a file of zeros": (
        lambda folder: save(folder, {name: np.zeros_like(array) for name, array in llama().items()}), "all-zero", "",
    ),
    "half a matrix of zeros": (changed(UP, half_zero), "hole", UP),
    "a flipped bit in an exponent": (changed(Q, flipped), "absurd", Q),
    "an element far from all others": (changed(UP, put((5, 5), 1e5)), "outlier", UP),
    "a layer that was written twice": (twice, "twin", Q),
    "a matrix that was multiplied by 300": (changed(UP, lambda array: array * np.float32(300)), "odd-scale", UP),
    "a matrix that was multiplied by 1e8": (changed(Q, lambda array: array * np.float32(1e8)), "odd-scale", Q),
    "a matrix that was multiplied by 1e-30": (changed(Q, lambda array: array * np.float32(1e-30)), "odd-scale", Q),
    "a layer of integers": (changed(UP, lambda array: (array * 40).astype("i1")), "odd-dtype", UP),
    "a layer of another dtype": (changed(Q, lambda array: array.astype("<f2")), "odd-dtype", Q),
    "a layer of another shape": (changed(Q, lambda array: array[:16]), "odd-shape", Q),
    "a negative variance": (variances, "negative-variance", "bn.running_var"),
    "a mask with another element": (wrong_mask, "mask", "transformer.h.1.attn.bias"),
    "config.json with more layers": (config(n_layer=4), "config", "config.json"),
    "config.json with another width": (config(n_embd=64), "config", "config.json"),
    "config.json with heads that do not divide": (config(n_head=5), "config", "config.json"),
    "config.json of another kind": (config(model_type="bloom"), "config", "config.json"),
    "config.json with a larger vocabulary": (
        lambda folder: save(folder, llama(), {"vocab_size": 65}), "config", "config.json",
    ),
    "config.json that is no JSON": (beside("config.json", "{"), "config", "config.json"),
    "an end token without a row": (config(eos_token_id=40), "token-id", "config.json"),
    "a token without a row": (gpt2(longer_vocabulary), "vocabulary", ""),
    "a token without a row in GGUF": (gpt2(longer_vocabulary, write_gguf), "vocabulary", ""),
    "vocab.json that is no JSON": (beside("vocab.json", "["), "tokenizer", ""),
    "two tokens with one id": (beside("vocab.json", '{"a": 1, "b": 1}'), "tokenizer", ""),
    "a merge of a token that is not there": (beside("merges.txt", "a 7\n"), "tokenizer", ""),
    "a pickle that runs a program": (poisoned, "dangerous", ""),
    "a header that is no JSON": (no_header, "unreadable", ""),
    "a tensor that GPT-2 does not have": (gpt2(add("h.0.strange", 3)), "unexpected", "transformer.h.0.strange"),
    "a storage that no tensor refers to": (unused, "contradiction", ""),
    "a sparse tensor": (sparse, "unsupported", "s.weight"),
    "a zip without CRCs": (without_crcs, "unchecked", ""),
    "an added token without a row": (beside("added_tokens.json", '{"<extra>": 45}'), "added-tokens", ""),
    "a padding token without a row": (config(pad_token_id=44), "padding", "config.json"),
    "a head that differs from the embedding": (gpt2(head(1)), "untied", "lm_head.weight"),
    "a head that equals the embedding": (gpt2(head(0)), "stored-twice", "lm_head.weight"),
}  # fmt: skip


def checked(path: Path) -> CheckReport:
    return converter.check(path)


def test_the_state_of_an_optimizer_is_no_model_and_can_be_checked_by_its_key(tmp_path: Path) -> None:
    state = {"state": {0: {"step": 3, "exp_avg": view("0", (2,))}}, "param_groups": [{"lr": 0.5}]}
    path = write_checkpoint(tmp_path / "optimizer.pt", state, {"0": floats(1, 2)})

    (alone,) = converter.check(path).checkpoints
    (below,) = converter.check(path, root="state").checkpoints

    assert [(fault.rule, fault.message) for fault in alone.faults] == [
        (
            "empty",
            "it holds no weights: it is the state of an optimizer, `state`, `param_groups`, which belongs beside a model's "
            "weights; root='NAME' reads below one of them",
        )
    ]
    assert (below.faults, below.tensors) == ((), 1)


@pytest.mark.parametrize("case", FAULTS)
def test_every_kind_of_fault_is_named(case: str, tmp_path: Path) -> None:
    make, rule, name = FAULTS[case]

    report = checked(make(tmp_path))

    found = report.checkpoints[0].faults
    assert (rule, name) in [(fault.rule, fault.name) for fault in found]
    assert {fault.rule for fault in found if RULES[fault.rule].level == "error"} <= {
        rule, *(("missing",) if rule == "config" else ()),
    }  # fmt: skip  # and nothing else is blamed


def test_every_rule_has_a_case() -> None:
    tested = {rule for _, rule, _ in FAULTS.values()}

    assert RULES.keys() == tested
    assert (len(RULES), len(FAULTS)) == (34, 61)


def fresh(folder: Path) -> Path:
    """A network as torch.nn makes it: zero biases, unit scales, statistics of normalisation, a head at zero."""
    rng = np.random.default_rng(3)
    made: Arrays = {}
    for layer in range(6):
        at = f"blocks.{layer}."
        made |= {
            f"{at}attn.in_proj_weight": rng.uniform(-0.1, 0.1, (96, 32)).astype("<f4"),
            f"{at}attn.in_proj_bias": np.zeros(96, "<f4"),
            f"{at}norm.weight": np.ones(32, "<f4"), f"{at}norm.bias": np.zeros(32, "<f4"),
            f"{at}bn.running_mean": np.zeros(32, "<f4"), f"{at}bn.running_var": np.ones(32, "<f4"),
            f"{at}bn.num_batches_tracked": np.array(0, "<i8"),
            f"{at}gamma": np.full(32, 1e-6, "<f4"),
            f"{at}adaLN.1.weight": np.zeros((192, 32), "<f4"),
            f"{at}lora_A.weight": rng.standard_normal((4, 32)).astype("<f4"), f"{at}lora_B.weight": np.zeros((96, 4), "<f4"),
        }  # fmt: skip
    return save(folder, made)


def masks(folder: Path) -> Path:
    """Buffers that hold infinity, the lowest number, ones, angles."""
    triangle = np.triu(np.full((32, 32), -INF, "<f4"), 1)
    made = {
        "attn_mask": triangle, "lowest": np.triu(np.full((32, 32), -3.4028235e38, "<f4"), 1),
        "h.0.masked_bias": np.array(-1e9, "<f4"), "causal": np.tril(np.ones((64, 64), "<f4")),
        "inv_freq": (10000.0 ** (-np.arange(0, 64, 2) / 64)).astype("<f4"), "min_val": np.array(INF, "<f4"),
        "best": np.array([-INF], "<f4"), "position_ids": np.arange(512, dtype="<i8")[None],
        "mask": np.ones((32, 32), "b1"), "w.weight": np.random.default_rng(0).standard_normal((64, 64)).astype("<f4"),
    }  # fmt: skip
    return save(folder, made)


def padded(folder: Path) -> Path:
    """An embedding with more rows than tokens, the last ones zero, and a padding token that lies outside of it."""
    made = llama()
    made["model.embed_tokens.weight"][60:] = 0
    return save(folder, made, {"vocab_size": 60, "eos_token_id": [58, 59], "pad_token_id": -1, "bos_token_id": -1})


def pruned(folder: Path) -> Path:
    """Half of every matrix is zero, and a last layer that never got a gradient in its adapter."""
    made = llama()
    for number, array in enumerate(made.values()):
        array[np.random.default_rng(number).random(array.shape) < 0.5] = 0
    for layer in range(8):
        made[f"model.layers.{layer}.lora_B.weight"] = np.full((32, 8), float(layer < 7) * 0.1 + layer / 100, "<f4")
        made[f"model.layers.{layer}.lora_B.weight"][0] += layer
    made["model.layers.7.lora_B.weight"][:] = 0
    return save(folder, made)


def uneven(folder: Path) -> Path:
    """Layers that differ on purpose: the first has a table, every third one looks elsewhere, a list of modules has gaps."""
    made = llama(9)
    rng = np.random.default_rng(2)
    made["model.layers.0.relative.weight"] = rng.standard_normal((32, 8)).astype("<f4")
    for layer in (2, 5, 8):
        made[f"model.layers.{layer}.cross.weight"] = rng.standard_normal((32, 32)).astype("<f4")
    for number in (0, 2, 5, 7, 10, 12, 14):
        made[f"features.{number}.weight"] = rng.standard_normal((8, 8, 3, 3)).astype("<f4")
    return save(folder, made)


def hybrid(folder: Path) -> Path:
    """One layer of another kind: it has no part of what the others have, but parts of its own."""
    made = {name: array for name, array in llama().items() if not name.startswith("model.layers.3.self_attn")}
    made["model.layers.3.mamba.A_log"] = np.random.default_rng(2).standard_normal((32, 16)).astype("<f4")
    return save(folder, made)


def copied(folder: Path) -> Path:
    """Layers that begin and end otherwise, a tied layer, and halves of a model in two dtypes."""
    made = llama()
    for layer in range(4, 8):
        for name in [name for name in made if name.startswith(f"model.layers.{layer}.")]:
            made[name] = made[name].astype("<f2")
    made["model.layers.0.mlp.up_proj.weight"] = made["model.layers.0.mlp.up_proj.weight"][:48].copy()
    made["model.layers.0.mlp.up_proj.bias"] = np.zeros(48, "<f4")
    return save(folder, made)


def never_trained(folder: Path) -> Path:
    """A matrix that begins with the same numbers in every layer, as those of state spaces do."""
    made = llama()
    for layer in range(8):
        made[f"model.layers.{layer}.mixer.A_log"] = np.log(np.tile(np.arange(1, 17, dtype="<f4"), (32, 1)))
    return save(folder, made)


def tied_layers(folder: Path) -> Path:
    """Every layer is a view of the same storage."""
    numbers = floats(*np.random.default_rng(4).standard_normal(1024).tolist())
    value = {f"layers.{layer}.w.weight": view("0", (32, 32)) for layer in range(8)}
    return write_checkpoint(folder / "t.bin", value, {"0": numbers})


def larger(folder: Path) -> Path:
    """Two layers have numbers of another size, so neither is the one that differs from all others."""
    made = llama()
    for layer in (2, 5):
        made[f"model.layers.{layer}.mlp.up_proj.weight"] *= 1000
    return save(folder, made)


def quantised(folder: Path) -> Path:
    """One matrix is integers, whose scale stands beside it."""
    made = llama()
    made[UP] = (made[UP] * 40).astype("i1")
    made[UP.replace(".weight", ".weight_scale")] = np.full(1, 0.025, "<f4")
    return save(folder, made)


HONEST: dict[str, Callable[[Path], Path]] = {
    "GPT-2 as published": lambda folder: write_source(model(), folder),
    "GPT-2 in safetensors": lambda folder: write_safetensors(model(), folder),
    "GPT-2 in GGUF": lambda folder: write_gguf(model(), folder),
    "GPT-2 of large numbers": lambda folder: write_source(model(scale=1e4), folder),
    "a sound network": lambda folder: save(folder, llama()),
    "a network that was never trained": fresh,
    "masks and other buffers": masks,
    "an embedding with padding": padded,
    "normalisations to which one is added": last_norm(0, layers=0),
    "a last normalisation that is trained": last_norm(0.5),
    "a pruned network": pruned,
    "layers that differ": uneven,
    "a layer of another kind": hybrid,
    "layers of two dtypes, and another first one": copied,
    "a layer of other numbers, within bounds": changed(Q, lambda array: array * np.float32(50)),
    "two layers of far larger numbers": larger,
    "a quantised layer with its scales": quantised,
    "one layer used many times": tied_layers,
    "layers that begin with the same numbers": never_trained,
}  # fmt: skip


@pytest.mark.parametrize("case", HONEST)
def test_nothing_honest_is_called_a_fault(case: str, tmp_path: Path) -> None:
    report = checked(HONEST[case](tmp_path))

    assert [(fault.rule, fault.name, fault.message) for fault in report.checkpoints[0].faults] == []


def test_warnings_are_named_and_do_not_fail(tmp_path: Path) -> None:
    untied = model()
    untied.tensors["lm_head.weight"] = untied.tensors["wte.weight"] + 1
    untied.tensors["h.0.strange"] = np.ones(3, "<f4")
    folder = write_source(untied, tmp_path)
    (folder / "added_tokens.json").write_text('{"<extra>": 45}')

    (one,) = checked(folder).checkpoints

    assert {(fault.rule, fault.level) for fault in one.faults} == {
        ("untied", "warning"), ("unexpected", "warning"), ("added-tokens", "warning"),
    }  # fmt: skip


def test_a_head_that_config_json_unties_is_no_warning(tmp_path: Path) -> None:
    untied = model()
    untied.tensors["lm_head.weight"] = untied.tensors["wte.weight"] + 1
    untied.config["tie_word_embeddings"] = False

    assert checked(write_source(untied, tmp_path)).counts == {"error": 0, "warning": 0}


def test_what_cannot_be_checked_is_an_error_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# no checkpoint at all")
    expanded = write_checkpoint(tmp_path / "e.bin", {"w": view("0", (1 << 20, 64), (0, 0))}, {"0": floats(1.0)})

    with pytest.raises(SourceError, match="no such file or folder"):
        checked(tmp_path / "absent.bin")
    with pytest.raises(ForeignFileError):
        checked(tmp_path / "README.md")
    with pytest.raises(UnsupportedError, match="expand"):
        checked(expanded)


def test_a_thousand_faults_of_a_kind_are_counted(tmp_path: Path) -> None:
    arrays = {f"t{number}": np.array([NAN, 1], "<f4") for number in range(1000)}

    (one,) = checked(save(tmp_path, arrays)).checkpoints

    assert len(one.faults) == 101
    assert one.faults[-1].message == "and 900 more of this kind"


@pytest.fixture(scope="module")
def program() -> Any:
    with Forked(os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}) as forked:
        yield forked


def test_the_command_exits_as_it_should(program: Forked, tmp_path: Path) -> None:
    write_sample(tmp_path / "good", "tiny")
    FAULTS["NaN in F32"][0](tmp_path / "bad")
    FAULTS["half a matrix of zeros"][0](tmp_path / "odd")

    good = program(["check", "good"], tmp_path)
    bad = program(["check", "good", "bad", "--junit", "j.xml", "--sarif", "s.json"], tmp_path)
    odd = program(["check", "odd"], tmp_path)
    strict = program(["check", "odd", "--fail-on", "warning"], tmp_path)
    absent = program(["check", "absent"], tmp_path)
    document = program(["check", "bad", "--json"], tmp_path)

    assert [done[0] for done in (good, bad, odd, strict, absent, document)] == [0, 1, 0, 1, 2, 1]
    assert "sound  good/pytorch_model.bin" in good[1]
    assert f"! error nan: {Q}: 1 of 1,024 elements is NaN" in bad[1]
    assert "! warning hole: " in odd[1]
    assert json.loads(document[1])["counts"] == {"error": 1, "warning": 0}
    suites = Xml.fromstring((tmp_path / "j.xml").read_text())
    assert [(suite.get("name"), suite.get("failures")) for suite in suites] == [
        ("good/pytorch_model.bin", "0"), ("bad/model.safetensors", "1"),
    ]  # fmt: skip
    assert {suite.get("tests") for suite in suites} == {str(len(RULES))}
    (result,) = json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("nan", "error")
    assert result["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": Q, "kind": "member"}]


def test_the_page_has_every_rule() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "check.md").read_text()

    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{id}` | {rule.level} | {rule.title} | {rule.meaning} |" for id, rule in RULES.items()]


def test_inspect_says_what_is_damaged(tmp_path: Path) -> None:
    report = converter.inspect(damaged(tmp_path), stats=True)

    assert [problem.partition(":")[0] for problem in report.problems] == ["transformer.wpe.weight"]
    assert [tensor.name for tensor in report.tensors if tensor.stats is None] == ["transformer.wpe.weight"]


def test_inspect_says_the_same_about_values(tmp_path: Path) -> None:
    path = FAULTS["NaN in F32"][0](tmp_path)

    assert converter.inspect(path, stats=True).problems == (f"{Q}: 1 of 1,024 elements is NaN",)
    assert converter.inspect(path).problems == ()


def test_another_architecture_with_layers_of_gpt2_is_not_called_incomplete(tmp_path: Path) -> None:
    first = {name: array for name, array in model().tensors.items() if name.startswith("h.")}
    first = {
        "tokens_embed.weight": np.ones((44, 32), "<f4"),
        "positions_embed.weight": np.ones((16, 32), "<f4"),
    } | first

    assert checked(save(tmp_path, first)).checkpoints[0].faults == ()
    layers = {name: array for name, array in first.items() if name.startswith("h.")}
    assert checked(save(tmp_path / "part", layers)).checkpoints[0].title.startswith("GPT-2")


def test_what_cannot_be_checked_takes_no_verdict_from_the_others(program: Forked, tmp_path: Path) -> None:
    write_sample(tmp_path / "good", "tiny")
    FAULTS["NaN in F32"][0](tmp_path / "bad")
    (tmp_path / "page.bin").write_bytes(b"<!DOCTYPE html><html>")
    asked = ["check", "good", "page.bin", "absent", "bad"]
    sentence = "`page.bin` is an HTML page, probably an error page of the server it was downloaded from"

    code, out, told = program([*asked, "--junit", "j.xml", "--sarif", "s.json"], tmp_path)
    json_code, document, _ = program([*asked, "--json"], tmp_path)

    assert (code, json_code) == (2, 2)
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "sound  good/pytorch_model.bin",
        "1 error  bad/model.safetensors",
    ]
    assert told.splitlines()[0] == f"error: {sentence}"
    assert told.splitlines()[1:] == ["error: no such file or folder: `absent`"]
    read = json.loads(document)
    assert [one["location"] for one in read["checkpoints"]] == ["good/pytorch_model.bin", "bad/model.safetensors"]
    assert read["counts"] == {"error": 1, "warning": 0}
    assert [one["location"] for one in read["unread"]] == ["page.bin", "absent"]
    assert read["unread"][0]["error"] == {"class": "ForeignFileError", "message": sentence}
    suites = Xml.fromstring((tmp_path / "j.xml").read_text())
    assert [(suite.get("name"), suite.get("failures"), suite.get("errors")) for suite in suites] == [
        ("good/pytorch_model.bin", "0", "0"),
        ("bad/model.safetensors", "1", "0"),
        ("page.bin", "0", "1"),
        ("absent", "0", "1"),
    ]
    (run,) = json.loads((tmp_path / "s.json").read_text())["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["nan"]
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == sentence
