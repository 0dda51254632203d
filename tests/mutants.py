"""Small changes to the package, one at a time, and whether the tests notice: `python -m tests.mutants --count 300 --seed 7`.

A sample is taken of all the places where a comparison, a boundary, a constant, a condition, a return value, an argument, a
default, an entry of a table or a statement can be changed. Each change is made in a copy of the checkout, and the tests that
execute the changed line run until one fails; `tests/asked.py` says in which order. What survives is printed as a diff. The counts
go to tests/data/mutants.json, and from there, by `--page`, to docs/tests.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, fields
from fnmatch import fnmatch
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from tests import traced
from tests.asked import Lines, nearest, rounds
from tests.changes import Mutant, mutants, sampled
from tests.traced import Traces

ROOT: Final = Path(__file__).parent.parent
SUMMARY: Final = ROOT / "tests" / "data" / "mutants.json"
EQUIVALENT: Final = ROOT / "tests" / "data" / "mutants_equivalent.json"
PAGE: Final = ROOT / "docs" / "tests.md"
MARKS: Final = ("<!-- mutants: start -->\n", "<!-- mutants: end -->\n")

SECONDS: Final = 8  # of processor time beyond twice what the tests of a round took when they were traced
WALL: Final = 900  # seconds, for tests that only wait
TRACING: Final = 3600  # seconds for a whole test file with coverage.py
ADDRESSES: Final = 16 << 30  # bytes of memory: a change may ask for any number
CACHE: Final = ROOT / ".mutants"  # which tests execute which line
SERVER: Final = multiprocessing.get_context("forkserver")
# What most tests import beside the package: the server has it, and a run begins at once. Nothing of ours, which changes.
PRELOADED: Final = ["pytest", "hypothesis", "numpy", "safetensors", "typer.testing", "rich.table", "huggingface_hub.constants",
                    "huggingface_hub.hf_api", "jsonschema", "coverage", "unittest.mock", "fickling.fickle", "http.server"]  # fmt: skip

# ---- running --------------------------------------------------------------------------------------------------------------


class Checkout:
    """A copy of everything that tests need, in which one module at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        subprocess.run([sys.executable, "-m", "compileall", "-q", "converter"], cwd=folder, check=True)

    def write(self, module: str, text: bytes) -> None:
        path = self.folder / module
        path.write_bytes(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()  # its size and time, in seconds, could be the same

    def test(self, seconds: float | None, *words: str) -> tuple[str, str]:
        """Run `tests.traced` with these words: `passed`, `failed` or `time`, and what was printed."""
        limit = None if seconds is None else int(seconds) + 1
        temporary = self.folder / ".tmp"
        temporary.mkdir(exist_ok=True)
        said = self.folder.with_suffix(".said")
        process = SERVER.Process(target=_tested, args=(str(self.folder), str(temporary), str(said), limit, words))
        process.start()
        process.join(WALL if seconds is not None else TRACING)
        if process.exitcode is None and process.pid:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        shutil.rmtree(temporary, ignore_errors=True)
        result = {0: "passed", -signal.SIGXCPU: "time", -signal.SIGKILL: "time"}.get(process.exitcode or 0, "failed")
        return result, said.read_text(errors="replace")


def _tested(folder: str, temporary: str, said: str, seconds: int | None, words: Sequence[str]) -> None:
    """Run tests in a checkout, in a child of the server."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]), "TMPDIR": temporary}
    tempfile.tempdir = None
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in ((0, nothing), (1, output), (2, output)):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    code = getattr(traced, words[0])(*words[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def trace(checkouts: Sequence[Checkout], traces: Traces, files: Sequence[str], say: Callable[[str], None]) -> None:
    """Trace every test file that was not traced as it is now: minutes, once a checkout."""
    waiting = [file for file in files if not traces.known(file)]
    free: SimpleQueue[Checkout] = SimpleQueue()
    for checkout in checkouts:
        free.put(checkout)

    def one(file: str) -> None:
        checkout = free.get()
        kept = checkout.folder.with_suffix(".kept")
        checkout.test(None, "trace", file, str(kept))
        free.put(checkout)
        if not kept.is_file():
            say(f"{file}: can't be traced, so it is not asked")
            return
        traces.keep(file, kept)
        found = traces.of(file)
        failing = f", and {len(found.failing)} fail, which are not asked" if found.failing else ""
        say(f"{file}: {sum(found.seconds.values()):.0f} s of {len(found.seconds)} tests{failing}")

    with ThreadPoolExecutor(len(checkouts)) as pool:
        list(pool.map(one, waiting))


def run(
    sample: Sequence[Mutant],
    settled: Sequence[dict[str, Any]],
    *,
    workers: int,
    until: float,
    out: Path | None,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Every mutant with its result: `killed`, `time` (killed, too), `survived` or `equivalent`. Mutants that were not

    started before `until` are left out; because the sample has no order, the rest is a sample, too.
    """
    known = {
        (one["module"], tuple(one["before"]), tuple(one["after"])): one["reason"]
        for one in json.loads(EQUIVALENT.read_text())
    }
    texts = {str(path.relative_to(ROOT)): path.read_bytes() for path in sorted((ROOT / "converter").rglob("*.py"))}
    near, lines = nearest(ROOT), Lines(texts)
    killers: dict[str, Counter[str]] = {}
    results = list(settled)
    SERVER.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        checkouts = [Checkout(Path(folder, str(index))) for index in range(workers)]
        traces = Traces(CACHE, ROOT)
        trace(checkouts, traces, near("converter/__init__.py"), say)
        free: SimpleQueue[Checkout] = SimpleQueue()
        for checkout in checkouts:
            free.put(checkout)

        def one(mutant: Mutant) -> None:
            text = texts[mutant.module]
            before, after = mutant.lines(text)
            result = asdict(mutant) | {"before": before, "after": after}
            if (mutant.module, tuple(before), tuple(after)) in known:
                results.append(result | {"result": "equivalent"})
                return
            if time.monotonic() > until:
                return
            checkout = free.get()
            began = time.monotonic()
            try:
                outcome, said, count = "passed", "", 0
                killing = killers.setdefault(mutant.module, Counter())
                files = [file for file in near(mutant.module) if traces.known(file)]
                places = lines.of(mutant.module, mutant.line)
                checkout.write(mutant.module, mutant.applied(text))
                for names in rounds(traces, files, mutant.module, places, killing):
                    needed = sum(traces.of(name.partition("::")[0]).seconds[name] for name in names)
                    listed = checkout.folder.with_suffix(".json")
                    listed.write_text(json.dumps(names))
                    outcome, said = checkout.test(2 * needed + SECONDS, "run", str(listed))
                    count += len(names)
                    if outcome != "passed":
                        break
            finally:
                checkout.write(mutant.module, text)
                free.put(checkout)
            by = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
            if by is not None:
                killing[by[1].partition("::")[0]] += 1
            outcome = {"passed": "survived", "failed": "killed"}.get(outcome, outcome)
            results.append(
                result
                | {"result": outcome, "by": by[1] if by else None, "tests": count}
                | {"seconds": round(time.monotonic() - began, 1)}
            )
            if out is not None:
                out.write_text(json.dumps(results, indent=1))  # written so far, because a run may be stopped
            say(
                f"{len(results)}/{len(settled) + len(sample)} {outcome} {mutant.module}:{mutant.line} {mutant.kind}, "
                f"{count} tests, {time.monotonic() - began:.0f} s"
            )
            if outcome == "survived":
                say(
                    "".join(f"    - {line[:200]}\n" for line in before)
                    + "".join(f"    + {line[:200]}\n" for line in after)
                )

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, sample))
        killed_by = {one["by"] for one in results if one["result"] == "killed" and one["by"]}
        for name in unsound(checkouts[0], sorted(killed_by)):
            say(f"{name} fails without a change, too: what it killed counts as survived")
            results = [
                item | ({"result": "survived", "by": None} if item.get("by") == name else {}) for item in results
            ]
    return results


