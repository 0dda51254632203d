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
from converter.errors import ManifestError
from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.documents import said as described
from converter.verification.documents import unlike
from converter.verification.expected import expect
from converter.verification.golden import load
from converter.verification.verify import Options, examine, verify
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.tokenizers import BYTES, byte_pair, characters, unigram, words
from tests.build.tokenizers import added as build_added
from tests.build.tokenizers import folder as tokenizer_folder

Change = Callable[[dict[str, Any]], object]  # of the documents in a folder, by name

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 266, "max_position_embeddings": 32, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32", "transformers_version": "4.40.0",
    "rope_scaling": {"type": "linear", "factor": 2.0},
}  # fmt: skip
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
WORDS = ["a", "b", "c", "ab", "abc", "bc"]


def special(name: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": kind}}


def text(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


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
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
            "merges": ["a b", "b c", "ab c", "a bc"],
        },
    }  # fmt: skip
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True, "add_eos_token": False,
        "tokenizer_class": "LlamaTokenizer", "chat_template": "{{ messages }}", "padding_side": "left", "model_max_length": 32,
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


def exchange(one: str, other: str) -> Change:
    """Exchange the ids of two tokens in the model. added_tokens keep theirs, but `tokenizers` takes the model's."""

    def change(made: dict[str, Any]) -> None:
        vocab = model(made)["vocab"]
        if isinstance(vocab, dict):
            vocab[one], vocab[other] = vocab[other], vocab[one]
            return
        places = [next(at for at, piece in enumerate(vocab) if piece[0] == text) for text in (one, other)]
        vocab[places[0]], vocab[places[1]] = vocab[places[1]], vocab[places[0]]

    return change


exchange_ids = exchange("a", "b")


def flag_normalized(value: bool | None, number: int = 1) -> Change:
    def change(made: dict[str, Any]) -> None:
        entry = tokenizer(made)["added_tokens"][number]
        entry.pop("normalized")
        entry |= {} if value is None else {"normalized": value}

    return change


def lose_special(made: dict[str, Any]) -> None:
    """`<pad>` is no token any more: another word has its place."""
    vocab = model(made)["vocab"]
    vocab["pad"] = vocab.pop("<pad>")
    made["tokenizer.json"]["added_tokens"].pop()


