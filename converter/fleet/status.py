"""What a journal says about a job: its report, how it would end, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from converter.fleet.journal import BROKEN, DONE, FAILED, REFUSED, RUNNING, STATES, WAITING, abandoned
from converter.io.writer import cores
from converter.reports.batch import BatchReport, TaskReport

if TYPE_CHECKING:
    from converter.fleet.job import Job
    from converter.fleet.journal import Journal
    from converter.fleet.plan import Task

# Measured on a machine of two cores: docs/fleet.md. Seconds that a step takes for a checkpoint, and bytes a second.
STEP_SECONDS: Final = {"scan": 0.01, "check": 0.01, "convert": 0.02, "verify": 0.02}
STEP_SPEEDS: Final = {"scan": 2e9, "check": 8e8, "convert": 4e8, "verify": 4e8}
_EXITS: Final = {DONE: 0, FAILED: 1, REFUSED: 2, BROKEN: 2, WAITING: 2, RUNNING: 2}
_WORST: Final = (2, 1, 0)


def expected(job: Job, sizes: Iterable[int]) -> float:
    """The seconds that checkpoints of these sizes will probably take, by the measured figures."""
    total = sum(STEP_SECONDS[step] + nbytes / STEP_SPEEDS[step] for nbytes in sizes for step in job.work.steps)
    return round(total / (job.processes or cores()), 1)


def planned(job: Job, tasks: Iterable[Task]) -> BatchReport:
    """The report of a job that was not begun."""
    rows = tuple(TaskReport(task.source, task.output, WAITING, "", "", 0, task.nbytes, 0, 0.0) for task in tasks)
    return _report(job, rows)


def report(job: Job, journal: Journal) -> BatchReport:
    """The report of a job as it stands."""
    rows = (
        TaskReport(
            *(row.source, row.output, WAITING if abandoned(row) else row.state, row.step, row.reason),
            *(row.begun, row.nbytes, row.written, round(row.seconds, 3), row.left),
        )
        for row in journal.rows()
    )
    return _report(job, tuple(rows))


def exit_code(report: BatchReport) -> int:
    """The worst of the tasks: 2 for one that could not be done, or is not done yet, 1 for one that failed, 0 if all are done."""
    codes = {_EXITS[state] for state, count in report.counts.items() if count}
    return next((code for code in _WORST if code in codes), 0)


def prometheus(report: BatchReport) -> str:
    """The report as Prometheus reads it."""
    lines = ["# TYPE cerebras_tool_batch_tasks gauge"]
    lines += [f'cerebras_tool_batch_tasks{{state="{state}"}} {count}' for state, count in report.counts.items()]
    for name, value in (("read_bytes", report.nbytes), ("written_bytes", report.written), ("seconds", report.seconds)):
        lines += [f"# TYPE cerebras_tool_batch_{name} gauge", f"cerebras_tool_batch_{name} {value}"]
    return "\n".join(lines) + "\n"


def _report(job: Job, rows: tuple[TaskReport, ...]) -> BatchReport:
    ended = [row for row in rows if row.state not in (WAITING, RUNNING)]
    left = [row.nbytes for row in rows if row.state in (WAITING, RUNNING)]
    return BatchReport(
        job=job.path.name,
        counts={state: sum(row.state == state for row in rows) for state in STATES},
        nbytes=sum(row.nbytes for row in (rows if len(ended) == 0 else ended)),
        written=sum(row.written for row in rows),
        seconds=round(sum(row.seconds for row in rows), 3),
        estimate=expected(job, left) if left else None,
        tasks=rows,
        steps=job.work.steps,
    )
