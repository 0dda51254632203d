"""A report that a command is to write tells of that command only, however it ends; what can't be written is said first."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.cli.files import KINDS as KINDS_OF_FILES
from converter.steps import Follower
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.depth import share

RUN = CliRunner()
COMMANDS = ("verify odd {0}", "check {0}", "scan {0} --no-fickling", "batch jobs/{0}")
KINDS = ("--junit", "--sarif")
OTHERS = (  # that say nothing if there is no answer: they are not there
    *(("verify odd {0}", "--html"), ("scan {0} --no-fickling", "--html"), ("diff odd {0}", "--html")),
    *(("inspect {0} --stats", "--html"), ("scan {0} --no-fickling", "--bom"), ("verify odd {0}", "--attest")),
)
ENDS = {  # what a command is given, and its exit code
    "odd": 0,
    "bad": 1,
    "nope": 2,
    "odd --no-such-option": 2,
    "odd --log odd/config.json": 2,
}
WELL: dict[tuple[str, str], bytes] = {}  # reports that commands wrote about `odd`, made once


@pytest.fixture
def both(odd: Path) -> Path:
    """The working folder with `odd`, a sound checkpoint, and `bad`, which no command lets pass."""
    (odd / "bad").mkdir()
    write_checkpoint(
        odd / "bad" / "pytorch_model.bin", {"w": view("0", (2,)), "x": Call(Global("os", "system"), ("ls",))}, {"0": floats(1, 2)}
    )  # fmt: skip
    (odd / "jobs").mkdir()
    for name in ("odd", "bad"):
        (odd / "jobs" / name).write_text(f"sources = ['../{name}']\nsteps = ['check']\n")
    return odd


def reports(command: str, kind: str) -> list[str]:
    """A command with yesterday's report, which says that all is well."""
    line = [*shlex.split(command.format("odd")), kind, "r"]
    if (command, kind) not in WELL:
        done = RUN.invoke(app, line)
        assert done.exit_code == 0, done.output
        WELL[command, kind] = Path("r").read_bytes()
        assert WELL[command, kind]
    Path("r").write_bytes(WELL[command, kind])
    return line


def said(kind: str) -> tuple[int, int, str]:
    """Failures and errors of a report, and the sentence of its error."""
    if kind == "--junit":
        root = Xml.parse("r").getroot()
        error = root.find(".//error")
        return int(root.get("failures", "")), int(root.get("errors", "")), "" if error is None else str(error.text)
    (run,) = json.loads(Path("r").read_text())["runs"]
    (invocation,) = run["invocations"]
    told = [one["message"]["text"] for one in invocation.get("toolExecutionNotifications", ())]
    return sum(one["level"] == "error" for one in run["results"]), len(told), "".join(told)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", ENDS)
def test_the_report_is_that_of_this_run(given: str, command: str, kind: str, both: Path) -> None:
    reports(command, kind)

    done = RUN.invoke(app, [*shlex.split(command.format(given)), kind, "r"])

    assert done.exit_code == ENDS[given], done.output
    failures, errors, sentence = said(kind)
    assert (failures > 0, errors) == {0: (False, 0), 1: (True, 0), 2: (False, 1)}[ENDS[given]]
    if errors:
        assert done.stderr == f"error: {sentence}\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_after_control_c_the_report_says_so(
    command: str, kind: str, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports(command, kind)
    for name in ("__call__", "start", "begin"):
        monkeypatch.setattr(Follower, name, lambda self, *_: signal.raise_signal(signal.SIGINT))

    done = RUN.invoke(app, [*shlex.split(command.format("odd")), kind, "r"])

    assert done.exit_code == 130
    assert said(kind) == (0, 1, "interrupted; nothing was left half done")


WAITING = """
import sys, time
from converter.steps import Follower
Follower.start = lambda self, total: time.sleep(600)
from converter.cli.app import main
main()
"""


SIGNALS = ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9))


