"""Folders, caches of the Hub, standard input: what is looked into, in which order, and what is reported about the rest."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import stat
import subprocess
import sys
from pathlib import Path
from pickle import dumps

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.extract import extract
from converter.errors import SourceError
from converter.io.source import Memory, Source
from converter.opening import open_checkpoint
from converter.reports import json_pieces, to_json
from converter.reports.scan import ScanReport
from converter.sample import write_sample
from converter.scanning.scan import scan

ROOT = Path(__file__).parent.parent.parent
RUN = CliRunner()
ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."
UNKNOWN = b"cmy_own.code\nThing\n."
VALUE = dumps({"a": 1})
BROKEN = dumps({"a": 1})[:-1]


def write(folder: Path, **files: bytes) -> Path:
    """Write files; `__` in a name is a slash, and `_` a dot."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def seen(report: ScanReport, folder: Path) -> list[tuple[str, str, str]]:
    """The files of a report: path in the folder, kind, verdict."""
    return [(os.path.relpath(file.location, folder), file.kind, file.verdict) for file in report.files]


def named(report: ScanReport, folder: Path) -> list[str]:
    return [name for name, _, _ in seen(report, folder)]


# ---- links --------------------------------------------------------------------------------------------------------------


def test_a_link_to_a_file_of_the_folder_is_not_a_second_file(tmp_path: Path) -> None:
    write(tmp_path, b__x_pkl=VALUE)
    (tmp_path / "a.pkl").symlink_to("b/x.pkl")
    (tmp_path / "z.pkl").symlink_to(tmp_path / "b" / "x.pkl")
    (tmp_path / "folder").symlink_to("b")
    (tmp_path / "b" / "up").symlink_to("..")

    report = scan([tmp_path], fickling=False)

    assert seen(report, tmp_path) == [("a.pkl", "pickle", "plain")]
    assert (report.skipped, report.links, report.verdict) == (0, 0, "plain")


def test_a_link_with_another_ending_is_another_file(tmp_path: Path) -> None:
    write(tmp_path, x_pkl=VALUE)
    (tmp_path / "a.npy").symlink_to("x.pkl")
    (tmp_path / "b.NPY").symlink_to("x.pkl")

    assert named(scan([tmp_path], fickling=False), tmp_path) == ["a.npy", "x.pkl"]


@pytest.mark.parametrize(
    "target", ["../outside.pkl", "{0}/outside.pkl", "../outside", "nowhere", "itself", "../f2/x.pkl"]
)
def test_a_link_that_leads_elsewhere_is_not_looked_into_and_named(target: str, tmp_path: Path) -> None:
    write(tmp_path, f__x_pkl=VALUE, outside_pkl=ECHO, outside__x_pkl=ECHO, f2__x_pkl=ECHO)
    (tmp_path / "f" / "itself").symlink_to(target.format(tmp_path))

    report = scan([tmp_path / "f"], fickling=False)

    assert seen(report, tmp_path / "f") == [("itself", "link", "malformed"), ("x.pkl", "pickle", "plain")]
    assert [finding.rule for finding in report.files[0].findings] == ["not-looked-into"]
    assert report.links == 1
    assert RUN.invoke(app, ["scan", str(tmp_path / "f"), "--no-fickling"]).exit_code == 1


