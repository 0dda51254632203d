"""The action and the examples of docs/ci.md: they are valid, and the action's own script runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from converter.sample import write_sample

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)


def run_step(number: int, folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub would."""
    step = ACTION["runs"]["steps"][number]
    assert given.keys() == step["env"].keys()
    files = {"GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    script = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(
        script, env=os.environ | {"RUNNER_TEMP": str(folder)} | files | given, capture_output=True, text=True, check=False
    )  # fmt: skip


def run_verify(folder: Path, source: Path, outputs: str) -> subprocess.CompletedProcess[str]:
    return run_step(1, folder, SOURCE=str(source), OUTPUTS=outputs, LEVEL=ACTION["inputs"]["level"]["default"])


def run_action(tmp_path: Path, source: Path, outputs: str) -> subprocess.CompletedProcess[str]:
    """Run the second step, with this tool in place of an installed one."""
    binary = tmp_path / "cerebras-tool" / "bin" / "cerebras-tool"
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m converter "$@"\n')
    binary.chmod(0o755)
    return run_verify(tmp_path, source, outputs)


@pytest.mark.parametrize(("seed", "code"), [(1234, 0), (5, 1)])
def test_the_action_verifies(seed: int, code: int, tmp_path: Path) -> None:
    write_sample(tmp_path / "check point", "tiny")
    write_sample(tmp_path / "other", "tiny", seed=seed)
    extract(open_checkpoint(tmp_path / "other"), tmp_path / "a copy")

    done = run_action(tmp_path, tmp_path / "check point", f"{tmp_path / 'a copy'}\n\n{tmp_path / 'other'}\n")

    assert done.returncode == code, done.stderr
    report = (tmp_path / "output").read_text().strip().removeprefix("junit=")
    assert Path(report).read_text().count("<testsuite ") == 2
    assert "| different |" in (tmp_path / "summary").read_text() or code == 0
    # Between these two lines the runner obeys nothing; the exit code is still the tool's.
    first, *_, last = done.stdout.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert re.fullmatch(r"cerebras-tool-[0-9a-f]{64}", token)
    assert last == f"::{token}::"


@pytest.mark.packaging
@pytest.mark.large
def test_the_action_installs_this_version_and_verifies(tmp_path: Path) -> None:
    write_sample(tmp_path / "checkpoint", "tiny")
    convert(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "copy", to="safetensors")
    shutil.copytree(tmp_path / "copy", tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x7f" * 4)

    installed = run_step(0, tmp_path, VERSION="", ACTION=str(ROOT))
    good = run_verify(tmp_path, tmp_path / "checkpoint", f"{tmp_path / 'copy'}\n")
    report = Path((tmp_path / "output").read_text().strip().removeprefix("junit="))
    passed = report.read_text()
    bad = run_verify(tmp_path, tmp_path / "checkpoint", f"{tmp_path / 'copy'}\n{tmp_path / 'damaged'}\n")

    assert (installed.returncode, installed.stdout) == (0, ""), installed.stderr
    assert (good.returncode, bad.returncode) == (0, 1), good.stderr + bad.stderr
    assert ('failures="0"' in passed, "<failure" in passed) == (True, False)
    assert report.read_text().count("<failure ") == 1
    verdicts = [
        line.split(" | ")[1] for line in (tmp_path / "summary").read_text().splitlines() if line.startswith("| `")
    ]
    assert verdicts == ["identical", "identical", "different"]


def test_the_action_never_puts_an_input_into_a_script() -> None:
    assert not [step["name"] for step in ACTION["runs"]["steps"] if "${{" in step["run"]]


def test_the_examples_are_yaml_and_use_what_the_action_has() -> None:
    github, gitlab = (yaml.safe_load(text) for text in EXAMPLES)

    step = github["jobs"]["verify"]["steps"][1]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, given in ACTION["inputs"].items() if given.get("required")} <= step["with"].keys()
    assert gitlab["verify"]["artifacts"]["reports"]["junit"] in gitlab["verify"]["script"][1]
