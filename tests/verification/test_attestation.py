"""Statements about what verify found, and statements held against files."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.sample import write_sample


def run(*arguments: str | Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return found.exit_code, found.output


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stated")
    write_sample(folder / "source")
    assert run("convert", folder / "source", folder / "x.gguf", "--dtype", "q4_k_m", "-q")[0] == 0
    code, said = run("verify", folder / "source", folder / "x.gguf", "--attest", folder / "x.json")
    assert code == 0, said
    return folder


@pytest.fixture
def place(stated: Path, tmp_path: Path) -> Path:
    """A source, a copy in a mixture, and the statement about it."""
    shutil.copytree(stated, tmp_path, dirs_exist_ok=True)
    return tmp_path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_statement_has_digests_recipe_and_verdict(place: Path) -> None:
    said = json.loads((place / "x.json").read_text())

    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:cerebras-tool:attestation:verification:v1",
    )
    assert said["subject"] == [{"name": "x.gguf", "digest": {"sha256": sha256(place / "x.gguf")}}]
    [output] = said["predicate"]["outputs"]
    assert (output["format"], output["verdict"], output["recipe"]) == ("gguf", "equivalent", "q4_k_m")
    assert output["types"]["Q5_0"] == 10
    [file] = said["predicate"]["source"]["files"]
    assert file == {"name": "pytorch_model.bin", "digest": {"sha256": sha256(place / "source" / "pytorch_model.bin")}}
    assert said["predicate"]["tool"]["name"] == "cerebras-tool"


@pytest.mark.parametrize("form", ["bare", "envelope", "bundle"])
def test_a_statement_fits_its_files(form: str, place: Path) -> None:
    signed = {"payloadType": "application/vnd.in-toto+json", "payload": base64.b64encode((place / "x.json").read_bytes()).decode(), "signatures": []}  # fmt: skip
    wrapped: dict[str, Any] = {"envelope": signed, "bundle": {"dsseEnvelope": signed}}
    if form in wrapped:
        (place / "x.json").write_text(json.dumps(wrapped[form]))

    assert run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")[0] == 0


def test_a_statement_about_other_bytes_is_found_out(place: Path) -> None:
    assert run("convert", place / "source", place / "x.gguf", "--dtype", "q8_0", "-q", "--force")[0] == 0

    code, said = run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")

    assert code == 1
    assert "the attestation is not about these bytes: x.gguf" in " ".join(said.split())


def test_a_statement_about_another_source_is_found_out(place: Path) -> None:
    write_sample(place / "other", seed=5)
    assert run("convert", place / "other", place / "y.gguf", "-q")[0] == 0

    code, said = run("verify", place / "other", place / "y.gguf", "--attestation", place / "x.json")

    assert code == 1
    assert "the attestation is not about these bytes: the source's pytorch_model.bin" in " ".join(said.split())


def test_no_statement_is_made_about_a_wrong_copy(place: Path) -> None:
    write_sample(place / "other", seed=5)

    code, said = run("verify", place / "other", place / "x.gguf", "--attest", place / "y.json")

    assert code == 1
    assert "was not written: an output differs" in said
    assert not (place / "y.json").exists()


@pytest.mark.parametrize(
    "data", ["{}", '{"_type": "https://in-toto.io/Statement/v1"}', '{"payload": "%"}', "[]", "x", '{"payload": "e30="}']
)
def test_what_is_no_statement_is_refused(data: str, place: Path) -> None:
    (place / "x.json").write_text(data)

    code, said = run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")

    assert code == 2
    assert said.count("error:") == 1
