"""What config.json says against the tensors of models that have no rows of their own."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

import converter

CONFIG: dict[str, Any] = {
    "num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 40, "model_type": "stablelm",
}  # fmt: skip
BERT: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "model_type": "bert",
}  # fmt: skip
# OPT's names, in a family that is not known.
OPT: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_attention_heads": 4,
    "model_type": "new-opt",
}  # fmt: skip


MIXFORMER: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "model_type": "mixformer-sequential"}


def decoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 32), "model.norm.weight": (32,)}
    for layer in range(3):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (32, 32), f"{at}self_attn.k_proj.weight": (16, 32),
            f"{at}self_attn.v_proj.weight": (16, 32), f"{at}self_attn.o_proj.weight": (32, 32),
            f"{at}mlp.gate_proj.weight": (48, 32), f"{at}mlp.up_proj.weight": (48, 32),
            f"{at}mlp.down_proj.weight": (32, 48), f"{at}strange.weight": (7, 7),
        }  # fmt: skip
    return shapes


def bert() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"bert.embeddings.word_embeddings.weight": (40, 32)}
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}."
        shapes |= {f"{at}attention.self.query.weight": (32, 32), f"{at}intermediate.dense.weight": (48, 32)}
    return shapes


def opt() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.decoder.embed_tokens.weight": (40, 16)}
    for layer in range(2):
        at = f"model.decoder.layers.{layer}."
        shapes |= {f"{at}self_attn.q_proj.weight": (32, 32), f"{at}fc1.weight": (48, 32)}
    return shapes


def save(folder: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Path:
    header: dict[str, Any] = {}
    data = b""
    for number, (name, shape) in enumerate(shapes.items()):
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * count]}
        data += struct.pack(f"<{count}f", *(((number * 31 + element * 7) % 101 - 50) / 50 for element in range(count)))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def mixformer() -> dict[str, tuple[int, ...]]:
    """The first Phi: its embedding is layer 0, and its head the one after the last."""
    shapes: dict[str, tuple[int, ...]] = {"layers.0.wte.weight": (40, 32)}
    for layer in (1, 2):
        shapes |= {f"layers.{layer}.ln.weight": (32,), f"layers.{layer}.mixer.Wqkv.weight": (96, 32)}
    return shapes | {"layers.3.ln.weight": (32,), "layers.3.linear.weight": (40, 32)}


MAKERS = {"stablelm": (decoder, CONFIG), "bert": (bert, BERT), "opt": (opt, OPT), "mixformer": (mixformer, MIXFORMER)}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "more layers": ("stablelm", {"num_hidden_layers": 4}, "`num_hidden_layers` is 4, and the last layer of the tensors is model.layers.2"),
    "fewer layers": ("stablelm", {"num_hidden_layers": 2}, "`num_hidden_layers` is 2, and the last layer of the tensors is model.layers.2"),
    "another width": ("stablelm", {"hidden_size": 64}, "`hidden_size` is 64, and a row of the embedding has 32 numbers"),
    "another inner width": ("stablelm", {"intermediate_size": 96}, "`intermediate_size` is 96, and up_proj has 48 rows"),
    "other heads of keys": (
        "stablelm", {"num_key_value_heads": 4},
        "`num_key_value_heads` is 4 and `num_attention_heads` is 4, and k_proj has 16 rows where q_proj has 32",
    ),
    "heads of another size": (
        "stablelm", {"head_dim": 16}, "`num_key_value_heads` is 2 and `head_dim` is 16, and v_proj has 16 rows",
    ),
    "heads that can't share": (
        "stablelm", {"num_attention_heads": 5, "num_key_value_heads": None},
        "`num_attention_heads` is 5, and q_proj has 32 rows, which 5 heads can't share",
    ),
    "BERT's layers": ("bert", {"num_hidden_layers": 12}, "`num_hidden_layers` is 12, and the last layer of the tensors is bert.encoder.layer.1"),
    "BERT's width": ("bert", {"hidden_size": 48}, "`hidden_size` is 48, and a row of the embedding has 32 numbers"),
    "BERT's heads": ("bert", {"num_attention_heads": 12}, "`num_attention_heads` is 12, and query has 32 rows, which 12 heads can't share"),
    "OPT's inner width": ("opt", {"ffn_dim": 64}, "`ffn_dim` is 64, and fc1 has 48 rows"),
    "OPT's layers": ("opt", {"num_hidden_layers": 3}, "`num_hidden_layers` is 3, and the last layer of the tensors is model.decoder.layers.1"),
}  # fmt: skip
RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "as it is": ("stablelm", {}),
    "no keys": ("stablelm", dict.fromkeys(("num_hidden_layers", "hidden_size", "num_key_value_heads"))),
    "heads of a size of their own": ("stablelm", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}),
    "layers that guess further tokens": ("stablelm", {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}),
    "packed matrices": ("stablelm", {"intermediate_size": 384, "quantization_config": {"bits": 4}}),
    "a width for each layer": ("stablelm", {"intermediate_size": [48, 48, 48]}),
    "BERT": ("bert", {}),
    "OPT, whose embedding is narrow": ("opt", {}),
    "a list that holds the embedding and the head, too": ("mixformer", {}),
}


def rows(case: tuple[Any, ...], folder: Path) -> Path:
    make, config = MAKERS[case[0]]
    return save(folder, make(), config | case[1])


@pytest.mark.parametrize("case", WRONG)
def test_a_number_that_the_tensors_contradict_is_named(case: str, tmp_path: Path) -> None:
    path = rows(WRONG[case], tmp_path)

    (one,) = converter.check(path).checkpoints

    assert ("config", WRONG[case][2]) in [(fault.rule, fault.message) for fault in one.faults]
    assert WRONG[case][2] in converter.inspect(path).problems


@pytest.mark.parametrize("case", RIGHT)
def test_nothing_is_said_where_config_json_may_be_right(case: str, tmp_path: Path) -> None:
    path = rows(RIGHT[case], tmp_path)

    assert [fault.message for fault in converter.check(path).checkpoints[0].faults if fault.rule == "config"] == []
    assert converter.inspect(path).problems == ()


def test_layers_of_different_widths_are_not_compared_with_one_number(tmp_path: Path) -> None:
    shapes = decoder() | {
        "model.layers.1.mlp.gate_proj.weight": (24, 32),
        "model.layers.1.mlp.up_proj.weight": (24, 32),
    }
    path = save(tmp_path, shapes, CONFIG | {"intermediate_size": 96})

    assert converter.inspect(path).problems == ()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"pad_token_id": 40}, "padding"), ({"pad_token_id": -5}, "padding"), ({"bos_token_id": -5}, "token-id"),
        ({"eos_token_id": [2, -2]}, "token-id"), ({"pad_token_id": 39, "bos_token_id": -1}, None),
    ],
)  # fmt: skip
def test_a_special_token_must_have_a_row(change: dict[str, Any], rule: str | None, tmp_path: Path) -> None:
    (one,) = converter.check(save(tmp_path, decoder(), CONFIG | change)).checkpoints

    assert [fault.rule for fault in one.faults] == ([rule] if rule else [])
