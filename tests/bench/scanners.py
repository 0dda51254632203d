"""Ours beside picklescan, fickling and modelscan on the same files: `scanners.py FOLDER`, in the environment of `make test-peers`.

FOLDER has a MANIFEST.tsv with the columns `file` and `expected outcome`. Every scanner runs in a process of its own, in
which an audit hook stops whatever would unpickle, start a program or open a connection. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType

CLASSES = {  # a title, and what it stands for: labels that start so, the first that fits
    "malicious": ("malicious",),
    "malformed": ("malformed",),
    "sound files of other kinds": ("benign-t", "benign-f", "benign-s", "benign-z", "benign-legacy(refuse", "benign("),
    "sound checkpoints of torch": ("benign",),
}
SECONDS = 20
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def ours(path: str) -> str:
    from converter.io.local import LocalFile
    from converter.scanning.scan import scan_file

    verdict = scan_file(LocalFile(path), fickling=False).verdict
    return {"plain": "passed", "malformed": "refused"}.get(verdict, "flagged")


def picklescan(path: str) -> str:
    from picklescan.scanner import scan_file_path

    result = scan_file_path(path)
    return "flagged" if result.issues_count else "refused" if result.scan_err else "passed"


def fickling(path: str) -> str:
    from fickling.loader import scan_file, scan_zip_archive

    if Path(path).read_bytes()[:2] == b"PK":
        results = list(scan_zip_archive(path, graceful=True).values())
    else:
        results = [scan_file(path, graceful=True)]
    if any(result.errors for result in results):
        return "refused"
    return "passed" if all(result.is_safe for result in results) else "flagged"


def modelscan(path: str) -> str:
    from modelscan.modelscan import ModelScan

    found = ModelScan().scan(path)
    return "flagged" if found["summary"]["total_issues"] else "refused" if found["errors"] else "passed"


SCANNERS: dict[str, Callable[[str], str]] = {
    "cerebras-tool": ours, "picklescan": picklescan, "fickling": fickling, "modelscan": modelscan,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--worker", choices=SCANNERS)
    options = parser.parse_args()
    with open(options.folder / "MANIFEST.tsv", encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["expected outcome"]) for row in csv.DictReader(file, delimiter="\t")]
    if options.worker:
        work(SCANNERS[options.worker], [str(options.folder / name) for name, _ in rows])
        return
    print("| | files | flagged | refused | passed | crashed or hung |")
    print("|---|---:|---:|---:|---:|---:|")
    for scanner in SCANNERS:
        command = [sys.executable, __file__, str(options.folder), "--worker", scanner]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
        answers = json.loads(done.stdout.splitlines()[-1])
        print(f"| **{scanner} {version(scanner)}**, longest {max(answers['seconds']):.1f} s | | | | | |")
        for title in CLASSES:
            counts = Counter(
                answer for (_, label), answer in zip(rows, answers["answers"], strict=True) if kind(label) == title
            )
            figures = [counts["flagged"], counts["refused"], counts["passed"], counts["crashed"]]
            print(f"| {title} | {sum(figures)} | {' | '.join(map(str, figures))} |", flush=True)


def kind(label: str) -> str:
    """The class of a label."""
    return next(title for title, starts in CLASSES.items() if label.startswith(starts))


def work(scanner: Callable[[str], str], paths: list[str]) -> None:
    """Scan every file; the last line on stdout is the answers."""
    # Whatever a scanner imports, it may import before it sees the first file.
    scanner(__file__)
    sys.addaudithook(_forbid)
    signal.signal(signal.SIGALRM, _too_long)
    answers, seconds = [], []
    for path in paths:
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            answers.append(scanner(path))
        except BaseException as error:
            answers.append("crashed")
            print(f"{path}: {type(error).__name__}: {error}"[:200], file=sys.stderr)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds.append(time.perf_counter() - start)
    print()
    print(json.dumps({"answers": answers, "seconds": seconds}))


def _forbid(event: str, arguments: tuple[object, ...]) -> None:
    if event in FORBIDDEN:
        raise RuntimeError(f"{event} {arguments}")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
