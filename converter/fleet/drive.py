"""The driver: takes tasks from the journal, gives them to an engine, and notes how they end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from converter.errors import OutputError, SourceError
from converter.fleet.engine import Engine
from converter.fleet.job import Job
from converter.fleet.journal import BROKEN, LEASE, REFUSED, Journal, Row
from converter.fleet.work import AGAIN, Order, Result
from converter.hub.outputs import is_taken, target_of
from converter.text import plural

_LOOK: Final = 1.0  # seconds between two looks at time limits and leases
_BACKOFF: Final = 2.0  # seconds before a second attempt; they double before each later one

Told = Callable[[Row, Result], None]


@dataclass(frozen=True, slots=True)
class _Running:
    row: Row
    started: float


def drive(job: Job, journal: Journal, engine: Engine, told: Told, *, backoff: float = _BACKOFF) -> None:
    """Run tasks until none waits and none runs, here or with another driver. `told` hears of each that ended."""
    running: dict[int, _Running] = {}
    base = job.base.absolute()
    renewed = time.monotonic()
    journal.free()
    while True:
        for row in journal.take(engine.slots - len(running)):
            if row.attempts > job.attempts:
                said = f"; the last one: {row.reason}" if row.reason else ""
                _end(journal, row, Result(BROKEN, row.step, f"{plural(job.attempts, 'attempt')} failed{said}"), told)
                continue
            running[row.number] = _Running(row, time.monotonic())
            try:
                force = job.force or _is_ours(journal, row, _place(base, row.output))
            except OutputError as error:
                del running[row.number]
                _end(journal, row, Result(REFUSED, "", str(error)), told)
                continue
            except SourceError as error:  # the store can't be asked
                del running[row.number]
                _again(job, journal, row, Result(AGAIN, "", str(error)), told, backoff)
                continue
            engine.start(Order(row.number, _place(base, row.source), _place(base, row.output), job.work, force))
        if not running:
            wait = journal.wait()
            if wait is None:
                return
            time.sleep(min(wait, _LOOK))
            journal.free()
            continue
        for number, result in engine.wait(_LOOK):
            row = running.pop(number).row
            if result.state == AGAIN:
                _again(job, journal, row, result, told, backoff)
            else:
                _end(journal, row, result, told)
        now = time.monotonic()
        for number, one in [(number, one) for number, one in running.items() if now - one.started > job.seconds]:
            engine.give_up(number)
            del running[number]
            said = f"it took longer than {plural(job.seconds, 'second')}, which `seconds` allows"
            _end(journal, one.row, Result(BROKEN, "", said, now - one.started), told)
        if now - renewed > LEASE / 3:
            journal.renew()
            renewed = now


def _is_ours(journal: Journal, row: Row, output: str) -> bool:
    """Whether an earlier attempt wrote what lies where the output goes. At the first attempt, nothing may be there.

    Raises OutputError if something was there before the job.
    """
    if row.free or not output:
        return bool(row.free)
    if is_taken(target_of(Path(output))):
        raise OutputError(f"`{row.output}` was there before the job: set `force = true` in [convert] to replace it")
    journal.note_free(row.number)
    return False


def _again(job: Job, journal: Journal, row: Row, result: Result, told: Told, backoff: float) -> None:
    if row.attempts >= job.attempts:
        said = f"{plural(row.attempts, 'attempt')} failed; the last one: {result.reason}"
        _end(journal, row, replace(result, state=BROKEN, reason=said), told)
    else:
        wait = backoff * 2 ** (row.attempts - 1)
        journal.again(row.number, wait, reason=result.reason, seconds=result.seconds)


def _end(journal: Journal, row: Row, result: Result, told: Told) -> None:
    noted = journal.end(
        row.number,
        result.state,
        step=result.step,
        reason=result.reason,
        seconds=result.seconds,
        written=result.written,
        left=result.left,
    )
    if noted:  # if not, another driver has it by now, and reports it
        told(row, result)


def _place(base: Path, name: str) -> str:
    return name if "://" in name or not name else str(base / name)
