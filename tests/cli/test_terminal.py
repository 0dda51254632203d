"""The program as a person meets it: a progress bar only on a terminal, and one sentence if it fails."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.inspection import report as inspection
from tests.build.checkpoints import write_checkpoint
from tests.build.damage import model, write_source
from tests.build.forked import Forked
from tests.build.hub_server import TINY, TOKEN, Hub

ROOT = Path(__file__).parent.parent.parent

# ---- bars ----------------------------------------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run the program with a terminal for stderr: exit code, stdout, and what the terminal got."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name[:3] != "HF_"}
    settings = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-m", "converter", *words],
        cwd=folder, env=clean | settings | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # this is how Linux says that the other end is closed
            while data := os.read(ours, 1 << 16):
                shown += data
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    return process.returncode, out.decode(), shown.decode()


@pytest.fixture(scope="module")
def program() -> Iterator[Forked]:
    settings = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with Forked(os.environ | settings) as forked:
        yield forked


def seen(program: Forked, folder: Path, *words: str) -> str:
    """What a terminal gets from a command that succeeds, if it is only the command's stderr."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # this is how Linux says that the other end is closed
            while data := os.read(ours, 1 << 16):
                shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    code, _, _ = program(words, folder, os.ttyname(theirs))
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert code == 0
    return b"".join(shown).decode()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(model(), tmp_path_factory.mktemp("source"))


COMMANDS = {
    "inspect": (["inspect", "{source}", "--stats"], "reading"),
    "extract": (["extract", "{source}", "out"], "extracting"),
    "convert": (["convert", "{source}", "out.safetensors"], "converting"),
    "verify": (["verify", "{source}", "{source}"], "verifying"),
    "sample": (["sample", "out"], "writing"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_shows_what_goes_on_unless_told_not_to(
    command: str, source: Path, program: Forked, tmp_path: Path
) -> None:
    words, what = COMMANDS[command]
    words = [word.format(source=source) for word in words]
    quiet = [["-q"], ["--json"]] if command != "sample" else [["-q"]]

    shown = []
    for number, options in enumerate([[], *quiet]):
        (tmp_path / str(number)).mkdir()
        shown.append(seen(program, tmp_path / str(number), *words, *options))

    assert what in shown[0]
    assert shown[1:] == [""] * len(quiet)


def test_a_download_shows_one_bar_and_it_is_ours(hub: Hub, tmp_path: Path) -> None:
    environment = {
        "HF_ENDPOINT": hub.url(),
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }

    code, out, shown = on_a_terminal(tmp_path, "download", TINY, "there", **environment)
    quiet, _, nothing = on_a_terminal(tmp_path, "download", TINY, "here", "--quiet", **environment)

    assert (code, quiet) == (0, 0)
    lines = [line for line in re.split(r"[\r\n]|\x1b\[J", shown) if line]
    assert lines
    assert all(
        line.startswith("downloading  ") for line in lines
    )  # huggingface_hub's own bars begin with the file's name
    assert "pytorch_model.bin" in out
    assert nothing == ""


# ---- a bug of our own ------------------------------------------------------------------------------------------------------


def test_what_nobody_foresaw_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the table is upside down")

    monkeypatch.setattr(inspection, "inspect", broken)
    path = write_checkpoint(tmp_path / "x.bin", {}, {})

    done = CliRunner().invoke(app, ["inspect", str(path)])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == ("error: a bug in this program; please report it: RuntimeError: the table is upside down\n")


BROKEN = """
import sys
from converter.inspection import report
def broken(*_, **__):
    raise RuntimeError("the table is upside down")
report.inspect = broken
from converter.cli.app import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize(("options", "code"), [([], 2), (["-X", "dev"], 1)], ids=["for users", "for developers"])
def test_only_developers_see_where_it_happened(options: list[str], code: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {}, {})

    done = subprocess.run(
        [sys.executable, *options, "-c", BROKEN, "inspect", str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (code, "")
    assert ("Traceback" in done.stderr) == bool(options)
    assert "RuntimeError: the table is upside down" in done.stderr
