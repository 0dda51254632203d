"""Damage to what lies beside the weights: each kind is named, by the checkpoint and by its manifest alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import Options, examine, verify

Change = Callable[[dict[str, Any]], object]  # of the documents in a folder, by name

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 266, "max_position_embeddings": 32, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32", "transformers_version": "4.40.0",
    "rope_scaling": {"type": "linear", "factor": 2.0},
}  # fmt: skip
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
WORDS = ["a", "b", "c", "ab", "abc", "bc"]


def added(number: int, text: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **plain}


def byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def documents() -> dict[str, Any]:
    """The JSON beside the weights of a small LLaMA: a tokenizer as the library writes SentencePiece's BPE."""
    vocab = {text: number for number, text in enumerate([*SPECIAL, *byte_tokens(), *WORDS])}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(number, text) for number, text in enumerate(SPECIAL)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
            "merges": ["a b", "b c", "ab c", "a bc"],
        },
    }  # fmt: skip
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True, "add_eos_token": False,
        "tokenizer_class": "LlamaTokenizer", "chat_template": "{{ messages }}",
    }  # fmt: skip
    return {"config.json": dict(CONFIG), "tokenizer.json": tokenizer, "tokenizer_config.json": special}


def write(folder: Path, made: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    weights = np.random.default_rng(3).standard_normal((266, 8)).astype("<f4")
    save_file({"model.embed_tokens.weight": weights}, folder / "model.safetensors")
    for name, document in made.items():
        (folder / name).write_text(json.dumps(document))
    return folder


def drop(name: str, key: str) -> Change:
    return lambda made: made[name].pop(key)


def put(name: str, **values: Any) -> Change:
    return lambda made: made[name].update(values)


def model(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["tokenizer.json"]["model"]
    return found


def exchange_ids(made: dict[str, Any]) -> None:
    vocab = model(made)["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def lose_special(made: dict[str, Any]) -> None:
    """`<pad>` is no token any more: another word has its place."""
    vocab = model(made)["vocab"]
    vocab["pad"] = vocab.pop("<pad>")
    made["tokenizer.json"]["added_tokens"].pop()


def no_start(made: dict[str, Any]) -> None:
    made["tokenizer.json"]["post_processor"] = None
    made["tokenizer_config.json"]["add_bos_token"] = False


# What is done, the name of the finding, and what it is.
DAMAGE: dict[str, tuple[Change, str, str]] = {
    "rope_theta": (put("config.json", rope_theta=10000.0), "config.json", "rope_theta is wrong"),
    "rope_theta left out": (drop("config.json", "rope_theta"), "config.json", "rope_theta is wrong"),
    "rope_scaling": (put("config.json", rope_scaling={"type": "linear", "factor": 4.0}), "config.json", "rope_scaling.factor is wrong"),
    "rope_scaling left out": (drop("config.json", "rope_scaling"), "config.json", "rope_scaling is wrong"),
    "rms_norm_eps": (put("config.json", rms_norm_eps=1e-06), "config.json", "rms_norm_eps is wrong"),
    "heads": (put("config.json", num_attention_heads=4), "config.json", "num_attention_heads is wrong"),
    "groups of heads left out": (drop("config.json", "num_key_value_heads"), "config.json", "num_key_value_heads is wrong"),
    "activation": (put("config.json", hidden_act="gelu"), "config.json", "hidden_act is wrong"),
    "a tied head": (put("config.json", tie_word_embeddings=True), "config.json", "tie_word_embeddings is wrong"),
    "the end of a text": (put("config.json", eos_token_id=7), "config.json", "eos_token_id is wrong"),
    "a pad id": (put("config.json", pad_token_id=0), "config.json", "pad_token_id is wrong"),
    "a dtype that the tensors don't have": (put("config.json", torch_dtype="float16"), "config.json", "dtype is wrong"),
    "another model": (put("config.json", model_type="mistral"), "config.json", "model_type is wrong"),
    "the order of merges": (lambda made: model(made)["merges"].reverse(), "tokenizer.merges", "another tokenizer"),
    "a merge left out": (lambda made: model(made)["merges"].pop(), "tokenizer.merges", "another tokenizer"),
    "two ids": (exchange_ids, "tokenizer.tokens", "another tokenizer"),
    "a token more": (lambda made: model(made)["vocab"].update(zz=266), "tokenizer.tokens", "another tokenizer"),
    "an added token more": (
        lambda made: made["tokenizer.json"]["added_tokens"].append(added(266, "<tool>")), "tokenizer.tokens", "another tokenizer",
    ),
    "a special token that is an ordinary one": (lose_special, "tokenizer.tokens", "another tokenizer"),
    "a pad token": (put("tokenizer_config.json", pad_token="</s>"), "tokenizer.pad_token_id", "another tokenizer"),
    "a pad token left out": (drop("tokenizer_config.json", "pad_token"), "tokenizer.pad_token_id", "another tokenizer"),
    "another end": (put("tokenizer_config.json", eos_token="<s>"), "tokenizer.eos_token_id", "another tokenizer"),
    "a space before a text": (
        lambda made: made["tokenizer.json"]["normalizer"]["normalizers"].pop(0), "tokenizer.add_space_prefix", "another tokenizer",
    ),
    "no start of a text": (no_start, "tokenizer.add_bos_token", "another tokenizer"),
    "a chat template": (put("tokenizer_config.json", chat_template="{{ x }}"), "tokenizer.chat_template", "another tokenizer"),
}  # fmt: skip

# What a manifest calls the part of a tokenizer that the checkpoint names more exactly.
PARTS = {
    "tokenizer.merges": "tokenizer.file_merges",
    "tokenizer.pad_token_id": "tokenizer.special", "tokenizer.eos_token_id": "tokenizer.special", "tokenizer.add_space_prefix": "tokenizer.flags",
    "tokenizer.add_bos_token": "tokenizer.adds", "tokenizer.chat_template": "tokenizer.templates",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "llama", documents())


@pytest.fixture(scope="module")
def manifest(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "golden.json"
    path.write_text(examine(expect(open_checkpoint(source)), [source]).golden().text())
    return path


def findings(output: VerifiedOutput) -> list[tuple[str, str]]:
    return [(found.name, found.what) for found in output.tensors.different]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_beside_the_weights_is_named(kind: str, source: Path, manifest: Path, tmp_path: Path) -> None:
    change, name, what = DAMAGE[kind]
    made = documents()
    change(made)
    copy = write(tmp_path / "copy", made)

    by_source = verify(open_checkpoint(source), [copy]).outputs[0]
    by_manifest = verify(load(manifest), [copy]).outputs[0]

    assert (name, what) in findings(by_source)
    parts = {found for found, _ in findings(by_manifest)}
    assert parts & {name, PARTS.get(name)}
    for output in (by_source, by_manifest):
        assert (output.verdict, output.weights, output.companions) == ("different", "identical", "different")


def in_newer_places(made: dict[str, Any]) -> None:
    """What transformers 5 makes of this config.json."""
    config = made["config.json"]
    scaling = config.pop("rope_scaling")
    config["rope_parameters"] = {
        "rope_theta": config.pop("rope_theta"),
        "rope_type": scaling["type"],
        "factor": scaling["factor"],
    }
    config["dtype"] = config.pop("torch_dtype")
    config |= {
        "transformers_version": "5.24.0",
        "use_cache": True,
        "head_dim": 4,
        "attention_bias": False,
        "pad_token_id": None,
    }


def merges_as_pairs(made: dict[str, Any]) -> None:
    model(made)["merges"] = [merge.split(" ") for merge in model(made)["merges"]]


def template_in_its_file(made: dict[str, Any]) -> None:
    made["chat_template.json"] = {"chat_template": made["tokenizer_config.json"].pop("chat_template")}


HONEST: dict[str, Change] = {
    "the same": lambda made: None,
    "transformers 5": in_newer_places,
    "merges as pairs": merges_as_pairs,
    "truncation and padding": put("tokenizer.json", truncation={"max_length": 9}, padding={"length": 3}),
    "another class": put("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=False),
    "the template in a file": template_in_its_file,
    "no special tokens beside it": lambda made: made.pop("tokenizer_config.json"),
    "no tokenizer": lambda made: (made.pop("tokenizer.json"), made.pop("tokenizer_config.json")),
    "no config.json": lambda made: made.pop("config.json"),
    "weights alone": lambda made: made.clear(),
    "more than the source has": lambda made: made.update({"generation_config.json": {"do_sample": True}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_copy_is_identical(kind: str, source: Path, manifest: Path, tmp_path: Path) -> None:
    made = documents()
    HONEST[kind](made)
    copy = write(tmp_path / "copy", made)

    for output in (verify(open_checkpoint(source), [copy]).outputs[0], verify(load(manifest), [copy]).outputs[0]):
        assert (output.verdict, findings(output)) == ("identical", [])


def test_a_manifest_of_an_older_version_compares_what_it_has(source: Path, manifest: Path, tmp_path: Path) -> None:
    old = json.loads(manifest.read_text())
    del old["config"]
    old["tokenizer"] = {part: old["tokenizer"][part] for part in ("tokens", "merges")}
    (tmp_path / "old.json").write_text(json.dumps(old))
    made = documents()
    DAMAGE["two ids"][0](made)
    DAMAGE["a chat template"][0](made)

    assert verify(load(tmp_path / "old.json"), [source]).ok
    assert findings(verify(load(tmp_path / "old.json"), [write(tmp_path / "x", made)]).outputs[0]) == [
        ("tokenizer.tokens", "another tokenizer")
    ]


def test_a_tokenizer_that_nothing_here_expresses_is_compared_as_json(tmp_path: Path) -> None:
    """A normalizer that llama.cpp has no word for; the steps in the spelling of two versions of the library."""
    strip = {"type": "StripAccents"}
    old = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁"}
    new = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    copies = {
        "source": old,
        "copy": {"type": "Sequence", "pretokenizers": [new]},
        "damaged": old | {"add_prefix_space": False},
    }
    for name, step in copies.items():
        made = documents()
        made["tokenizer.json"] |= {"normalizer": strip, "pre_tokenizer": step}
        write(tmp_path / name, made)
    made["tokenizer.json"]["normalizer"] = None
    write(tmp_path / "bare", made)

    outputs = verify(
        open_checkpoint(tmp_path / "source"), [tmp_path / name for name in ("copy", "damaged", "bare")]
    ).outputs

    assert findings(outputs[0]) == []
    assert findings(outputs[1]) == [("tokenizer.json", "another pre_tokenizer")]
    assert ("tokenizer.json", "another normalizer") in findings(outputs[2])


def test_what_lies_beside_it_does_not_hide_damage_of_the_weights(source: Path, tmp_path: Path) -> None:
    made = documents()
    DAMAGE["rope_theta"][0](made)
    copy = write(tmp_path / "copy", made)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-3] ^= 4
    (copy / "model.safetensors").write_bytes(data)

    output = verify(open_checkpoint(source), [copy], Options()).outputs[0]

    assert (output.verdict, output.weights, output.companions) == ("different",) * 3
    assert findings(output) == [
        ("model.embed_tokens.weight", "one flipped bit"),
        ("config.json", "rope_theta is wrong"),
    ]


def test_our_own_copy_in_another_dtype_is_equivalent(source: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(source), tmp_path / "half", to="safetensors", dtype="bf16")

    output = verify(open_checkpoint(source), [tmp_path / "half"]).outputs[0]

    assert (output.verdict, output.companions, findings(output)) == ("equivalent", "equal", [])
