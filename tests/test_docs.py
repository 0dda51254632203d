"""Every command in README and docs is run, and has to print what the page shows.

A page's ```console blocks are run in order in one empty folder. `UPDATE_DOCS=1` puts what was printed into the page.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.build.forked import Forked
from tests.build.sessions import run_session

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "THIRD_PARTY.md")] + sorted((ROOT / "docs").rglob("*.md"))
NETWORK = re.compile(r"cerebras-tool download | hf://| https://| cerebras/")  # what can't be run in a test
ENVIRONMENT = os.environ | {"COLUMNS": "100", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def program() -> Iterator[Forked]:
    with Forked(ENVIRONMENT) as forked:
        yield forked


def run(command: str, folder: Path, program: Forked) -> str:
    """What a command prints; if there are several with ` | ` between them, what the last one prints."""
    text = ""
    for number, words in enumerate(piped(command)):
        if words[0] == "cerebras-tool" and not number:
            _, out, err = program(words[1:], folder)
            text = out + err
            continue
        ours = [sys.executable, "-m", "converter"] if words[0] == "cerebras-tool" else words[:1]
        done = subprocess.run(
            [*ours, *words[1:]],
            cwd=folder, env=ENVIRONMENT, input=text, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        text = done.stdout + done.stderr
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def piped(command: str) -> list[list[str]]:
    """The words of each command of a pipe."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with the output that the page shows for it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    assert not parts[0], "a block starts with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_prints_what_the_page_shows(page: Path, program: Forked, tmp_path: Path) -> None:
    text = page.read_text()

    def rerun(match: re.Match[str]) -> str:
        return "```console\n" + "".join(f"$ {c}\n{run(c, tmp_path, program)}" for c, _ in commands(match[1])) + "```"

    found = BLOCK.sub(rerun, text)

    crashed = any("Traceback" in block for block in BLOCK.findall(found))
    if os.environ.get("UPDATE_DOCS") and not crashed:
        page.write_text(found)
    assert not crashed
    assert found == text


def test_every_page_is_reachable_from_the_readme() -> None:
    waiting, seen = [ROOT / "README.md"], {ROOT / "README.md"}
    while waiting:
        page = waiting.pop()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            linked = (page.parent / target).resolve()
            assert linked.exists(), f"{page} links to {target}"
            if linked.suffix == ".md" and linked not in seen:
                seen.add(linked)
                waiting.append(linked)

    assert set(PAGES) <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    outside = BLOCK.sub("", page.read_text())
    commands = re.findall(r"^\s*(?:\$ )?cerebras-tool .*$", outside, re.MULTILINE)

    assert [command for command in commands if not NETWORK.search(command)] == []


def test_the_session_in_python_prints_what_the_page_shows(tmp_path: Path) -> None:
    """Here without the libraries that only the peers' environment has; tests/peers/test_session.py runs all of it."""
    absent = [name for name in ("pandas", "torch") if find_spec(name) is None]

    assert run_session(ROOT / "docs" / "python.md", tmp_path, without=absent) == (0, "", "")