@pytest.mark.parametrize(
    ("command", "number", "code"), share([(command, *one) for command in COMMANDS for one in SIGNALS], 0, 4)
)
def test_a_killed_command_leaves_no_older_report(command: str, number: signal.Signals, code: int, both: Path) -> None:
    reports(command, "--sarif")
    Path("r").replace("s")
    line = [*reports(command, "--junit"), "--sarif", "s"]
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING, *line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while (Path("r").exists() or Path("s").exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)

    child.send_signal(number)
    child.wait(60)

    assert child.returncode == code
    if number == signal.SIGKILL:
        assert [Path("r").exists(), Path("s").exists()] == [False, False]
        return
    assert said("--junit")[:2] == (0, 1)
    Path("s").replace("r")
    assert said("--sarif")[:2] == (0, 1)


def yesterday(kind: str) -> None:
    Path("r").write_bytes(KINDS_OF_FILES[kind.removeprefix("--")] + b"yesterday")


@pytest.mark.parametrize(("command", "kind"), OTHERS)
@pytest.mark.parametrize("given", ENDS)
def test_a_page_a_bill_or_an_attestation_is_of_this_run_or_not_there(
    given: str, command: str, kind: str, both: Path
) -> None:
    yesterday(kind)

    done = RUN.invoke(app, [*shlex.split(command.format(given)), kind, "r"])

    expected = 0 if given == "bad" and command.startswith("inspect") else ENDS[given]
    assert done.exit_code == expected, done.output
    assert Path("r").exists() == (expected == 0 or (expected == 1 and kind != "--attest"))
    assert not Path("r").exists() or b"yesterday" not in Path("r").read_bytes()


@pytest.mark.parametrize(("command", "kind"), OTHERS)
def test_after_control_c_there_is_no_page_bill_or_attestation(
    command: str, kind: str, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday(kind)
    for name in ("__call__", "start", "begin"):
        monkeypatch.setattr(Follower, name, lambda self, *_: signal.raise_signal(signal.SIGINT))

    done = RUN.invoke(app, [*shlex.split(command.format("odd")), kind, "r"])

    assert (done.exit_code, Path("r").exists()) == (130, False)


@pytest.mark.parametrize(("command", "kind"), share(OTHERS, 0, 3))
def test_a_killed_command_leaves_no_older_page_bill_or_attestation(command: str, kind: str, both: Path) -> None:
    yesterday(kind)
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING, *shlex.split(command.format("odd")), kind, "r"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while Path("r").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait(60)

    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("scan r", "html"), ("check odd r", "junit"), ("scan odd r", "sarif"), ("verify odd r", "html"), ("diff r odd", "html"),
        ("diff odd odd r", "html"), ("inspect r", "html"), ("verify odd odd --attestation r", "attest"), ("batch r", "junit"),
    ],
)  # fmt: skip
def test_a_report_is_never_written_over_an_input(line: str, kind: str, odd: Path) -> None:
    data = KINDS_OF_FILES[kind] + b"mine"
    Path("r").write_bytes(data)

    done = RUN.invoke(app, [*shlex.split(line), f"--{kind}", "r"])

    assert (done.exit_code, done.stdout, done.stderr) == (2, "", "error: `r` is an input: choose another path\n")
    assert Path("r").read_bytes() == data


