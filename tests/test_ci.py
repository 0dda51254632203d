"""The action and the examples of docs/ci.md: they are what they say, and the action's own script runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from converter.extract import extract
from converter.formats import open_checkpoint
from converter.sample import write_sample

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)


def run_action(tmp_path: Path, source: Path, outputs: str) -> subprocess.CompletedProcess[str]:
    """Run the second step as GitHub would, the tool in place of an installed one."""
    binary = tmp_path / "cerebras-tool" / "bin" / "cerebras-tool"
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m converter "$@"\n')
    binary.chmod(0o755)
    step = ACTION["runs"]["steps"][1]
    given = {"SOURCE": str(source), "OUTPUTS": outputs, "LEVEL": ACTION["inputs"]["level"]["default"]}
    assert given.keys() == step["env"].keys()
    files = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    environment = os.environ | {"RUNNER_TEMP": str(tmp_path), "PYTHONPATH": str(ROOT)} | files | given
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


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


def test_the_action_never_puts_an_input_into_a_script() -> None:
    assert not [step["name"] for step in ACTION["runs"]["steps"] if "${{" in step["run"]]


def test_the_examples_are_yaml_and_use_what_the_action_has() -> None:
    github, gitlab = (yaml.safe_load(text) for text in EXAMPLES)

    step = github["jobs"]["verify"]["steps"][1]
    assert step["with"].keys() <= ACTION["inputs"].keys()
    assert {name for name, given in ACTION["inputs"].items() if given.get("required")} <= step["with"].keys()
    assert gitlab["verify"]["artifacts"]["reports"]["junit"] in gitlab["verify"]["script"][1]
