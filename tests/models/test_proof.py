"""A declared model's name is a fact only where the SHA-256 of its files is the declared one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.conversion.extract import default_folder, extract
from converter.hub.repository import open_remote
from converter.inspection.report import inspect
from converter.inspection.said import heading
from converter.models import recognition
from converter.models.called import called
from converter.models.declared import find
from converter.opening import open_checkpoint
from tests.build.hub_server import TINY, Hub

Declare = Callable[..., None]


@pytest.fixture
def declare(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare a model with the shapes of `tiny`, and the SHA-256 of its file or another one."""

    def declared(sha256: str | None = None) -> None:
        content = (tiny / "pytorch_model.bin").read_bytes()
        known = find("111M")
        file = replace(
            known.files[0],
            nbytes=len(content),
            sha256=hashlib.sha256(content).hexdigest() if sha256 is None else sha256,
        )
        config = json.loads((tiny / "config.json").read_text())
        made = replace(known, name="Declared-1", config=config, files=(file,))
        monkeypatch.setattr(recognition, "declared", lambda: (made,))

    return declared


@pytest.mark.parametrize(("sha256", "read", "said"), [
    (None, True, "Declared-1, complete"), (None, False, "Shaped like Declared-1, complete"),
    ("0" * 64, True, "Shaped like Declared-1, complete"),
])  # fmt: skip
def test_a_local_file_is_a_declared_model_if_it_was_read_and_has_its_hash(
    sha256: str | None, read: bool, said: str, declare: Declare, tiny: Path
) -> None:
    declare(sha256)

    report = inspect(open_checkpoint(tiny / "pytorch_model.bin"), stats=read, sha256=read)

    assert heading(report) == said
    assert report.model is not None
    assert (report.model.name, report.model.proven) == ("Declared-1", said.startswith("Declared"))


@pytest.mark.parametrize(
    ("sha256", "said"), [(None, "Declared-1, complete"), ("0" * 64, "Shaped like Declared-1, complete")]
)
def test_a_file_on_the_hub_is_a_declared_model_if_the_hub_states_its_hash(
    sha256: str | None, said: str, declare: Declare, hub: Hub
) -> None:
    declare(sha256)
    catalogue = open_remote(TINY)
    before = len(hub.seen)

    assert heading(inspect(catalogue)) == said
    assert len(hub.seen) == before


@pytest.mark.parametrize(("sha256", "proven"), [(None, True), ("0" * 64, False)])
def test_what_is_written_has_the_name_of_a_declared_model_only_if_it_is_proven(
    sha256: str | None, proven: bool, declare: Declare, hub: Hub, tmp_path: Path
) -> None:
    declare(sha256)
    catalogue = open_remote(TINY)

    report = extract(catalogue, tmp_path / "named", form="named")

    name = "Declared-1" if proven else None
    assert report.model == name
    assert convert(catalogue, tmp_path / "x.safetensors", dry_run=True).model == name
    assert json.loads((tmp_path / "named" / "manifest.json").read_text())["model"] == name
    assert default_folder(catalogue) == Path("parameters") / (name or called(catalogue.location))
    properties = (tmp_path / "named" / "model.properties").read_text().splitlines()
    assert f"name = {name or called(catalogue.location)}" in properties
    place = "https://huggingface.co/cerebras/Cerebras-GPT-111M" if proven else catalogue.location
    assert f"source = {place}" in properties


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/models/GPT-7/pytorch_model.bin", "GPT-7"),
        ("/models/GPT-7/pytorch_model-00001-of-00002.bin", "GPT-7"),
        ("/models/GPT-7/mine.bin", "mine"),
        ("/models/GPT-7", "GPT-7"),
        ("hf://owner/GPT-7@0123/pytorch_model.bin", "GPT-7"),
        ("/cache/models--owner--GPT-7/snapshots/0123/pytorch_model.bin", "GPT-7"),
        ("/cache/models--owner--GPT-7/snapshots/0123", "GPT-7"),
    ],
)
def test_a_checkpoint_is_called_after_its_place(location: str, name: str) -> None:
    assert called(location) == name
