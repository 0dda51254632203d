"""A file beside an unfinished output that lists the parts that are whole, and keeps a second run away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from converter.errors import OutputError

_MOST: Final = 16 << 20  # bytes of a journal that are read
_RANGE: Final = re.compile(r"(\d{1,9})-(\d{1,9})")


class Journal:
    """A line with the plan's digest, then lines with the numbers of parts that are whole and synced: `3-17`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def whole(self, digest: str) -> frozenset[int]:
        """The numbers of the parts that are whole; none if the journal belongs to another plan."""
        lines = os.pread(self._descriptor, _MOST, 0).decode("ascii", "replace").split("\n")
        if lines[0] != digest:
            return frozenset()
        # After the last line end comes nothing, or half a line.
        ranges = filter(None, map(_RANGE.fullmatch, lines[1:-1]))
        return frozenset(number for found in ranges for number in range(int(found[1]), int(found[2]) + 1))

    def begin(self, digest: str, whole: Iterable[int]) -> None:
        """Start again, for a plan whose parts `whole` are already written."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{digest}\n".encode(), 0)
        self.note(whole)

    def note(self, numbers: Iterable[int]) -> None:
        """Note that parts are whole and synced."""
        lines = "".join(f"{first}-{last}\n" for first, last in _ranges(numbers))
        os.pwrite(self._descriptor, lines.encode(), os.fstat(self._descriptor).st_size)
        os.fsync(self._descriptor)

    def forget(self) -> None:
        """Remove it: there is nothing to resume."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(target: Path, path: Path) -> Iterator[Journal]:
    """Open the journal of `target`, which lies at `path`, and hold its lock. Raises OutputError if another run holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"`{target}` is being written by another run: wait for it to end") from error
        journal = Journal(path, descriptor)
        try:
            yield journal
        except BaseException:
            if not os.fstat(descriptor).st_size:
                journal.forget()
            raise
    finally:
        os.close(descriptor)


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
