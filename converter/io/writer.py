"""Writes the parts of files with several threads. The position of every part is known beforehand.

The threads read, check and write, and report through a queue. The main thread waits for the reports. It alone syncs,
keeps the journal, frees pages and reports progress. It takes no lock that a signal could leave locked.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

from converter.io.folder import Folder
from converter.io.local import drop
from converter.io.parts import Buffers, Part, portions
from converter.io.source import STEP
from converter.steps import follower, step
from converter.text import plural

_TOLD: Final = 4 << 20  # bytes that a thread writes between two reports
_FILES: Final = 64  # files that are whole before they are synced
_PATIENCE: Final = 5.0  # seconds that threads are given to stop; they open no more files

Progress = Callable[[int], None]  # called with the bytes written since the last call


def cores() -> int:
    """How many processors this process may use."""
    if sys.platform == "darwin":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written in a folder: its parts follow each other. `name` has `/` between folders.

    `title` is its final path, and `at` has the name of what is written for each part.
    """

    folder: Folder
    name: str
    parts: tuple[Part, ...]
    title: str = ""
    at: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """What messages call it."""
        return self.folder.path / self.name

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a run writes.

    `passing` says that nothing should stay in the page cache. `note` is called from time to time with the numbers of
    parts that are whole and synced; it is None if the run is not to be resumed.
    """

    threads: int
    passing: bool = False
    progress: Progress | None = None
    note: Callable[[Sequence[int]], None] | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """A part of a file, at `offset`. `number` counts all parts of the run. A `whole` part was written by an earlier run."""

    number: int
    file: int
    offset: int
    part: Part
    whole: bool


@dataclass(frozen=True, slots=True)
class _Told:
    """A thread's report: bytes written, tasks done, and whether it has ended, perhaps by an error in the part `number`."""

    nbytes: int = 0
    tasks: tuple[_Task, ...] = ()
    ended: bool = False
    number: int = -1
    error: BaseException | None = None


def write(files: Sequence[File], policy: Policy, whole: frozenset[int] = frozenset()) -> None:
    """Write the parts of `files` that are not in `whole`, and sync them; part numbers count through all files.

    The first error stops all threads and is raised. If there are several, the earliest part's is raised.
    """
    tasks = list(_tasks(files, whole))
    _create(files)
    run = _Run(files, policy, tasks)
    run.skip(sum(file.nbytes for file in files) - _nbytes(tasks))
    if run.threads == 1:
        run.alone()
    else:
        run.together()
    run.late()
    with step("sync", plural(len(files), "file")):
        run.disk.finish()


def write_in_order(file: File) -> None:
    """Write a file in this thread, and sync it."""
    file.folder.make(file.name)
    with file.folder.writing(file.name) as descriptor:
        os.ftruncate(descriptor, 0)
        offset = 0
        for part in file.parts:
            for tile in part.tiles(Buffers(portions().tiles)):
                _write_all(descriptor, tile, offset)
                offset += len(tile)
        os.fsync(descriptor)


def missing(files: Sequence[File], whole: frozenset[int]) -> int:
    """How many bytes the parts of `files` that are not in `whole` take on the disk."""
    parts = (part for file in files for part in file.parts)
    return sum(part.written for number, part in enumerate(parts) if number not in whole)


def present(files: Sequence[File], whole: frozenset[int]) -> frozenset[int]:
    """Those part numbers in `whole` whose bytes are still in the files."""
    found = set()
    number = 0
    for file in files:
        status = file.folder.status(file.name)
        size = status.st_size if status is not None and file.folder.is_ours(file.name) else 0
        end = 0
        for part in file.parts:
            end += part.nbytes
            if number in whole and end <= size:
                found.add(number)
            number += 1
    return frozenset(found)


