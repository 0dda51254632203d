"""`scan --bom` writes CycloneDX 1.6: every file with its SHA-256, models with licence and card, findings as vulnerabilities."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint

RUN = CliRunner()
SUBSET = json.loads((Path(__file__).parent.parent / "data" / "cyclonedx-1.6-subset.json").read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "model", "tiny")
    (tmp_path / "model" / "README.md").write_text(
        "---\nlicense: apache-2.0\ndatasets:\n- owner/the_pile\n---\n# ##vso[x] <b>\n"
    )
    write_checkpoint(
        tmp_path / "evil.bin",
        {"w": view("0", (2,)), "x": Call(Global("os", "system"), ("ls",)), "y": Call(Global("somewhere", "Thing"), ())},
        {"0": floats(1, 2)},
    )
    return tmp_path


def bill(words: str) -> dict[str, Any]:
    done = RUN.invoke(app, ["scan", *shlex.split(words), "--no-fickling", "--bom", "b.json", "-q"])
    assert done.exit_code in (0, 1), done.output
    text = Path("b.json").read_text("ascii")
    assert "##" not in text
    document: dict[str, Any] = json.loads(text)
    jsonschema.validate(document, SUBSET)
    refs = [*_refs(document["components"])]
    assert len(set(refs)) == len(refs)
    assert {one["ref"] for found in document["vulnerabilities"] for one in found["affects"]} <= {*refs}
    return document


def _refs(components: list[dict[str, Any]]) -> list[str]:
    return [ref for one in components for ref in (one["bom-ref"], *_refs(one.get("components", [])))]


def test_a_model_has_its_files_its_licence_and_a_card(place: Path) -> None:
    (model,) = bill("model")["components"]

    assert (model["type"], model["name"]) == ("machine-learning-model", "model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    card = model["modelCard"]["modelParameters"]
    assert card["modelArchitecture"] == "GPT-2 with 4 layers of 64"
    assert card["datasets"] == [{"type": "dataset", "name": "the_pile"}]
    names = ["config.json", "merges.txt", "pytorch_model.bin", "README.md", "vocab.json"]
    found = {Path(part["name"]).name: part["hashes"] for part in model["components"]}
    assert sorted(found, key=str.casefold) == names
    for name in names:
        digest = hashlib.sha256((place / "model" / name).read_bytes()).hexdigest()
        assert found[name] == [{"alg": "SHA-256", "content": digest}]


def test_what_is_no_danger_is_no_vulnerability_and_the_rest_is_rated(place: Path) -> None:
    document = bill("model evil.bin")

    rated = [
        (one["id"], one["ratings"][0]["severity"], one["analysis"]["state"]) for one in document["vulnerabilities"]
    ]
    assert rated == [("dangerous-global", "critical", "exploitable"), ("unknown-global", "medium", "in_triage")]
    assert {one["affects"][0]["ref"] for one in document["vulnerabilities"]} == {"file:evil.bin"}
    assert document["vulnerabilities"][0]["detail"] == "called: os.system('ls')"


def test_what_a_policy_accepts_is_not_affected_and_says_why(place: Path) -> None:
    (place / "policy.toml").write_text(
        "[[accept]]\nglobal = 'somewhere.Thing'\nreason = 'ours'\nexpires = 2999-01-01\n"
    )

    document = bill("evil.bin --policy policy.toml")

    states = {one["id"]: one["analysis"] for one in document["vulnerabilities"]}
    assert states["unknown-global"] == {"state": "not_affected", "detail": "accepted by a policy: ours"}


def test_a_licence_without_an_spdx_name_is_given_by_its_name(place: Path) -> None:
    (place / "model" / "README.md").write_text("---\nlicense: llama3\nlicense_link: https://example.org/l\n---\n")

    assert bill("model")["components"][0]["licenses"] == [
        {"license": {"name": "llama3", "url": "https://example.org/l"}}
    ]


def test_weights_that_can_not_be_opened_are_there_all_the_same(place: Path) -> None:
    (place / "model" / "pytorch_model.bin").write_bytes((place / "model" / "pytorch_model.bin").read_bytes()[:9000])

    document = bill("model evil.bin evil.bin")

    names = {
        part["name"]
        for part in [*document["components"], *(p for c in document["components"] for p in c.get("components", []))]
    }
    assert "model/pytorch_model.bin" in names
    assert document["metadata"]["properties"][0] == {"name": "cerebras-tool:verdict", "value": "malformed"}


def test_the_same_bill_is_written_twice_and_another_has_another_number(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    first, second, other = bill("model"), bill("model"), bill("evil.bin")

    assert first == second
    assert first["serialNumber"] != other["serialNumber"]


def test_no_bill_of_earlier_work_is_left(place: Path) -> None:
    bill("model")

    assert RUN.invoke(app, ["scan", "nope", "--bom", "b.json"]).exit_code == 2
    assert not Path("b.json").exists()


def test_a_parameters_folder_is_a_model_of_its_own(place: Path) -> None:
    """Most of its files are of no kind by themselves; the manifest says what they are."""
    extract(open_checkpoint("model"), Path("params"))

    (model,) = bill("params")["components"]

    assert (model["type"], model["bom-ref"], model["name"]) == ("machine-learning-model", "model:params", "params")
    assert model["modelCard"]["modelParameters"]["modelArchitecture"] == "GPT-2 with 4 layers of 64"
    properties = {one["name"]: one["value"] for one in model["properties"]}
    assert properties["cerebras-tool:format"] == "parameters"
    hashes = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    wanted = [path for path in Path("params").rglob("*") if path.is_file()]
    assert hashes == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted}


@pytest.mark.parametrize(
    ("words", "models", "files"),
    [
        ("model", ["model:model"], ["file:model/other.pkl"]),
        ("./model/pytorch_model.bin model above/../model", ["model:./model"], ["file:model/other.pkl"]),
        ("model/other.pkl ./model model/other.pkl", ["model:model"], ["file:model/other.pkl"]),
        ("model $HERE/model", ["model:model"], ["file:model/other.pkl"]),
        ("$HERE", ["model:$HERE/evil.bin", "model:$HERE/model"], ["file:$HERE/model/other.pkl"]),
    ],
)
def test_a_file_is_in_the_bill_once_however_it_is_named(
    words: str, models: list[str], files: list[str], place: Path
) -> None:
    (place / "above").mkdir()
    (place / "model" / "other.pkl").write_bytes(b"\x80\x04}.")

    components = bill(words.replace("$HERE", str(place)))["components"]

    refs = {kind: [one["bom-ref"] for one in components if one["type"] == kind] for kind in ("machine-learning-model", "file")}  # fmt: skip
    wanted = [[ref.replace("$HERE", str(place)) for ref in group] for group in (models, files)]
    assert [sorted(refs["machine-learning-model"]), refs["file"]] == wanted


def test_references_are_text_whatever_a_file_is_called(place: Path) -> None:
    for name, wanted in ((b"x\xff.bin", "file:x%FF.bin"), (b"a b\n%41.bin", "file:a%20b%0A%2541.bin")):
        path = place / os.fsdecode(name)
        shutil.copy(place / "evil.bin", path)

        document = bill(shlex.quote(path.name))

        assert {one["affects"][0]["ref"] for one in document["vulnerabilities"]} == {wanted}
