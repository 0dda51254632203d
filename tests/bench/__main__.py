"""Our commands and the peers', in turn, on the same files: `make bench MODEL=590M ROUNDS=5 ONLY=extract,gguf`.

Every way is a whole process. Each round runs all ways of a task one after the other, every second round in reverse order, and
ratios are taken within a round. Inputs lie in the page cache. Outputs go to /dev/shm if it and the memory have room,
so that fsync costs nothing on either side. On a disk, the files of a program that does not sync them itself are
synced within its time.
Results go to docs/performance/*.json, and from there into docs/performance.md, unless --no-save is given.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.bench import inputs, plots, report, results
from tests.bench.inputs import PROGRAMS, Inputs
from tests.bench.measure import FailedError, Measured, measure, most
from tests.bench.tasks import OURS, TASKS, Task, Way

PAGE = results.ROOT / "docs" / "performance.md"
SHM = Path("/dev/shm")
EMPTY_TYPER = "import typer; app = typer.Typer(add_completion=False); app.command()(lambda: None); app()"
INPUT = re.compile(r"\{([^/}]+)/(\w+)\}")
OTHER_NAMES = {"7z": ("7zz", "7za")}
# A program, how to ask for its version, and where in the answer the version is.
ASKED = {
    "cp": (["cp", "--version"], r"\(GNU coreutils\) (\S+)"), "unzip": (["unzip", "-v"], r"UnZip (\S+)"),
    "7z": (["7z"], r"7-Zip \S* ?(\d\S+)"), "bsdtar": (["bsdtar", "--version"], r"bsdtar (\S+)"),
}  # fmt: skip


class MissingError(Exception):
    """A way that can't be measured here, and why."""


class Bench:
    """What all tasks of a run share: where files lie, and which programs are installed."""

    def __init__(self, made: Inputs, work: Path, out: Path | None, llama_cpp: Path | None) -> None:
        self.inputs, self.work, self.out, self.llama_cpp = made, work, out, llama_cpp
        folders = [Path(sys.executable).parent, *([llama_cpp / "build" / "bin"] if llama_cpp else [])]
        self.path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])

    def which(self, program: str) -> str:
        for name in (program, *OTHER_NAMES.get(program, ())):
            if found := shutil.which(name, path=self.path):
                return found
        raise MissingError(f"`{program}` is not installed")

    def check(self, way: Way) -> None:
        """Raise MissingError if a way can't be measured here."""
        for package in way.needs:
            if importlib.util.find_spec(package) is None:
                raise MissingError(f"the package `{package}` is not installed")
        if "{LLAMA_CPP}" in way.command and not (
            self.llama_cpp and (self.llama_cpp / "convert_hf_to_gguf.py").exists()
        ):
            raise MissingError("LLAMA_CPP does not name a folder of llama.cpp's source")
        for words in _steps(way):
            self.program(words[0])

    def commands(self, way: Way, model: str, out: Path) -> list[list[str]]:
        return [
            [*self.program(words[0]), *(self.filled(word, model, out) for word in words[1:])] for words in _steps(way)
        ]

    def program(self, word: str) -> list[str]:
        python = sys.executable
        ours = {
            "cerebras-tool": [python, "-m", "converter"], "typer": [python, "-c", EMPTY_TYPER], "python": [python],
            "program": [python, "-P", str(PROGRAMS)],
        }  # fmt: skip
        return ours.get(word) or [self.which(word)]

    def filled(self, word: str, model: str, out: Path) -> str:
        word = (
            word.replace("{MODEL/", f"{{{model}/")
            .replace("{out}", str(out))
            .replace("{LLAMA_CPP}", str(self.llama_cpp))
        )
        return INPUT.sub(lambda match: str(self.inputs.get(match[1], match[2])), word)

    def read(self, ways: Iterable[Way], model: str) -> list[Path]:
        """The inputs, those of the first way first."""
        pairs = (pair for way in ways for pair in INPUT.findall(way.command.replace("{MODEL/", f"{{{model}/")))
        return [self.inputs.get(size, kind) for size, kind in dict.fromkeys(pairs)]

    def outputs(self, nbytes: int) -> tuple[Path, bool]:
        """A folder for outputs, and whether fsync is free there."""
        if self.out is not None:
            return self.out, _is_tmpfs(self.out)
        # Room for the input in the page cache, the output, and a peer that holds the model twice.
        roomy = SHM.is_dir() and shutil.disk_usage(SHM).free > 2 * nbytes and _available() > 4 * nbytes + (2 << 30)
        return (SHM if roomy else self.work), roomy

    def versions(self, ways: Sequence[Way]) -> dict[str, str]:
        found = {name: importlib.metadata.version(name) for name in {p for way in ways for p in way.needs}}
        for word in {words[0] for way in ways for words in _steps(way)} & ASKED.keys():
            command, pattern = ASKED[word]
            done = subprocess.run([self.which(word), *command[1:]], capture_output=True, text=True, check=False)
            match = re.search(pattern, done.stdout + done.stderr)
            found[word] = match[1] if match else "of unknown version"
        if any("llama" in way.command for way in ways):
            found["llama.cpp"] = os.environ.get("LLAMA_CPP_VERSION", "of unknown version")
        return found | {"cerebras-tool": _own_version(), "numpy": importlib.metadata.version("numpy")}