def tokenizer(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["tokenizer.json"]
    return found


def strip_spaces(made: dict[str, Any], flag: str = "lstrip") -> None:
    tokenizer(made)["added_tokens"][2][flag] = True


def strip_by_settings(made: dict[str, Any]) -> None:
    made["tokenizer_config.json"]["added_tokens_decoder"] = {"2": added(2, "</s>") | {"rstrip": True}}


def other_ids_around(made: dict[str, Any]) -> None:
    tokenizer(made)["post_processor"]["special_tokens"]["<s>"]["ids"] = [2]


def forget_an_added_token(made: dict[str, Any]) -> None:
    tokenizer(made)["added_tokens"].pop(1)


def no_start(made: dict[str, Any]) -> None:
    made["tokenizer.json"]["post_processor"] = None
    made["tokenizer_config.json"]["add_bos_token"] = False


def padding(strategy: Any, **more: Any) -> dict[str, Any]:
    pad = {"direction": "Left", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0, "pad_token": "<pad>"}
    return pad | {"strategy": strategy} | more


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
    "two bytes": (exchange("<0xE2>", "<0xE3>"), "tokenizer.tokens", "another tokenizer"),
    "two special tokens": (exchange("<s>", "</s>"), "tokenizer.tokens", "another tokenizer"),
    "the unknown token and another": (exchange("<unk>", "<pad>"), "tokenizer.tokens", "another tokenizer"),
    "a token for normalized text": (flag_normalized(True), "tokenizer.json", "another added token"),
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
    "no post-processor": (put("tokenizer.json", post_processor=None), "tokenizer.json", "another post_processor"),
    "another id around a text": (other_ids_around, "tokenizer.json", "another post_processor"),
    "no decoder": (put("tokenizer.json", decoder=None), "tokenizer.json", "another decoder"),
    "another decoder": (put("tokenizer.json", decoder={"type": "Fuse"}), "tokenizer.json", "another decoder"),
    "a token in added_tokens.json": (
        lambda made: made.update({"added_tokens.json": {"<x>": 505}}), "tokenizer.tokens", "another tokenizer",
    ),
    "a token in special_tokens_map.json": (
        lambda made: made.update({"special_tokens_map.json": {"additional_special_tokens": ["abc"]}}), "tokenizer.tokens", "another tokenizer",
    ),
    "a token in added_tokens_decoder": (
        put("tokenizer_config.json", added_tokens_decoder={"266": {"content": "<x>"}}), "tokenizer.tokens", "another tokenizer",
    ),
    "another end in special_tokens_map.json": (
        lambda made: made.update({"special_tokens_map.json": {"eos_token": "abc"}}), "tokenizer.eos_token_id", "another tokenizer",
    ),
    "texts padded to a length": (put("tokenizer.json", padding=padding({"Fixed": 8})), "tokenizer.json", "padding is wrong"),
    "texts padded to a multiple": (
        put("tokenizer.json", padding=padding("BatchLongest", pad_to_multiple_of=8)), "tokenizer.json", "padding is wrong",
    ),
    "texts cut early": (put("tokenizer.json", truncation={"max_length": 9}), "tokenizer.json", "truncation is wrong"),
    "texts cut early by settings": (put("tokenizer_config.json", model_max_length=9), "tokenizer_config.json", "model_max_length is wrong"),
    "a merge left out by chance": (lambda made: model(made).update(dropout=0.5), "tokenizer.json", "dropout is wrong"),
    "spaces before a token": (strip_spaces, "tokenizer.json", "another added token"),
    "a token as a word only": (lambda made: strip_spaces(made, "single_word"), "tokenizer.json", "another added token"),
    "spaces behind a token": (strip_by_settings, "tokenizer.json", "another added token"),
    "a token that is not added": (forget_an_added_token, "tokenizer.json", "a missing added token"),
    "the side for padding": (put("tokenizer_config.json", padding_side="right"), "tokenizer_config.json", "padding_side is wrong"),
    "a chat template": (put("tokenizer_config.json", chat_template="{{ x }}"), "tokenizer.chat_template", "another tokenizer"),
    "rms_norm_eps left out": (drop("config.json", "rms_norm_eps"), "config.json", "rms_norm_eps is wrong"),
    "a shorter context": (put("config.json", max_position_embeddings=16), "config.json", "max_position_embeddings is wrong"),
    "a normalizer more": (
        lambda made: tokenizer(made)["normalizer"]["normalizers"].append({"type": "Lowercase"}), "tokenizer.json", "another normalizer",
    ),
    "no normalizer": (put("tokenizer.json", normalizer=None), "tokenizer.json", "another normalizer"),
    "a pre-tokenizer": (put("tokenizer.json", pre_tokenizer={"type": "Whitespace"}), "tokenizer.json", "another pre_tokenizer"),
    "no bytes for unknown characters": (lambda made: model(made).update(byte_fallback=False), "tokenizer.json", "another model"),
}  # fmt: skip


def test_there_are_enough_kinds_of_damage() -> None:
    assert len(DAMAGE) >= 20


EPSILONS: dict[str, tuple[dict[str, Any], bool]] = {
    "another": ({"layer_norm_epsilon": 1e-06}, True),
    "left out, which means 1e-05": ({}, False),
    "written otherwise": ({"layer_norm_epsilon": 0.00001}, False),
}


@pytest.mark.parametrize("kind", EPSILONS)
def test_layer_norm_epsilon_counts_by_what_it_means(kind: str, tmp_path: Path) -> None:
    values, counts = EPSILONS[kind]
    base = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 266, "n_positions": 32}
    first = write(tmp_path / "source", {"config.json": base | {"layer_norm_epsilon": 1e-05}})

    output = verify(open_checkpoint(first), [write(tmp_path / "copy", {"config.json": base | values})]).outputs[0]

    assert findings(output) == ([("config.json", "layer_norm_epsilon is wrong")] if counts else [])


def test_the_settings_of_generate_are_named_and_do_not_count(tmp_path: Path) -> None:
    name = "generation_config.json"
    first = write(tmp_path / "source", {name: {"temperature": 0.5, "top_k": 4, "eos_token_id": 2}})
    second = write(tmp_path / "copy", {name: {"temperature": 0.75, "eos_token_id": 3}})

    output = verify(open_checkpoint(first), [second]).outputs[0]

    assert (output.verdict, findings(output)) == ("identical", [])
    assert [note.detail for note in output.notes] == [f"not the source's: `{name}`"]


