"""Runs the commands on a hostile file as a person would, and checks how an attack may end."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from converter.cli.app import app
from converter.cli.commands import MISTAKE
from converter.formats import open_file
from tests.build.checkpoints import floats, view, write_checkpoint

RUN = CliRunner()
WEIGHTS = {"0": floats(1, 2)}
TENSORS = {"w": view("0", (2,))}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Ended:
    """Run a command in this process. Every error must be one that the command expects: none may reach its last handler."""
    done = RUN.invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert MISTAKE not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return Ended(int(done.exit_code), done.stdout, done.stderr)


def everything(folder: Path) -> dict[str, Any]:
    """Everything below a folder: contents of files, targets of links, None for folders."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def assert_sentence(text: str) -> None:
    """Assert that a text is one line for people, and that nothing in it can move the cursor."""
    assert text.startswith("error: ")
    assert text.endswith("\n")
    assert text[:-1].isprintable(), ascii(text)
    assert len(text) <= 2050


def assert_refused(path: Path, words: str = "", *options: str) -> None:
    """Assert that each command ends with 2 and one line that has `words`, and leaves the folder as it was."""
    before = everything(path.parent)
    for command in (("inspect",), ("extract", path.parent / "out"), ("convert", path.parent / "out.safetensors")):
        ended = run(command[0], path, *command[1:], *options)
        assert (ended.code, ended.out) == (2, ""), command
        assert_sentence(ended.err)
        assert re.search(words, ended.err), ended.err
    assert everything(path.parent) == before


def scanned(path: Path, *options: str) -> dict[str, Any]:
    """What `scan` finds in a file. It ends with 1 unless the verdict is plain."""
    ended = run("scan", path, "--json", "--no-fickling", *options)
    report: dict[str, Any] = json.loads(ended.out)
    assert ended.out.isascii()
    assert ended.code == (report["verdict"] != "plain")
    (found,) = report["files"]
    return dict(found)


def names(found: dict[str, Any]) -> set[str]:
    """The globals in the pickles that `scan` found."""
    return {f"{one['module']}.{one['name']}" for pickle in found["pickles"] for one in pickle["globals"]}


def rules(found: dict[str, Any]) -> list[str]:
    return [finding["rule"] for finding in found["findings"]]


def assert_malformed(path: Path, words: str = "") -> None:
    """Assert that each command refuses the file, and that `scan` says why."""
    assert_refused(path, words)
    assert scanned(path)["verdict"] == "malformed"


def assert_inert(path: Path, name: str, verdict: str, scanned_as: str | None = None) -> None:
    """Assert that a name is listed and nothing else happens, and that WEIGHTS are carried over only on request."""
    inspected = run("inspect", path, "--json")
    safety = json.loads(inspected.out)["safety"]
    found = scanned(path)
    before = everything(path.parent)

    assert (inspected.code, safety["verdict"], found["verdict"]) == (0, verdict, scanned_as or verdict)
    assert name in safety["globals"]
    assert name in names(found)
    for command in (("extract", path.parent / "out"), ("convert", path.parent / "out.safetensors")):
        refused = run(command[0], path, command[1])
        assert (refused.code, refused.out) == (2, "")
        assert_sentence(refused.err)
        assert "--ignore-globals" in refused.err
    assert everything(path.parent) == before
    converted = path.parent / "out.safetensors"
    assert run("convert", path, converted, "--ignore-globals").code == 0
    assert {name: tensor.bits().tolist() for name, tensor in open_file(converted).items()} == {"w": [1, 2]}
    converted.unlink()


def pickled(folder: Path, pickle: bytes) -> Path:
    """Write a checkpoint whose data.pkl is `pickle`; its storage `0` has two F32."""
    return write_checkpoint(folder / "x.bin", None, WEIGHTS, pickle=pickle)


def beside(folder: Path, payload: Any) -> Path:
    """Write a checkpoint with one tensor `w` of [1, 2], and something under the key `x`."""
    return write_checkpoint(folder / "x.bin", TENSORS | {"x": payload}, WEIGHTS)
