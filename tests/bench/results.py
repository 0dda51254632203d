"""Results as JSON: a file for each size of model, and one for tasks without a size; a key for each task."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tests.bench.tasks import BASE, OURS, PEER, TASKS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "performance"
UNSIZED = "any"

Result = dict[str, Any]
Results = dict[str, dict[str, Result]]  # by size and task


def load(folder: Path = FOLDER) -> Results:
    """Read every file: tasks without a size first, then the sizes in the order of their bytes."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(read.items(), key=lambda item: max((r["nbytes"] for r in item[1].values()), default=0)))


def save(size: str, task: str, result: Result, folder: Path = FOLDER) -> None:
    """Put a result in the place of an older one."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{size}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | {task: result}, indent=1) + "\n")


def plotted(found: Results) -> list[str]:
    """The tasks that were measured at more than one size."""
    sized = [task for size, tasks in found.items() if size != UNSIZED for task in tasks]
    return [task for task in TASKS if sized.count(task) > 1]


def broadest(found: Results) -> str:
    """The size at which most tasks were measured; if there are several, the largest."""
    return max(found, key=lambda size: (size != UNSIZED, len(found[size]), list(found).index(size)))


def compared(of_size: dict[str, Result]) -> dict[str, tuple[Result, Result, Result]]:
    """By task: `cp`, our first way, and the best peer. Tasks that lack one of them are left out."""
    rows = {}
    for task, result in of_size.items():
        ours = next((way for way in result["ways"] if way["side"] == OURS), None)
        cp, peer = base(result), best_peer(result)
        if ours and cp and peer:
            rows[task] = (cp, ours, peer)
    return rows


def median(way: Result) -> float:
    return statistics.median(way["seconds"])


def ratio(way: Result, to: Result, slack: float = 0.0) -> float:
    """The median of the ratios round by round."""
    pairs = zip(way["seconds"], to["seconds"], strict=True)
    return statistics.median((mine - slack) / other for mine, other in pairs)


def ways(result: Result) -> dict[str, Result]:
    return {way["name"]: way for way in result["ways"]}


def base(result: Result) -> Result | None:
    return next((way for way in result["ways"] if way["side"] == BASE), None)


def best_peer(result: Result) -> Result | None:
    return min((way for way in result["ways"] if way["side"] == PEER), key=median, default=None)