def unsound(checkout: Checkout, names: Sequence[str]) -> list[str]:
    """The tests that fail on the unchanged package, too."""
    found = []
    for _, several in groupby(names, lambda name: name.partition("::")[0]):
        listed = checkout.folder.with_suffix(".json")
        listed.write_text(json.dumps(list(several)))
        outcome, said = checkout.test(None, "run_all", str(listed))
        if outcome != "passed":
            found += re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE)
    return found


def matching(patterns: Sequence[str]) -> list[str]:
    """The modules that the patterns match, sorted. Raises ValueError for a pattern that matches none."""
    modules = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "converter").rglob("*.py"))
    matched = {pattern: [name for name in modules if fnmatch(name, f"converter/{pattern}")] for pattern in patterns}
    idle = [pattern for pattern, names in matched.items() if not names]
    if idle:
        raise ValueError(f"no module of converter/ matches {' or '.join(idle)}: was it renamed?")
    return sorted({name for names in matched.values() for name in names})


# ---- reporting --------------------------------------------------------------------------------------------------------------


def summed(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The counts of each module."""
    modules: dict[str, dict[str, int]] = {}
    for one in results:
        counts = modules.setdefault(
            one["module"], {"mutants": 0, "killed": 0, "time": 0, "equivalent": 0, "survived": 0}
        )
        counts["mutants"] += 1
        counts[one["result"]] += 1
    return dict(sorted(modules.items()))


def page() -> None:
    """Put the tables of the last runs into docs/tests.md."""
    before, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + tables(json.loads(SUMMARY.read_text())) + MARKS[1] + rest.split(MARKS[1])[1])


def tables(runs: Sequence[dict[str, Any]]) -> str:
    """The tables of runs. A change that survived counts as equivalent if that is what its note says first."""
    lines = []
    for one in runs:
        counts = Counter[str]()
        lines += [
            f"`{one['command']}`, {one['date']}, commit {one['commit']}: {sum(n['mutants'] for n in one['modules'].values())} tried of "
            f"{one['asked']} that were asked for.\n",
            "\n",
            "| module | changes | killed | of them by time | equivalent | survived |\n",
            "|---|---:|---:|---:|---:|---:|\n",
        ]
        notes = one["survivors"].items()
        equal = Counter(where.partition(":")[0] for where, became in notes if became.startswith("equivalent"))
        for module, found in one["modules"].items():
            known = equal.pop(module.removeprefix("converter/"), 0)
            row = found | {"equivalent": found["equivalent"] + known, "survived": found["survived"] - known}
            counts.update(row)
            lines.append(f"| {module.removeprefix('converter/')} | {_row(row)} |\n")
        lines += [f"| **all** | {_row(counts)} |\n", "\n"]
        if one["survivors"]:
            lines += ["| survived at first | what became of it |\n", "|---|---|\n"]
            lines += [f"| {where} | {became} |\n" for where, became in one["survivors"].items()]
            lines.append("\n")
    return "".join(lines)


def _row(counts: Any) -> str:
    killed = counts["killed"] + counts["time"]
    return " | ".join(
        f"{n:,}" for n in (counts["mutants"], killed, counts["time"], counts["equivalent"], counts["survived"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="how many changes are tried")
    parser.add_argument("--seed", type=int, default=7, help="the same seed takes the same sample of the same code")
    parser.add_argument("--module", action="append", metavar="GLOB", help="such as 'io/*.py'; may be given again")
    parser.add_argument("--workers", type=int, default=2, help="how many run at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no other change after that time")
    parser.add_argument("--out", type=Path, help="write every change and what became of it, as JSON")
    parser.add_argument(
        "--again",
        type=Path,
        metavar="JSON",
        help="go on with a file that --out wrote: try what survived and what was not begun",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the counts to tests/data/mutants.json, and the page"
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    began = time.monotonic()
    if options.page:
        page()
        return
    try:
        chosen = matching(options.module or ["*"])
    except ValueError as error:
        parser.error(str(error))
    texts = {module: (ROOT / module).read_bytes() for module in chosen}
    every = [one for module, text in texts.items() for one in mutants(module, text)]
    sample = sampled(every, texts, options.count, options.seed)
    settled: list[dict[str, Any]] = []
    if options.again:
        settled = [one for one in json.loads(options.again.read_text()) if one["result"] != "survived"]
        known = {tuple(one[field.name] for field in fields(Mutant)) for one in settled}
        sample = [one for one in sample if astuple(one) not in known]
    print(f"{len(sample)} of {len(every):,} changes to {len(chosen)} modules", flush=True)
    results = run(
        sample,
        settled,
        workers=options.workers,
        until=began + 60 * options.minutes,
        out=options.out,
        say=partial(print, flush=True),
    )
    modules_counts = summed(results)
    total = Counter[str]()
    for row in modules_counts.values():
        total.update(row)
    print(json.dumps({"all": dict(total), **modules_counts}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    if options.write:
        words = [f"--count {options.count}", f"--seed {options.seed}"]
        words += [f"--module {shlex.quote(pattern)}" for pattern in options.module or []]
        runs = json.loads(SUMMARY.read_text()) if SUMMARY.is_file() else []
        command = f"python -m tests.mutants {' '.join(words)}"
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        former: dict[str, str] = next((one["survivors"] for one in runs if one["command"] == command), {})
        survived = [one for one in results if one["result"] == "survived"]
        names = [f"{one['module'].removeprefix('converter/')}:{one['line']}, {one['kind']}" for one in survived]
        runs = [one for one in runs if one["command"] != command]
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        runs.append(
            {"command": command, "date": today, "commit": commit.stdout.strip(), "asked": len(settled) + len(sample)}
            | {"survivors": {name: former.get(name, "nothing yet") for name in names}, "modules": modules_counts}
        )
        SUMMARY.write_text(json.dumps(runs, indent=1) + "\n")
        page()


if __name__ == "__main__":
    main()