class _Run:
    """One call of `write`: the jobs that are waiting, and the threads that do them."""

    def __init__(self, files: Sequence[File], policy: Policy, tasks: Sequence[_Task]) -> None:
        self._files, self._progress = files, policy.progress
        self._jobs: SimpleQueue[tuple[_Task, ...]] = SimpleQueue()
        for job in _jobs([task for task in tasks if not task.part.late]):
            self._jobs.put(job)
        self._late = tuple(task for task in tasks if task.part.late)
        self.threads = max(1, min(policy.threads, self._jobs.qsize()))
        self.disk = _Disk(files, policy, tasks)
        self._tiles = portions().tiles
        self._at = [-1] * self.threads  # the part that each thread is working on
        self._names = [name for file in files for name in file.at]  # the names of all parts
        self._told = follower()
        self._stopped = False

    def skip(self, nbytes: int) -> None:
        """Count bytes that an earlier run wrote as progress."""
        self._hear(_Told(nbytes))

    def alone(self) -> None:
        """Do every job in this thread."""
        self._work(0, self._hear)

    def late(self) -> None:
        """Do the parts that depend on all others."""
        if self._late:
            self._job(0, self._late, Buffers(self._tiles), self._hear)

    def together(self) -> None:
        """Do the jobs in several threads, and raise the error that stopped them."""
        told: SimpleQueue[_Told] = SimpleQueue()
        running = 0
        failed: list[_Told] = []
        try:
            for worker in range(self.threads):
                Thread(target=self._serve, args=(worker, told.put), daemon=True).start()
                running += 1
            while running:
                one = told.get()
                running -= one.ended
                if one.error is not None:
                    failed.append(one)
                    break
                self._hear(one)
        finally:
            self._stopped = True
            # A thread that waits for the system longer than that is abandoned. It will write nothing more.
            with suppress(Empty):
                while running:
                    one = told.get(timeout=_PATIENCE)
                    running -= one.ended
                    failed += [one] if one.error is not None else []
        for one in sorted(failed, key=lambda one: one.number):
            if one.error is not None:
                raise one.error
        self._stopped = False

    def _serve(self, worker: int, tell: Callable[[_Told], None]) -> None:
        """Do a thread's work, and report how it ended."""
        try:
            self._work(worker, tell)
        except BaseException as error:  # for the main thread to raise
            self._stopped = True
            tell(_Told(ended=True, number=self._at[worker], error=error))
        else:
            tell(_Told(ended=True))

    def _work(self, worker: int, tell: Callable[[_Told], None]) -> None:
        """Do jobs until none is left, or another thread has failed."""
        buffers = Buffers(self._tiles // self.threads)
        while not self._jobs.empty():
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            self._job(worker, job, buffers, tell)
            if self._stopped:
                return

    def _job(self, worker: int, job: tuple[_Task, ...], buffers: Buffers, tell: Callable[[_Told], None]) -> None:
        """Do tasks one after another, and report them unless the run was stopped."""
        untold = 0
        for file, tasks in groupby(job, lambda task: task.file):
            self.disk.began.setdefault(file, time.perf_counter())
            with self._files[file].folder.writing(self._files[file].name) as descriptor:
                for task in tasks:
                    self._at[worker] = task.number
                    for nbytes in self._done(task, descriptor, buffers):
                        untold += nbytes
                        if untold >= _TOLD:
                            tell(_Told(untold))
                            untold = 0
                    if self._stopped:
                        return
        tell(_Told(untold, job))

    def _done(self, task: _Task, descriptor: int, buffers: Buffers) -> Iterator[int]:
        """Write a part, or read it again if it was written before. Yield the size of each tile until the run is stopped."""
        part, done = task.part, 0
        if part.hole:
            yield part.nbytes
            return
        for tile in _written(task, descriptor, buffers) if task.whole else part.tiles(buffers):
            count = len(tile)
            if self._stopped:
                return
            if done + count > part.nbytes:
                break
            if not task.whole:
                _write_all(descriptor, tile, task.offset + done)
            if part.seen is not None:
                part.seen(tile)
            done += count
            yield count
        else:
            if done == part.nbytes:
                return
            count = 0
        path = self._files[task.file].path
        raise AssertionError(
            f"{path.name}: {done + count} bytes or more at {task.offset} where {part.nbytes} were planned"
        )

    def _hear(self, told: _Told) -> None:
        if told.nbytes and self._progress is not None:
            self._progress(told.nbytes)
        if self._at[0] >= 0 and self._names:
            self._told.at(self._names[self._at[0]])
        if told.tasks:
            self.disk.note(told.tasks)


class _Disk:
    """Brings written bytes to the disk: syncs files, keeps the journal, gives pages back to the system."""

    def __init__(self, files: Sequence[File], policy: Policy, tasks: Sequence[_Task]) -> None:
        self._files, self._policy, self._portions = files, policy, portions()
        self.began: dict[int, float] = {}  # when the first part of each file was begun
        self._told = follower()
        self._left = Counter(task.file for task in tasks)
        # Files that are whole and not synced.
        self._whole = [index for index, file in enumerate(files) if not file.parts]
        self._noted: list[_Task] = []  # tasks that are done and not in the journal yet
        self._behind: list[_Task] = []  # tasks whose pages are to be given back
        self._sent: list[_Task] = []  # tasks whose pages are on their way to the disk

    def note(self, tasks: tuple[_Task, ...]) -> None:
        """Note that tasks are done."""
        for task in tasks:
            self._left[task.file] -= 1
            if not self._left[task.file]:
                self._whole.append(task.file)
                self._told.ended("write", self._files[task.file].title, time.perf_counter() - self.began[task.file])
        passing, most = self._policy.passing, self._portions.behind
        if passing:
            self._behind += tasks
            if _nbytes(self._behind) >= most:
                # Tell the kernel to write the latest tasks. Those before them are on the disk by now.
                self._give_back([*self._sent, *self._behind])
                self._sent, self._behind = self._behind, []
        if self._policy.note is not None:
            self._noted += tasks
            if _nbytes(self._noted) >= self._portions.synced:
                self._sync({*self._whole, *(task.file for task in self._noted)})
                self._policy.note([task.number for task in self._noted])
                self._noted = []
        if len(self._whole) >= _FILES or (passing and sum(self._files[file].nbytes for file in self._whole) >= most):
            self._sync(self._whole)
            self._whole = []

    def finish(self) -> None:
        """Sync everything that is not synced yet."""
        self._sync(self._whole)
        self._whole = []

    def _sync(self, files: Iterable[int]) -> None:
        for file in files:
            with self._files[file].folder.writing(self._files[file].name) as descriptor:
                os.fsync(descriptor)
                if self._policy.passing and not self._left[file]:
                    drop(descriptor)

    def _give_back(self, tasks: Sequence[_Task]) -> None:
        for file, some in groupby(sorted(tasks, key=lambda task: task.number), lambda task: task.file):
            with self._files[file].folder.writing(self._files[file].name) as descriptor:
                for start, end in _ranges(some):
                    drop(descriptor, start, end - start)


def _tasks(files: Sequence[File], whole: frozenset[int]) -> Iterator[_Task]:
    """Yield the tasks. A part that was written before is only read again if it has a `seen`."""
    number = 0
    for index, file in enumerate(files):
        offset = 0
        for part in file.parts:
            if number not in whole or part.seen is not None:
                yield _Task(number, index, offset, part, number in whole)
            offset += part.nbytes
            number += 1


def _jobs(tasks: Sequence[_Task]) -> Iterator[tuple[_Task, ...]]:
    """Put small tasks together, so that a thread has enough to do before it asks again."""
    job: list[_Task] = []
    nbytes, most = 0, portions().together
    for task in tasks:
        if job and nbytes + task.part.nbytes > most:
            yield tuple(job)
            job, nbytes = [], 0
        job.append(task)
        nbytes += task.part.nbytes
    if job:
        yield tuple(job)


def _ranges(tasks: Iterable[_Task]) -> list[tuple[int, int]]:
    """The bytes of tasks of one file, in order, as starts and ends."""
    ranges: list[tuple[int, int]] = []
    for task in tasks:
        start, end = task.offset, task.offset + task.part.nbytes
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, end))
    return ranges


