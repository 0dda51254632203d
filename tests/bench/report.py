"""Turns results into the tables of docs/performance.md, which are between markers; the rest of the page stays.

Each table is between `<!-- bench: SIZE TASK -->` and `<!-- /bench -->`. In place of TASK, `goals` is what must hold, and
`all` our rows of all tasks of that size. `all overview` is the one picture, and `all plots` the others.
"""

from __future__ import annotations

import re
import statistics

from tests.bench import results
from tests.bench.results import UNSIZED, Result, Results
from tests.bench.tasks import GOALS, MEMORY, OURS, TASKS, Goal

_MARKED = re.compile(r"<!-- bench: (\S+) (\S+) -->\n.*?<!-- /bench -->", re.DOTALL)
_MEASURED_MEMORY = ("inspect", "extract", "safetensors", "gguf")


def table(result: Result, command: str = "") -> str:
    """A task's table, and below it the command, if given, and the conditions."""
    base, peer = results.base(result), results.best_peer(result)
    base_name = f"× {base['name']}" if base else "–"
    lines = [
        f"| | seconds | {base_name} | × best peer | CPU seconds | resident MB | of it anonymous |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [f"| {way['name']} | {' | '.join(_figures(way, base, peer))} |" for way in result["ways"]]
    versions = " · ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    skipped = [f"not measured: {name}, {why}" for name, why in result["skipped"].items()]
    return "\n".join([*lines, "", command + "; ".join([_conditions(result), versions, *skipped]) + "."])


def summary(of_size: dict[str, Result], command: str = "") -> str:
    """Our rows of all tasks of a size in one table, and below it the command, if given, and the conditions."""
    lines = [
        "| | | seconds | × cp | × best peer | | CPU seconds | resident MB | of it anonymous |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for task, result in of_size.items():
        base, peer = results.base(result), results.best_peer(result)
        for way in result["ways"]:
            if way["side"] == OURS:
                cells = [TASKS[task].title, way["name"], *_figures(way, base, peer)]
                cells.insert(5, peer["name"] if peer else "")
                lines.append(f"| {' | '.join(cells)} |")
    said = dict.fromkeys(f"{command}{_conditions(result)}{_ours(result)}.\n" for result in of_size.values())
    return "\n".join([*lines, "", *said]).rstrip()


def goals(found: Results, size: str) -> str:
    """What must hold, with what was measured: of the size's results, and of those without a size."""
    known = found.get(UNSIZED, {}) | found.get(size, {})
    lines = ["| | to | at most | measured | |", "|---|---|---:|---:|---|"]
    lines += [_goal(goal, known[goal.task]) for goal in GOALS if goal.task in known]
    for task, result in known.items():
        for way in result["ways"] if task.startswith(_MEASURED_MEMORY) else ():
            if way["side"] == OURS and way["resident"] is not None:
                cells = [
                    f"{task}: {way['name']}, resident",
                    "",
                    f"{MEMORY / 1e6:.0f} MB",
                    _megabytes(way["resident"]) + " MB",
                ]
                lines.append(f"| {' | '.join(cells)} | {_holds(way['resident'] <= MEMORY)} |")
    return "\n".join(lines)


def plots(found: Results) -> str:
    """Show the plots that plots.py draws."""
    names = results.plotted(found)
    return "\n\n".join(f"![{TASKS[name].title}](performance/{name}.svg)" for name in names) or "Not measured yet."


def render(page: str, found: Results) -> str:
    """Put results between the page's markers. Results without a marker are added at the end, one table for each size."""
    marked = {(match[1], match[2]) for match in _MARKED.finditer(page)}
    for size, task in ((size, task) for size, tasks in found.items() for task in tasks):
        place = (size, task if size == UNSIZED else "all")
        if not {(size, task), place} & marked:
            marked.add(place)
            title = TASKS[task].title if size == UNSIZED else f"All of the {size}"
            page += f"\n## {title}\n\n<!-- bench: {' '.join(place)} -->\n<!-- /bench -->\n"

    def replaced(match: re.Match[str]) -> str:
        size, task = match[1], match[2]
        if task == "plots":
            text = plots(found)
        elif task == "overview":
            text = f"![All tasks, {results.broadest(found)}](performance/overview.svg)"
        elif task == "goals":
            text = goals(found, size)
        elif task == "all":
            text = summary(found.get(size, {}), f"`make bench MODEL={size}`: ")
        else:
            result = found.get(size, {}).get(task)
            text = table(result, _command(size, task, result)) if result else "Not measured yet."
        return f"<!-- bench: {size} {task} -->\n\n{text}\n\n<!-- /bench -->"

    return _MARKED.sub(replaced, page)


def _figures(way: Result, base: Result | None, peer: Result | None) -> list[str]:
    return [
        _seconds(results.median(way)),
        f"{results.ratio(way, base):.2f}" if base else "–",
        f"{results.ratio(way, peer):.2f}" if peer else "–",
        _seconds(statistics.median(way["processor"])),
        _megabytes(way["resident"]),
        _megabytes(way["anonymous"]),
    ]


def _conditions(result: Result) -> str:
    rounds = f"{result['rounds']} round{'s' * (result['rounds'] > 1)}"
    said = f"{result['date']}, {rounds}, {result['where']}, page cache warm; {result['machine']}"
    return f"{result['nbytes'] / 1e9:.2f} GB; {said}" if result["nbytes"] else said


def _ours(result: Result) -> str:
    """Which version of ours was measured."""
    version = result["versions"].get("cerebras-tool")
    return f"; cerebras-tool {version}" if version else ""


def _command(size: str, task: str, result: Result) -> str:
    model = "" if size == UNSIZED else f"MODEL={size} "
    return f"`make bench {model}ROUNDS={result['rounds'] // TASKS[task].often} ONLY={task}`: "


def _goal(goal: Goal, result: Result) -> str:
    ways = results.ways(result)
    to = results.best_peer(result) if goal.to is None else ways.get(goal.to)
    name = f"{goal.task}: {goal.way}" + (f", less {goal.slack} s" if goal.slack else "")
    limit = f"{goal.limit:.2f}".rstrip("0").rstrip(".")
    if to is None or goal.way not in ways:
        return f"| {name} | {goal.to or 'the best peer'} | {limit} | – | not measured |"
    ratio = results.ratio(ways[goal.way], to, goal.slack)
    return f"| {name} | {to['name']} | {limit} | {ratio:.2f} | {_holds(ratio <= goal.limit)} |"


def _holds(yes: bool) -> str:
    return "holds" if yes else "**misses**"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"


def _megabytes(nbytes: int | None) -> str:
    return "–" if nbytes is None else f"{nbytes / 1e6:.0f}"
