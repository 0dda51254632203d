"""Measures small files that ask for much: `python -m tests.bench.bombs [--bytes N] [NAME …]` prints a table in Markdown.

Each is inspected and scanned in a process of its own, at half the size and in full. The figures are processor time, and
the peak of resident memory beyond what was there before, per byte of the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from converter.errors import ConverterError
from tests.build.bombs import BOMBS, write

MEBIBYTE = 1 << 20


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(sys.argv[2], Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(BOMBS))
    parser.add_argument("--bytes", type=int, default=2 * MEBIBYTE)
    options = parser.parse_args()
    print("| bomb | inspect, µs a byte | by doubling | MiB | scan, µs a byte | by doubling | MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.names:
        figures = []
        for command in ("inspect", "scan"):
            half, full = (measure(command, name, size) for size in (options.bytes // 2, options.bytes))
            grown = full["seconds"] / half["seconds"] if half["seconds"] > 0.1 else 0
            figures += [
                f"{full['seconds'] / options.bytes * 1e6:.2f}", f"×{grown:.1f}" if grown else "",
                f"{full['peak'] / MEBIBYTE:.0f}",
            ]  # fmt: skip
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


def measure(command: str, name: str, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(name, size, Path(folder) / "bomb")
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.bombs", "--worker", command, str(path)],
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    if done.returncode:
        return {"seconds": 999, "peak": 0, "said": f"CRASHED {done.returncode} {done.stderr[-300:]}"}
    return json.loads(done.stdout)


def work(command: str, path: Path) -> dict[str, object]:
    """Do it, after something harmless of the same kind, so that Python's one-time work is not counted."""
    from converter.inspection.report import inspect
    from converter.opening import open_checkpoint
    from converter.scanning.scan import scan

    def inspected(path: Path) -> str:
        try:
            inspect(open_checkpoint(path))
        except ConverterError as error:
            return type(error).__name__
        return "read"

    def scanned(path: Path) -> str:
        try:
            return scan([path], fickling=False).verdict
        except ConverterError as error:
            return type(error).__name__

    run = {"inspect": inspected, "scan": scanned}[command]
    with tempfile.TemporaryDirectory() as folder:
        run(write("tensors", 1000, Path(folder)))
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.process_time()
    said = run(path)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    return {"seconds": seconds, "peak": peak * 1024, "said": said}


if __name__ == "__main__":
    main()
