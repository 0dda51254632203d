"""The name of a model and what else a GGUF says about it come from the files around the weights, never from shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.about import about, titled
from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample

CARD = """---
license: "apache-2.0"
license_link: https://example.org/x: no
language:
- en
  - 'no'
tags: [text-generation, pytorch]
pipeline_tag: text-generation
model_name: Tiny | One
description: |
  license: other
base_model: {a: b}
model-index:
- name: another
  results: []
---
license: mit
"""
HUB = {
    "general.name": "Tiny Llama 1.1b", "general.organization": "Some One",
    "general.source.repo_url": "https://huggingface.co/some-one/tiny-llama-1.1b",
}  # fmt: skip


def test_a_front_matter_is_read(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)

    assert about(tmp_path, str(tmp_path / "x.bin"), None) == {
        "general.name": "Tiny | One", "general.license": "apache-2.0", "general.languages": ["en", "no"],
        "general.tags": ["text-generation", "pytorch", "text-generation"],
    }  # fmt: skip


def test_what_a_model_was_made_from_is_listed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nbase_model:\n- some-one/base-1b\n- https://huggingface.co/a/b\n- ../x\ndatasets: [squad, x/y]\n---\n"
    )

    assert about(tmp_path, str(tmp_path / "x.bin"), None) == {
        "general.base_model.count": 2,
        "general.base_model.0.name": "Base 1b", "general.base_model.0.organization": "Some One",
        "general.base_model.0.repo_url": "https://huggingface.co/some-one/base-1b",
        "general.base_model.1.name": "B", "general.base_model.1.organization": "A",
        "general.base_model.1.repo_url": "https://huggingface.co/a/b",
        "general.dataset.count": 2,
        "general.dataset.0.name": "Squad", "general.dataset.0.repo_url": "https://huggingface.co/datasets/squad",
        "general.dataset.1.name": "Y", "general.dataset.1.organization": "X",
        "general.dataset.1.repo_url": "https://huggingface.co/datasets/x/y",
    }  # fmt: skip


@pytest.mark.parametrize(
    "card", ["", "---\n", "license: mit\n", "---\nlicense: mit\n", "--- \n---", "---\n: x\n- a\n---", "\xff"]
)
def test_what_is_no_front_matter_says_nothing(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_bytes(card.encode("latin1"))

    assert about(tmp_path, str(tmp_path / "x.bin"), None) == {}


@pytest.mark.parametrize(
    ("folder", "location", "config", "expected"),
    [
        ("x", "hf://some-one/tiny-llama-1.1b@0123/a.bin", None, HUB),
        ("models--some-one--tiny-llama-1.1b/snapshots/0123", "x.bin", None, HUB),
        ("x", "x.bin", {"_name_or_path": "some-one/tiny-llama-1.1b"}, HUB),
        ("x", "x.bin", {"_name_or_path": "/home/me"}, {}),
        ("x", "x.bin", {"_name_or_path": ["a/b"]}, {}),
        ("my-model", "my-model", None, {"general.name": "My Model"}),
    ],
)
def test_a_place_names_the_model(
    tmp_path: Path, folder: str, location: str, config: dict[str, Any] | None, expected: dict[str, str]
) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)

    assert about(path, location if location != folder else str(path), config) == expected


@pytest.mark.parametrize(("name", "title"), [("tiny-x", "Tiny X"), ("GPT-2b v1", "GPT 2b v1"), ("7B", "7B")])
def test_names_are_titles(name: str, title: str) -> None:
    assert titled(name) == title


def test_a_gguf_says_it(tmp_path: Path) -> None:
    write_sample(tmp_path / "my-own", "tiny")
    (tmp_path / "my-own" / "README.md").write_text("---\nlicense: mit\ntags:\n- small\nbase_model: a/b\n---\n")

    convert(open_checkpoint(tmp_path / "my-own"), tmp_path / "x.gguf")

    said = open_checkpoint(tmp_path / "x.gguf").metadata
    general = {key: value for key, value in said.items() if key.startswith("general.") and key != "general.tags"}
    assert json.loads(json.dumps(general)) == {
        "general.architecture": "gpt2", "general.type": "model", "general.license": "mit", "general.name": "My Own",
        "general.size_label": "221K", "general.file_type": 0, "general.quantization_version": 2,
        "general.base_model.count": 1, "general.base_model.0.name": "B", "general.base_model.0.organization": "A",
        "general.base_model.0.repo_url": "https://huggingface.co/a/b",
    }  # fmt: skip
    assert list(said["general.tags"]) == ["small"]
