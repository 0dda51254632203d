"""A folder that becomes a GGUF file and a folder again still says what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample

RUN = CliRunner()


def sample(folder: Path, **files: Any) -> Path:
    """A tiny model, with changed files: `config__json={…}` adds to config.json."""
    write_sample(folder, "tiny")
    for name, changes in files.items():
        path = folder / name.replace("__", ".")
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(old | changes))
    return folder


def there_and_back(source: Path, *options: str) -> Path:
    folder = source.parent
    done = RUN.invoke(app, ["convert", str(source), str(folder / "x.gguf"), *options])
    assert done.exit_code == 0, done.output
    convert(open_checkpoint(folder / "x.gguf"), folder / "back", to="safetensors")
    return folder / "back"


@pytest.mark.parametrize(("files", "options"), [
    ({"config__json": {"pad_token_id": 65}}, []),
    ({"config__json": {"pad_token_id": 65}}, ["--no-tokenizer"]),
    ({"tokenizer_config__json": {"pad_token": "b"}}, []),  # `b` is token 65
])  # fmt: skip
def test_padding_comes_back_into_config_json(files: dict[str, Any], options: list[str], tmp_path: Path) -> None:
    back = there_and_back(sample(tmp_path / "in", **files), *options)

    assert json.loads((back / "config.json").read_text())["pad_token_id"] == 65


@pytest.mark.parametrize("files", [
    {"config__json": {"pad_token_id": 65}},
    {"tokenizer_config__json": {"pad_token": "b"}},
])  # fmt: skip
def test_padding_that_came_back_is_no_difference(files: dict[str, Any], tmp_path: Path) -> None:
    source = sample(tmp_path / "in", **files)
    back = there_and_back(source)

    assert "pad_token_id" not in RUN.invoke(app, ["verify", str(source), str(back)]).output


def test_another_padding_is_a_difference(tmp_path: Path) -> None:
    source = sample(tmp_path / "in", tokenizer_config__json={"pad_token": "b"})
    back = there_and_back(source)
    config = json.loads((back / "config.json").read_text())
    (back / "config.json").write_text(json.dumps(config | {"pad_token_id": 66}))

    done = RUN.invoke(app, ["verify", str(source), str(back)])

    assert done.exit_code == 1
    assert "pad_token_id" in done.output


def test_a_tokenizer_inside_the_source_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    convert(open_checkpoint(sample(tmp_path / "in")), tmp_path / "x.gguf")

    done = RUN.invoke(app, ["convert", str(tmp_path / "x.gguf"), str(tmp_path / "y.gguf"), "--no-tokenizer"])

    assert done.exit_code == 0, done.output
    assert "without a tokenizer" in done.output
    said = open_checkpoint(tmp_path / "y.gguf").metadata
    assert said["tokenizer.ggml.model"] == "none"
    assert "tokenizer.ggml.tokens" not in said


def test_another_tokenizer_without_a_chat_template_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    source = sample(tmp_path / "in", tokenizer_config__json={"chat_template": "{{ x }}", "add_bos_token": True})
    other = sample(tmp_path / "other")
    convert(open_checkpoint(source), tmp_path / "x.gguf")

    report = convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "y.gguf", tokenizer=other)

    said = open_checkpoint(tmp_path / "y.gguf").metadata
    assert said["tokenizer.chat_template"] == "{{ x }}"
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert "the chat template stays that of the source: the other tokenizer has none" in report.notes
