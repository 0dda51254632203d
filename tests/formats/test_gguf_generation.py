"""A folder made from a GGUF file has the generation_config.json that its keys give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from tests.build.gguf_files import Info, gguf, key

TOKENS = (
    key("tokenizer.ggml.bos_token_id", "u32", 1), key("tokenizer.ggml.eos_token_id", "u32", 2),
    key("tokenizer.ggml.eot_token_id", "u32", 3), key("tokenizer.ggml.eom_token_id", "u32", 2),
    key("tokenizer.ggml.padding_token_id", "u32", 0),
)  # fmt: skip


def sampling(**values: float) -> list[bytes]:
    return [
        key(f"general.sampling.{name}", "i32" if type(value) is int else "f32", value) for name, value in values.items()
    ]


@pytest.mark.parametrize(("keys", "said"), [
    ([], None),
    (TOKENS, {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}),
    (TOKENS[:2], {"bos_token_id": 1, "eos_token_id": 2}),
    ([key("general.architecture", "string", "t5"), key("t5.decoder_start_token_id", "u32", 0)], {"decoder_start_token_id": 0}),
    (sampling(temp=0.7, top_k=20, top_p=0.8, min_p=0.05, penalty_repeat=1.1, mirostat=2),
     {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.1, "do_sample": True}),
    (sampling(temp=0.0, top_k=20, penalty_repeat=1.5), {"repetition_penalty": 1.5, "do_sample": False}),
    (sampling(temp=float("nan"), top_p=-1.0), None),
    ([key("tokenizer.ggml.bos_token_id", "i32", -1), key("tokenizer.ggml.eos_token_id", "string", "2")], None),
])  # fmt: skip
def test_it_says_what_the_keys_say(keys: Any, said: dict[str, Any] | None, tmp_path: Path) -> None:
    (tmp_path / "in.gguf").write_bytes(gguf(keys, [Info("w", (4,))], bytes(16)))

    convert(open_checkpoint(tmp_path / "in.gguf"), tmp_path / "out", to="safetensors")

    path = tmp_path / "out" / "generation_config.json"
    assert (json.loads(path.read_text()) if path.exists() else None) == said


def test_one_that_lies_beside_the_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.gguf").write_bytes(gguf(TOKENS, [Info("w", (4,))], bytes(16)))
    (tmp_path / "in" / "generation_config.json").write_text('{"eos_token_id": 9}')

    convert(open_checkpoint(tmp_path / "in"), tmp_path / "out", to="safetensors")

    assert (tmp_path / "out" / "generation_config.json").read_text() == '{"eos_token_id": 9}'
