"""A file beside an unfinished output: it lists the parts that are whole, and its lock keeps a second run away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from converter.errors import OutputError
from converter.io.folder import Folder, identity

_MOST: Final = 16 << 20  # bytes of a journal that are read
_FIRST: Final = 200  # bytes of its first line at most
_ATTEMPTS: Final = 10  # attempts to open an existing journal
_MADE: Final = re.compile(r"[0-9a-f]{64} (\d{1,20}):(\d{1,20})\n", re.ASCII)
_RANGE: Final = re.compile(r"(\d{1,9})-(\d{1,9})")


class Journal:
    """A line with the plan's digest and the partial output, then lines that list the parts that are whole and synced: `3-17`."""

    def __init__(self, folder: int, name: str, descriptor: int) -> None:
        self._folder, self._name, self._descriptor = folder, name, descriptor

    @property
    def made(self) -> tuple[int, int] | None:
        """Device and inode number of the partial output that an earlier run made; None if no run noted one."""
        found = _MADE.match(os.pread(self._descriptor, _FIRST, 0).decode("ascii", "replace"))
        return (int(found[1]), int(found[2])) if found else None

    def whole(self, digest: str) -> frozenset[int]:
        """The numbers of the parts that are whole; none if the journal belongs to another plan."""
        lines = os.pread(self._descriptor, _MOST, 0).decode("ascii", "replace").split("\n")
        if lines[0] != digest:
            return frozenset()
        # After the last line end there is nothing, or half a line.
        ranges = filter(None, map(_RANGE.fullmatch, lines[1:-1]))
        return frozenset(number for found in ranges for number in range(int(found[1]), int(found[2]) + 1))

    def begin(self, digest: str, whole: Iterable[int]) -> None:
        """Start again for a plan. The parts `whole` are already written."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{digest}\n".encode(), 0)
        self.note(whole)

    def note(self, numbers: Iterable[int]) -> None:
        """Note that parts are whole and synced."""
        lines = "".join(f"{first}-{last}\n" for first, last in _ranges(numbers))
        os.pwrite(self._descriptor, lines.encode(), os.fstat(self._descriptor).st_size)
        os.fsync(self._descriptor)

    def forget(self) -> None:
        """Remove the journal: there is nothing left to resume."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)


@contextlib.contextmanager
def locked(target: Path, folder: Folder, name: str) -> Iterator[Journal]:
    """Open the journal `name` of `target` in a folder, and hold its lock.

    Raises OutputError if another run holds the lock, or if something else has the name.
    """
    with _opened(target, folder, name) as descriptor:
        journal = Journal(folder.descriptor, name, descriptor)
        try:
            yield journal
        except BaseException:
            if not os.fstat(descriptor).st_size:
                journal.forget()
            raise


@contextlib.contextmanager
def _opened(target: Path, folder: Folder, name: str) -> Iterator[int]:
    other = f"`{target}` is being written by another run: wait for it to end"
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as stack:
            here = Folder(folder.path, folder.descriptor)  # a Folder that has made no file yet
            here.make(name)
            descriptor = stack.enter_context(here.writing(name))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(other) from error
            status = folder.status(name)
            # A run that just ended removed the journal before we got its lock: there is now another journal, or none.
            if status is not None and identity(status) == identity(os.fstat(descriptor)):
                yield descriptor
                return
    raise OutputError(other)


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
