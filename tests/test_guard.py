"""No command costs more than its ceiling, in counts that are the same on a busy machine; `make ceilings` sets them again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.bench import guard
from tests.build.depth import DEEP

DOCUMENT = json.loads(guard.CEILINGS.read_text())
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="/proc does not tell what a process reads")
of_this_python = pytest.mark.skipif(
    DOCUMENT["python"] != PYTHON, reason=f"the ceilings are those of Python {DOCUMENT['python']}"
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, guard.Taken]:
    return guard.commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def measured(taken: dict[str, guard.Taken], tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = tmp_path_factory.mktemp("tensors")
    counted = guard.instructions(folder) if DEEP else {}
    return guard.named(taken) | guard.per_tensor(folder) | counted


# Instructions are counted by valgrind, in a deep run, as it takes a while; opcodes, counted beside them, need no tool.
VALGRIND = DEEP and shutil.which("valgrind")
CEILINGS = [name for name in DOCUMENT["ceilings"] if VALGRIND or not name.startswith("instructions")]


@of_this_python
@pytest.mark.parametrize("name", CEILINGS)
def test_stays_below_its_ceiling(name: str, measured: dict[str, int]) -> None:
    assert measured[name] <= DOCUMENT["ceilings"][name]


@pytest.mark.parametrize("command", guard.COMMANDS)
def test_imports_nothing_that_it_does_not_need(command: str, taken: dict[str, guard.Taken]) -> None:
    assert taken[command].modules & guard.FORBIDDEN[command] == set()


def test_opcodes_are_counted_alike_every_time() -> None:
    def work() -> int:
        return sum(number for number in range(1000))

    assert guard.opcodes(work) == guard.opcodes(work) > 1000


def test_a_count_that_rises_is_said_and_one_without_its_tool_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ceilings = tmp_path / "ceilings.json"
    ceilings.write_text(json.dumps({"python": "3.11", "ceilings": {"a": 110, "b": 100, "c": 5, "e": 1000}}))
    monkeypatch.setattr(guard, "CEILINGS", ceilings)
    monkeypatch.setattr(guard, "commands", lambda folder: {})
    monkeypatch.setattr(guard, "per_tensor", lambda folder: {"a": 1000, "b": 80, "d": 10})
    monkeypatch.setattr(guard, "instructions", lambda folder: {"e": 917})

    guard.main()

    assert capsys.readouterr().out.splitlines() == [
        "a: 110 -> 1,100 RAISED", "b: 100 -> 88 lowered", "d: 11 new", "e: 1,000 -> 1,000", "c: 5 kept, not counted here",
    ]  # fmt: skip
    assert json.loads(ceilings.read_text())["ceilings"] == {"a": 1100, "b": 88, "d": 11, "e": 1000, "c": 5}
