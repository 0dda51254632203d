"""What a file says about its model goes along: into the same format always, into another one if it is asked for."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.conversion.extract import extract
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
    names = [[left.name for left in report.dropped] for report in reports]
    assert names == [of_safetensors] * 2 + [[*of_gguf, "long", "lr"]] * 2
    assert {(left.kind, left.reason) for report in reports for left in report.dropped} == {("key", REASON)}


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
    assert [left.name for left in report.dropped] == ["long"]


def test_what_was_carried_is_not_carried_twice(named: Catalogue, tmp_path: Path) -> None:
    convert(named, tmp_path / "n.safetensors", carry_values=True)
    convert(open_checkpoint(tmp_path / "n.safetensors"), tmp_path / "n.npz", carry_values=True)

    assert json.loads((tmp_path / "n.values.json").read_text()) == {
        "general.name": "Mine", "general.tags": ["a", "b"], "nan": "nan", "gpt2.own": 0.5, "lr": 0.1,
    }  # fmt: skip
    assert verify(named, [tmp_path / "n.safetensors", tmp_path / "n.npz"]).ok
