"""A folder made from a GGUF file has the generation_config.json that its keys give, and a GGUF file the keys that one gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import verify
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


def test_zero_turns_a_sampler_off_in_both_programs(tmp_path: Path) -> None:
    (tmp_path / "in.gguf").write_bytes(gguf(sampling(top_k=0, min_p=0.0), [Info("w", (4,))], bytes(16)))

    convert(open_checkpoint(tmp_path / "in.gguf"), tmp_path / "out", to="safetensors")

    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert said == {"top_k": 0, "min_p": 0.0, "do_sample": True}


# ---- the other way ----------------------------------------------------------------------------------------------------

ENDS = "tokenizer.ggml."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model of 257 tokens, whose tokenizer says that 256 begins and ends a text."""
    write_sample(tmp_path / "model", "tiny")
    return tmp_path / "model"


def written(folder: Path, output: Path, said: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The keys of the GGUF file about generating, with their types, and what stays behind."""
    (folder / "generation_config.json").write_text(said if isinstance(said, str) else json.dumps(said))
    report = convert(open_checkpoint(folder), output)
    catalogue = open_checkpoint(output)
    entries: Any = vars(catalogue.metadata)["entries"]
    keys = {
        name.removeprefix("general.sampling."): (entries[name].type, pytest.approx(value, rel=1e-7))
        for name, value in catalogue.metadata.items()
        if name.startswith("general.sampling.")
    }
    ids = {name.removeprefix(ENDS): value for name, value in catalogue.metadata.items() if name.endswith("_token_id")}
    return keys | ids, [(one.name, one.reason) for one in report.dropped if one.kind == "file"]


OWN = {"bos_token_id": 256, "eos_token_id": 256}


@pytest.mark.parametrize(("said", "keys", "left"), [
    ({}, {}, None),
    ({"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.1, "do_sample": True},
     {"temp": ("f32", 0.7), "top_k": ("i32", 20), "top_p": ("f32", 0.8), "min_p": ("f32", 0.05), "penalty_repeat": ("f32", 1.1)}, None),
    ({"temperature": 1, "top_k": 40.0, "transformers_version": "5.0.0", "_from_model_config": True, "num_beams": None},
     {"temp": ("f32", 1.0), "top_k": ("i32", 40)}, None),
    ({"penalty_last_n": 64, "xtc_probability": 0.5, "xtc_threshold": 0.1, "mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.1},
     {"penalty_last_n": ("i32", 64), "xtc_probability": ("f32", 0.5), "xtc_threshold": ("f32", 0.1), "mirostat": ("i32", 2),
      "mirostat_tau": ("f32", 5.0), "mirostat_eta": ("f32", 0.1)}, None),
    ({"do_sample": False, "repetition_penalty": 1.2}, {"temp": ("f32", 0.0), "penalty_repeat": ("f32", 1.2)}, None),
    ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temp": ("f32", 0.0)},
     "`temperature`, `top_p` would change nothing, because `do_sample` is false"),
    ({"do_sample": True, "max_new_tokens": 9}, {}, "GGUF has no place for what it says about `do_sample`, `max_new_tokens`"),
    ({"temperature": 0.6, "num_beams": 4}, {"temp": ("f32", 0.6)}, "GGUF has no place for what it says about `num_beams`"),
    ({"temperature": "hot", "top_k": 2.5, "top_p": True, "min_p": -1, "repetition_penalty": 1e300}, {},
     "GGUF has no place for what it says about `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`"),
    ({"eos_token_id": 256, "bos_token_id": 256}, {}, None),
    ({"eos_token_id": [256, 3], "pad_token_id": 0}, {"eot_token_id": 3, "padding_token_id": 0}, None),
    ({"eos_token_id": [3, 4]}, {"eot_token_id": 3, "eom_token_id": 4}, None),
    ({"eos_token_id": [256, 3, 4, 5]}, {"eot_token_id": 3, "eom_token_id": 4},
     "GGUF has no place for what it says about `eos_token_id`"),
    ({"eos_token_id": [256, 257], "bos_token_id": 1, "pad_token_id": -1}, {},
     "GGUF has no place for what it says about `eos_token_id`, `bos_token_id`, `pad_token_id`"),
    ({"decoder_start_token_id": 0}, {}, "GGUF has no place for what it says about `decoder_start_token_id`"),
    ("[]", {}, "a GGUF file has no place for all that it says"),
])  # fmt: skip
def test_a_gguf_file_says_what_the_folder_says(
    said: Any, keys: dict[str, Any], left: str | None, folder: Path, tmp_path: Path
) -> None:
    found, behind = written(folder, tmp_path / "x.gguf", said)

    assert found == OWN | keys
    assert behind == ([] if left is None else [("generation_config.json", left)])


def test_what_is_said_comes_back(folder: Path, tmp_path: Path) -> None:
    said = {
        "eos_token_id": [256, 3],
        "bos_token_id": 256,
        "temperature": 0.6,
        "top_k": 0,
        "top_p": 0.95,
        "do_sample": True,
    }
    written(folder, tmp_path / "x.gguf", said)

    convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "back", to="safetensors")

    assert json.loads((tmp_path / "back" / "generation_config.json").read_text()) == said


def test_it_is_written_without_a_tokenizer_too(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": [256, 3]}')

    report = convert(open_checkpoint(folder), tmp_path / "x.gguf", no_tokenizer=True)

    said = open_checkpoint(tmp_path / "x.gguf").metadata
    [reason] = [one.reason for one in report.dropped if one.name == "generation_config.json"]
    assert (said["general.sampling.temp"], said.get(ENDS + "eot_token_id")) == (0.5, None)
    assert reason == "GGUF has no place for what it says about `eos_token_id`"


@pytest.mark.parametrize(("before", "after", "notes"), [
    ({"temperature": 0.1, "eos_token_id": [256, 3], "max_length": 5}, {}, []),
    ({"temperature": 0.1}, {"temperature": 0.2}, ["`temperature` is 0.1: expected 0.2"]),
    ({"temperature": 0.1}, {"do_sample": False, "temperature": 0.1}, ["`do_sample` is True: expected False"]),
    ({"eos_token_id": 256}, {"eos_token_id": [256, 7]}, ["`eos_token_id` is 256: expected [256, 7]"]),
    ({}, {"top_k": 5, "top_p": 0.5}, ["`{}` does not say `top_k`, `top_p`, `do_sample`, but the source does"]),
])  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_verify_compares_it_and_counts_none_of_it(
    before: Any, after: Any, notes: list[str], turned: bool, folder: Path, tmp_path: Path
) -> None:
    written(folder, tmp_path / "x.gguf", before)
    (folder / "generation_config.json").write_text(json.dumps(before | after))
    if turned:
        source, output = tmp_path / "x.gguf", folder
    else:
        source, output = folder, tmp_path / "x.gguf"

    found = verify(open_checkpoint(source), [output]).outputs[0]

    said = [note.detail for note in found.notes if note.name == "generation_config.json"]
    assert found.weights == "identical"
    if not turned:
        assert said == [note.format(output) for note in notes]
    elif not notes:
        assert said == []
