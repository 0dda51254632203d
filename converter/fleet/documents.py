"""How the tasks of a job ended, as SARIF, as JUnit, and as a summary in Markdown."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from converter.fleet.job import STEPS
from converter.fleet.journal import BROKEN, DONE, FAILED, REFUSED, RUNNING, STATES, WAITING
from converter.fleet.status import exit_code
from converter.reports import markdown, sarif
from converter.reports.junit import Case, Suite
from converter.text import as_code, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converter.reports.batch import BatchReport, TaskReport

_PAGE: Final = "batch.md#how-a-task-ends"
_NOT_ENDED: Final = "not-ended"
_ALONE: Final = "Run the step's own command on this checkpoint, which says all that is wrong with it."
_AGAIN: Final = "Fix what the message names, then let the job work on it again."
_GO_ON: Final = "Run the same command again: it goes on where it was stopped."
_DANGER: Final = {"scan": 9.8}  # how bad a failed step is for security, if it matters there
SARIF_RULES: Final = (
    *(
        sarif.Rule(f"{step}-failed", "error", f"A checkpoint does not pass {step}", _ALONE, _PAGE, _DANGER.get(step))
        for step in STEPS
    ),
    sarif.Rule(REFUSED, "error", "A checkpoint could not be worked on", _AGAIN, _PAGE),
    sarif.Rule(BROKEN, "error", "A checkpoint was set aside", _AGAIN, _PAGE),
    sarif.Rule(_NOT_ENDED, "error", "A checkpoint was not finished", _GO_ON, _PAGE),
)
_DONE_AT_ALL: Final = "it could be done"  # the name of the case that is not about a step
_TITLES: Final = MappingProxyType({0: "done", 1: "failed", 2: "not done"})  # the titles by exit code


def to_sarif(report: BatchReport, base: Path) -> dict[str, Any]:
    """The report as a SARIF log with one run: a result for each task that is not done. Paths start from the folder `base`."""
    files = [(one.source if "://" in one.source else str(base / one.source), one.nbytes) for one in report.tasks]
    results = [
        sarif.Result(_rule(one), "error", _said(one), index)
        for index, one in enumerate(report.tasks)
        if one.state != DONE
    ]
    return sarif.log(SARIF_RULES, files, results)


def suites(report: BatchReport) -> list[Suite]:
    """A suite for each task, with a case for each step of the job, and one for whether the steps could be done."""
    return [Suite(one.source, [*_cases(one, report.steps)], one.seconds, _properties(one)) for one in report.tasks]


def to_markdown(report: BatchReport) -> str:
    """The summary: how many tasks are in each state, then those that are not done."""
    return markdown.summary(
        f"cerebras-tool batch: {_TITLES[exit_code(report)]}",
        [f"{plural(len(report.tasks), 'checkpoint')} of {as_code(report.job)}"],
        ("state", "checkpoints"),
        [[state, f"{report.counts[state]:,}"] for state in STATES if report.counts[state]],
        [("not done", [f"{as_code(one.source)}: {as_code(_said(one), 500)}" for one in report.tasks if one.state != DONE])],
    )  # fmt: skip


def _rule(task: TaskReport) -> str:
    if task.state in (WAITING, RUNNING):
        return _NOT_ENDED
    return f"{task.step}-failed" if task.state == FAILED else task.state


def _said(task: TaskReport) -> str:
    where = f"{task.state} at {task.step}" if task.step else task.state
    return f"{where}: {task.reason}" if task.reason else where


def _cases(task: TaskReport, steps: tuple[str, ...]) -> Iterator[Case]:
    place, ended = task.source, steps.index(task.step) if task.step in steps else -1
    for number, step in enumerate(steps):
        if number == ended:
            yield Case(place, step, task.reason, task.state, task.reason, error=task.state != FAILED)
        elif task.state == DONE or number < ended:
            yield Case(place, step)
        else:
            yield Case(place, step, skipped="not reached" if ended >= 0 else "not known")
    if task.state == DONE or ended >= 0:
        yield Case(place, _DONE_AT_ALL)
    else:
        yield Case(place, _DONE_AT_ALL, task.reason or task.state, task.state, task.reason, error=True)


def _properties(task: TaskReport) -> dict[str, str]:
    facts = {"state": task.state, "output": task.output, "attempts": str(task.attempts), "left behind": task.left}
    return {name: value for name, value in facts.items() if value}
