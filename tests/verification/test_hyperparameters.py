"""The keys of a GGUF file from which a program computes count as the configuration does, whatever the architecture is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import examine, verify
from tests.build.gguf_files import F32, Info, gguf, key

KEYS: dict[str, tuple[str, Any]] = {
    "general.architecture": ("string", "llama"),
    "general.name": ("string", "A"),
    "llama.block_count": ("u32", 2),
    "llama.context_length": ("u32", 64),
    "llama.embedding_length": ("u32", 32),
    "llama.attention.head_count": ("u32", 4),
    "llama.attention.layer_norm_rms_epsilon": ("f32", 1e-5),
    "llama.rope.freq_base": ("f32", 10000.0),
    "llama.rope.scaling.factor": ("f32", 2.0),
    "llama.feed_forward_length": ("array:u32", [64, 96]),
    "llama.vocab_size": ("u32", 4),
    "llama.tensor_data_layout": ("string", "Meta AI original pth"),
}


def written(folder: Path, name: str, **changed: tuple[str, Any] | None) -> Path:
    """A file with KEYS; `changed` are other values, or None for a key that is left out. `__` stands for a dot."""
    keys = dict(KEYS)
    for changed_name, value in changed.items():
        dotted = changed_name.replace("__", ".")
        if value is None:
            del keys[dotted]
        else:
            keys[dotted] = value
    data = np.arange(128, dtype="<f4").tobytes()
    packed = [key(one, type, value) for one, (type, value) in keys.items()]
    path = folder / f"{name}.gguf"
    path.write_bytes(gguf(packed, [Info("token_embd.weight", (32, 4), F32)], data))
    return path


ARCHITECTURE = {"model_type": "llama", "num_attention_heads": 4, "rms_norm_eps": 1e-05, "rope_theta": 10000}


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (ARCHITECTURE, []),
        (ARCHITECTURE | {"max_position_embeddings": 2}, []),  # architectures count these in different ways
        (ARCHITECTURE | {"num_attention_heads": 8}, [("llama.attention.head_count", "num_attention_heads", "4", "8")]),
        (ARCHITECTURE | {"rms_norm_eps": 1e-06}, [("llama.attention.layer_norm_rms_epsilon", "rms_norm_eps", "1e-05", "1e-06")]),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
            [("llama.rope.freq_base", "rope_theta", "10000.0", "500000.0")],
        ),
        ({"model_type": "llama", "num_key_value_heads": 2}, []),
    ],
)  # fmt: skip
def test_keys_are_compared_with_a_config_json(
    config: dict[str, Any], wrong: list[tuple[str, str, str, str]], tmp_path: Path
) -> None:
    file, folder = written(tmp_path, "a"), tmp_path / "folder"
    convert(open_checkpoint(file), folder, to="safetensors")
    (folder / "config.json").write_text(json.dumps(config))

    [there] = verify(open_checkpoint(file), [folder]).outputs
    [back] = verify(open_checkpoint(folder), [file]).outputs

    assert [one.detail for one in there.tensors.different] == [
        f"`{name}` is {said}: expected {value}, as `{key}` says" for key, name, value, said in wrong
    ]
    assert [one.detail for one in back.tensors.different] == [
        f"`{key}` is {value}: expected {said}, `{name}` of config.json" for key, name, value, said in wrong
    ]


def outputs(folder: Path, source: Path, copy: Path) -> list[VerifiedOutput]:
    """What is found about a copy by its source, and by the manifest of the source."""
    manifest = folder / "golden.json"
    manifest.write_text(examine(expect(open_checkpoint(source)), [source]).golden().text())
    return [verify(expected, [copy]).outputs[0] for expected in (open_checkpoint(source), load(manifest))]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"llama__attention__head_count": ("u32", 8)}, "`llama.attention.head_count` is 8: expected 4"),
        ({"llama__attention__head_count": None}, "`llama.attention.head_count` is absent: expected 4"),
        ({"llama__block_count": ("u32", 1)}, "`llama.block_count` is 1: expected 2"),
        ({"llama__context_length": ("u32", 32)}, "`llama.context_length` is 32: expected 64"),
        (
            {"llama__attention__layer_norm_rms_epsilon": ("f32", 1e-6)},
            "`llama.attention.layer_norm_rms_epsilon` is 1e-06: expected 1e-05",
        ),
        (
            {"llama__attention__layer_norm_rms_epsilon": ("f32", math.nan)},
            "`llama.attention.layer_norm_rms_epsilon` is 'nan': expected 1e-05",
        ),
        ({"llama__rope__freq_base": ("f32", 5e5)}, "`llama.rope.freq_base` is 500000.0: expected 10000.0"),
        ({"llama__rope__dimension_count": ("u32", 4)}, "`llama.rope.dimension_count` is 4: expected 8, the default"),
        ({"llama__attention__head_count_kv": ("u32", 2)}, "`llama.attention.head_count_kv` is 2: expected 4, the default"),
        ({"llama__rope__scaling__factor": None}, "`llama.rope.scaling.factor` is absent: expected 2.0"),
        ({"llama__rope__scaling__type": ("string", "yarn")}, "`llama.rope.scaling.type` is 'yarn': the source does not say it"),
        ({"llama__attention__causal": ("bool", 0)}, "`llama.attention.causal` is False: expected True, the default"),
        ({"llama__feed_forward_length": ("array:u32", [96, 64])}, "`llama.feed_forward_length` is [96, 64]: expected [64, 96]"),
        ({"llama__logit_scale": ("f64", 1e300)}, "`llama.logit_scale` is 1e+300: the source does not say it"),
        ({"general__architecture": ("string", "qwen2")}, "`general.architecture` is 'qwen2': expected 'llama'"),
    ],
)  # fmt: skip
def test_a_key_that_changes_what_is_computed_is_named(changed: Any, sentence: str, tmp_path: Path) -> None:
    copy = written(tmp_path, "copy", **changed)

    for output in outputs(tmp_path, written(tmp_path, "source"), copy):
        assert [found.detail for found in output.tensors.different] == [sentence]
        assert (output.verdict, output.weights, output.companions) == ("different", "identical", "different")
        assert output.lacks == ()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"llama__vocab_size": None},
        {"llama__tensor_data_layout": None},
        {"llama__attention__layer_norm_rms_epsilon": ("f64", 1e-5)},
        {"llama__rope__freq_base": None},  # 10,000 is llama.cpp's default
        {"llama__rope__dimension_count": ("u32", 8)},
        {"llama__attention__head_count_kv": ("u32", 4)},
        {"llama__attention__key_length": ("u32", 8)},
        {"llama__attention__head_count": ("array:u32", [4, 4])},
        {"llama__expert_count": ("u32", 0)},
        {"general__name": ("string", "B")},
    ],
)
def test_a_key_that_changes_nothing_is_no_difference(changed: Any, tmp_path: Path) -> None:
    copy = written(tmp_path, "copy", **changed)

    for output in outputs(tmp_path, written(tmp_path, "source"), copy):
        assert (output.verdict, output.companions, output.agree) == ("identical", "equal", ("configuration",))


def test_a_long_array_is_compared_whole(tmp_path: Path) -> None:
    numbers = list(range(5000))
    source = written(tmp_path, "source", llama__of_layers=("array:u32", numbers))
    copy = written(tmp_path, "copy", llama__of_layers=("array:u32", [*numbers[:-1], 7]))

    for output in outputs(tmp_path, source, copy):
        assert [found.name for found in output.tensors.different] == ["llama.of_layers"]
        assert [found.what for found in output.tensors.different] == ["another value"]


def test_a_manifest_without_them_compares_what_it_has(tmp_path: Path) -> None:
    source = written(tmp_path, "source")
    copy = written(tmp_path, "copy", llama__block_count=("u32", 1))
    text = examine(expect(open_checkpoint(source)), [source]).golden().text().replace('"hyperparameters"', '"older"')
    (tmp_path / "golden.json").write_text(text)

    assert verify(load(tmp_path / "golden.json"), [copy]).outputs[0].verdict == "identical"