def test_the_summary_is_never_empty(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    titles = []
    for command in COMMANDS:
        for given, code in ENDS.items():
            Path("summary.md").unlink(missing_ok=True)
            RUN.invoke(app, shlex.split(command.format(given)))
            text = Path("summary.md").read_text()
            assert text.count("### ") >= 1
            assert ("no answer" in text) == (code == 2)
            titles.append(text.splitlines()[0])

    assert titles == [
        "### cerebras-tool verify: equal", "### cerebras-tool verify: different", *["### cerebras-tool verify: no answer"] * 3,
        "### cerebras-tool check: sound", "### cerebras-tool check: faults", *["### cerebras-tool check: no answer"] * 3,
        "### cerebras-tool scan: plain", "### cerebras-tool scan: dangerous", *["### cerebras-tool scan: no answer"] * 3,
        "### cerebras-tool batch: done", "### cerebras-tool batch: failed", *["### cerebras-tool batch: no answer"] * 3,
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_report_on_stdout_is_all_that_is_there(command: str, path: str, both: Path) -> None:
    words = shlex.split(command.format("bad"))

    junit, sarif = (RUN.invoke(app, [*words, kind, path]) for kind in KINDS)

    assert [junit.exit_code, sarif.exit_code] == [1, 1]
    assert int(Xml.fromstring(junit.stdout).get("failures", "")) >= 1
    assert json.loads(sarif.stdout)["runs"][0]["results"]
    assert not Path("-").exists()


def test_stdout_takes_one_document(both: Path) -> None:
    for words in (["--json", "--sarif", "-"], ["--junit", "-", "--sarif", "/dev/stdout"]):
        done = RUN.invoke(app, ["check", "odd", *words])
        assert (done.exit_code, done.stderr) == (
            2,
            "error: stdout takes one document: give the others paths of files\n",
        )


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("check odd --junit r --sarif ./r", "r"),
        ("check odd --junit r --sarif link/r", "r"),
        ("scan odd --sarif r --bom odd/../r", "r"),
        ("verify odd odd --junit r --write-manifest r", "r"),
        ("check odd --junit r --log r", "r"),
        ("diff odd odd --html r --log r", "r"),
        ("check odd --junit summary.md", "summary.md"),
    ],
)
def test_no_file_is_written_twice(words: str, path: str, odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(odd / "summary.md"))
    (odd / "link").symlink_to(".")

    done = RUN.invoke(app, shlex.split(words))

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: `{path}` would be written twice: give each file its own path\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_to_an_older_report_is_replaced_and_what_it_leads_to_stays(command: str, kind: str, both: Path) -> None:
    reports(command, kind)
    Path("r").rename("older")
    Path("r").symlink_to("older")
    before = Path("older").read_bytes()

    done = RUN.invoke(app, [*shlex.split(command.format("nope")), kind, "r"])

    assert done.exit_code == 2
    assert (Path("r").is_symlink(), Path("older").read_bytes()) == (False, before)
    assert said(kind)[:2] == (0, 1)


def test_a_link_to_anything_else_is_refused(both: Path) -> None:
    (both / "mine").write_text("mine")
    for target in ("mine", "nowhere", "odd"):
        Path("r").symlink_to(target)
        done = RUN.invoke(app, ["check", "odd", "--junit", "r"])
        assert (done.exit_code, done.stderr) == (2, "error: `r` is a symbolic link: name the place it leads to\n")
        Path("r").unlink()
    assert (both / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "refused",
    ["--junit odd", "--junit odd/config.json", "--html odd", "--json --junit -", "--bom odd", f"--junit {'x' * 300}"],
)
def test_a_report_that_is_refused_leaves_no_older_one_of_another_kind(refused: str, both: Path) -> None:
    line = reports("scan {0} --no-fickling", "--sarif")

    done = RUN.invoke(app, [*line, *shlex.split(refused)])

    assert done.exit_code == 2
    assert said("--sarif")[:2] == (0, 1)


def test_an_older_report_that_can_not_be_removed_is_emptied(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = reports("check {0}", "--junit")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: not mode & os.W_OK and access(path, mode, **more))

    done = RUN.invoke(app, line)

    assert done.exit_code == 2
    assert "is not a folder that you may write to" in done.stderr
    assert Path("r").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("verify odd odd --level inference --tokens r", "junit"),
        ("verify odd odd --imatrix r", "sarif"),
        ("scan odd --policy r", "bom"),
    ],
)
def test_a_file_that_an_option_reads_is_an_input_too(line: str, kind: str, odd: Path) -> None:
    Path("r").touch()

    done = RUN.invoke(app, [*shlex.split(line), f"--{kind}", "r"])

    assert (done.exit_code, done.stderr) == (2, "error: `r` is an input: choose another path\n")
    assert Path("r").read_bytes() == b""


def run_as_program(line: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "converter", *shlex.split(line)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, check=False, timeout=120, **more,
    )  # fmt: skip


