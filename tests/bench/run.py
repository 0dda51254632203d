"""Ours and the peers' whole processes on the same files, in turn: `make bench`, or `run.py --model 590M --rounds 5 --markdown`.

Prints the median of the rounds' ratios to `cp` (or to an empty typer program), seconds, and peak resident memory. The
page cache is warm; outputs go to /dev/shm where that has room, so that fsync costs nothing on either side.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PYTHON = sys.executable
OURS = [PYTHON, "-m", "converter"]
TORCH_SAFETENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "s = torch.load(sys.argv[1], weights_only=True, mmap={mmap}); "
    "save_file({{k: v.contiguous() for k, v in s.items()}}, sys.argv[2], {{'format': 'pt'}})"
)
TRANSFORMERS = "import sys, transformers; m = transformers.GPT2LMHeadModel.from_pretrained(sys.argv[1]); m.save_pretrained(sys.argv[2])"
TORCH_LOAD = "import sys, torch; s = torch.load(sys.argv[1], weights_only=True, mmap=True); print(len(s))"
EMPTY_TYPER = "import typer; app = typer.Typer(add_completion=False); app.command()(lambda: None); app()"


def measure(command: list[str], cwd: Path) -> tuple[float, int]:
    """Run a command; give seconds and peak resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said.decode()[-500:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


class Table:
    """One task: rows are ways to do it, the first is what the ratios are to."""

    def __init__(self, title: str, work: Path, rounds: int) -> None:
        self.title, self.work, self.rounds = title, work, rounds
        self.ways: dict[str, list[str]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.memory: dict[str, int] = {}

    def add(self, name: str, command: list[str], *, needs: str | None = None) -> None:
        if needs is None or shutil.which(needs):
            self.ways[name] = command

    def run(self, clean: Callable[[], None]) -> None:
        for _ in range(self.rounds):
            for name, command in list(self.ways.items()):
                clean()
                try:
                    seconds, memory = measure(command, self.work)
                except RuntimeError as error:
                    print(f"! {name}: {error}", file=sys.stderr)
                    del self.ways[name]
                    continue
                self.seconds.setdefault(name, []).append(seconds)
                self.memory[name] = max(self.memory.get(name, 0), memory)
        clean()

    def print(self) -> None:
        first = next(iter(self.ways))
        print(f"\n### {self.title}\n\n| | seconds | ratio | peak MB |\n|---|---|---|---|")
        for name in self.ways:
            ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[first], strict=True)]
            print(
                f"| {name} | {statistics.median(self.seconds[name]):.2f} | {statistics.median(ratios):.2f} "
                f"| {self.memory[name] / 1e6:.0f} |"
            )
        sys.stdout.flush()


def tables(folder: Path, out: Path, rounds: int, *, peers: bool) -> list[Table]:
    source = next(folder.glob("*.bin"))
    target, one = str(out / "out"), str(out / "out.safetensors")
    copy = ["cp", "--reflink=never", str(source), str(out / "copy")]

    start = Table("Start of the process", out, rounds * 3)
    start.add("empty typer program", [PYTHON, "-c", EMPTY_TYPER])
    start.add("cerebras-tool --version", [*OURS, "--version"])
    start.add("cerebras-tool --help", [*OURS, "--help"])

    inspect = Table("What is in it", out, rounds * 2)
    inspect.add("empty typer program", [PYTHON, "-c", EMPTY_TYPER])
    inspect.add("cerebras-tool inspect", [*OURS, "inspect", str(source)])
    inspect.add("cerebras-tool inspect --json", [*OURS, "inspect", "--json", str(source)])
    if peers:
        inspect.add("torch.load, mmap, weights_only", [PYTHON, "-c", TORCH_LOAD, str(source)])

    extract = Table("Taking apart", out, rounds)
    extract.add("cp", copy)
    extract.add("cerebras-tool extract", [*OURS, "extract", "-q", str(source), target])
    extract.add("unzip", ["unzip", "-q", str(source), "-d", target], needs="unzip")
    extract.add("7z", ["7z", "x", "-bd", f"-o{target}", str(source)], needs="7z")
    extract.add("bsdtar", ["sh", "-c", f"mkdir {target} && bsdtar -xf {source} -C {target}"], needs="bsdtar")
    extract.add("python -m zipfile", [PYTHON, "-m", "zipfile", "-e", str(source), target])

    safetensors = Table("To safetensors", out, rounds)
    safetensors.add("cp", copy)
    safetensors.add("cerebras-tool convert", [*OURS, "convert", "-q", str(source), one])
    if peers:
        safetensors.add(
            "torch + safetensors, mmap", [PYTHON, "-c", TORCH_SAFETENSORS.format(mmap=True), str(source), one]
        )
        safetensors.add("torch + safetensors", [PYTHON, "-c", TORCH_SAFETENSORS.format(mmap=False), str(source), one])
        safetensors.add("transformers", [PYTHON, "-c", TRANSFORMERS, str(folder), target])

    gguf = Table("To GGUF", out, rounds)
    gguf.add("cp", copy)
    for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        command = [*OURS, "convert", "-q", str(source), str(out / "out.gguf"), "--dtype", dtype]
        gguf.add(f"cerebras-tool convert --dtype {dtype}", command)
    return [start, inspect, extract, safetensors, gguf]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="111M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="without torch and transformers")
    parser.add_argument("--checkpoint", type=Path, help="a folder with a checkpoint, instead of a sample")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
        folder = arguments.checkpoint
        if folder is None:
            folder = Path(work) / "checkpoint"
            subprocess.run([*OURS, "sample", "-q", str(folder), "--model", arguments.model], check=True)
        nbytes = sum(path.stat().st_size for path in folder.glob("*.bin"))
        shm = Path("/dev/shm")
        roomy = shm.is_dir() and shutil.disk_usage(shm).free > 3 * nbytes
        with tempfile.TemporaryDirectory(dir=shm if roomy else work) as outputs:
            out = Path(outputs)
            for path in folder.glob("*.bin"):
                subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
            versions = " · ".join(
                f"{name} {importlib.metadata.version(name)}"
                for name in ("cerebras-tool", "numpy", "torch", "safetensors", "transformers")
                if any(d.name == name for d in importlib.metadata.distributions())
            )
            print(
                f"{arguments.model}, {nbytes / 1e9:.2f} GB, outputs on {'tmpfs' if roomy else 'disk'}, page cache warm; "
                f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}; {os.cpu_count()} cores, {platform.machine()}, "
                f"Python {platform.python_version()} · {versions}"
            )

            def clean() -> None:
                for path in out.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

            for table in tables(folder.absolute(), out, arguments.rounds, peers=not arguments.no_peers):
                table.run(clean)
                table.print()


if __name__ == "__main__":
    main()
