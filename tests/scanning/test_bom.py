"""`scan --bom` writes CycloneDX 1.6: every file with its SHA-256, models with licence and card, findings as vulnerabilities."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from converter.cli.app import app
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
