"""Prints the report of `batch`: the tasks that are not done, with their reasons, and the counts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from converter.cli.render import BAD, BOLD, GOOD, QUIET, WARN, Piece, Screen, columns
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from converter.reports.batch import BatchReport, TaskReport

_STYLES: Final = {"done": GOOD, "failed": BAD, "refused": WARN, "broken": BAD, "running": QUIET, "waiting": QUIET}
UNDONE: Final = ("failed", "refused", "broken")
_WIDE: Final = 1 << 30  # columns, if the output is not a terminal: each task has one line
_HANG: Final = 4


def show_batch(report: BatchReport, *, everything: bool = False) -> None:
    """Print the tasks that ended in any state but done, or `everything`, and a line with the counts."""
    out = Screen(width=columns(sys.stdout) or _WIDE)
    for task in report.tasks:
        if everything or task.state in UNDONE:
            out.line(*_task(task), hang=_HANG)
    counts = ", ".join(f"{count:,} {state}" for state, count in report.counts.items() if count)
    out.line((f"{plural(len(report.tasks), 'checkpoint')}: {counts}", BOLD), hang=_HANG)
    sizes = (
        f"{nbytes_text(report.nbytes)} read, {nbytes_text(report.written)} written"
        if report.seconds
        else (f"{nbytes_text(report.nbytes)} to read")
    )
    rest = f"; about {_time(report.estimate)} to go" if report.estimate is not None else ""
    out.line(f"{sizes}{rest}", hang=_HANG)


def _task(task: TaskReport) -> tuple[Piece, ...]:
    arrow = f" → {safe_text(task.output)}" if task.output and task.state in ("done", "waiting", "running") else ""
    tried = f" (attempt {task.attempts})" if task.attempts > 1 else ""
    step = f"{task.step}: " if task.step else ""
    left = f" · left behind: {safe_text(task.left, 200)}" if task.left and task.state == "done" else ""
    reason = f" · {step}{safe_text(task.reason, 500)}" if task.reason else ""
    return (f"{task.state:<8}", _STYLES[task.state]), f"  {safe_text(task.source)}{arrow}{tried}{reason}{left}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
