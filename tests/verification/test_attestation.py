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


def edited(file: Path, at: tuple[str | int, ...], value: Any) -> None:
    said = json.loads(file.read_text())
    part = said
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    file.write_text(json.dumps(said))


def test_a_statement_that_fits_is_said_to_agree(place: Path) -> None:
    code, said = run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")

    assert code == 0
    assert "configuration, tokenizer and attestation agree" in " ".join(said.split())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("recipe", "q8_0", 'the attestation says "q8_0" for recipe, and it is "q4_k_m"'),
        ("recipe", None, 'the attestation says null for recipe, and it is "q4_k_m"'),
        ("verdict", "identical", 'the attestation says "identical" for verdict, and it is "equivalent"'),
        ("format", "npz", 'the attestation says "npz" for format, and it is "gguf"'),
        ("types", {"Q8_0": 99}, 'the attestation says {"Q8_0": 99} for types, and it is {'),
        ("derived", {"F16": 17}, 'the attestation says {"F16": 17} for derived, and it is {"F32": 17}'),
        ("files", ["other.gguf"], "the attestation has the digests of these bytes, but says nothing about them"),
    ],
)
def test_what_a_statement_says_that_is_not_so_is_found_out(name: str, value: Any, said: str, place: Path) -> None:
    """Somebody edited what the statement says of the files, and left their digests alone."""
    edited(place / "x.json", ("predicate", "outputs", 0, name), value)

    code, found = run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")

    assert (code, said in " ".join(found.split())) == (1, True), found


def test_a_file_that_was_renamed_still_fits_its_statement(place: Path) -> None:
    (place / "x.gguf").rename(place / "renamed.gguf")

    assert run("verify", place / "source", place / "renamed.gguf", "--attestation", place / "x.json")[0] == 0


def test_two_copies_of_one_name_each_fit_what_is_said_of_them(place: Path) -> None:
    (place / "other").mkdir()
    assert run("convert", place / "source", place / "other" / "x.gguf", "--dtype", "q8_0", "-q")[0] == 0
    copies = (place / "x.gguf", place / "other" / "x.gguf")
    assert run("verify", place / "source", *copies, "--attest", place / "both.json", "-q")[0] == 0

    assert run("verify", place / "source", *copies, "--attestation", place / "both.json", "-q")[0] == 0
    assert run("verify", place / "source", copies[1], "--attestation", place / "both.json", "-q")[0] == 0


OTHERS: tuple[tuple[tuple[str | int, ...], tuple[Any, ...]], ...] = (
    (("predicate",), (None, [], "x", {})),
    (("predicate", "source"), (None, "x", {}, {"files": [1]})),
    (("predicate", "outputs"), (None, "x", [1], [{}], [{"files": [[]]}])),
    (("subject",), (None, {}, ["x"], [{"name": 3}])),
    (("subject", 0, "digest"), (None, {}, {"sha256": ["x"]}, {"sha512": "00"})),
)


@pytest.mark.parametrize(
    ("at", "value"),
    [(at, value) for at, values in OTHERS for value in values],
)
def test_a_statement_of_another_form_is_refused(at: tuple[str | int, ...], value: Any, place: Path) -> None:
    edited(place / "x.json", at, value)

    code, said = run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json")

    assert code == 2
    assert "take the statement as verify wrote it" in " ".join(said.split())


def test_a_copy_that_can_not_be_read_is_different_as_without_a_statement(place: Path) -> None:
    (place / "x.gguf").write_bytes((place / "x.gguf").read_bytes()[:200])

    assert run("verify", place / "source", place / "x.gguf", "--attestation", place / "x.json", "-q")[0] == 1
