"""Control-C: one line says what is left behind, and how to go on."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.steps import Follower

RUN = CliRunner()
LINES = {
    "convert odd out.safetensors": "interrupted; nothing was left half done\n",
    "extract odd out": "interrupted; nothing was left half done\n",
    "inspect odd --stats": "interrupted; nothing was left half done\n",
    "verify odd odd": "interrupted; nothing was left half done\n",
}


def stopping(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Press Control-C when so many bytes are done."""
    done = 0

    def press(self: Follower, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if done > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "__call__", press)


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


STARTING = """
import sys
from converter.__main__ import main

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == pressed:
            raise KeyboardInterrupt

pressed = sys.argv.pop(1)
sys.meta_path.insert(0, Press())
main()
"""


@pytest.mark.parametrize(
    "module", ["typer", "converter.cli.app", "converter.cli.commands.models", "converter.models.declared"]
)
def test_control_c_while_the_program_is_imported_is_one_line(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING, module, "models", "111M"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted; nothing was left half done\n")


THROUGH_TEXT = """
import converter.cli.app
from converter import __main__

def run():
    try:
        exec("import signal; signal.raise_signal(signal.SIGINT)")
    except KeyboardInterrupt:
        raise SystemExit(130)

converter.cli.app.main = run
__main__.main()
"""


def test_control_c_while_python_compiles_a_text_ends_with_the_same_code(tmp_path: Path) -> None:
    """`python -m` would end by the signal, which `subprocess` and the runner of a CI see as another code."""
    (tmp_path / "through.py").write_text(THROUGH_TEXT)
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    done = subprocess.run(
        [sys.executable, "-m", "through"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (130, "")


def test_a_handler_of_somebody_else_stays() -> None:
    text = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{THROUGH_TEXT}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