def run(bench: Bench, task: Task, model: str, rounds: int) -> results.Result:
    """Measure a task: all ways in turn, round by round. Ways that fail are left out, and reported."""
    skipped: dict[str, str] = {}
    for way in task.ways:
        try:
            bench.check(way)
        except MissingError as error:
            skipped[way.name] = str(error)
    ways = {way.name: way for way in task.ways if way.name not in skipped}
    read = bench.read(ways.values(), model)
    nbytes = inputs.nbytes(read[0]) if task.sized else 0
    place, free = bench.outputs(nbytes)
    for path in read:
        inputs.warm(path)
    rounds *= task.often
    measured: dict[str, list[Measured]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        out = Path(folder)
        commands = {name: bench.commands(way, model, out) for name, way in ways.items()}
        for number in range(rounds):
            for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
                try:
                    measured[name].append(_once(ways[name], commands[name], out, free=free))
                except FailedError as error:
                    skipped[name] = str(error).replace(str(bench.work), "…")
                    del ways[name]
                _empty(out)
                if not free:
                    os.sync()  # the next way must not wait for what this one left to be written
            print(f"  {task.name}: round {number + 1} of {rounds}", file=sys.stderr)
    return {
        "nbytes": nbytes, "date": f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}", "rounds": rounds,
        "where": f"outputs on {'tmpfs' if free else 'a disk, synced'}" if task.sized else "nothing written",
        "machine": _machine(), "versions": bench.versions([*ways.values()]), "skipped": skipped,
        "ways": [_row(way, measured[name]) for name, way in ways.items()],
    }  # fmt: skip


def _row(way: Way, measured: Sequence[Measured]) -> results.Result:
    return {
        "name": way.name,
        "side": way.side,
        "seconds": [round(one.seconds, 4) for one in measured],
        "processor": [round(one.processor, 4) for one in measured],
        "resident": most(one.resident for one in measured),
        "anonymous": most(one.anonymous for one in measured),
    }


def _steps(way: Way) -> list[list[str]]:
    return [step.split() for step in way.command.split(" && ")]


def _once(way: Way, commands: list[list[str]], out: Path, *, free: bool) -> Measured:
    first, *rest = commands
    done = measure(first, out, way.codes, clock=way.clock)
    for command in rest:
        done = done.then(measure(command, out, way.codes))
    if not free and way.side != OURS and (written := [str(p) for p in out.rglob("*") if p.is_file()]):
        done = done.then(measure(["sync", *written], out))
    return done


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _available() -> int:
    """The bytes of memory that are available."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["MemAvailable"].split()[0]) * 1024


def _is_tmpfs(folder: Path) -> bool:
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "tmpfs"


@functools.cache
def _own_version() -> str:
    version = importlib.metadata.version("cerebras-tool")
    git = ["git", "-C", results.ROOT, "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return version
    return f"{version} ({done.stdout.strip()})" if done.returncode == 0 else version


def _machine() -> str:
    try:
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        named = None
    processor = named[1] if named else platform.machine()
    return f"{os.cpu_count()} cores, {processor}, {platform.system()}, Python {platform.python_version()}"


def _chosen(only: str | None) -> Iterator[Task]:
    wanted = only.split(",") if only else [""]
    for word in wanted:
        if not any(name.startswith(word) for name in TASKS):
            sys.exit(f"there is no task `{word}`: {', '.join(TASKS)}")
    return (task for name, task in TASKS.items() if name.startswith(tuple(wanted)))


def render_page() -> None:
    """Update docs/performance.md and its plots from the JSON."""
    found = results.load()
    try:
        plots.draw(found, results.FOLDER)
    except ImportError:
        print("no plots were drawn: matplotlib is not installed", file=sys.stderr)
    PAGE.write_text(report.render(PAGE.read_text(), found))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="111M", help="sizes, with commas between: 111M,590M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="tasks by how their names start, with commas between: extract,gguf")
    parser.add_argument("--checkpoint", type=Path, help="a folder that stands for the first size, instead of a sample")
    parser.add_argument("--by-torch", action="store_true", help="have torch save the samples again")
    parser.add_argument("--out", type=Path, help="where outputs go, instead of /dev/shm or a temporary folder")
    parser.add_argument("--no-save", action="store_true", help="only print the tables")
    parser.add_argument("--render", action="store_true", help="measure nothing, only make the page from the JSON")
    arguments = parser.parse_args()
    if arguments.render:
        render_page()
        return
    sizes = arguments.model.split(",")
    given = {sizes[0]: arguments.checkpoint} if arguments.checkpoint else {}
    llama_cpp = Path(os.environ["LLAMA_CPP"]).absolute() if os.environ.get("LLAMA_CPP") else None
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    os.environ |= {"PYTHONPATH": str(results.ROOT), "OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores}
    tasks = list(_chosen(arguments.only))
    _own_version()  # asked before this run changes the checkout by writing the page
    with tempfile.TemporaryDirectory() as folder:
        made = Inputs(Path(folder), by_torch=arguments.by_torch, given=given)
        bench = Bench(made, Path(folder), arguments.out and arguments.out.absolute(), llama_cpp)
        pairs = [(results.UNSIZED, task) for task in tasks if not task.sized]
        pairs += [(size, task) for size in sizes for task in tasks if task.sized]
        for size, task in pairs:
            result = run(bench, task, size, arguments.rounds)
            print(f"\n### {task.title}{f', {size}' if task.sized else ''}\n\n{report.table(result)}", flush=True)
            if not arguments.no_save:
                results.save(size, task.name, result)
    if not arguments.no_save:
        render_page()


if __name__ == "__main__":
    main()
