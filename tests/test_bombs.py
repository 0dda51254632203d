"""Small files that ask for much: twice the bytes take twice the steps, few for each byte, and memory in proportion.

Steps are lines of this package that run, which no other process on the machine changes; `python -m tests.bench.bombs`
measures seconds.
"""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from converter.errors import ConverterError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from converter.scanning.scan import scan
from tests.build.bombs import BOMBS, write
from tests.build.depth import share
from tests.build.ends import ends
from tests.build.steps import steps

SMALL = 3_000  # bytes; a bomb of one unit may have more
STEPS = {"inspect": 100, "scan": 200}  # lines a byte; one takes 10 to 20 ns. Scanning runs a pickle up to four times
MEMORY = 100  # bytes a byte
AROUND = 5 << 20  # bytes that any file may take: buffers, and what a limit counts, such as 10,000 pickles


def opened(path: Path) -> None:
    try:
        inspect(open_checkpoint(path))
    except ConverterError as error:
        assert len(str(error)) < 1500


def scanned(path: Path) -> None:
    try:
        scan([path], explain=True, fickling=False)
    except ConverterError as error:
        assert len(str(error)) < 1500


COMMANDS = {"inspect": opened, "scan": scanned}


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Do the imports that happen only once."""
    for name in (
        "tensors",
        "safetensors of many names",
        "GGUF keys",
        "an index of many names",
        "a manifest of many tensors",
    ):
        for command in COMMANDS.values():
            command(write(name, 500, tmp_path_factory.mktemp("warm")))


# Steps that a file of any size takes: up to a thousand names are listed for each of many values.
FIRST_STEPS = {"one list beside a tensor, often": 600_000}


@pytest.mark.parametrize(("name", "command"), share([(name, command) for name in BOMBS for command in COMMANDS], 0, 5))
def test_a_bomb_takes_steps_and_memory_in_proportion_to_its_bytes(name: str, command: str, tmp_path: Path) -> None:
    paths = [write(name, size, tmp_path / str(size)) for size in (SMALL, 2 * SMALL)]
    sizes = [max(SMALL * at, path.stat().st_size if path.is_file() else 0) for at, path in enumerate(paths, 1)]

    once, twice = (steps(partial(COMMANDS[command], path)) for path in paths)
    tracemalloc.start()
    with ends():
        COMMANDS[command](paths[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert twice <= 2.2 * once + 40_000
    assert twice <= STEPS[command] * sizes[1] + FIRST_STEPS.get(name, 40_000)
    assert peak <= MEMORY * sizes[1] + AROUND
