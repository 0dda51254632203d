"""A journal on this machine's disk, in SQLite."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from converter.errors import JobError
from converter.fleet.journal import (
    ANOTHER,
    BROKEN,
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

_BUSY: Final = 30.0  # seconds to wait for another driver's write
_VERSION: Final = "1"
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS job (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS task (
  number INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE, output TEXT NOT NULL, nbytes INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, begun INTEGER NOT NULL DEFAULT 0,
  free INTEGER NOT NULL DEFAULT 0,
  owner TEXT NOT NULL DEFAULT '',
  until REAL NOT NULL DEFAULT 0, step TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
  seconds REAL NOT NULL DEFAULT 0, written INTEGER NOT NULL DEFAULT 0, left_behind TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS next_task ON task (state, until);
"""
# An attempt that ended because its driver did does not count.
_BACK: Final = "UPDATE task SET state = ?, until = 0, owner = '', attempts = attempts - 1 WHERE owner = ? AND state = ?"


class DiskJournal(Journal):
    """The journal in a file. Drivers on several machines may share it where the file system's locks work."""

    def __init__(self, path: Path, *, lease: float = LEASE) -> None:
        super().__init__()
        self.path, self._lease = path, lease
        self._took = False
        try:
            self._base = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(_TABLES)
        except sqlite3.Error as error:
            raise JobError(f"the journal `{path}` can't be opened: {_refusal(path, error)}") from error

    def close(self) -> None:
        """Put back what this driver has not ended, so that others may take it at once, and close the file."""
        if self._took:
            with suppress(JobError):  # then the lease ends, or the next driver sees that this one is gone
                self._give_back(self.owner)
        self._base.close()

    def has_begun(self) -> bool:
        """Whether there is a job in it."""
        with self._explained():
            return self._base.execute("SELECT 1 FROM job").fetchone() is not None

    def begin(self, digest: str, tasks: Iterable[Task]) -> None:
        """Add the tasks that are new. Raises JobError if the journal belongs to another job."""
        with self._writing():
            found = dict(self._base.execute("SELECT key, value FROM job"))
            if found.get("digest", digest) != digest or found.get("version", _VERSION) != _VERSION:
                raise JobError(f"`{self.path}` {ANOTHER}")
            rows = (("digest", digest), ("version", _VERSION))
            self._base.executemany("INSERT OR IGNORE INTO job VALUES (?, ?)", rows)
            self._base.executemany(
                "INSERT OR IGNORE INTO task (source, output, nbytes) VALUES (?, ?, ?)",
                ((task.source, task.output, task.nbytes) for task in tasks),
            )

    def free(self) -> None:
        """Take back the leases of drivers on this machine that are no longer there."""
        with self._writing():
            for (owner,) in self._base.execute(
                "SELECT DISTINCT owner FROM task WHERE state = ?", (RUNNING,)
            ).fetchall():
                if is_gone(owner):
                    self._base.execute(_BACK, (WAITING, owner, RUNNING))

    def _give_back(self, owner: str) -> None:
        with self._writing():
            self._base.execute(_BACK, (WAITING, owner, RUNNING))

    def take(self, most: int) -> list[Row]:
        """Take up to `most` tasks: those that wait, and those whose driver has let its lease end. Attempts count from here."""
        now = time.time()
        self._took = True
        with self._writing():
            rows = self._base.execute(
                "SELECT number FROM task WHERE state IN (?, ?) AND owner != ? AND until <= ? ORDER BY number LIMIT ?",
                (WAITING, RUNNING, self.owner, now, most),
            ).fetchall()
            self._base.executemany(
                "UPDATE task SET state = ?, owner = ?, until = ?, attempts = attempts + 1, begun = begun + 1 WHERE number = ?",
                ((RUNNING, self.owner, now + self._lease, number) for (number,) in rows),
            )
            return [self._row(number) for (number,) in rows]

    def note_free(self, number: int) -> None:
        """Note that nothing is where the output of a task goes."""
        with self._writing():
            self._base.execute("UPDATE task SET free = 1 WHERE number = ?", (number,))

    def anew(self) -> None:
        """Let all tasks wait again that ended in any state but done."""
        with self._writing():
            self._base.execute(
                "UPDATE task SET state = ?, attempts = 0, until = 0, owner = '' WHERE state IN (?, ?, ?)",
                (WAITING, FAILED, REFUSED, BROKEN),
            )

    def renew(self) -> None:
        """Renew the leases of this driver's tasks."""
        with self._writing():
            self._base.execute(
                "UPDATE task SET until = ? WHERE owner = ? AND state = ?",
                (time.time() + self._lease, self.owner, RUNNING),
            )

    def end(
        self, number: int, state: str, *, step: str, reason: str, seconds: float, written: int, left: str = ""
    ) -> bool:
        """Note how a task ended. False if another driver has it by now: then nothing is noted."""
        with self._writing():
            done = self._base.execute(
                "UPDATE task SET state = ?, step = ?, reason = ?, seconds = seconds + ?, written = ?, left_behind = ?, until = 0 "
                "WHERE number = ? AND owner = ? AND state = ?",
                (state, step, reason, seconds, written, left, number, self.owner, RUNNING),
            )
            return done.rowcount == 1

    def again(self, number: int, wait: float, *, reason: str, seconds: float) -> None:
        """Put a task back, to be tried again after `wait` seconds."""
        with self._writing():
            self._base.execute(
                "UPDATE task SET state = ?, until = ?, reason = ?, seconds = seconds + ?, owner = '' "
                "WHERE number = ? AND owner = ? AND state = ?",
                (WAITING, time.time() + wait, reason, seconds, number, self.owner, RUNNING),
            )

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many tasks are in each state, and their bytes."""
        with self._explained():
            found = self._base.execute("SELECT state, count(*), sum(nbytes) FROM task GROUP BY state").fetchall()
        by_state = {state: (count, nbytes) for state, count, nbytes in found}
        return {state: by_state.get(state, (0, 0)) for state in STATES}

    def wait(self) -> float | None:
        """Seconds until a task can be taken; None if no task waits or runs."""
        with self._explained():
            (until,) = self._base.execute(
                "SELECT min(until) FROM task WHERE state IN (?, ?)", (WAITING, RUNNING)
            ).fetchone()
        return None if until is None else max(0.0, until - time.time())

    def rows(self, *states: str) -> Iterator[Row]:
        """Yield the tasks in these states, in order; with no states given, all tasks."""
        wanted = states or STATES
        marks = ", ".join("?" * len(wanted))
        with self._explained():
            for row in self._base.execute(f"SELECT * FROM task WHERE state IN ({marks}) ORDER BY number", wanted):  # noqa: S608 (marks only)
                yield Row(*row)

    def _row(self, number: int) -> Row:
        return Row(*self._base.execute("SELECT * FROM task WHERE number = ?", (number,)).fetchone())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other drivers from writing in the body of a `with`, and write all of it or nothing."""
        with self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JobError(f"the journal `{self.path}` can't be written: {error}; {KEPT}") from error


def _refusal(path: Path, error: sqlite3.Error) -> str:
    """Why a journal can't be opened, and what to do."""
    if path.is_dir():
        return "it is a folder; name a file with the key `journal`"
    if not path.parent.is_dir():
        return f"there is no folder `{path.parent}`; make it, or name another place with the key `journal`"
    if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
        return "it is a file of something else; name another one with the key `journal`"
    return f"{error}; make it possible to write there, or name another place with the key `journal`"
