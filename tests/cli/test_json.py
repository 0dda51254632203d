"""Every command that does something prints one JSON document if it is asked to, and for an error as well; each has a schema."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from converter.cli.app import app
from converter.resources import schema_rows, schemas
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.depth import share
from tests.reports.closed import closed

RUN = CliRunner()
WORKS = {
    "inspect odd": "inspection", "check odd": "check", "extract odd parts": "extraction", "convert odd x.npz": "conversion",
    "scan odd": "scan", "verify odd odd": "verification", "diff odd odd": "diff", "diff odd odd odd": "diff-three-way",
    "models": "models", "models 111M": "models", "schema": "schemas", "sample new": "sample", "demo": "demo",
    "batch job.toml": "batch", "batch job.toml --dry-run": "batch", "batch init new.toml": "batch", "--version": "version",
    "inspect odd --quiet": "inspection", "convert odd x.npz --dry-run": "conversion", "check odd --verbose": "check",
    **dict(share([("demo shown", "demo")], 1, 2)),  # seconds
}  # fmt: skip
REFUSES = {  # an answer, and exit code 1
    "check bad": "check", "scan bad": "scan", "verify odd bad": "verification", "diff odd other": "diff",
    "diff odd other odd": "diff-three-way", "batch bad.toml": "batch",
}  # fmt: skip
FAILS = {
    "inspect nope": "SourceError", "check nope": "SourceError", "extract nope": "SourceError", "convert nope x.npz": "SourceError",
    "scan nope": "SourceError", "verify odd nope": "SourceError", "diff odd nope": "SourceError", "models 7B": "ModelError",
    "schema nope": "WordError", "batch nope": "JobError", "sample odd": "OutputError", "download nope": "ModelError", "demo odd/config.json": "ConverterError",
    "inspect": "UsageError", "inspect odd --markdown": "UsageError", "check odd --fail-on x": "UsageError", "scan": "UsageError",
    "batch init job.toml": "OutputError", "batch status job.toml": "JobError", "batch status job.toml --prometheus": "UsageError",
    "batch job.toml --prometheus": "UsageError", "batch job.toml x": "UsageError", "batch job.toml --dry-run --junit r": "UsageError",
    "browse odd": "UsageError", "help": "UsageError", "--limit x=1 inspect odd": "UsageError", "inspect nope odd": "SourceError",
    "verify odd odd --nope": "UsageError", "convert odd": "UsageError", "download": "UsageError", "nope": "UsageError",
}  # fmt: skip
JOB = """sources = ["{}"]
steps = ["check"]
"""
WITHOUT = {"browse", "help"}  # they show something, and have no answer


def document(line: str) -> tuple[int, dict[str, Any], str]:
    done = RUN.invoke(app, [*shlex.split(line), "--json"])
    assert done.stdout.isascii()
    return done.exit_code, json.loads(done.stdout), done.stderr


def schema(name: str) -> dict[str, Any]:
    text = RUN.invoke(app, ["schema", name]).stdout
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("line", WORKS)
def test_an_answer_is_one_document_that_fits_its_schema(line: str, odd: Path) -> None:
    Path("job.toml").write_text(JOB.format("odd"))

    code, found, _ = document(line)

    assert (code, found["schema"]) == (0, f"cerebras-tool/{WORKS[line]}/v1")
    jsonschema.validate(found, closed(schema(found["schema"])))


@pytest.mark.parametrize("line", REFUSES)
def test_an_answer_that_says_no_is_one_document_that_fits_its_schema(line: str, odd: Path) -> None:
    write_sample(odd / "other", "tiny", seed=5)
    (odd / "bad").mkdir()
    refused = {"w": view("0", (2,)), "x": Call(Global("os", "system"), ("ls",))}
    write_checkpoint(odd / "bad" / "pytorch_model.bin", refused, {"0": floats(1, 2)})
    Path("bad.toml").write_text(JOB.format("bad"))

    code, found, _ = document(line)

    assert (code, found["schema"]) == (1, f"cerebras-tool/{REFUSES[line]}/v1")
    jsonschema.validate(found, closed(schema(found["schema"])))


def test_several_inspections_are_a_list(odd: Path) -> None:
    done = RUN.invoke(app, ["inspect", "odd", "odd", "--json"])

    one, other = json.loads(done.stdout)
    assert one == other
    jsonschema.validate(one, closed(schema("inspection")))


@pytest.mark.parametrize("line", ["check odd", "scan odd", "verify odd odd", "batch job.toml"])
def test_an_answer_stays_the_only_document_if_a_report_beside_it_can_not_be_written(
    line: str, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.toml").write_text(JOB.format("odd"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")  # it can be opened, and then there is no room

    code, found, err = document(line)

    assert (code, found["schema"]) == (2, f"cerebras-tool/{WORKS[line]}/v1")
    assert err == "error: `/dev/full` can't be written: no space left on device\n"


@pytest.mark.parametrize("line", ["check odd", "scan odd", "verify odd odd", "batch job.toml"])
def test_a_summary_that_can_not_be_written_is_said_before_anything_is_read(
    line: str, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("job.toml").write_text(JOB.format("odd"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "nowhere/summary.md")

    code, found, err = document(line)

    assert (code, found["error"]["class"]) == (2, "OutputError")
    assert err == "error: `nowhere/summary.md` can't be written: no such file or directory\n"
    assert not Path("job.journal").exists()


@pytest.mark.parametrize("line", FAILS)
def test_an_error_is_one_document_and_the_sentence_on_stderr(
    line: str, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("job.toml").write_text(JOB.format("odd"))

    code, found, err = document(line)

    jsonschema.validate(found, closed(schema("error")))
    assert (code, found["schema"], found["error"]["class"]) == (2, "cerebras-tool/error/v1", FAILS[line])
    assert err.splitlines()[-1] == f"error: {found['error']['message']}"


def test_every_command_is_here() -> None:
    group: Any = get_command(app)

    assert {line.split()[0] for line in WORKS if line[0] != "-"} | {"download"} == {
        *group.list_commands(None)
    } - WITHOUT
    assert {line.split()[0] for line in FAILS if line[0] != "-"} - {"nope"} == {*group.list_commands(None)}


def test_every_schema_has_an_id_of_its_own_and_is_printed_as_it_is() -> None:
    paths = [*(schemas() / "reports").glob("*.json"), *schemas().glob("*.schema.json")]
    names = {path.name.removesuffix(".json").removesuffix(".schema"): path for path in paths}

    assert [row.name for row in schema_rows()] == sorted(names)
    for name, path in names.items():
        assert RUN.invoke(app, ["schema", name]).stdout == path.read_text()
        assert json.loads(path.read_text())["$id"] == f"urn:cerebras-tool:schema:{name}:v1"
    assert RUN.invoke(app, ["schema", "scan"]).stdout == RUN.invoke(app, ["schema", "cerebras-tool/scan/v1"]).stdout


def test_the_list_has_a_line_for_each_schema() -> None:
    lines = RUN.invoke(app, ["schema"]).stdout.splitlines()

    assert [line.split()[0] for line in lines] == [row.name for row in schema_rows()]
    assert lines[[row.name for row in schema_rows()].index("scan")].endswith(
        "  What `cerebras-tool scan --json` prints"
    )
