"""The journal of a job: the state of every task. It survives the driver, and several drivers can share it.

A driver takes a task with a lease, which it renews while it works. If it dies, the lease ends, and another driver takes
the task. Where the journal is kept is left to the classes below this one.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from converter.fleet.plan import Task

WAITING, RUNNING, DONE, FAILED, REFUSED, BROKEN = "waiting", "running", "done", "failed", "refused", "broken"
STATES: Final = (WAITING, RUNNING, DONE, FAILED, REFUSED, BROKEN)
ENDED: Final = (DONE, FAILED, REFUSED, BROKEN)
LEASE: Final = 60.0  # seconds
ANOTHER: Final = (
    "is the journal of this job with other sources, steps or outputs: remove it to start anew, or undo the change"
)
KEPT: Final = "what was done is kept, and the same command goes on"


@dataclass(frozen=True, slots=True)
class Row:
    """A task in the journal. `until` is when its lease ends, or before which it is not tried again.

    `attempts` are those that count, without those that ended because the driver did. `begun` counts all. `free` says that
    nothing was where the output goes when the first attempt was begun, so that what is there now is ours.
    """

    number: int
    source: str
    output: str
    nbytes: int
    state: str
    attempts: int
    begun: int
    free: int
    owner: str
    until: float
    step: str
    reason: str
    seconds: float
    written: int
    left: str


class Journal(ABC):
    """An open journal; used by one thread. `owner` tells this driver from others."""

    def __init__(self) -> None:
        self.owner = f"{here()}:{os.getpid()}:{time.time_ns()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Leave the journal."""

    @abstractmethod
    def has_begun(self) -> bool:
        """Whether the job was begun; then its tasks are known."""

    @abstractmethod
    def begin(self, digest: str, tasks: Iterable[Task]) -> None:
        """Add the tasks that are new. Raises JobError if the journal belongs to another job."""

    @abstractmethod
    def free(self) -> None:
        """Take back the leases of drivers on this machine that are no longer there."""

    @abstractmethod
    def take(self, most: int) -> list[Row]:
        """Take up to `most` tasks: those that wait, and those whose driver has let its lease end. Attempts count from here."""

    @abstractmethod
    def note_free(self, number: int) -> None:
        """Note that nothing is where the output of a task goes."""

    @abstractmethod
    def anew(self) -> None:
        """Let all tasks wait again that ended in any state but done."""

    @abstractmethod
    def renew(self) -> None:
        """Renew the leases of this driver's tasks."""

    @abstractmethod
    def end(
        self, number: int, state: str, *, step: str, reason: str, seconds: float, written: int, left: str = ""
    ) -> bool:
        """Note how a task ended. False if another driver has it by now: then nothing is noted."""

    @abstractmethod
    def again(self, number: int, wait: float, *, reason: str, seconds: float) -> None:
        """Put a task back, to be tried again after `wait` seconds."""

    @abstractmethod
    def counts(self) -> dict[str, tuple[int, int]]:
        """How many tasks are in each state, and their bytes."""

    @abstractmethod
    def wait(self) -> float | None:
        """Seconds until a task can be taken; None if no task waits or runs."""

    @abstractmethod
    def rows(self, *states: str) -> Iterator[Row]:
        """Yield the tasks in these states, in order; with no states given, all tasks."""


def abandoned(row: Row) -> bool:
    """Whether a task is noted as running by a driver of this machine that is no longer there."""
    return row.state == RUNNING and is_gone(row.owner)


def here() -> str:
    """What tells the processes of this machine from those of others. Machines may share a name, and containers a machine."""
    found = [socket.gethostname().replace(":", "-")]
    with suppress(OSError):
        found.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        found.append("".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid"))))  # noqa: PTH115 (it is no path)
    return " ".join(found)


def is_gone(owner: str) -> bool:
    """Whether a driver was a process of this machine that is no longer there."""
    there, number, _ = f"{owner}::".split(":", 2)
    return there == here() and number.isdigit() and not _lives(int(number))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
