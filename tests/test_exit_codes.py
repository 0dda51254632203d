"""docs/exit-codes.md, compared with the classes of converter/errors.py and with the exit codes of commands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from converter import errors
from converter.cli.app import app
from converter.errors import ConverterError
from tests.attacks.commands import run
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint

PAGE = (Path(__file__).parent.parent / "docs" / "exit-codes.md").read_text()


def causes(kind: type[ConverterError] = ConverterError) -> Iterator[type[ConverterError]]:
    if kind.__module__ == errors.__name__:
        yield kind
    for child in kind.__subclasses__():
        yield from causes(child)


def test_the_page_has_the_exit_code_of_every_cause() -> None:
    rows = re.findall(r"^\| `(\w+Error)` \| .+ \| (\d+) \|$", PAGE, re.MULTILINE)

    assert rows == [(kind.__name__, str(kind.exit_code)) for kind in causes()]


def commands() -> dict[str, dict[int, bool]]:
    """The commands of the page, each with the codes that it may end with."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if re.match(r"\| `[a-z]+`", line)]
    return {
        name: {code: bool(cell.strip()) for code, cell in enumerate(cells)}
        for names, *cells in rows
        for name in re.findall(r"\w+", names)
    }


def test_the_page_has_every_command() -> None:
    group: Any = get_command(app)

    assert set(commands()) == set(group.list_commands(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample, correct and wrong copies of it, and a pickle that calls something unknown."""
    made = tmp_path_factory.mktemp("codes")
    assert run("sample", made / "good").code == 0
    assert run("sample", made / "other", "--seed", "7").code == 0
    assert run("convert", made / "good", made / "copy.safetensors").code == 0
    unknown = {"w": view("0", (2,)), "x": Call(Global("argparse", "Unknown"), ())}
    write_checkpoint(made / "unknown.bin", unknown, {"0": floats(1, 2)})
    write_checkpoint(made / "calls.bin", unknown | {"y": Call(Global("os", "system"), ("ls",))}, {"0": floats(1, 2)})
    (made / "cut.bin").write_bytes((made / "good/pytorch_model.bin").read_bytes()[:-1])
    (made / "empty").mkdir()
    for name in ("good", "calls.bin", "empty"):
        (made / f"{name}.toml").write_text(f"sources = ['{name}']\n[scan]\nfickling = false\n")
    (made / "refused.toml").write_text(
        "sources = ['good']\nsteps = ['convert']\n[convert]\noutput = 'copy.safetensors'\n"
    )
    return made


ENDS = {  # the words of a command, where `@` is the folder, and its exit code
    "inspect @/good": 0,
    "inspect @/calls.bin": 0,
    "inspect @/cut.bin": 2,
    "inspect @/good --sort sise": 2,
    "check @/good": 0,
    "check @/good @/cut.bin": 1,
    "check @/calls.bin": 1,
    "check @/absent": 2,
    "check @/good/config.json": 2,
    "extract @/good @/parameters --force": 0,
    "extract @/good @/good": 2,
    "convert @/good @/new.safetensors --dry-run": 0,
    "convert @/good @/copy.safetensors --force": 0,
    "convert @/good @/copy.safetensors": 2,
    "convert @/unknown.bin @/new.safetensors": 2,
    "verify @/good @/copy.safetensors": 0,
    "verify @/good @/copy.safetensors @/other": 1,
    "verify @/good @/cut.bin": 1,
    "verify @/good @/absent": 2,
    "verify @/cut.bin @/good": 2,
    "verify @/good @/copy.safetensors --junit @/good/config.json": 2,
    "diff @/good @/good": 0,
    "diff @/good @/other": 1,
    "diff @/good @/cut.bin": 2,
    "diff @/good @/absent": 2,
    "batch @/good.toml": 0,
    "batch @/calls.bin.toml": 1,
    "batch @/refused.toml": 2,
    "batch @/empty.toml": 2,
    "batch @/absent.toml": 2,
    "browse @/good": 2,
    "scan @/good --no-fickling": 0,
    "scan @/good/config.json": 0,
    "scan @/unknown.bin --no-fickling --fail-on dangerous": 0,
    "scan @/unknown.bin --no-fickling": 1,
    "scan @/calls.bin --no-fickling --fail-on dangerous": 1,
    "scan @/cut.bin --no-fickling": 1,
    "scan @/absent": 2,
    "scan @/empty": 2,
    "help": 0,
    "help nothing": 2,
    "models": 0,
    "models 111M": 0,
    "models 12M": 2,
    "schema": 0,
    "schema nope": 2,
    "sample @/new": 0,
    "sample @/good": 2,
    "demo @/copy.safetensors": 2,
    "download 12M": 2,
    "unheard-of": 2,
}


@pytest.mark.parametrize("words", ENDS)
def test_a_command_ends_as_the_page_says(words: str, folder: Path) -> None:
    assert run(*words.replace("@", str(folder)).split()).code == ENDS[words]


def test_a_command_has_an_example_of_each_of_its_codes() -> None:
    shown = {(words.split()[0], code) for words, code in ENDS.items()}
    promised = {(name, code) for name, codes in commands().items() for code, may in codes.items() if may}
    elsewhere = {
        ("demo", 0),
        ("download", 0),
        ("browse", 0),
    }  # tests/test_docs.py, tests/hub and tests/browsing run these

    assert shown - {("unheard-of", 2)} == promised - elsewhere
