"""The page of `batch report`: how each checkpoint of a job ended, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter.pages import page
from converter.text import plural, safe_text

if TYPE_CHECKING:
    from converter.reports.batch import BatchReport

_VALUE: Final = 2000  # characters of a value that are shown


def batch(report: BatchReport) -> bytes:
    """The page, in UTF-8."""
    rows = [
        (
            task.source,
            safe_text(task.source, _VALUE),
            task.state,
            safe_text(task.output, _VALUE),
            ": ".join(filter(None, (task.step, safe_text(task.reason, _VALUE)))),
            safe_text(task.left, _VALUE),
            task.nbytes,
            task.written,
            task.attempts,
            task.seconds,
        )
        for task in report.tasks
    ]
    done = report.counts["done"]
    title = (
        f"All {plural(len(rows), 'checkpoint')} done"
        if done == len(rows)
        else f"{done:,} of {plural(len(rows), 'checkpoint')} done"
    )
    return page(
        "batch",
        {"kind": "batch", "tasks": rows},
        kind="batch",
        title=title,
        job=safe_text(report.job, _VALUE),
        cards=[(state, count) for state, count in report.counts.items() if count],
        nbytes=report.nbytes,
        written=report.written,
        seconds=report.seconds,
    )
