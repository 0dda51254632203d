"""A journal in a store, for drivers on several machines: an object for each task, written only if nobody else has changed it.

`job.json` lists the tasks, and is only added to. `tasks/NUMBER.json` is the state of a task; there is none until it is
begun. `summary.json` repeats the states of tasks that have ended, with the versions of their objects, so that these need not
be read: a state counts only if the object still has that version. `drivers/NAME.json` is rewritten by its driver as long as
that lives. No clock is compared with that of another machine: a lease has ended when a driver's object was seen unchanged for
the length of the lease.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from hashlib import sha256
from operator import attrgetter
from typing import Any, Final, TypeVar

from converter.errors import JobError, SourceError
from converter.fleet.journal import (
    ANOTHER,
    BROKEN,
    ENDED,
    FAILED,
    KEPT,
    LEASE,
    REFUSED,
    RUNNING,
    STATES,
    WAITING,
    Journal,
    Row,
    is_gone,
)
from converter.fleet.plan import Task
from converter.hub.conditional import Objects
from converter.io.pool import Pool
from converter.text import safe_text

_A = TypeVar("_A")
_B = TypeVar("_B")
_VERSION: Final = "1"
_JOB: Final = "job.json"
_TASKS: Final = "tasks"
_DRIVERS: Final = "drivers"
_SUMMARY: Final = "summary.json"
_TOLD: Final = ("state", "attempts", "begun", "free", "step", "reason", "seconds", "written", "left")  # in the summary
_TELL: Final = attrgetter(*_TOLD)
_FEW: Final = 100  # tasks whose objects are read one by one; for more, there should be a summary
_PAGE: Final = 1000  # objects that S3 lists by one request; names of so many tasks start with the same digits
_FRESH: Final = 5.0  # seconds for which a listing is fresh enough to choose tasks from
_CONNECTIONS: Final = 16  # objects that are read at a time
_TYPES: Final = {"str": str, "int": int, "float": float}
_WANTED: Final = {field.name: _TYPES[str(field.type)] for field in fields(Row)}
_ALL: Final = attrgetter(*_WANTED)


@dataclass(slots=True)
class _Seen:
    """A task as it was last seen. Without a version there is no object."""

    row: Row
    version: str | None


@dataclass(slots=True)
class _Sign:
    """The latest sign of life of a driver: its version, and when this driver saw it first, by its own clock."""

    version: str
    since: float


class StoreJournal(Journal):
    """The journal below an address. `lease` is the seconds after which a driver that gives no sign has lost its tasks."""

    def __init__(self, location: str, *, lease: float = LEASE, fresh: float = _FRESH) -> None:
        super().__init__()
        self._lease, self._fresh = lease, fresh
        self._listed = 0.0
        self._signs = 0
        self._seen: list[_Seen] = []
        self._open: dict[int, None] = {}  # the numbers of tasks that have not ended, as far as is known
        self._drivers: dict[str, _Sign] = {}
        self._unsummed = 0  # tasks that have ended since the summary was written
        self._pool = Pool(_CONNECTIONS)
        self._driver = False  # not before `begin`
        with self._explained(location):
            self._objects = Objects(location)
        self.path = self._objects.location

    def close(self) -> None:
        """Take back this driver's sign of life, so that others may take what it has not ended."""
        if self._driver:
            with suppress(SourceError):  # the objects say all that the summary would
                self._sum_up()
            with self._explained():
                self._objects.remove(_sign_of(self.owner))

    def has_begun(self) -> bool:
        """Whether there is a journal; then its tasks are read."""
        with self._explained():
            found = self._objects.read(_JOB)
            if found is not None:
                self._enter(self._job(found[0])["tasks"])
                self._look()
        return found is not None

    def begin(self, digest: str, tasks: Iterable[Task]) -> None:
        """Add the tasks that are new. Raises JobError if the journal belongs to another job, or if it can't be shared here."""
        with self._explained():
            self._objects.try_conditions()
            wanted = [[task.source, task.output, task.nbytes] for task in tasks]
            done: str | None = None
            while done is None:
                found = self._objects.read(_JOB)
                job: dict[str, Any] = {"tasks": [], "digest": digest, "version": _VERSION}
                if found is not None:
                    job = self._job(found[0])
                if job["digest"] != digest or job["version"] != _VERSION:
                    raise JobError(f"`{self.path}` {ANOTHER}")
                known = {source for source, *_ in job["tasks"]}
                new = [row for row in wanted if row[0] not in known]
                job["tasks"] += new
                if not new and found is not None:
                    break
                # Drivers that write the same tasks at the same time write the same bytes, and each may take them for its own.
                done = self._objects.write(_JOB, _bytes(job), found[1] if found is not None else None)
            self._enter(job["tasks"])
            self._driver = True
            self.renew()
            self._look()

    def free(self) -> None:
        """Take back the leases of drivers on this machine that are no longer there."""
        with self._explained():
            self._look()
            for name in list(self._drivers):
                owners = {seen.row.owner for seen in self._running() if _sign_of(seen.row.owner) == name}
                if any(is_gone(owner) for owner in owners):
                    self._objects.remove(name)
                    del self._drivers[name]

    def take(self, most: int) -> list[Row]:
        """Take up to `most` tasks: those that wait, and those whose driver gives no sign of life. Attempts count from here."""
        taken: list[Row] = []
        if most < 1:
            return taken
        with self._explained():
            if time.monotonic() - self._listed > self._fresh:
                self._look()
            for number in list(self._open):
                row = self._seen[number].row
                lost = self._lost(row)
                if lost is None and not (row.state == WAITING and row.until <= time.time()):
                    continue
                attempts = row.attempts + 1 - (lost == "gone")
                new = replace(row, state=RUNNING, owner=self.owner, attempts=attempts, begun=row.begun + 1, until=0.0)
                if self._write(number, new):
                    taken.append(new)
                if len(taken) == most:
                    break
        return taken

    def note_free(self, number: int) -> None:
        """Note that nothing is where the output of a task goes."""
        with self._explained():
            self._changed(number, free=1)

    def anew(self) -> None:
        """Let all tasks wait again that ended in any state but done."""
        with self._explained():
            for number, seen in enumerate(self._seen):
                if seen.row.state in (FAILED, REFUSED, BROKEN):
                    self._write(number, replace(seen.row, state=WAITING, attempts=0, until=0.0, owner=""))

    def renew(self) -> None:
        """Give a sign of life."""
        self._signs += 1
        with self._explained():
            self._objects.put(_sign_of(self.owner), _bytes({"owner": self.owner, "signs": self._signs}))

    def end(
        self, number: int, state: str, *, step: str, reason: str, seconds: float, written: int, left: str = ""
    ) -> bool:
        """Note how a task ended. False if another driver has it by now: then nothing is noted."""
        with self._explained():
            seconds += self._seen[number].row.seconds
            noted = self._changed(
                number, state=state, step=step, reason=reason, seconds=seconds, written=written, left=left
            )
            self._unsummed += noted
            # It is written anew when it has grown by a tenth: so all writes together have ten times its bytes.
            if self._unsummed > max(_PAGE, (len(self._seen) - len(self._open)) // 10):
                self._sum_up()
            return noted

    def again(self, number: int, wait: float, *, reason: str, seconds: float) -> None:
        """Put a task back, to be tried again after `wait` seconds."""
        with self._explained():
            seconds += self._seen[number].row.seconds
            until = time.time() + wait
            self._changed(number, state=WAITING, until=until, reason=reason, seconds=seconds, owner="")

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many tasks are in each state, and their bytes."""
        sizes: dict[str, list[int]] = {state: [] for state in STATES}
        for seen in self._seen:
            sizes[seen.row.state].append(seen.row.nbytes)
        return {state: (len(found), sum(found)) for state, found in sizes.items()}

    def wait(self) -> float | None:
        """Seconds until a task can be taken; None if no task waits or runs."""
        now, times = time.time(), list[float]()
        for number in self._open:
            row = self._seen[number].row
            sign = self._drivers.get(_sign_of(row.owner))
            until = (
                row.until - now if row.state == WAITING or sign is None else sign.since + self._lease - time.monotonic()
            )
            times.append(max(0.0, until))
        return min(times, default=None)

    def rows(self, *states: str) -> Iterator[Row]:
        """Yield the tasks in these states, in order; with no states given, all tasks."""
        return (seen.row for seen in self._seen if seen.row.state in (states or STATES))

    def _lost(self, row: Row) -> str | None:
        """Whether the driver of a running task has let its lease end, or has left (`gone`); None if neither."""
        if row.state != RUNNING or row.owner == self.owner:
            return None
        name = _sign_of(row.owner)
        sign = self._drivers.get(name)
        if sign is None:  # the listing may be older than the sign, so look for the sign itself
            return "gone" if self._objects.read(name) is None else None
        return "late" if time.monotonic() - sign.since >= self._lease else None

    def _look(self) -> None:
        """List the objects, and read the tasks that have changed."""
        now = time.monotonic()
        signs = self._objects.names(_DRIVERS)
        self._drivers = {
            name: sign if (sign := self._drivers.get(name)) is not None and sign.version == found else _Sign(found, now)
            for name, found in signs.items()
        }
        changed = {
            number: version
            for name, version in self._listing().items()
            if (number := self._number(name)) is not None and self._seen[number].version != version
        }
        if len(changed) > _FEW:
            for number, (version, row) in self._summary().items():
                if changed.get(number) == version:
                    self._note(number, row, version)
                    del changed[number]
        for _ in self._together(changed.items(), lambda one: self._read_as(*one)):
            pass
        self._listed = time.monotonic()

    def _listing(self) -> dict[str, str]:
        """The names of the tasks' objects, with their versions. Many are listed by several requests at a time."""
        if len(self._seen) <= _PAGE:
            return self._objects.names(_TASKS)
        starts = [f"{first:08}"[:-3] for first in range(0, len(self._seen), _PAGE)]
        found: dict[str, str] = {}
        for some in self._together(starts, lambda start: self._objects.names(_TASKS, start)):
            found |= some
        return found

    def _together(self, given: Iterable[_A], function: Callable[[_A], _B]) -> Iterator[_B]:
        """What a function makes of each of these, some at a time."""
        for future in [self._pool.submit(partial(function, one)) for one in given]:
            yield future.result()

    def _sum_up(self) -> None:
        """Write the summary anew, if tasks have ended since and there are many."""
        if self._unsummed and len(self._seen) > _FEW:
            told = {
                str(number): [seen.version, *_TELL(seen.row)]
                for number, seen in enumerate(self._seen)
                if seen.row.state in ENDED
            }
            self._objects.put(_SUMMARY, _bytes(told))
        self._unsummed = 0

    def _summary(self) -> dict[int, tuple[str, Row]]:
        """What the summary says, as far as it fits the tasks. If it is not whole, the objects say all that it would."""
        data = self._objects.content(_SUMMARY)
        found: dict[int, tuple[str, Row]] = {}
        with suppress(ValueError, TypeError, AttributeError, IndexError, RecursionError, JobError):
            for text, (version, *told) in json.loads(data or b"{}").items():
                row = replace(self._seen[int(text)].row, owner="", until=0.0, **dict(zip(_TOLD, told, strict=True)))
                self._check(row)
                found[row.number] = (version, row)
        return found

    def _read(self, number: int) -> None:
        """Read a task's object."""
        found = self._objects.read(_name(number))
        if found is not None:
            self._note(number, self._row(number, found[0]), found[1])

    def _read_as(self, number: int, version: str) -> None:
        """Read a task's object, which was listed with a version. If it is newer by now, no write on that version succeeds."""
        data = self._objects.content(_name(number))
        if data is not None:
            self._note(number, self._row(number, data), version)

    def _note(self, number: int, row: Row, version: str) -> None:
        self._seen[number] = _Seen(row, version)
        if row.state in ENDED:
            self._open.pop(number, None)
        elif number not in self._open:
            self._open[number] = None

    def _write(self, number: int, row: Row) -> bool:
        """Write a task's object if it is as it was seen. If not, another driver was faster, and it is read."""
        seen = self._seen[number]
        # With the version before in them, these bytes differ from those of every other write, even one by this driver.
        told = asdict(row) | {"after": seen.version}
        version = self._objects.write(_name(number), _bytes(told), seen.version)
        if version is None:
            self._read(number)
            return False
        self._note(number, row, version)
        return True

    def _changed(self, number: int, **values: Any) -> bool:
        """Change a task of this driver. False if another driver has it by now."""
        row = self._seen[number].row
        if row.owner != self.owner or row.state != RUNNING:
            return False
        return self._write(number, replace(row, **values))

    def _running(self) -> Iterator[_Seen]:
        return (seen for number in self._open if (seen := self._seen[number]).row.state == RUNNING)

    def _enter(self, tasks: list[list[Any]]) -> None:
        """Enter the tasks of the job. Those without an object wait."""
        for number, (source, output, nbytes) in enumerate(tasks):
            if number >= len(self._seen):
                self._seen.append(_Seen(_fresh(number, source, output, nbytes), None))
                self._open[number] = None

    def _number(self, name: str) -> int | None:
        """The number of the task whose state an object holds; None if there is no such task."""
        text = name.removeprefix(f"{_TASKS}/").removesuffix(".json")
        return int(text) if text.isdecimal() and _name(int(text)) == name and int(text) < len(self._seen) else None

    def _job(self, data: bytes) -> dict[str, Any]:
        """What `job.json` says."""
        found = self._document(_JOB, data)
        tasks = found.get("tasks")
        if (
            type(found.get("digest")) is str
            and type(found.get("version")) is str
            and type(tasks) is list
            and all(type(task) is list and [type(value) for value in task] == [str, str, int] for task in tasks)
        ):
            return found
        raise self._strange(_JOB)

    def _row(self, number: int, data: bytes) -> Row:
        """The state of a task, as its object says. Raises JobError if that is not the task that the job has."""
        found, seen = self._document(_name(number), data), self._seen[number].row
        row = Row(**{name: found.get(name) for name in _WANTED})  # type: ignore[arg-type]
        if (row.number, row.source, row.output) != (number, seen.source, seen.output):
            raise self._strange(_name(number))
        self._check(row)
        return row

    def _check(self, row: Row) -> None:
        """Raise JobError if a task is not what a journal holds."""
        if row.state not in STATES or any(
            type(value) is not wanted and not (wanted is float and type(value) is int)
            for value, wanted in zip(_ALL(row), _WANTED.values(), strict=True)
        ):
            raise self._strange(_name(row.number))

    def _document(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise self._strange(name) from None
        if type(found) is not dict:
            raise self._strange(name)
        return found

    def _strange(self, name: str) -> JobError:
        return JobError(
            f"`{self.path}/{name}` is not what a journal holds: keep the journal where nothing else is, with the key `journal`"
        )

    @contextmanager
    def _explained(self, location: str = "") -> Iterator[None]:
        try:
            yield
        except SourceError as error:
            name = safe_text(location) or self.path
            raise JobError(f"the journal `{name}` can't be used: {error}; {KEPT}") from error


def _fresh(number: int, source: str, output: str, nbytes: int) -> Row:
    """A task that was never begun."""
    return Row(number, source, output, nbytes, WAITING, 0, 0, 0, "", 0.0, "", "", 0.0, 0, "")


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _name(number: int) -> str:
    return f"{_TASKS}/{number:08}.json"


def _sign_of(owner: str) -> str:
    """The name of a driver's sign of life."""
    return f"{_DRIVERS}/{sha256(owner.encode()).hexdigest()[:24]}.json"
