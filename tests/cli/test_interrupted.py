"""Control-C: one line says what is left behind, and how to go on."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.cli.progress import Progress
from converter.sample import write_sample

RUN = CliRunner()
LINES = {
    "convert odd out.safetensors": "interrupted; nothing was left half done\n",
    "extract odd out": "interrupted; nothing was left half done\n",
    "inspect odd --stats": "interrupted; nothing was left half done\n",
    "verify odd odd": "interrupted; nothing was left half done\n",
}


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sample(tmp_path / "odd", "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopping(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Press Control-C when so many bytes are done."""
    done = 0

    def press(self: Progress, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if done > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", press)


@pytest.mark.parametrize("line", LINES)
def test_one_line_says_that_nothing_is_left(line: str, odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(odd.rglob("*"))
    stopping(monkeypatch, 10_000)

    done = RUN.invoke(app, shlex.split(line))

    assert done.exit_code == 130
    assert done.stderr == LINES[line]
    assert sorted(odd.rglob("*")) == before


def test_what_resume_keeps_is_named_with_the_way_on_and_the_way_out(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["convert", "odd", "out.safetensors", "--resume"]
    with monkeypatch.context() as context:
        stopping(context, 300_000)
        done = RUN.invoke(app, line)

    kept = odd / ".out.safetensors.partial"
    assert done.exit_code == 130
    assert done.stderr == (
        f"interrupted; what was written stays in `{kept}`: the same command goes on there, and "
        f"`rm -r {kept} {kept}.journal` removes it\n"
    )
    assert sorted(path.name for path in odd.iterdir() if path.name != "odd") == [
        ".out.safetensors.partial", ".out.safetensors.partial.journal",
    ]  # fmt: skip
    assert RUN.invoke(app, line).exit_code == 0
    assert RUN.invoke(app, ["verify", "odd", "out.safetensors"]).exit_code == 0