# What a manifest calls the part of a tokenizer that the checkpoint names more exactly.
PARTS = {
    "tokenizer.merges": "tokenizer.file_merges",
    "tokenizer.pad_token_id": "tokenizer.special", "tokenizer.eos_token_id": "tokenizer.special", "tokenizer.add_space_prefix": "tokenizer.flags",
    "tokenizer.add_bos_token": "tokenizer.adds", "tokenizer.chat_template": "tokenizer.templates",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "llama", documents())


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


def around_by_bytes(made: dict[str, Any]) -> None:
    """A step that changes nothing but offsets, and the rest in a sequence."""
    offsets = {"type": "ByteLevel", "trim_offsets": False}
    steps = [offsets, tokenizer(made)["post_processor"]]
    tokenizer(made)["post_processor"] = {"type": "Sequence", "processors": steps}


HONEST: dict[str, Change] = {
    "the same": lambda made: None,
    "transformers 5": in_newer_places,
    "merges as pairs": merges_as_pairs,
    "truncation and padding": put("tokenizer.json", truncation={"max_length": 32}, padding=padding("BatchLongest")),
    "tokens and special tokens in older files": lambda made: made.update({
        "added_tokens.json": {"<s>": 1, "<pad>": 3},
        "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "additional_special_tokens": ["<pad>"]},
    }),
    "older files that transformers does not read": lambda made: (
        made["tokenizer_config.json"].update(added_tokens_decoder={"1": {"content": "<s>", "special": True}}),
        made.update({"added_tokens.json": {"<x>": 505}, "special_tokens_map.json": {"eos_token": "abc"}}),
    ),
    "the library's steps in a sequence": around_by_bytes,
    "no model_max_length": put("tokenizer_config.json", model_max_length=10**30),
    "a longer model_max_length": put("tokenizer_config.json", model_max_length=64),
    "no tokenizer but its settings": lambda made: made.pop("tokenizer.json"),
    "the default of a flag of special tokens": flag_normalized(None),
    "a decoder's setting for splitting": lambda made: tokenizer(made)["decoder"]["decoders"][0].update(split=True),
    "the class's side for padding left out": drop("tokenizer_config.json", "padding_side"),
    "defaults that are written": put("tokenizer_config.json", split_special_tokens=False, truncation_side="right"),
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
    old["tensors"] = {f"model.{name}": tensor for name, tensor in old["tensors"].items()}  # no family was known
    old["tokenizer"] = {part: old["tokenizer"][part] for part in ("tokens", "merges")}
    (tmp_path / "old.json").write_text(json.dumps(old))
    made = documents()
    DAMAGE["two ids"][0](made)
    DAMAGE["a chat template"][0](made)

    assert verify(load(tmp_path / "old.json"), [source]).ok
    assert findings(verify(load(tmp_path / "old.json"), [write(tmp_path / "x", made)]).outputs[0]) == [
        ("tokenizer.tokens", "another tokenizer")
    ]


def test_a_manifest_without_the_flag_for_normalized_text_compares_the_rest(manifest: Path, tmp_path: Path) -> None:
    old = json.loads(manifest.read_text())
    del old["tokenizer_files"]["normalized"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    made = documents()
    flag_normalized(True)(made)
    strip_spaces(made)

    output = verify(load(tmp_path / "old.json"), [write(tmp_path / "copy", made)]).outputs[0]

    assert [found.detail for found in output.beside] == ["the added token `</s>` has lstrip: expected no flags"]


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
        ("embed_tokens.weight", "one flipped bit"),
        ("config.json", "rope_theta is wrong"),
    ]


def test_our_own_copy_in_another_dtype_is_equivalent(source: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(source), tmp_path / "half", to="safetensors", dtype="bf16")

    output = verify(open_checkpoint(source), [tmp_path / "half"]).outputs[0]

    assert (output.verdict, output.companions, findings(output)) == ("equivalent", "equal", [])


BROKEN = '{"model_type":'


def test_a_config_that_cannot_be_read_is_a_finding(source: Path, manifest: Path, tmp_path: Path) -> None:
    copy = write(tmp_path / "copy", documents())
    (copy / "config.json").write_text(BROKEN)

    for output in (verify(open_checkpoint(source), [copy]).outputs[0], verify(load(manifest), [copy]).outputs[0]):
        assert findings(output) == [("config.json", "unreadable")]
        assert (output.weights, output.companions) == ("identical", "different")


def test_a_config_of_the_source_that_cannot_be_read_is_said(source: Path, tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", documents())
    (broken / "config.json").write_text(BROKEN)
    for copy in (source, write(tmp_path / "copy", documents())):
        output = verify(open_checkpoint(broken), [copy]).outputs[0]

        assert (output.verdict, output.companions, output.agree) == ("identical", "not compared", ("tokenizer",))
        assert [(note.name, note.what) for note in output.notes] == [("config.json", "not compared")]


# Sources of other kinds, how they are damaged, and what is named: by the checkpoint and by its manifest alike.
# SentencePiece's tokens without a text, all of them added: a trainer of `tokenizers` writes the bytes as special tokens.
MARKS = [
    build_added(number, name, special=True) for number, name in enumerate(["<unk>", "<s>", "</s>", *byte_tokens()])
]
Kinds = dict[str, tuple[dict[str, Any], Change, str, str]]
KINDS: Kinds = {
    "no post-processor": (words(), put("tokenizer.json", post_processor=None), "tokenizer.json", "another post_processor"),
    "a token for unknown words": (
        words(), lambda made: model(made).update(unk_token="[MASK]"), "tokenizer.json", "unk_token is wrong",
    ),
    "shorter words": (
        words(), lambda made: model(made).update(max_input_chars_per_word=3), "tokenizer.json", "max_input_chars_per_word is wrong",
    ),
    "a mark that is not added": (
        words(), lambda made: tokenizer(made)["added_tokens"].pop(4), "tokenizer.json", "a missing added token",
    ),
    "upper case": (words(), put("tokenizer_config.json", do_lower_case=False), "tokenizer_config.json", "do_lower_case is wrong"),
    "accents": (words(), put("tokenizer_config.json", strip_accents=False), "tokenizer_config.json", "strip_accents is wrong"),
    "special tokens that are split": (
        byte_pair(), put("tokenizer_config.json", split_special_tokens=True), "tokenizer_config.json", "split_special_tokens is wrong",
    ),
    "a side for cutting": (byte_pair(), put("tokenizer_config.json", truncation_side="left"), "tokenizer_config.json", "truncation_side is wrong"),
    "one text for two": (words(), lambda made: tokenizer(made)["post_processor"]["single"].pop(0), "tokenizer.json", "another post_processor"),
    "texts cut early": (
        words(truncation={"max_length": 32}), put("tokenizer.json", truncation={"max_length": 16}), "tokenizer.json", "truncation is wrong",
    ),
    "an end that no token is": (byte_pair(), put("tokenizer_config.json", eos_token="<new>"), "tokenizer_config.json", "eos_token is wrong"),
    "an end of Unigram that no token is": (unigram(), put("tokenizer_config.json", eos_token="<new>"), "tokenizer_config.json", "eos_token is wrong"),
    "an end of words that no token is": (words(), put("tokenizer_config.json", eos_token={"content": "[NEW]"}), "tokenizer_config.json", "eos_token is wrong"),
    "an end where nothing here expresses the tokenizer": (
        byte_pair(normalizer={"type": "Lowercase"}), put("tokenizer_config.json", eos_token="a"), "tokenizer.eos_token_id", "another tokenizer",
    ),
    "times of speech": (byte_pair(), put("tokenizer_config.json", predict_timestamps=True), "tokenizer_config.json", "predict_timestamps is wrong"),
    "another pad token": (byte_pair(), put("tokenizer_config.json", pad_token="ab"), "tokenizer.pad_token_id", "another tokenizer"),
    "no decoder": (byte_pair(), put("tokenizer.json", decoder=None), "tokenizer.json", "another decoder"),
    "a merge left out by chance": (byte_pair(), lambda made: model(made).update(dropout=0.1), "tokenizer.json", "dropout is wrong"),
    "a space before every part": (
        unigram(pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}),
        put("tokenizer.json", pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        "tokenizer.json", "another pre_tokenizer",
    ),
    "two bytes that are added tokens": (characters(added_tokens=MARKS), exchange("<0xE2>", "<0xE3>"), "tokenizer.tokens", "another tokenizer"),
    "the first and the last byte": (characters(added_tokens=MARKS), exchange("<0x00>", "<0xFF>"), "tokenizer.tokens", "another tokenizer"),
    "two marks": (words(), exchange("[CLS]", "[SEP]"), "tokenizer.tokens", "another tokenizer"),
    "two special tokens of Unigram": (unigram(), exchange("<pad>", "</s>"), "tokenizer.tokens", "another tokenizer"),
    "two special tokens of byte-level BPE": (byte_pair(), exchange("<|endoftext|>", "a"), "tokenizer.tokens", "another tokenizer"),
    "a part that nothing here expresses": (
        byte_pair(normalizer={"type": "Lowercase"}), put("tokenizer.json", normalizer=None), "tokenizer.json", "another normalizer",
    ),
    "a decoder of such a tokenizer": (
        byte_pair(normalizer={"type": "Lowercase"}), put("tokenizer.json", decoder=None), "tokenizer.json", "another decoder",
    ),
}  # fmt: skip
SETTINGS = {"do_lower_case": True, "strip_accents": None, "model_max_length": 10**30, "eos_token": "ab"}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_other_kinds_of_tokenizers_is_named(kind: str, tmp_path: Path) -> None:
    document, change, name, what = KINDS[kind]
    made = {"tokenizer.json": document, "tokenizer_config.json": dict(SETTINGS)}
    source = write(tmp_path / "source", json.loads(json.dumps(made)))
    golden = tmp_path / "golden.json"
    golden.write_text(examine(expect(open_checkpoint(source)), [source]).golden().text())
    honest = write(tmp_path / "honest", json.loads(json.dumps(made)))
    damaged = json.loads(json.dumps(made))
    change(damaged)
    copy = write(tmp_path / "copy", damaged)

    for expected in (open_checkpoint(source), load(golden)):
        outputs = verify(expected, [honest, copy]).outputs
        assert (outputs[0].verdict, findings(outputs[0])) == ("identical", [])
        assert (name, what) in findings(outputs[1]) or name.replace("pad_token_id", "special") in dict(
            findings(outputs[1])
        )
        assert (outputs[1].verdict, outputs[1].weights) == ("different", "identical")


# Of a copy: how tokenizer_config.json and tokenizer.json were changed, and whether texts are filled up on another side.
SIDES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], bool]] = {
    "the default written": ({"tokenizer_class": "TokenizersBackend"}, {"padding_side": "right"}, {}, False),
    "another side": ({"tokenizer_class": "TokenizersBackend"}, {"padding_side": "left"}, {}, True),
    "another side than a class has": ({"tokenizer_class": "BertTokenizer"}, {"padding_side": "left"}, {}, True),
    "the side that a class has": ({"tokenizer_class": "LlamaTokenizerFast"}, {"padding_side": "left"}, {}, False),
    "not the side that a class has": ({"tokenizer_class": "LlamaTokenizerFast"}, {"padding_side": "right"}, {}, True),
    "the side of tokenizer.json": ({"tokenizer_class": "BertTokenizer"}, {"padding_side": "left"}, {"padding": {"direction": "Left"}}, False),
    "no class": ({}, {"padding_side": "left"}, {}, False),
    "a class of the model's own": ({"tokenizer_class": "OwnTokenizer", "auto_map": {}}, {"padding_side": "left"}, {}, False),
}  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", SIDES)
def test_an_absent_side_for_padding_is_the_default(kind: str, swapped: bool, tmp_path: Path) -> None:
    settings, more, parts, differs = SIDES[kind]
    document = byte_pair() | parts
    silent, saying = (
        write(tmp_path / name, {"tokenizer.json": document, "tokenizer_config.json": SETTINGS | settings | added_more})
        for name, added_more in (("silent", {}), ("saying", more))
    )
    expected, copy = (saying, silent) if swapped else (silent, saying)

    output = verify(open_checkpoint(expected), [copy]).outputs[0]

    assert findings(output) == ([("tokenizer_config.json", "padding_side is wrong")] if differs else [])


