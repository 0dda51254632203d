"""Compares our scanner with picklescan, fickling, modelscan, modelaudit and aisbom on the same files: `scanners.py FOLDER`.

FOLDER has a MANIFEST.tsv (or `--manifest` names one) with the columns `file` and `expected outcome`. Every scanner runs in
a process of its own, in an empty folder and, where the kernel offers it, without a network; an audit hook stops whatever
would unpickle, start a program or open a connection. Prints a table in Markdown: one row for each class of files, or
with `--beside` one row for each class and one column for each scanner. The scanners are in the environments of `make test-peers` and `make bench`; `--python`
names another one's interpreter for all but ours.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType

CLASSES = {  # a title, and the labels it stands for, by their beginnings; the first match counts
    "malicious": ("malicious",),
    "malformed": ("malformed",),
    "sound files of other kinds": ("benign-t", "benign-f", "benign-s", "benign-z", "benign-legacy(refuse", "benign("),
    "sound checkpoints of torch": ("benign",),
}
ROOT = Path(__file__).parent.parent.parent
SECONDS = 20
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")


def ours(path: str) -> str:
    from converter.scanning.scan import scan

    verdict = scan([path], fickling=False).verdict
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


def modelaudit(path: str) -> str:
    from modelaudit.core import scan_model_directory_or_file
    from modelaudit.scanner_results import IssueSeverity

    found = scan_model_directory_or_file(path, cache_enabled=False)
    if any(issue.severity in (IssueSeverity.WARNING, IssueSeverity.CRITICAL) for issue in found.issues):
        return "flagged"
    return "refused" if found.has_errors or not found.success else "passed"


def aisbom(path: str) -> str:
    from aisbom.scanner import DeepScanner

    found = DeepScanner(path).scan()
    levels = " ".join(str(artifact.get("risk_level")) for artifact in found["artifacts"])
    if any(level in levels for level in ("CRITICAL", "HIGH", "MEDIUM")):
        return "flagged"
    return "refused" if found["errors"] or "UNKNOWN" in levels else "passed"


SCANNERS: dict[str, Callable[[str], str]] = {
    "cerebras-tool": ours, "picklescan": picklescan, "fickling": fickling, "modelscan": modelscan,
    "modelaudit": modelaudit, "aisbom": aisbom,
}  # fmt: skip


PACKAGES = {"aisbom": "aisbom-cli"}  # if a scanner's package has another name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--manifest", type=Path, help="instead of the folder's MANIFEST.tsv")
    parser.add_argument("--python", default=sys.executable, help="of the environment with the other scanners")
    parser.add_argument("--beside", action="store_true", help="a column for each scanner, and a row for each label")
    parser.add_argument("--names", action="store_true", help="say on stderr what each scanner answered of each file")
    parser.add_argument("--only", choices=SCANNERS, action="append", help="a scanner; more than one may be given")
    parser.add_argument("--worker", choices=SCANNERS)
    options = parser.parse_args()
    with open(options.manifest or options.folder / "MANIFEST.tsv", encoding="utf-8", newline="") as file:
        rows = [(row["file"], row["expected outcome"]) for row in csv.DictReader(file, delimiter="\t")]
    if options.worker:
        work(options.worker, [str(options.folder.absolute() / name) for name, _ in rows])
        return
    found = {scanner: _answers(scanner, options) for scanner in options.only or SCANNERS}
    if options.names:
        for number, (name, label) in enumerate(rows):
            print(name, label, *(found[scanner]["answers"][number] for scanner in found), sep="\t", file=sys.stderr)
    print("\n".join(beside(rows, found) if options.beside else by_class(rows, found)))


def _answers(scanner: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """What a scanner says about each file."""
    python = sys.executable if scanner == "cerebras-tool" else options.python
    command = [python, str(Path(__file__).absolute()), str(options.folder.absolute()), "--worker", scanner]
    if options.manifest:
        command += ["--manifest", str(options.manifest.absolute())]
    with tempfile.TemporaryDirectory() as folder:
        quiet = {
            "AISBOM_OFFLINE": "1",
            "AISBOM_NO_TELEMETRY": "1",
            "PROMPTFOO_DISABLE_TELEMETRY": "1",
            "NO_ANALYTICS": "1",
        }
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(ROOT), **quiet}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=folder, env=environment)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def by_class(rows: list[tuple[str, str]], found: dict[str, dict[str, list[str]]]) -> list[str]:
    """A table with each scanner's rows in turn."""
    lines = ["| | files | flagged | refused | passed | crashed or hung |", "|---|---:|---:|---:|---:|---:|"]
    for scanner, answers in found.items():
        lines.append(
            f"| **{scanner} {answers['version']}**, longest {max(map(float, answers['seconds'])):.1f} s | | | | | |"
        )
        for title in CLASSES:
            counts = Counter(
                answer for (_, label), answer in zip(rows, answers["answers"], strict=True) if kind(label) == title
            )
            figures = [counts["flagged"], counts["refused"], counts["passed"], counts["crashed"]]
            lines.append(f"| {title} | {sum(figures)} | {' | '.join(map(str, figures))} |")
    return lines


def beside(rows: list[tuple[str, str]], found: dict[str, dict[str, list[str]]]) -> list[str]:
    """A table of how many files of each label were not passed: flagged or refused."""
    lines = ["| | files | " + " | ".join(f"{name} {answers['version']}" for name, answers in found.items()) + " |"]
    lines.append("|---|---:|" + "---:|" * len(found))
    for label in dict.fromkeys(label for _, label in rows):
        places = [number for number, row in enumerate(rows) if row[1] == label]
        caught = [sum(answers["answers"][at] in ("flagged", "refused") for at in places) for answers in found.values()]
        lines.append(f"| {label} | {len(places)} | {' | '.join(map(str, caught))} |")
    return lines


def kind(label: str) -> str:
    """The class of a label."""
    return next(title for title, starts in CLASSES.items() if label.startswith(starts))


def work(name: str, paths: list[str]) -> None:
    """Scan every file; the last line on stdout is the answers."""
    scanner = SCANNERS[name]
    # An empty network namespace of its own.
    ctypes.CDLL(None).unshare(0x40000000 if os.geteuid() == 0 else 0x50000000)
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
    print(json.dumps({"answers": answers, "seconds": seconds, "version": version(PACKAGES.get(name, name))}))


def _forbid(event: str, arguments: tuple[object, ...]) -> None:
    if event in FORBIDDEN:
        raise RuntimeError(f"{event} {arguments}")


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
