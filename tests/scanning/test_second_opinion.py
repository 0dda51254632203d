"""fickling's opinion: when it is asked for, what follows from it, and what fickling's process can do."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.io.local import LocalFile
from converter.limits import Limits, using
from converter.reports.scan import FileScan
from converter.scanning.scan import fails, scan, scan_file
from converter.scanning.second_opinion import Opinion, Opinions
from tests.build.checkpoints import Call, Global, checkpoint_entries, dumps, floats, view, zip_bytes

RUN = CliRunner()
ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
UNKNOWN = dumps(Call(Global("somewhere", "Thing"), (1,)))
HARMLESS = dumps(Call(Global("numpy", "dtype"), ("f4",)))  # fickling knows it


def look(data: bytes, tmp_path: Path, **options: Any) -> FileScan:
    path = tmp_path / "x"
    path.write_bytes(data)
    return scan_file(LocalFile(path), **options)


def says(monkeypatch: pytest.MonkeyPatch, opinion: Opinion) -> None:
    monkeypatch.setattr(Opinions, "ask", lambda self, pickles: opinion)


# ---- when it is asked, and what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (UNKNOWN, True),
        (dumps({"a": 1}), False),
        (ECHO, False),
        (UNKNOWN[:-1], False),
        (zip_bytes(checkpoint_entries({"w": view("0", (2,))}, {"0": floats(1, 2)})), False),
    ],
    ids=["unknown", "plain", "dangerous", "malformed", "a checkpoint"],
)
def test_it_is_asked_only_where_it_can_change_something(
    data: bytes, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, Opinion("0.1.12", "LIKELY_UNSAFE", ("it looks odd",)))

    assert (look(data, tmp_path).fickling is not None) == asked
    assert look(data, tmp_path, fickling=False).fickling is None


def test_no_process_starts_where_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: Any, **options: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refused)

    assert look(dumps(1), tmp_path).verdict == "plain"
    assert look(ECHO, tmp_path).verdict == "dangerous"


def test_what_fickling_says_stands_beside_the_verdict(tmp_path: Path) -> None:
    found = look(UNKNOWN, tmp_path)

    assert found.verdict == "unknown-globals"
    assert found.fickling is not None
    assert (found.fickling.severity, found.fickling.agrees, found.fickling.alarmed) == ("LIKELY_UNSAFE", True, True)


def test_where_fickling_finds_less_it_is_said_and_changes_nothing(tmp_path: Path) -> None:
    found = look(HARMLESS, tmp_path)

    assert found.verdict in ("unknown-globals", "plain")
    if found.fickling is not None:
        assert (found.fickling.agrees, found.fickling.alarmed) == (False, False)
        assert found.findings[-1].rule == "second-opinion"


@pytest.mark.parametrize(
    ("severity", "code"),
    [("LIKELY_SAFE", 0), ("POSSIBLY_UNSAFE", 0), ("SUSPICIOUS", 0), ("LIKELY_UNSAFE", 1), ("LIKELY_OVERTLY_MALICIOUS", 1),
     ("OVERTLY_MALICIOUS", 1), (None, 0)],
)  # fmt: skip
def test_fail_on_dangerous_counts_what_fickling_holds_for_unsafe(
    severity: str | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(UNKNOWN)
    says(monkeypatch, Opinion("0.1.12", severity, ()))

    report = scan([tmp_path / "x"])

    assert fails(report)
    assert fails(report, unknown=False) == bool(code)
    assert RUN.invoke(app, ["scan", str(tmp_path / "x"), "--fail-on", "dangerous"]).exit_code == code
    assert RUN.invoke(app, ["scan", str(tmp_path / "x"), "--fail-on", "dangerous", "--no-fickling"]).exit_code == 0


def test_fails_goes_by_every_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(UNKNOWN)
    (tmp_path / "b").write_bytes(dumps(1))

    assert fails(scan([tmp_path / "a", tmp_path / "b"], fickling=False))
    assert not fails(scan([tmp_path / "b"], fickling=False))
    assert not fails(scan([tmp_path / "a", tmp_path / "b"], fickling=False), unknown=False)


def test_fickling_is_not_asked_about_more_than_it_can_take(tmp_path: Path) -> None:
    both = zip_bytes(checkpoint_entries({"w": view("0", (2,)), "x": Call(Global("a", "b"), ())}, {"0": floats(1, 2)}))
    with using(Limits(opinion_bytes=10)):
        large = look(UNKNOWN, tmp_path)
    with using(Limits(opinion_tensors=0)):
        many = look(both, tmp_path)

    for found in (large, many):
        assert found.fickling is not None
        assert found.fickling.severity is None
        assert str(found.fickling.note).startswith("not asked: ")


# ---- the process ----------------------------------------------------------------------------------------------------


def test_one_process_answers_for_many_files() -> None:
    with Opinions() as opinions:
        first = opinions.ask([ECHO])
        process = opinions._process
        others = [opinions.ask([ECHO, UNKNOWN]) for _ in range(5)]

        assert opinions._process is process is not None
    assert first.severity == "LIKELY_OVERTLY_MALICIOUS"
    assert {other.severity for other in others} == {"LIKELY_OVERTLY_MALICIOUS"}
    assert process.returncode is not None  # it has ended


def test_fickling_failing_is_an_answer() -> None:
    """fickling 0.1.12 knows no FLOAT, and raises an exception."""
    with Opinions() as opinions:
        said = opinions.ask([b"\x80\x02F1.5\n."])
        next = opinions.ask([ECHO])

    assert said.severity is None
    assert said.note is not None
    assert said.note.startswith("it failed: NotImplementedError")
    assert next.severity == "LIKELY_OVERTLY_MALICIOUS"


def test_a_process_that_died_is_replaced() -> None:
    with Opinions() as opinions:
        opinions.ask([ECHO])
        assert opinions._process is not None
        opinions._process.kill()
        opinions._process.wait()
        died, after = opinions.ask([ECHO]), opinions.ask([ECHO])

    assert (died.severity, died.note) == (None, "it ended without an answer: out of memory or time, or not installed")
    assert after.severity == "LIKELY_OVERTLY_MALICIOUS"


def test_a_process_that_takes_too_long_is_ended_and_replaced() -> None:
    with Opinions() as opinions:
        opinions.ask([ECHO])
        process = opinions._process
        assert process is not None
        usual, opinions.patience = opinions.patience, 0.1
        process.send_signal(signal.SIGSTOP)
        late = opinions.ask([ECHO])
        opinions.patience = usual
        after = opinions.ask([ECHO])

    assert (late.severity, late.note) == (None, "it gave no answer within 0.1 seconds")
    assert process.returncode is not None
    assert after.severity == "LIKELY_OVERTLY_MALICIOUS"


def test_a_process_is_renewed_after_so_many_bytes() -> None:
    with Opinions(most=3 * len(ECHO)) as opinions:
        processes = [(opinions.ask([ECHO]).severity, opinions._process) for _ in range(4)]

    assert {severity for severity, _ in processes} == {"LIKELY_OVERTLY_MALICIOUS"}
    assert len({id(process) for _, process in processes}) > 1


def test_it_is_said_where_fickling_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with Opinions() as opinions:
        assert opinions.ask([ECHO]).note == "it ended without an answer: out of memory or time, or not installed"


def test_modules_lying_about_where_the_user_stands_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fickling", "json", "typing_extensions", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))

    with Opinions() as opinions:
        assert opinions.ask([ECHO]).severity == "LIKELY_OVERTLY_MALICIOUS"
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the /proc that tells what a process has open")
def test_the_process_has_an_empty_environment_the_root_for_its_folder_and_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "open").open("wb"), Opinions() as opinions:
        opinions.ask([ECHO])
        assert opinions._process is not None
        proc = Path("/proc", str(opinions._process.pid))
        environment = (proc / "environ").read_bytes()
        folder = str((proc / "cwd").readlink())
        open_files = {str(one.readlink()).partition(":")[0] for one in (proc / "fd").iterdir()}
        limits = (proc / "limits").read_text()
        network = str((proc / "ns" / "net").readlink())

    names = {pair.partition(b"=")[0] for pair in environment.split(b"\0") if pair}
    assert names <= {b"LC_CTYPE", b"__CF_USER_TEXT_ENCODING"}  # Python sets its own
    assert folder == "/"
    assert open_files == {"pipe", "/dev/null"}
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [["0", "0"]]
    assert network != str(Path("/proc/self/ns/net").readlink()) or not _may_unshare()


def _may_unshare() -> bool:
    """Whether this kernel lets any user give up the network, in the way that this Python offers."""
    code = "import os; os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)"
    command = [sys.executable, "-c", code] if sys.version_info >= (3, 12) else ["unshare", "--user", "--net", "true"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def test_where_the_network_cannot_be_given_up_the_process_starts_all_the_same() -> None:
    with Opinions(unshare="/bin/false") as opinions:
        assert opinions.ask([ECHO]).severity == "LIKELY_OVERTLY_MALICIOUS"


@pytest.mark.parametrize(
    ("severity", "alarmed"),
    [
        (None, False), ("LIKELY_SAFE", False), ("POSSIBLY_UNSAFE", False), ("SUSPICIOUS", False), ("LIKELY_UNSAFE", True),
        ("LIKELY_OVERTLY_MALICIOUS", True), ("OVERTLY_MALICIOUS", True),
    ],
)  # fmt: skip
def test_an_alarm_is_likely_unsafe_or_worse(severity: str | None, alarmed: bool) -> None:
    assert Opinion("0.1.12", severity, ()).alarmed is alarmed
