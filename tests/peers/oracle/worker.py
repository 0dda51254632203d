"""One worker of the oracle: it makes ranges of files, asks the loaders and us, and returns the figures. Runs in a process of its own.

A line of JSON on stdin is a range: what, seed, first, count, and the folder for findings. The answer is a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.peers.oracle.child import CONTAINER, PICKLE
from tests.peers.oracle.containers import container
from tests.peers.oracle.judge import Finding, judge, ours
from tests.peers.oracle.pool import Child
from tests.peers.oracle.programs import joined, pickle_pieces
from tests.peers.oracle.smaller import opcodes, smaller, stopped
from tests.peers.oracle.zips import Seeds, seeds

BATCH = 50  # files that are made from one seed, and sent together
_EXAMPLES = 3  # findings of one kind in a range that are made smaller and kept
WHAT = {"pickles": PICKLE, "containers": CONTAINER}


def made(what: int, seed: int, batch: int, honest: Seeds) -> list[tuple[str, str, bytes]]:
    """The files of one batch: kind, name, bytes. The same numbers give the same files."""
    rng = random.Random(f"{what}/{seed}/{batch}")
    if what == CONTAINER:
        return [container(rng, honest) for _ in range(BATCH)]
    names = ("a.pkl", "a.pickle", "a.bin", "a.pt", "a")
    return [("pickle", rng.choice(names), joined(pickle_pieces(rng, honest.pickles))) for _ in range(BATCH)]


def run(
    what: int, seed: int, first: int, count: int, honest: Seeds, child: Child, folder: Path | None
) -> dict[str, Any]:
    """Judge the files `first` to `first + count`, both multiples of BATCH; return figures and findings."""
    figures: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    findings: list[Finding] = []
    slowest = (0.0, "")
    start = time.monotonic()
    deaths = child.deaths
    for batch in range(first // BATCH, (first + count) // BATCH):
        files = made(what, seed, batch, honest)
        child.ask([(what, data) for _, _, data in files])
        said = [ours(what, name, data) for _, name, data in files]
        for (kind, name, data), mine, answer in zip(files, said, child.answers(), strict=True):
            figures["files"] += 1
            figures["asked outside"] += bool(answer["asked"])
            figures[f"verdict {mine.verdict}"] += 1
            figures[f"kind {kind}"] += 1
            figures["torch gave weights"] += bool(answer["weights"])
            figures["both gave weights"] += bool(answer["weights"]) and mine.tensors is not None
            slowest = max(slowest, (mine.seconds, hashlib.sha1(data).hexdigest()[:12]))
            if (found := judge(what, name, data, mine, answer)) is not None:
                kinds[found.kind] += 1
                if kinds[found.kind] <= _EXAMPLES and folder is not None:
                    findings.append(found)
    figures["loaders ended by a file"] = child.deaths - deaths
    seconds = time.monotonic() - start
    for found in findings:
        write(smaller(found, child), found, folder)
    return {"figures": figures, "kinds": kinds, "seconds": seconds, "slowest": slowest}


def write(small: Finding, found: Finding, folder: Path | None) -> None:
    """Keep a finding: the smallest file, and a text that says what is wrong with it."""
    if folder is None:
        return
    place = folder / (hashlib.sha1(small.data).hexdigest()[:10] + ("" if small.what == PICKLE else "-container"))
    place.with_suffix(".bin").write_bytes(small.data)
    lines = [
        small.kind,
        small.detail,
        f"name: {small.name}",
        f"{len(small.data)} bytes, of {len(found.data)}",
        f"hex: {small.data[:4000].hex()}",
    ]
    if small.what == PICKLE:
        lines += [f"opcodes: {opcodes(small.data)}", f"our machine: {stopped(small.data)}"]
    place.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def main() -> None:
    honest, child = seeds(), Child()
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"]) if asked["folder"] else None
        found = run(WHAT[asked["what"]], asked["seed"], asked["first"], asked["count"], honest, child, folder)
        print(json.dumps({**asked, **found}), flush=True)
    child.close()


if __name__ == "__main__":
    main()
