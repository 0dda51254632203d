"""Run the oracle: `python -m tests.peers.oracle --pickles 1000000 --containers 200000 --seed 1`.

Files are numbered, and a number and a seed make the same file again. What is done is written to `--state` after each range,
and a run with the same state goes on where the last one stopped, if it is of the same commit. Exit code 1 if a
statement does not hold for some file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent.parent.parent
PAGE = _ROOT / "docs" / "security" / "oracle.md"
_RANGE = {"pickles": 5000, "containers": 1000}  # files that are one unit of work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pickles", type=int, default=20_000)
    parser.add_argument("--containers", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="workers; each has a process of loaders, too"
    )
    parser.add_argument("--state", type=Path, default=_ROOT / ".oracle" / "state.jsonl", help="what is done")
    parser.add_argument(
        "--findings", type=Path, default=_ROOT / ".oracle" / "findings", help="a folder for what is found"
    )
    parser.add_argument("--again", action="store_true", help="forget what is done")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/security/oracle.md")
    options = parser.parse_args()
    options.state.parent.mkdir(parents=True, exist_ok=True)
    options.findings.mkdir(parents=True, exist_ok=True)
    if options.again:
        options.state.unlink(missing_ok=True)
    done = [json.loads(line) for line in options.state.read_text().splitlines()] if options.state.exists() else []
    commit = _commit()
    done = [entry for entry in done if (entry["seed"], entry["commit"]) == (options.seed, commit)]
    known = {(entry["what"], entry["first"], entry["count"]) for entry in done}
    todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for what in ("pickles", "containers"):
        count = -(-getattr(options, what) // 50) * 50
        for first in range(0, count, _RANGE[what]):
            size = min(_RANGE[what], count - first)
            if (what, first, size) not in known:
                todo.put(
                    {
                        "what": what,
                        "seed": options.seed,
                        "first": first,
                        "count": size,
                        "commit": commit,
                        "folder": str(options.findings),
                    }
                )
    lock = threading.Lock()

    def work() -> None:
        command = [sys.executable, "-m", "tests.peers.oracle.worker"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if not process.stdout.readline():  # it ended, and said why itself
                return
            while not todo.empty():
                process.stdin.write(json.dumps(todo.get()) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    return
                entry = json.loads(line)
                with lock:
                    done.append(entry)
                    with open(options.state, "a", encoding="utf-8") as file:
                        file.write(line)
                    rate = entry["figures"]["files"] / entry["seconds"]
                    print(
                        f"{entry['what']} from {entry['first']:,}: {rate:,.0f} a second, {entry['kinds'] or 'none found'}",
                        file=sys.stderr,
                        flush=True,
                    )
            process.stdin.close()

    threads = [threading.Thread(target=work) for _ in range(min(options.jobs, max(1, todo.qsize())))]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = table(done, options.seed)
    print(figures)
    print(f"{time.monotonic() - start:,.0f} s")
    counts = Counter({what: sum(entry["count"] for entry in done if entry["what"] == what) for what in _RANGE})
    if any(counts[what] < getattr(options, what) for what in _RANGE):
        sys.exit("a worker ended before it was done: give the same command again to go on")
    if options.write:
        command = f"make oracle PICKLES={options.pickles} CONTAINERS={options.containers} SEED={options.seed}"
        write(f"`{command}`, {commit}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}:\n\n{figures}")
    sys.exit(1 if any(entry["kinds"] for entry in done) else 0)


def _commit() -> str:
    """The commit that is checked out, with a mark if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(text: str) -> None:
    """Put the figures between the page's markers."""
    start, end = "<!-- figures: start -->\n", "<!-- figures: end -->"
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(start)
    PAGE.write_text(f"{before}{start}{text}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


def table(done: list[dict[str, Any]], seed: int) -> str:
    """The figures of all ranges, as a table in Markdown."""
    rows = [f"| seed {seed} | pickles | containers |", "|---|---:|---:|"]
    figures: dict[str, Counter[str]] = {"pickles": Counter(), "containers": Counter()}
    kinds: dict[str, Counter[str]] = {"pickles": Counter(), "containers": Counter()}
    slowest: dict[str, float] = dict.fromkeys(figures, 0.0)
    for entry in done:
        figures[entry["what"]].update(entry["figures"])
        kinds[entry["what"]].update(entry["kinds"])
        slowest[entry["what"]] = max(slowest[entry["what"]], entry["slowest"][0])
    names = ["files", "asked outside", *sorted({name for counts in figures.values() for name in counts if name.startswith("verdict")}),
             "torch gave weights", "both gave weights", "loaders ended by a file"]  # fmt: skip
    whats = ("pickles", "containers")
    cells: list[tuple[str, list[str]]] = [
        (TITLES.get(name, name), [f"{figures[what][name]:,}" for what in whats]) for name in names
    ]
    cells.append(("slowest file of ours, s", [f"{slowest[what]:.2f}" for what in whats]))
    cells.append(("**a sentence does not hold**", [f"{kinds[what].total():,}" for what in whats]))
    cells += [
        (name, [f"{kinds[what][name]:,}" for what in whats])
        for name in sorted({*kinds["pickles"], *kinds["containers"]})
    ]
    return "\n".join([*rows, *(f"| {title} | {' | '.join(values)} |" for title, values in cells)])


TITLES = {
    "asked outside": "a loader asked for a global outside the table",
    "torch gave weights": "torch.load(weights_only=True) gave tensors",
    "both gave weights": "… and so did we: compared",
    "loaders ended by a file": "loaders that a file ended (memory, time, a crash)",
}

if __name__ == "__main__":
    main()