def test_a_link_that_is_named_is_followed_whatever_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path, f__x_pkl=ECHO)
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "file").symlink_to("f/x.pkl")

    assert named(scan([tmp_path / "link"], fickling=False), tmp_path) == ["link/x.pkl"]
    assert named(scan([tmp_path / "file"], fickling=False), tmp_path) == ["file"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the Hub with two repositories, the first with two revisions that have one file in common."""
    one, two = tmp_path / "hub" / "models--x--y", tmp_path / "hub" / "models--x--z"
    for number, data in enumerate((VALUE, UNKNOWN, b"# hello")):
        write(one / "blobs", **{str(number) * 64: data})
    write(two / "blobs", **{"a" * 64: ECHO})
    for revision, name, blob in (
        ("r1", "model.bin", 0),
        ("r1", "args.bin", 1),
        ("r1", "README.md", 2),
        ("r2", "model.bin", 0),
    ):
        (one / "snapshots" / revision).mkdir(parents=True, exist_ok=True)
        (one / "snapshots" / revision / name).symlink_to(f"../../blobs/{str(blob) * 64}")
    (two / "snapshots" / "r").mkdir(parents=True)
    (two / "snapshots" / "r" / "model.bin").symlink_to("../../blobs/" + "a" * 64)
    write(one, refs__main=b"r1")
    return tmp_path / "hub"


def test_a_cache_of_the_hub_is_scanned_under_the_names_of_its_snapshots(cache: Path) -> None:
    report = scan([cache], fickling=False)

    assert named(report, cache) == [
        "models--x--z/snapshots/r/model.bin", "models--x--y/snapshots/r1/args.bin", "models--x--y/snapshots/r1/model.bin",
    ]  # fmt: skip
    assert [file.verdict for file in report.files] == ["dangerous", "unknown-globals", "plain"]
    assert (report.skipped, report.links) == (2, 0)


@pytest.mark.parametrize("inner", [".", "snapshots", "snapshots/r1"])
def test_a_snapshot_alone_is_scanned_with_the_files_that_the_cache_keeps_for_it(inner: str, cache: Path) -> None:
    report = scan([cache / "models--x--y" / inner], fickling=False)

    assert [Path(file.location).name for file in report.files] == ["args.bin", "model.bin"]
    assert report.links == 0


def test_a_snapshot_leads_to_no_other_repository_and_to_no_blobs_elsewhere(cache: Path) -> None:
    snapshot = cache / "models--x--y" / "snapshots" / "r1"
    (snapshot / "other.bin").symlink_to("../../../models--x--z/blobs/" + "a" * 64)
    (cache / "models--x--z" / "blobs").rename(cache / "elsewhere")
    (cache / "models--x--z" / "blobs").symlink_to("../elsewhere")

    one, two = (
        scan([cache / name], fickling=False) for name in ("models--x--y/snapshots/r1", "models--x--z/snapshots/r")
    )

    assert [(Path(file.location).name, file.kind) for file in one.files if file.verdict == "malformed"] == [
        ("other.bin", "link")
    ]
    assert [(file.kind, file.verdict) for file in two.files] == [("link", "malformed")]


# ---- what can't be read -------------------------------------------------------------------------------------------------


def test_anything_but_a_file_is_named_and_the_rest_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, x_pkl=VALUE)
    os.mkfifo(tmp_path / "pipe.pkl")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.pkl")
        report = scan([tmp_path], fickling=False)

    assert seen(report, tmp_path) == [
        ("pipe.pkl", "named pipe", "malformed"), ("socket.pkl", "socket", "malformed"), ("x.pkl", "pickle", "plain"),
    ]  # fmt: skip
    assert report.links == 2


def test_what_may_not_be_read_is_named_and_the_rest_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, shut__x_pkl=ECHO, no_pkl=ECHO, x_pkl=VALUE)
    scandir, opened = os.scandir, os.open

    def refuse(path: str | Path) -> None:
        if Path(path).name in ("shut", "no.pkl"):
            raise PermissionError(13, "Permission denied", str(path))

    def refused_scandir(path: str) -> object:
        refuse(path)
        return scandir(path)

    def refused_open(path: Path, *more: int) -> int:
        refuse(path)
        return opened(path, *more)

    # Whoever runs the tests as root may read everything.
    monkeypatch.setattr(os, "scandir", refused_scandir)
    monkeypatch.setattr(os, "open", refused_open)

    report = scan([tmp_path], fickling=False)

    assert seen(report, tmp_path) == [
        ("no.pkl", "unreadable", "malformed"), ("shut", "folder", "malformed"), ("x.pkl", "pickle", "plain"),
    ]  # fmt: skip
    assert all("permission denied" in file.findings[0].message for file in report.files[:2])


def test_a_file_that_vanishes_or_becomes_a_link_is_named_and_the_rest_is_scanned(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    write(tmp_path, outside=ECHO, **{f"f__{name}_pkl": VALUE for name in "abcde"})
    late = {"a.pkl": ("b.pkl", "c.pkl"), "d.pkl": ("d.pkl",), "e.pkl": ("e.pkl",)}  # before and after it is looked up

    def change(name: str) -> None:
        for other in late.get(Path(name).name, ()):
            (folder / other).unlink()
            if other in ("c.pkl", "e.pkl"):
                (folder / other).symlink_to("../outside")

    report = scan([folder], fickling=False, progress=change)

    assert seen(report, folder) == [
        ("b.pkl", "file", "malformed"), ("c.pkl", "link", "malformed"), ("d.pkl", "unreadable", "malformed"),
        ("e.pkl", "unreadable", "malformed"), ("a.pkl", "pickle", "plain"),
    ]  # fmt: skip


class Failing(Source):
    """A file of which no byte can be read."""

    name, size = "x.pkl", len(VALUE)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        raise SourceError(f"`{self.name}` ended at byte 4 while it was read")


def test_a_file_that_can_no_longer_be_read_is_not_plain() -> None:
    report = scan([Failing(), Memory(VALUE, "y.pkl")], fickling=False)

    assert [(file.location, file.verdict) for file in report.files] == [("x.pkl", "malformed"), ("y.pkl", "plain")]


def test_a_location_that_is_not_there_is_an_error_and_no_report(tmp_path: Path) -> None:
    write(tmp_path, x_pkl=VALUE)

    done = RUN.invoke(app, ["scan", str(tmp_path / "x.pkl"), str(tmp_path / "y.pkl"), "--no-fickling"])

    assert (done.exit_code, done.stdout) == (2, "")


# ---- named, or in a folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"hello", b"a <b", bytes(100), bytes(range(200))])
def test_unknown_files_are_counted_in_a_folder_and_reported_when_named(data: bytes, tmp_path: Path) -> None:
    write(tmp_path, x_pkl=VALUE, notes=data)

    folder, file = (scan([place], fickling=False) for place in (tmp_path, tmp_path / "notes"))

    assert (named(folder, tmp_path), folder.skipped, folder.verdict) == (["x.pkl"], 1, "plain")
    assert [finding.rule for finding in file.files[0].findings] == ["not-looked-into"]
    assert (file.verdict, file.skipped) == ("malformed", 0)


def test_an_empty_file_is_plain_where_it_is_named(tmp_path: Path) -> None:
    assert scan([write(tmp_path, x=b"") / "x"], fickling=False).verdict == "plain"


# ---- order, size ----------------------------------------------------------------------------------------------------------


def test_dangerous_files_come_first_and_the_others_by_verdict_then_name(tmp_path: Path) -> None:
    write(tmp_path, a=VALUE, b=BROKEN, c=UNKNOWN, d=ECHO, e__a=ECHO, e__b=VALUE)

    report = scan([tmp_path], fickling=False)

    assert named(report, tmp_path) == ["d", "e/a", "b", "c", "a", "e/b"]
    assert report.verdict == "malformed"
    assert report == scan([tmp_path], fickling=False)


def test_names_with_control_characters_stay_harmless(tmp_path: Path) -> None:
    name = "\x1b[2J\r\n::error::\u202ex.pkl"
    (tmp_path / name).write_bytes(ECHO)
    (tmp_path / f"{name}.link").symlink_to(f"/{name}")

    for words in ([], ["--summary"], ["--json"]):
        out = RUN.invoke(app, ["scan", str(tmp_path), "--no-fickling", *words]).output

        assert not set(out) & set("\x1b\r\u202e")
        assert not any(line.startswith("::") for line in out.splitlines())


MEASURED = """
import sys, tracemalloc
from converter.sample import write_sample
from converter.scanning.scan import scan

def counted(frame, event, argument):
    global calls
    calls += event == "call"

few, many = sys.argv[1:]
scan([few], fickling=False)
for folder in (few, many):
    calls = 0
    sys.setprofile(counted)
    scan([folder], fickling=False)
    sys.setprofile(None)
    peaks = []
    for _ in range(2):  # Python's table of interned names grows at some time, and then takes a megabyte at once
        tracemalloc.start()
        report = scan([folder], fickling=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(len(report.files), calls, min(peaks))
"""


def test_many_files_take_little_memory_and_work_each(tmp_path: Path) -> None:
    """A process of its own, as what other tests left would be measured, too."""
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 100), (many, 400)):
        for number in range(count):
            write(folder / str(number % 10), **{f"{number}_pkl": VALUE})

    done = subprocess.run(
        [sys.executable, "-c", MEASURED, few, many], cwd=ROOT, capture_output=True, text=True, check=True
    )

    (less, calls, memory), (more, more_calls, more_memory) = (
        [int(word) for word in line.split()] for line in done.stdout.splitlines()
    )
    assert (less, more) == (100, 400)
    assert more_calls < 4.4 * calls
    assert more_memory - memory < 300 * 1_000  # bytes


def test_a_report_of_many_files_is_written_in_pieces(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path, **{f"{number}_pkl": VALUE})
    report = scan([tmp_path], fickling=False)

    pieces = list(json_pieces(report))

    assert len(pieces) > 10
    assert max(map(len, pieces)) < 50_000
    assert "".join(pieces) == to_json(report) + "\n"


# ---- on the command line ----------------------------------------------------------------------------------------------------


def test_a_summary_has_a_line_for_each_file_that_is_not_plain(tmp_path: Path) -> None:
    write(tmp_path, a=VALUE, b=BROKEN, c=UNKNOWN, d=ECHO, e_txt=b"hello")

    done = RUN.invoke(app, ["scan", str(tmp_path), "--no-fickling", "--summary"], env={"COLUMNS": "300"})

    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["dangerous", f"{tmp_path}/d"], ["malformed", f"{tmp_path}/b"], ["unknown-globals", f"{tmp_path}/c"],
    ]  # fmt: skip
    assert lines[-1] == "4 files: 1 dangerous, 1 malformed, 1 unknown-globals, 1 plain; 1 without a pickle skipped"


@pytest.mark.parametrize("command", [["scan", "--no-fickling"], ["inspect"]])
def test_standard_input_is_read_as_a_file_is(command: list[str], tmp_path: Path) -> None:
    from converter.sample import write_sample

    write_sample(tmp_path, "tiny")
    data = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "config.json").unlink()

    file = RUN.invoke(app, [*command, "--json", str(tmp_path / "pytorch_model.bin")])
    piped = RUN.invoke(app, [*command, "--json", "-"], input=data)

    assert (file.exit_code, piped.exit_code) == (0, 0), piped.output
    by_name = file.stdout.replace(str(tmp_path / "pytorch_model.bin"), "standard input")
    assert json.loads(piped.stdout) == json.loads(by_name.replace("pytorch_model.bin", "standard input"))


def test_standard_input_is_scanned_together_with_files(tmp_path: Path) -> None:
    write(tmp_path, x=VALUE)

    done = RUN.invoke(app, ["scan", "--no-fickling", str(tmp_path / "x"), "-"], input=ECHO)

    assert done.exit_code == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines() if line[:1] != " "][:2] == ["dangerous", "plain"]
    assert "standard input · pickle" in done.stdout


@pytest.mark.parametrize("command", [["scan", "--no-fickling"], ["inspect"]])
def test_standard_input_has_a_limit(command: list[str]) -> None:
    done = RUN.invoke(app, ["--limit", "stdin_bytes=10", *command, "-"], input=ECHO)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "error: standard input has more than 10 bytes, the limit `stdin_bytes`; docs/security/limits.md has the limits that "
        "`--limit` raises\n"
    )


def test_a_file_called_like_standard_input_has_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "-").write_bytes(ECHO)
    monkeypatch.chdir(tmp_path)

    assert RUN.invoke(app, ["scan", "--no-fickling", "./-"], input=VALUE).stdout.startswith("dangerous")
    assert RUN.invoke(app, ["scan", "--no-fickling", "-"], input=VALUE).stdout.startswith("plain")


def test_nothing_is_left_of_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    RUN.invoke(app, ["scan", "--no-fickling", "-"], input=ECHO)

    assert list(tmp_path.iterdir()) == []
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


# ---- on a terminal ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder with names that are longer than a line."""
    folder = tmp_path / "folder"
    write(folder, a_pkl=VALUE, b_pkl=BROKEN, c_pkl=UNKNOWN, **{f"{'inner' * 12}__{'name' * 20}_bin": ECHO})
    return folder


def test_lines_fit_a_terminal_of_eighty_columns(checkpoints: Path) -> None:
    for words in ([], ["--summary"]):
        code, shown = on_a_terminal(["scan", "folder", "--no-fickling", *words], checkpoints.parent, both=True)
        lines = shown.replace("\x1b[K", "").splitlines()

        assert code == 1
        assert [line for line in lines if len(line) > 80 and f"{'name' * 20}.bin" not in line] == []
        assert (
            f"folder/{'inner' * 12}/{'name' * 20}.bin" in shown
        )  # names and paths stay whole, so that they can be copied
        assert "outside the closed table" in shown


def test_a_terminal_shows_how_far_a_scan_is_and_nothing_else_does(checkpoints: Path) -> None:
    words = ["scan", "folder", "--no-fickling"]

    _, shown = on_a_terminal(words, checkpoints.parent)
    quiet = [on_a_terminal([*words, option], checkpoints.parent)[1] for option in ("-q", "--json")]

    assert shown.startswith("\x1b[Jscanning  0/4")
    assert shown.endswith("\x1b[J")
    assert quiet == ["", ""]
    assert RUN.invoke(app, ["scan", str(checkpoints), "--no-fickling"]).stderr == ""


def on_a_terminal(words: list[str], folder: Path, *, both: bool = False) -> tuple[int, str]:
    """Run the program with a terminal of 80 columns for stderr, or for stdout, too: exit code, and what it got."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "converter", *words],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs if both else subprocess.DEVNULL, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        got = b""
        with contextlib.suppress(OSError):  # this is how Linux says that the other end is closed
            while data := os.read(ours, 1 << 16):
                got += data
    os.close(ours)
    return process.returncode, got.decode().replace("\r\n", "\n")


def test_standard_input_is_read_once() -> None:
    done = RUN.invoke(app, ["scan", "-", "-"], input=b"")

    assert done.exit_code == 2
    assert "standard input can be read only once: give one -" in " ".join(done.stderr.split())


def test_a_parameters_folder_is_what_its_manifest_says(tmp_path: Path) -> None:
    write_sample(tmp_path / "odd", "tiny")
    extract(open_checkpoint(tmp_path / "odd"), tmp_path / "all" / "parts")

    for place in (tmp_path / "all" / "parts", tmp_path / "all"):
        report = scan([place], fickling=False)
        (found,) = report.files
        assert (found.location, found.kind) == (str(tmp_path / "all" / "parts" / "manifest.json"), "parameters folder")
        assert (report.verdict, found.findings) == ("plain", ())
        assert report.skipped == sum(path.is_file() for path in (tmp_path / "all").rglob("*")) - 1


def test_a_parameters_folder_that_lacks_what_its_manifest_names_is_malformed(tmp_path: Path) -> None:
    write_sample(tmp_path / "odd", "tiny")
    extract(open_checkpoint(tmp_path / "odd"), tmp_path / "parts")
    manifest = tmp_path / "parts" / "manifest.json"
    text = manifest.read_text()

    for broken in (text[:2000], text.replace('"little"', '"middle"'), text.replace('"path": "0"', '"path": "../0"')):
        manifest.write_text(broken)
        report = scan([tmp_path / "parts"], fickling=False)
        assert [(found.kind, found.verdict) for found in report.files] == [("parameters folder", "malformed")]


def test_another_programs_manifest_says_nothing(tmp_path: Path) -> None:
    write(
        tmp_path, manifest_json=b'{"schema": "other/manifest/v1"}', copy_json=b'{"schema": "cerebras-tool/manifest/v1"}'
    )

    with pytest.raises(SourceError, match="nothing to scan: 2 files"):
        scan([tmp_path])


def test_a_pickle_in_a_parameters_folder_is_found(tmp_path: Path) -> None:
    write_sample(tmp_path / "odd", "tiny")
    extract(open_checkpoint(tmp_path / "odd"), tmp_path / "parts")
    (tmp_path / "parts" / "0").write_bytes(ECHO)

    report = scan([tmp_path / "parts"], fickling=False)

    assert [(Path(found.location).name, found.verdict) for found in report.files] == [
        ("0", "dangerous"),
        ("manifest.json", "malformed"),  # it gives that file another size
    ]
