"""What `convert`, `extract` and `download` say to do next works as it is typed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from converter.cli import next_steps
from converter.cli.app import app
from converter.sample import write_sample
from tests.build.hub_server import TINY, Hub

RUN = CliRunner()
TERMINAL = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
OPENS = {
    "convert odd o.gguf": "llama-cli -m o.gguf -p 'Once upon a time' -n 32",
    "convert odd o.gguf --no-tokenizer": None,
    "convert odd 'my model.gguf'": None,
    "convert odd st --to safetensors": "python -c \"import transformers as t; t.AutoModel.from_pretrained('st')\"",
    "convert odd st --to safetensors --exclude '*ln_f*'": None,
    "convert odd o.safetensors": None,
    "convert odd o.npz": "python -c \"import numpy; print(numpy.load('o.npz').files)\"",
    "convert odd o.safetensors --dtype f16": None,
    "convert odd ./-o.safetensors --include 'h.{0..2}.*' --rename h=layer": None,
    "extract odd p": None,
    "extract odd p --form named --exclude wte": None,
}


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_sample(tmp_path / "odd", "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(next_steps, "sys", TERMINAL)
    return tmp_path


def said(out: str) -> list[str]:
    """The commands that were printed."""
    return [line[8:] for line in out.splitlines() if line[:8] in ("  next: ", "  then: ")]


@pytest.mark.parametrize("line", OPENS)
def test_the_copy_can_be_verified_and_opened(line: str, odd: Path) -> None:
    done = RUN.invoke(app, shlex.split(line))

    verify, *opening = said(done.stdout)
    assert opening == ([OPENS[line]] if OPENS[line] else [])
    checked = RUN.invoke(app, shlex.split(verify)[1:])
    assert verify.startswith("cerebras-tool verify odd ")
    assert checked.exit_code == 0, checked.stdout + checked.stderr


def test_numpy_opens_what_it_is_said_to_open(odd: Path) -> None:
    done = RUN.invoke(app, ["convert", "odd", "o.npz"])

    words = shlex.split(said(done.stdout)[1])
    ran = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
    assert "'transformer.wte.weight'" in ran.stdout


def test_a_pipe_a_quiet_command_and_a_dry_run_say_nothing(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ("convert odd o.gguf -q", "convert odd p.gguf --json", "convert odd q.gguf --dry-run"):
        assert "next: " not in RUN.invoke(app, shlex.split(line)).stdout
    monkeypatch.undo()
    monkeypatch.chdir(odd)
    assert "next: " not in RUN.invoke(app, ["convert", "odd", "r.gguf"]).stdout


def test_a_download_can_be_checked_and_converted(hub: Hub, odd: Path) -> None:
    done = RUN.invoke(app, ["download", TINY, "there"])

    assert said(done.stdout) == ["cerebras-tool check there", "cerebras-tool convert there --to safetensors"]
    for line in said(done.stdout):
        assert RUN.invoke(app, shlex.split(line)[1:]).exit_code == 0
