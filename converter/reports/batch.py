"""What `batch` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A checkpoint of a job. `step` is where it ended, and `reason` says why; both are empty if it is done.

    `attempts` counts those that were begun, `nbytes` the bytes of its files, `written` those of its output, and `seconds` is
    the time that all attempts took. `left` names what the output lacks of the checkpoint, but not what follows from the rest.
    """

    source: str
    output: str
    state: str
    step: str
    reason: str
    attempts: int
    nbytes: int
    written: int
    seconds: float
    left: str = ""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A job and its tasks. `counts` says how many are in each state.

    `estimate` is how many seconds the tasks that wait will probably take; None if none waits. `steps` are the job's, in
    their order.
    """

    schema: ClassVar = "cerebras-tool/batch/v1"

    job: str
    counts: Mapping[str, int]
    nbytes: int
    written: int
    seconds: float
    estimate: float | None
    tasks: tuple[TaskReport, ...]
    steps: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items() if number)
        return f"<BatchReport {self.job!r}: {counts or 'no tasks'}>"