# Two spellings of what a post-processor puts around a text.
AROUND = (
    (None, {"type": "ByteLevel", "trim_offsets": True}),
    (None, {"type": "Sequence", "processors": []}),
    (
        {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        {
            "type": "TemplateProcessing", "special_tokens": {"[CLS]": {"ids": [2]}, "[SEP]": {"ids": [3]}},
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", 1), special("[SEP]", 1)],
        },
    ),
    (
        {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim_offsets": True},
        {
            "type": "TemplateProcessing", "special_tokens": {"[CLS]": {"ids": [2]}, "[SEP]": {"ids": [3]}},
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), special("[SEP]", 0), text("B", 0), special("[SEP]", 0)],
        },
    ),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other"), AROUND)
def test_post_processors_are_compared_by_what_they_do(one: Any, other: Any, tmp_path: Path) -> None:
    for name, step in (("one", one), ("other", other)):
        write(tmp_path / name, {"tokenizer.json": words(post_processor=step)})

    assert findings(verify(open_checkpoint(tmp_path / "one"), [tmp_path / "other"]).outputs[0]) == []
    assert findings(verify(open_checkpoint(tmp_path / "other"), [tmp_path / "one"]).outputs[0]) == []


def test_settings_of_a_tokenizer_without_its_tokens_are_named_as_that(source: Path, tmp_path: Path) -> None:
    made = documents()
    del made["tokenizer.json"]
    part = write(tmp_path / "part", made)
    (part / "vocab.json").write_text("{}")

    output = verify(open_checkpoint(source), [part]).outputs[0]

    assert findings(output) == [("tokenizer", "no tokenizer")]  # vocab.json alone is half of one


def test_a_manifest_with_another_description_of_a_tokenizer_is_refused(manifest: Path, tmp_path: Path) -> None:
    for key, value in (("added", {"a": 5}), ("added", {"a": []}), ("parts", {}), ("pad", 5), ("decoder", None)):
        golden = json.loads(manifest.read_text())
        golden["tokenizer_files"][key] = value
        (tmp_path / "golden.json").write_text(json.dumps(golden))
        with pytest.raises(ManifestError, match="tokenizer_files"):
            load(tmp_path / "golden.json")


@pytest.mark.parametrize("value", [[], {"<s>": []}, {"<s>": [True]}, {"<s>": "x"}])
def test_a_manifest_with_another_flag_for_normalized_text_is_refused(
    value: Any, manifest: Path, tmp_path: Path
) -> None:
    old = json.loads(manifest.read_text())
    old["tokenizer_files"]["normalized"] = value
    (tmp_path / "old.json").write_text(json.dumps(old))

    with pytest.raises(ManifestError):
        load(tmp_path / "old.json")


def test_the_flag_for_normalized_text_means_nothing_without_a_normalizer(tmp_path: Path) -> None:
    plain, flagged = ({"tokenizer.json": byte_pair()} for _ in range(2))
    flag_normalized(True, 0)(flagged)

    source, copy = write(tmp_path / "source", plain), write(tmp_path / "copy", flagged)

    assert verify(open_checkpoint(source), [copy]).outputs[0].verdict == "identical"


@pytest.mark.parametrize("spelt", [{"add_prefix_space": True}, {}])
def test_a_space_before_a_text_that_is_cut_into_bytes_is_named(spelt: dict[str, Any], tmp_path: Path) -> None:
    said = []
    for name, step in (("a", {"type": "ByteLevel", "add_prefix_space": False}), ("b", {"type": "ByteLevel", **spelt})):
        (tmp_path / name).mkdir()
        document = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": step}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(document))
        said.append(described(tmp_path / name) or {})

    assert [(one.what, one.detail) for one in unlike(*said)] == [
        ("another pre_tokenizer", "a space is put before a text `always`: expected `never`")
    ]
    assert not list(unlike(said[0], said[0]))


@pytest.mark.parametrize(("changes", "detail"), [
    ({"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "a space is put before a text `always`: expected `never`"),
    ({"ignore_merges": True}, "the tokenizer takes a word that is a token as it is (`ignore_merges` is true), but the source's does not"),
])  # fmt: skip
def test_one_setting_of_the_cut_into_words_is_named_once(changes: Any, detail: str, tmp_path: Path) -> None:
    for name, made in (("source", byte_pair()), ("copy", byte_pair(**changes))):
        tokenizer_folder(tmp_path / name, tokenizer__json=made, config__json={"model_type": "x"})
        write_checkpoint(tmp_path / name / "pytorch_model.bin", {"w": view("0", (2,))}, {"0": floats(1, 2)})
    opened = open_checkpoint(tmp_path / "source")
    manifest = tmp_path / "golden.json"
    manifest.write_text(examine(expect(opened), [tmp_path / "source"]).golden().text())

    found = [verify(one, [tmp_path / "copy"]).outputs[0] for one in (opened, load(manifest))]

    assert [[one.detail for one in output.tensors.different] for output in found] == [[detail], [detail]]
