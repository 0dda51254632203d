"""Counts what our commands cost, without timing them: the counts are the same on a busy machine. `make ceilings` writes ceilings.json.

Counts of modules, bytes and reads are those of whole processes, so they include what typer and Python take.
"""

from __future__ import annotations

import ast
import compileall
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from converter import sample
from converter.dtypes import F32
from converter.formats.torch import reader as torch_zip
from converter.formats.torch.writer import Entry, lay_out
from converter.io.local import LocalFile
from converter.io.parts import known
from converter.io.zip_records import Archive
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run

ROOT = Path(__file__).parents[2]
CEILINGS = Path(__file__).with_name("ceilings.json")
# Two layers' matrices take 100 MB, far more than Python reads to start, so a second read of them shows.
SIZES = {"n_layer": 2, "n_embd": 1024, "n_inner": 4096}
FEW, MANY, MORE = 100, 200, 600  # tensors; only the cost of the difference counts

SOURCE = "checkpoint/pytorch_model.bin"  # so that a command prints no path whose length depends on the folder
COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "inspect": ["inspect", SOURCE],
    "inspect --json": ["inspect", "--json", SOURCE],
    "scan": ["scan", "--no-fickling", SOURCE],
    "extract": ["extract", "--quiet", SOURCE, "out/parameters"],
    "convert to safetensors": ["convert", "--quiet", SOURCE, "out/x.safetensors"],
    "convert to GGUF": ["convert", "--quiet", SOURCE, "out/x.gguf", "--dtype", "f16", "--no-tokenizer"],
}
_NEVER = {"torch", "transformers", "click", "huggingface_hub", "fickling", "safetensors"}
FORBIDDEN = {
    "--version": {"numpy", "rich", "pydantic", *_NEVER},
    "--help": {"numpy", "rich", "pydantic", *_NEVER},
    "inspect": {"numpy", "rich", *_NEVER},
    "inspect --json": {"numpy", "rich", *_NEVER},
    "scan": {"numpy", "rich", *_NEVER},
    "extract": _NEVER,
    "convert to safetensors": _NEVER,
    "convert to GGUF": _NEVER,
}

# Runs a command as `python -m converter` does, and writes what it took into the file that its first argument names.
_DRIVER = """
import atexit, sys
def tell(path=sys.argv[1]):
    modules = sorted(sys.modules)
    with open("/proc/self/io") as file:
        io = dict(line.split(": ") for line in file.read().splitlines())
    with open(path, "w") as file:
        file.write(repr({"modules": modules, "io": io}))
atexit.register(tell)
del sys.argv[1]
from converter.cli.app import app
app(prog_name="cerebras-tool")
"""
_IO = {"bytes read": "rchar", "bytes written": "wchar", "reads": "syscr", "writes": "syscw"}

# Run by valgrind without site-packages, so that only this program and Python are counted.
# Python's start is counted only once: the process forks, and each half reads a file and reports its total.
_READ = """
import os, sys
sys.path.insert(0, sys.argv[1])
from converter.formats.torch.reader import read
from converter.io.local import LocalFile
from converter.io.parts import known
child = os.fork()
if child:
    os.waitpid(child, 0)
read(LocalFile(sys.argv[3 if child else 2]))
"""


def checkpoint(folder: Path) -> Path:
    """Write a checkpoint of the published form, of 100 MB."""
    with patch.dict(sample._TINY_SIZES, SIZES):
        sample.write_sample(folder, "tiny")
    return folder / "pytorch_model.bin"


def checkpoint_of(path: Path, count: int) -> Path:
    """Write a checkpoint of small tensors, each with a storage of its own."""
    entry = Entry("", F32, (4, 4), (1, 4))
    entries = [replace(entry, name=f"transformer.h.{number}.attn.c_proj.weight") for number in range(count)]
    with open(path, "wb") as file:
        for piece in lay_out("archive", entries).pieces(lambda entry: known(bytes(entry.nbytes))):
            file.writelines(piece.tiles())
    return path


