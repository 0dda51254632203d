"""The action, as a runner runs it; the hooks, the Containerfile, and the examples of docs/ci.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as Xml

import pytest
import yaml

from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from converter.reports.annotations import commands
from converter.sample import write_sample
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.depth import share

ROOT = Path(__file__).parent.parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
EVIL = "::add-path::x, 100%,y##vso[z].bin"  # a name that is a command of two runners, and has what separates values


class Ran(NamedTuple):
    code: int
    outputs: Mapping[str, str]
    summary: str
    obeyed: list[str]  # the lines that the runner takes for commands
    err: str


def run_step(name: str, folder: Path, inputs: Mapping[str, str], python: str = sys.executable, cwd: Path = ROOT) -> Ran:
    """Run a step of the action as GitHub would, in a `folder` for its temporary files."""
    given = {key: value.get("default", "") for key, value in ACTION["inputs"].items()} | dict(inputs)
    known = {f"inputs.{key}": value for key, value in given.items()} | {
        "github.action_path": str(ROOT),
        "steps.python.outputs.python-path": python,
    }
    step = STEPS[name]
    env = {
        key: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: known[found[1]], value) for key, value in step["env"].items()
    }
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.write_text("")
    (folder / "step.sh").write_text(step["run"])
    own = {"RUNNER_TEMP": folder, "RUNNER_OS": "Linux", "RUNNER_ARCH": "X64", **files}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(folder / "step.sh")],
        env=os.environ | {key: str(value) for key, value in own.items()} | env,
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    lines = files["GITHUB_OUTPUT"].read_text().splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    return Ran(done.returncode, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), obeyed(done.stdout), done.stderr)


def obeyed(text: str) -> list[str]:
    """The lines that GitHub's runner takes for commands. Source: ActionCommandManager.cs of actions/runner."""
    found, waiting = [], None
    for line in text.splitlines():
        if waiting is not None:
            waiting = None if line.strip() == f"::{waiting}::" else waiting
        elif line.strip().startswith("::stop-commands::"):
            waiting = line.strip().removeprefix("::stop-commands::")
            assert re.fullmatch(r"cerebras-tool-[0-9a-f]{64}", waiting)
        elif line.lstrip().startswith("::") or "##[" in line:
            found.append(line)
    assert waiting is None, "the runner would obey nothing of later steps"
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with all that the situations need, and the tool as the action installs it, from here."""
    folder = tmp_path_factory.mktemp("work space")
    write_sample(folder / "check point", "tiny")
    write_sample(folder / "other", "tiny", seed=5)
    extract(open_checkpoint(folder / "check point"), folder / "a copy")
    calls = {"w": view("0", (2,)), "x": Call(Global("os", "system"), ("ls",))}
    write_checkpoint(folder / "evil.bin", calls, {"0": floats(1, 2)})
    write_checkpoint(folder / EVIL, calls, {"0": floats(1, 2)})
    unknown = {"w": view("0", (2,)), "x": Call(Global("somewhere", "Thing"), ())}
    write_checkpoint(folder / "unknown.bin", unknown, {"0": floats(1, 2)})
    (folder / "cut.bin").write_bytes((folder / "check point" / "pytorch_model.bin").read_bytes()[:9000])
    policy = "[[accept]]\nglobal = 'somewhere.Thing'\nreason = 'ours'\nexpires = 2999-01-01\n"
    (folder / "policy").mkdir()
    (folder / "empty").mkdir()
    (folder / "policy" / "p.toml").write_text(policy)
    return folder


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """RUNNER_TEMP, with the tool as the action installs it."""
    binary = tmp_path / "cerebras-tool" / "bin"
    binary.mkdir(parents=True)
    (binary / "cerebras-tool").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m converter "$@"\n')
    (binary / "python").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    for file in binary.iterdir():
        file.chmod(0o755)
    return tmp_path


class Case(NamedTuple):
    inputs: Mapping[str, str]
    code: int
    counts: tuple[int, int] | None = (0, 0)  # failures and errors in JUnit; None if there is no report
    says: str = ""  # in the summary
    annotated: tuple[str, ...] = ()  # how the commands begin, in order


ERROR = "::error title=cerebras-tool"
SITUATIONS = {
    "verify, all is well": Case({"source": "check point", "outputs": "a copy"}, 0, says="verify: equal"),
    "verify, names with blanks and empty lines": Case({"source": "check point", "outputs": "\na copy\n\ncheck point\n"}, 0, says="equal"),
    "verify, one differs": Case({"source": "check point", "outputs": "a copy\ncut.bin"}, 1, (1, 0), "verify: different", ("::error file=cut.bin,line=1,title=",)),
    "verify, no source": Case({"source": "nope", "outputs": "a copy"}, 2, (0, 1), "verify: no answer", (ERROR,)),
    "verify, no output": Case({"source": "check point", "outputs": "nope"}, 2, (0, 1), "no answer", (ERROR,)),
    "verify, no outputs at all": Case({"source": "check point"}, 2, (0, 1), "no answer", (ERROR,)),
    "verify, a wrong level": Case({"source": "check point", "outputs": "a copy", "level": "deep"}, 2, (0, 1), "no answer", (ERROR,)),
    "verify, a name that is a command": Case({"source": "check point", "outputs": EVIL}, 1, None, "different", (f"::error file={EVIL.replace('%', '%25').replace(':', '%3A').replace(',', '%2C')},line=1,",)),
    "check, all is well": Case({"command": "check", "source": "check point\nother"}, 0, says="check: sound"),
    "check, a broken one": Case({"command": "check", "source": "check point\ncut.bin"}, 1, (1, 0), "check: faults", ("::error file=cut.bin,line=1,title=cerebras-tool%3A cut-off::",)),
    "check, dangerous": Case({"command": "check", "source": "evil.bin"}, 1, (1, 0), "faults", ("::error file=evil.bin,",)),
    "check, warnings fail, too": Case({"command": "check", "source": "check point", "fail-on": "warning"}, 0, says="sound"),
    "check, no such file": Case({"command": "check", "source": "nope"}, 2, (0, 1), "check: no answer", (ERROR,)),
    "scan, plain": Case({"command": "scan", "source": "check point", "options": "--no-fickling"}, 0, says="scan: plain"),
    "scan, dangerous": Case({"command": "scan", "source": "evil.bin", "options": "--no-fickling"}, 1, (1, 0), "scan: dangerous", ("::error file=evil.bin,line=1,title=cerebras-tool%3A dangerous-global::",)),
    "scan, unknown": Case({"command": "scan", "source": "unknown.bin", "options": "--no-fickling"}, 1, (1, 0), "unknown-globals", ("::warning file=unknown.bin,",)),
    "scan, unknown passes": Case({"command": "scan", "source": "unknown.bin", "options": "--no-fickling", "fail-on": "dangerous"}, 0, (0, 0), "and passed", ("::warning file=unknown.bin,",)),
    "scan, accepted by a policy": Case({"command": "scan", "source": "unknown.bin", "options": "--no-fickling", "policy": "policy/p.toml"}, 0, (0, 0), "and passed", ()),
    "scan, a policy in what is scanned": Case({"command": "scan", "source": "policy", "policy": "policy/p.toml"}, 2, (0, 1), "no answer", (ERROR,)),
    "scan, a name that is a command": Case({"command": "scan", "source": EVIL, "options": "--no-fickling\n--explain"}, 1, (1, 0), "dangerous", ("::error file=%3A%3Aadd-path%3A%3Ax%2C 100%25%2Cy##vso[z].bin,line=1,",)),
    "scan, without annotations": Case({"command": "scan", "source": "evil.bin", "options": "--no-fickling", "annotations": "false"}, 1, (1, 0), "dangerous"),
    "convert": Case({"command": "convert", "source": "check point", "outputs": "{0}/new copy.safetensors", "options": "--dtype\nf16"}, 0, None),
    "convert, no such source": Case({"command": "convert", "source": "nope", "outputs": "{0}/x.safetensors"}, 2, None, "", ("::error title=cerebras-tool convert::",)),
    "an option that there is not": Case({"command": "scan", "source": "evil.bin", "options": "--nope"}, 2, (0, 1), "no answer", (ERROR,)),
    "no such command": Case({"command": "destroy", "source": "evil.bin"}, 2, None, "", (ERROR,)),
    "a source that looks like an option": Case({"command": "check", "source": "--junit"}, 2, (0, 1), "no answer", (ERROR,)),
    "no source": Case({"command": "scan", "source": ""}, 2, (0, 1), "no answer", (ERROR,)),
    "several sources with line ends of Windows": Case({"command": "check", "source": "check point\r\nother\r\n", "options": "--fail-on\r\nwarning\r"}, 0, says="check: sound"),
    "an output with line ends of Windows": Case({"source": "check point", "outputs": "a copy\r\ncheck point\r"}, 0, says="verify: equal"),
    "check, one broken and one that there is not": Case({"command": "check", "source": "cut.bin\nnope"}, 2, (1, 1), "could not be checked", ("::error ",)),
    "scan, several, and one is dangerous": Case({"command": "scan", "source": "check point\nevil.bin\nunknown.bin", "options": "--no-fickling"}, 1, (2, 0), "dangerous", ("::error file=evil.bin,", "::warning file=unknown.bin,")),
    "scan, no such policy": Case({"command": "scan", "source": "evil.bin", "policy": "policy/nope.toml"}, 2, (0, 1), "no answer", (ERROR,)),
    "scan, an empty folder": Case({"command": "scan", "source": "empty"}, 2, (0, 1), "no answer", (ERROR,)),
    "a word that fail-on does not know": Case({"command": "scan", "source": "evil.bin", "fail-on": "everything"}, 2, (0, 1), "no answer", (ERROR,)),
    "fail-on for a command without it": Case({"source": "check point", "outputs": "a copy", "fail-on": "warning"}, 2, (0, 1), "no answer", (ERROR,)),
    "an option that would put the report elsewhere": Case({"command": "check", "source": "check point", "options": "--junit\n{0}/elsewhere.xml\n--sarif={0}/elsewhere.sarif"}, 0, says="sound"),
    "an option that ends the options": Case({"command": "check", "source": "check point", "options": "--\n--\r"}, 0, says="sound"),
    "an option that is a command": Case({"command": "check", "source": "check point", "options": "::error::x\n::set-output name=exit-code::0"}, 2, (0, 2), "2 could not be checked", ("::error ",)),
    "an output that would be one of the step": Case({"source": "check point", "outputs": "nope\nexit-code=0\njunit=x"}, 2, (0, 1), "no answer", (ERROR,)),
    "a source outside of the folder of the job": Case({"command": "scan", "source": "{0}/evil.bin", "options": "--no-fickling"}, 1, (1, 0), "dangerous", ("::error file={0}/evil.bin,line=1,",)),
    "convert, and the output is there": Case({"command": "convert", "source": "check point", "outputs": "other"}, 2, None, "", ("::error title=cerebras-tool convert::",)),
}  # fmt: skip


@pytest.mark.parametrize("name", share([*SITUATIONS], 0, 4))
def test_the_action_in_every_situation(name: str, place: Path, temporary: Path) -> None:
    case = SITUATIONS[name]
    inputs = {key: value.replace("{0}", str(temporary)) for key, value in case.inputs.items()}
    shutil.copy(place / "evil.bin", temporary)

    ran = run_step("Run cerebras-tool", temporary, inputs, cwd=place)

    assert (ran.code, ran.outputs["exit-code"]) == (case.code, str(case.code)), ran.err
    assert case.says in ran.summary
    reported = inputs.get("command", "verify") in ("verify", "check", "scan")
    assert bool(ran.summary) == reported
    if reported and Path(ran.outputs["junit"]).exists():
        root = Xml.parse(ran.outputs["junit"]).getroot()
        if case.counts is not None:
            assert (int(root.get("failures", "")), int(root.get("errors", ""))) == case.counts
        assert json.loads(Path(ran.outputs["sarif"]).read_text())["version"] == "2.1.0"
    elif "junit" in ran.outputs:
        assert (ran.outputs["junit"], ran.outputs["sarif"]) == ("", "")
    assert len(ran.obeyed) >= len(case.annotated)
    assert (not ran.obeyed) == (not case.annotated), ran.obeyed
    for line, start in zip(ran.obeyed, case.annotated, strict=False):
        assert line.startswith(start.replace("{0}", str(temporary)))
    assert all(re.match(r"::(error|warning|notice) ", line) for line in ran.obeyed)


def test_two_uses_in_one_job_keep_both_reports(place: Path, temporary: Path) -> None:
    first, second = (
        run_step("Run cerebras-tool", temporary, {"command": "check", "source": source}, cwd=place)
        for source in ("check point", "cut.bin")
    )

    assert (first.code, second.code) == (0, 1)
    assert first.outputs["junit"] != second.outputs["junit"]
    failures = [Xml.parse(ran.outputs["junit"]).getroot().get("failures") for ran in (first, second)]
    assert failures == ["0", "1"]


@pytest.mark.parametrize("name", ["Install cerebras-tool", "Run cerebras-tool"])
def test_no_step_imports_what_lies_in_the_folder_of_the_job(name: str, place: Path, temporary: Path) -> None:
    """Python puts the current folder before its own library for `-c` and `-m`."""
    folder = temporary / "job"
    (folder / "converter").mkdir(parents=True)
    shutil.copy(place / "evil.bin", folder)
    for module in ("pip", "venv", "secrets", "json", "pathlib", "converter/__init__"):
        (folder / f"{module}.py").write_text("open('obeyed', 'w').close()\n")
    installing = name.startswith("Install")
    if installing:
        shutil.rmtree(temporary / "cerebras-tool")
    fake = temporary / "python"
    # An environment without pip, so that nothing is installed.
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *venv*) {sys.executable} "$@" --without-pip;; *) exec {sys.executable} "$@";; esac\n'
    )
    fake.chmod(0o755)

    ran = run_step(
        name, temporary, {"command": "scan", "source": "evil.bin", "options": "--no-fickling"}, str(fake), folder
    )

    assert not (folder / "obeyed").exists()
    if installing:
        assert ran.code == 2
        assert ran.obeyed == ["::error title=cerebras-tool::It could not be installed, and the log says why"]
    else:
        assert (ran.code, len(ran.obeyed)) == (1, 1)


def test_a_summary_that_can_not_be_written_is_an_error(place: Path, temporary: Path) -> None:
    """The summary is checked before anything is read, and the reports say so."""
    (temporary / "folder").mkdir()
    step = STEPS["Run cerebras-tool"]
    first = 'GITHUB_STEP_SUMMARY="$RUNNER_TEMP/folder"\n'
    STEPS["Run cerebras-tool"] = step | {"run": first + step["run"]}
    try:
        ran = run_step("Run cerebras-tool", temporary, {"command": "check", "source": "check point"}, cwd=place)
    finally:
        STEPS["Run cerebras-tool"] = step

    assert (ran.code, ran.outputs["exit-code"]) == (2, "2")
    assert ran.obeyed[0].endswith("folder` can't be written: is a directory")
    assert Xml.parse(ran.outputs["junit"]).getroot().get("errors") == "1"


def test_a_tool_that_is_killed_is_an_error_and_later_commands_are_obeyed(place: Path, temporary: Path) -> None:
    """For instance because the runner has too little memory."""
    (temporary / "cerebras-tool" / "bin" / "cerebras-tool").write_text("#!/bin/sh\necho ::add-path::/tmp\nkill -9 $$\n")

    ran = run_step("Run cerebras-tool", temporary, {"command": "check", "source": "check point"}, cwd=place)

    assert (ran.code, ran.outputs["exit-code"]) == (137, "137")
    assert ran.obeyed == ["::error title=cerebras-tool check::It ended with exit code 137, and the log says why"]


def test_a_python_that_is_too_old_is_refused_in_one_sentence(temporary: Path) -> None:
    old = temporary / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    ran = run_step("Install cerebras-tool", temporary, {"source": "x"}, python=str(old))

    assert ran.code == 2
    assert ran.obeyed == ["::error title=cerebras-tool::Python 3.11 or later is needed: set python-version"]


def test_the_cache_has_another_key_for_other_requirements_or_another_python(temporary: Path) -> None:
    other = temporary / "python"
    other.write_text("#!/bin/sh\necho Python 3.99\n")
    other.chmod(0o755)

    keys = [
        run_step("Name the cache", temporary, {}, python=python).outputs["key"]
        for python in (sys.executable, str(other))
    ]

    assert all(re.fullmatch(r"cerebras-tool-Linux-X64-[0-9a-f]{32}", key) for key in keys)
    assert keys[0] != keys[1]


def test_nothing_is_installed_by_a_name_that_anybody_could_take() -> None:
    lines = [line.strip() for step in STEPS.values() for line in step.get("run", "").splitlines()]

    assert [line for line in lines if "pip install" in line] == [
        '! "$RUNNER_TEMP/cerebras-tool/bin/python" -I -m pip install --quiet --disable-pip-version-check \\'
    ]
    assert '--cache-dir "$RUNNER_TEMP/cerebras-tool-pip" "$ACTION"; then' in lines


@pytest.mark.packaging
@pytest.mark.large
def test_the_action_installs_this_version_and_verifies(tmp_path: Path) -> None:
    write_sample(tmp_path / "checkpoint", "tiny")
    convert(open_checkpoint(tmp_path / "checkpoint"), tmp_path / "copy", to="safetensors")
    shutil.copytree(tmp_path / "copy", tmp_path / "damaged")
    with (tmp_path / "damaged" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x7f" * 4)

    installed = run_step("Install cerebras-tool", tmp_path, {})
    good = run_step("Run cerebras-tool", tmp_path, {"source": "checkpoint", "outputs": "copy"}, cwd=tmp_path)
    bad = run_step("Run cerebras-tool", tmp_path, {"source": "checkpoint", "outputs": "copy\ndamaged"}, cwd=tmp_path)

    assert installed.code == 0, installed.err
    assert (good.code, bad.code) == (0, 1), good.err + bad.err
    assert [Path(ran.outputs["junit"]).read_text().count("<failure ") for ran in (good, bad)] == [0, 1]
    assert [line.split(",")[0] for line in bad.obeyed] == ["::error file=damaged"]


def test_the_action_never_puts_an_input_into_a_script() -> None:
    assert not [name for name, step in STEPS.items() if "${{" in step.get("run", "")]


def test_only_ten_findings_of_a_kind_are_annotated_and_accepted_ones_are_not() -> None:
    def result(number: int, **more: Any) -> dict[str, Any]:
        place = {"physicalLocation": {"artifactLocation": {"uri": f"a%20b/{number}%2C.bin"}}}
        return {"ruleId": "nan", "level": "error", "message": {"text": "50% of\nit"}, "locations": [place], **more}

    log = {
        "runs": [
            {
                "invocations": [{}],
                "results": [result(0, suppressions=[{"kind": "external"}]), *map(result, range(1, 14))],
            }
        ]
    }

    lines = [*commands(log)]

    assert lines[0] == "::error file=a b/1%2C.bin,line=1,title=cerebras-tool%3A nan::50%25 of%0Ait"
    assert len(lines) == 11
    assert lines[-1] == "::notice title=cerebras-tool::3 more of level error are in the report"


def test_the_examples_are_yaml_and_use_what_the_action_has() -> None:
    github, scanning, gitlab, hooks = (yaml.safe_load(text) for text in EXAMPLES)

    for document in (github, scanning):
        (job,) = document["jobs"].values()
        for step in (step for step in job["steps"] if "cerebras-tool@" in step.get("uses", "")):
            assert step["with"].keys() <= ACTION["inputs"].keys()
            assert {name for name, given in ACTION["inputs"].items() if given.get("required")} <= step["with"].keys()
    used = re.findall(r"steps\.\w+\.outputs\.([\w-]+)", EXAMPLES[1])
    assert {*used} <= ACTION["outputs"].keys()
    assert gitlab["verify"]["artifacts"]["reports"]["junit"] in gitlab["verify"]["script"][-1]
    known = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == [hook["id"] for hook in known]


@pytest.mark.parametrize(
    "hook", yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text()), ids=lambda hook: hook["id"]
)
def test_a_hook_refuses_what_it_is_for_and_passes_the_rest(hook: dict[str, Any], place: Path) -> None:
    words = [sys.executable, "-m", "converter", *hook["entry"].split()[1:]]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    names = ["check point/pytorch_model.bin", "evil.bin"]

    codes = [
        subprocess.run([*words, *given], cwd=place, env=env, capture_output=True, check=False).returncode
        for given in (names[:1], names)
    ]

    assert codes == [0, 1]
    assert all(re.search(hook["files"], name) for name in names)
    assert not re.search(hook["files"], "README.md")


def test_the_image_runs_as_nobody_and_copies_what_the_wheel_needs() -> None:
    text = (ROOT / "Containerfile").read_text()

    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "65534:65534"
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
