"""What a file says about its model goes along: into the same format always, into another one if it is asked for."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.conversion.merging import merged
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue
from converter.verification.verify import verify
from tests.build.gguf_files import Info, gguf, key

SAID = {"format": "mlx", "ss_epoch": "3", "modelspec.title": "Ünïcode\0", "training.lr": "0.1", "training.odd": "{"}
REASON = "what the file says about its model: --carry-values takes it along"


@pytest.fixture
def tagged(tmp_path: Path) -> Catalogue:
    tensors = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]} for at, name in enumerate("ab")
    }
    header: dict[str, Any] = {"__metadata__": SAID, **tensors}
    text = json.dumps(header).encode()
    (tmp_path / "in.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return open_checkpoint(tmp_path / "in.safetensors")


@pytest.fixture
def named(tmp_path: Path) -> Catalogue:
    keys = [
        key("general.architecture", "string", "gpt2"), key("general.name", "string", "Mine"),
        key("general.tags", "array:string", ["a", "b"]), key("general.file_type", "u32", 0), key("nan", "f32", float("nan")),
        key("gpt2.context_length", "u32", 4), key("gpt2.own", "f32", 0.5), key("tokenizer.ggml.model", "string", "none"),
        key("long", "array:u8", [0] * 1001), key("training.lr", "f64", 0.1),
    ]  # fmt: skip
    (tmp_path / "in.gguf").write_bytes(gguf(keys, [Info("x.weight", (4,))], bytes(16)))
    return open_checkpoint(tmp_path / "in.gguf")


@pytest.mark.parametrize("most", [None, 4])
def test_safetensors_keeps_its_metadata(tagged: Catalogue, tmp_path: Path, most: int | None) -> None:
    report = convert(tagged, tmp_path / "out", to="safetensors", max_shard_size=most)

    assert open_checkpoint(tmp_path / "out").metadata == SAID
    assert (report.dropped, report.carried) == ((), ())


def test_another_format_says_that_it_lacks_it(tagged: Catalogue, named: Catalogue, tmp_path: Path) -> None:
    reports: list[Any] = [
        convert(tagged, tmp_path / "t.npz"), extract(tagged, tmp_path / "t"),
        convert(named, tmp_path / "n.safetensors"), extract(named, tmp_path / "n"),
    ]  # fmt: skip

    of_safetensors, of_gguf = (
        ["ss_epoch", "modelspec.title", "lr", "training.odd"],
        ["general.name", "general.tags", "nan", "gpt2.own"],
    )
    keys = [[left for left in report.dropped if left.kind == "key"] for report in reports]
    names = [[left.name for left in found] for found in keys]
    assert names == [of_safetensors] * 2 + [[*of_gguf, "long", "lr"]] * 2
    assert {left.reason for found in keys for left in found} == {REASON}


def test_another_format_takes_it_along(tagged: Catalogue, named: Catalogue, tmp_path: Path) -> None:
    convert(tagged, tmp_path / "t.npz", carry_values=True)
    report = convert(named, tmp_path / "n.safetensors", carry_values=True)

    assert json.loads((tmp_path / "t.values.json").read_text()) == {
        "ss_epoch": "3", "modelspec.title": "Ünïcode\0", "lr": 0.1, "training.odd": "{",
    }  # fmt: skip
    assert open_checkpoint(tmp_path / "n.safetensors").metadata == {
        "training.general.name": '"Mine"', "training.general.tags": '["a", "b"]', "training.nan": '"nan"',
        "training.gpt2.own": "0.5", "training.lr": "0.1", "format": "pt",
    }  # fmt: skip
    assert [left.name for left in report.dropped if left.kind == "key"] == ["long"]


def test_what_was_carried_is_not_carried_twice(named: Catalogue, tmp_path: Path) -> None:
    convert(named, tmp_path / "n.safetensors", carry_values=True)
    convert(open_checkpoint(tmp_path / "n.safetensors"), tmp_path / "n.npz", carry_values=True)

    assert json.loads((tmp_path / "n.values.json").read_text()) == {
        "general.name": "Mine", "general.tags": ["a", "b"], "nan": "nan", "gpt2.own": 0.5, "lr": 0.1,
    }  # fmt: skip
    assert verify(named, [tmp_path / "n.safetensors", tmp_path / "n.npz"]).ok


def _safetensors(path: Path, metadata: dict[str, str], *names: str) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata} | {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]} for at, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * len(names)))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    said: tuple[dict[str, str], ...] = (
        {"format": "pt", "title": "A", "cerebras_tool.tied": "{}"},
        {"format": "pt", "licence": "mit", "cerebras_tool.tied": "{}"},
        {"format": "pt", "title": "B", "licence": "mit"},
    )
    for number, texts in enumerate(said, 1):
        _safetensors(folder / f"model-{number:05}-of-00003.safetensors", texts, f"t{number}")
    return folder


def test_what_later_shards_say_goes_along_and_what_contradicts_the_first_is_named(shards: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(shards), tmp_path / "out.safetensors")
    elsewhere = convert(open_checkpoint(shards), tmp_path / "out.npz", carry_values=True)

    assert open_checkpoint(tmp_path / "out.safetensors").metadata == {"format": "pt", "title": "A", "licence": "mit"}
    [lost] = report.dropped
    assert (lost.name, lost.kind) == ("title", "key")
    assert (
        lost.reason == "its value in `model-00003-of-00003.safetensors`: the first file has another one, which is kept"
    )
    assert elsewhere.carried == ("title", "licence")


def test_what_merged_files_say_goes_along_or_is_named(tagged: Catalogue, named: Catalogue, tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "more.safetensors", {"ss_epoch": "4", "more": "1"}, "c")
    same = convert(merged(tagged, [open_checkpoint(path)]), tmp_path / "same.safetensors")
    other = convert(merged(tagged, [named]), tmp_path / "other.safetensors")
    carried = convert(merged(tagged, [named]), tmp_path / "carried.safetensors", carry_values=True)

    assert open_checkpoint(tmp_path / "same.safetensors").metadata == {**SAID, "more": "1"}
    assert [(lost.name, lost.reason) for lost in same.dropped] == [
        ("ss_epoch", f"its value in `{path}`: the first file has another one, which is kept")
    ]
    # Both have a value called `lr`; what a GGUF file says beside it is not among a safetensors file's texts.
    assert {lost.name for lost in other.dropped} == {"general.name", "general.tags", "nan", "gpt2.own", "long"}
    assert {lost.name for lost in carried.dropped} == {"long"}
    assert json.loads(open_checkpoint(tmp_path / "carried.safetensors").metadata["training.general.tags"]) == ["a", "b"]


def test_a_key_that_only_a_later_part_of_a_gguf_has_is_kept_with_its_type(tmp_path: Path) -> None:
    def part(number: int, *more: bytes) -> bytes:
        split = [key("split.no", "u16", number), key("split.count", "u16", 2), key("split.tensors.count", "i32", 2)]
        return gguf([*more, *split], [Info(f"t{number}", (4,))], bytes(16))

    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(part(0, key("general.name", "string", "A"), key("mine", "u8", 1)))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(part(1, key("mine", "u8", 2), key("late", "i16", -3)))

    report = convert(open_checkpoint(first), tmp_path / "one.gguf", no_tokenizer=True)

    written = open_checkpoint(tmp_path / "one.gguf").metadata
    assert dict(written) == {"general.name": "A", "mine": 1, "late": -3, "tokenizer.ggml.model": "none"}
    assert written.entries["late"].type == "i16"  # type: ignore[attr-defined]
    assert [(lost.name, lost.reason) for lost in report.dropped] == [
        ("mine", "its value in `m-00002-of-00002.gguf`: the first file has another one, which is kept")
    ]


def test_verify_lists_the_keys_that_a_copy_lost_or_changed(tagged: Catalogue, tmp_path: Path) -> None:
    copy = _safetensors(tmp_path / "copy.safetensors", {"ss_epoch": "4", "training.lr": "0.1"}, "a", "b")
    convert(tagged, tmp_path / "bare.npz")
    convert(tagged, tmp_path / "carried.npz", carry_values=True)

    outputs = verify(tagged, [copy, tmp_path / "bare.npz", tmp_path / "carried.npz"]).outputs

    assert [output.verdict for output in outputs] == ["identical"] * 3
    assert outputs[0].lacks == ("modelspec.title", "training.odd", "ss_epoch as it was")
    assert outputs[1].lacks == ("ss_epoch", "modelspec.title", "lr", "training.odd")
    assert outputs[2].lacks == ()