def _nbytes(tasks: Sequence[_Task]) -> int:
    return sum(task.part.nbytes for task in tasks)


def _create(files: Sequence[File]) -> None:
    """Make the files now, so that an abandoned thread can't make one after the partial output was removed."""
    for file in files:
        file.folder.make(file.name)
        with file.folder.writing(file.name) as descriptor:
            if any(part.hole for part in file.parts):
                os.ftruncate(descriptor, file.nbytes)
            else:
                _reserve(descriptor, file.nbytes)


def _written(task: _Task, descriptor: int, buffers: Buffers) -> Iterator[memoryview]:
    """Yield the bytes of a part that an earlier run wrote."""
    with buffers.lent(STEP) as buffer:
        done = 0
        while done < task.part.nbytes:
            count = os.preadv(descriptor, [buffer[: task.part.nbytes - done]], task.offset + done)
            if not count:
                raise OSError(errno.EIO, "the bytes that were written before are no longer there")
            yield buffer[:count]
            done += count


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _reserve(descriptor: int, nbytes: int) -> None:
    """Reserve the room at once, so that a full disk shows before the work, and the blocks lie together.

    On file systems without a device (tmpfs, NFS, FUSE), reserving would write zeros, so nothing is reserved.
    """
    if nbytes and sys.platform != "darwin" and os.major(os.fstat(descriptor).st_dev):
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