@dataclass(frozen=True)
class Taken:
    """What a command took: the modules in memory at its end, and the counts that have ceilings."""

    modules: frozenset[str]
    counts: dict[str, int]


def commands(folder: Path) -> dict[str, Taken]:
    """Run each command as a process of its own."""
    compileall.compile_dir(ROOT / "converter", quiet=2)
    checkpoint(folder / "checkpoint")
    taken = {}
    for name, words in COMMANDS.items():
        (folder / "out").mkdir()
        taken[name] = _process(words, folder)
        shutil.rmtree(folder / "out")
    return taken


def per_tensor(folder: Path) -> dict[str, int]:
    """What tensors cost, in opcodes of Python."""
    few, many = (checkpoint_of(folder / f"{count}.bin", count) for count in (FEW, MANY))
    found = {}
    for name, prepare in _IN_PROCESS.items():
        costs = [opcodes(prepare(path)) for path in (few, many)]
        found[f"opcodes of {MANY - FEW} tensors, {name}"] = costs[1] - costs[0]
    return found


def instructions(folder: Path) -> dict[str, int]:
    """What tensors cost, in instructions of the processor, which valgrind counts: nothing if it is not installed."""
    if not shutil.which("valgrind"):
        return {}
    few, more = (checkpoint_of(folder / f"{count}.bin", count) for count in (FEW, MORE))
    return {f"instructions of {MORE - FEW} tensors, catalogue": _instructions(few, more)}


def named(taken: dict[str, Taken]) -> dict[str, int]:
    """The commands' counts by the names that ceilings.json has."""
    return {f"{kind}, {name}": count for name, one in taken.items() for kind, count in one.counts.items()}


def opcodes(work: Callable[[], object]) -> int:
    """Count the opcodes of Python that `work` executes. Its work in C is not counted."""
    executed = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal executed
        executed += event == "opcode"
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return executed


def _directory(path: Path) -> Callable[[], object]:
    return lambda: Archive(LocalFile(path))


def _machine(path: Path) -> Callable[[], object]:
    data = Archive(LocalFile(path)).read("data.pkl", 1 << 30)
    return lambda: run(data, TABLE, torch_zip._promised)


_IN_PROCESS = {"zip directory": _directory, "pickle machine": _machine}


def _process(arguments: Sequence[str], folder: Path) -> Taken:
    command = [sys.executable, "-c", _DRIVER, "taken", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "COLUMNS": "100"}
    subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    document = ast.literal_eval((folder / "taken").read_text())
    io = {kind: int(document["io"][field]) for kind, field in _IO.items()}
    return Taken(frozenset(document["modules"]), {"modules": len(document["modules"]), **io})


def _instructions(few: Path, more: Path) -> int:
    """Count what the processor executes for the tensors that one file has more than the other."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-I", "-S", "-c", _READ, ROOT,
        few, more,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=True).stderr
    first, second = (int(count) for count in re.findall(r"Collected : (\d+)", said))
    return second - first


def main() -> None:
    """Write ceilings a tenth above the counts, and print each old and new one. A ceiling that would change by 1 % or

    less stays, and so does one whose tool is not installed.
    """
    document = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {"ceilings": {}}
    before = document["ceilings"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = named(commands(place)) | per_tensor(place) | instructions(place)
    after = {}
    for name, count in found.items():
        was, ceiling = before.get(name), -(-count * 11 // 10)
        if was is not None and abs(ceiling - was) * 100 <= was:
            ceiling = was  # instructions differ by a few thousandths from run to run
        after[name] = ceiling
        change = "new" if was is None else "RAISED" if ceiling > was else "lowered" if ceiling < was else ""
        print(f"{name}: {'' if was is None else f'{was:,} -> '}{ceiling:,} {change}".rstrip())
    for name in before.keys() - after.keys():
        print(f"{name}: {before[name]:,} kept, not counted here")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = {name: ceiling for name, ceiling in before.items() if name not in after}
    CEILINGS.write_text(json.dumps({"python": python, "ceilings": after | kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
