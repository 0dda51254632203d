"""Runs whole processes, one after the other, and says how long each took and how much memory it held."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.02  # seconds between two looks at a process's memory: 50 microseconds each
# An installed program has its bytecode beside it; without it ours, installed in place, would be compiled at each start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_OWN_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


class FailedError(Exception):
    """A process ended with a code that was not expected."""


@dataclass(frozen=True)
class Measured:
    """`processor` is seconds of all threads, by the user and for them by the kernel, imports included.

    `resident` counts mapped pages, `anonymous` those of no file; None if /proc does not say, or was asked too late.
    """

    seconds: float
    processor: float
    resident: int | None
    anonymous: int | None

    def then(self, other: Measured) -> Measured:
        """The sum of both: a way of two steps."""
        both = (self, other)
        return Measured(
            self.seconds + other.seconds,
            self.processor + other.processor,
            most(m.resident for m in both),
            most(m.anonymous for m in both),
        )


def most(known: Iterable[int | None]) -> int | None:
    """The largest of those that are known."""
    return max((value for value in known if value is not None), default=None)


def measure(command: Sequence[str], cwd: Path, codes: Sequence[int] = (0,), *, clock: bool = False) -> Measured:
    """Run a command to its end. `clock`: the seconds that count are the last ones that it prints."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        start = time.perf_counter()
        stdout = said if clock else subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=complained
        )
        watch = _Watch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            complained.seek(0)
            last = complained.read().decode(errors="replace").strip().rpartition("\n")[2][-300:]
            raise FailedError(f"ended with {process.returncode}: {last}")
        if clock:
            said.seek(0)
            seconds = float(said.read().split()[-1])
    # A process starts with the peak of the one that it was forked from.
    resident = usage.ru_maxrss * _OWN_UNIT
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _OWN_UNIT
    processor = usage.ru_utime + usage.ru_stime
    return Measured(seconds, processor, resident if resident > own else watch.resident, watch.anonymous)


class _Watch(threading.Thread):
    """Looks at /proc/PID/status again and again, and keeps the highest."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._path = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self.resident: int | None = None
        self.anonymous: int | None = None

    def run(self) -> None:
        if not self._path.exists():
            return
        while not self._ended.wait(_INTERVAL):
            try:
                with self._path.open("rb") as file:
                    fields = dict(line.split(b":", 1) for line in file)
                self.resident = int(fields[b"VmHWM"].split()[0]) * 1024
                self.anonymous = max(self.anonymous or 0, int(fields[b"RssAnon"].split()[0]) * 1024)
            except (OSError, KeyError):  # it has just ended
                return

    def stop(self) -> None:
        self._ended.set()
        self.join()