def full() -> None:
    """Let no file have more than a hundred bytes. A write beyond that fails, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.parametrize(
    ("command", "kind"), share([*OTHERS, *((command, kind) for command in COMMANDS[:3] for kind in KINDS)], 0, 4)
)
def test_on_a_full_disk_no_older_report_is_left(command: str, kind: str, odd: Path) -> None:
    yesterday(kind)
    words = command.format("odd")

    done = run_as_program(f"{words} {kind} r", preexec_fn=full, capture_output=True)

    assert done.returncode == 2
    assert done.stderr.endswith(b"can't be written: file too large\n")
    assert [path.name for path in odd.iterdir() if path.name != "odd"] == []


@pytest.mark.parametrize("closed", share([(1,), (2,), (0, 1, 2)], 2, 3))
def test_a_stream_that_was_closed_is_no_mistake(closed: tuple[int, ...], both: Path) -> None:
    for given, code in (("odd", 0), ("bad", 1), ("nope", 2)):
        line = f"check {given} --junit r --json"

        def close() -> None:
            for number in closed:
                os.close(number)

        done = run_as_program(line, capture_output=True, preexec_fn=close)
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
        assert said("--junit")[:2] == {0: (0, 0), 1: (1, 0), 2: (0, 1)}[code]


def test_a_reader_of_the_report_that_goes_away_changes_no_exit_code(both: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        codes = [
            run_as_program(f"check {given} --junit {path}", stdout=writing, stderr=subprocess.PIPE)
            for path in ("-", "/dev/stdout")
            for given in ("odd", "bad")
        ]
    finally:
        os.close(writing)

    assert [(done.returncode, done.stderr) for done in codes] == [(0, b""), (1, b"")] * 2


def test_an_output_that_is_not_there_is_in_the_report(odd: Path) -> None:
    assert RUN.invoke(app, ["verify", "odd", "nope", "--junit", "r.xml"]).exit_code == 2

    assert b"no such file or folder: `nope`" in (odd / "r.xml").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/dev/full", "`/dev/full` is neither a file nor a folder: choose another path"),
        ("odd", "`odd` exists and is a folder, where a file should be written"),
        ("odd/config.json", "`odd/config.json` exists and is not an older report: choose another path"),
        ("odd/config.json/r", "`odd/config.json/r` can't be written: not a directory"),
        ("/dev/fd/999", "`/dev/fd/999` can't be written: bad file descriptor"),
    ],
)
def test_what_can_not_be_written_is_said_before_anything_is_read(
    path: str, said: str, command: str, kind: str, odd: Path
) -> None:
    before = sorted(odd.rglob("*"))

    done = RUN.invoke(app, [*shlex.split(command.format("odd")), kind, path])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {said}\n"
    assert sorted(odd.rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("odd/config.json", "`odd/config.json` exists and is not an older report: choose another path"),
        ("odd/pytorch_model.bin", "`odd/pytorch_model.bin` is an input: choose another path"),
        ("odd", "`odd` is an input: choose another path"),
    ],
)
def test_where_no_manifest_can_be_written_is_said_before_anything_is_read(path: str, said: str, odd: Path) -> None:
    done = RUN.invoke(app, ["verify", "odd", "odd", "odd/pytorch_model.bin", "--write-manifest", path])

    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


def test_a_report_that_can_not_be_written_is_no_reason_to_lose_the_others(odd: Path) -> None:
    """The second report is refused at once; the first, which was begun, says why there is no answer."""
    RUN.invoke(app, ["check", "odd", "--junit", "r"])

    done = RUN.invoke(app, ["check", "odd", "--junit", "r", "--sarif", "odd"])

    assert done.exit_code == 2
    assert said("--junit") == (0, 1, "`odd` exists and is a folder, where a file should be written")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "truncated"), (b"PK", "truncated"), (b"PK\3\4", "truncated"), (b"GGUF\3", "truncated"), (b"\x80\2\x8a", "truncated"),
        (b"\xf0\1\0\0\0\0", "truncated"), (b"junk", "unreadable"), (b"hello\n", "unreadable"), (b"<html>", "unreadable"),
    ],
)  # fmt: skip
def test_a_short_file_is_cut_off_only_if_it_could_go_on(data: bytes, what: str, odd: Path) -> None:
    (odd / "short.gguf").write_bytes(data)

    done = RUN.invoke(app, ["verify", "odd", "short.gguf"])

    assert done.exit_code == 1
    assert f" {what} " in done.stdout
