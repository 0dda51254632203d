"""Reports that a command writes beside what it prints: into a file, or onto a stream that is open already."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from converter.errors import OutputError
from converter.io.local import LocalFile
from converter.io.publish import Plan, PlannedFile, check_target, explained, literal, publish

_ALIKE: Final = 32  # first bytes that an older report must have in common with the new one to be overwritten
STDOUT: Final = 1
_NAMED: Final = {"-": STDOUT, "/dev/stdout": STDOUT, "/dev/stderr": 2}
_NUMBERED: Final = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,6})")


def stream(path: Path) -> int | None:
    """The descriptor that a path stands for, such as 1 for `-` and `/dev/stdout`; None for the path of a file."""
    text = str(path)
    numbered = _NUMBERED.fullmatch(text)
    return int(numbered[1]) if numbered else _NAMED.get(text)


def check_no_input(path: Path, inputs: Iterable[str]) -> None:
    """Raise OutputError if a report would be written over one of the files or folders that are read."""
    if (found := _status(path)) is not None and found in [_status(Path(name)) for name in inputs]:
        raise OutputError(f"`{path}` is an input: choose another path")


def begin_report(path: Path, head: bytes) -> None:
    """Remove an older report at `path` before new work begins. If that work failed, the old report would pass for its result.

    An older report is recognised by its first bytes, `head`. If `path` is a link to one, the link is removed. Raises
    OutputError if no report could be written there at the end.
    """
    older = _is_older(path, head)
    try:
        with explained(path):
            if older and path.is_symlink():
                path.unlink()
        check_report(path, head)
    except OutputError:
        if older:
            with contextlib.suppress(OSError):  # a file can be emptied where none can be removed
                os.truncate(path, 0)
        raise
    with explained(path), contextlib.suppress(FileNotFoundError):
        if stream(path) is None:
            path.unlink()


def check_report(path: Path, head: bytes) -> None:
    """Raise OutputError if a report that begins with `head` could not be written to `path`, over an older one."""
    descriptor = stream(path)
    with explained(path):
        if descriptor is not None:
            os.fstat(descriptor)
            return
        whole = Path(os.path.abspath(path))
        check_target(path, folder=False, force=True)
        place = next(parent for parent in whole.parents if parent.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise OutputError(f"`{path}` can't be written: `{place}` is not a folder that you may write to")
        if path.is_file() and path.stat().st_size:
            _check_alike(path, head, len(head))


def write_report(path: Path, data: bytes) -> None:
    """Write a document to `path`, over an older one of its kind. Raises OutputError if anything else is there."""
    descriptor = stream(path)
    with explained(path):
        if descriptor is not None:
            with contextlib.suppress(BrokenPipeError):  # the reader has seen enough
                _write_stream(descriptor, data)
            return
        if path.is_file() and path.stat().st_size:
            _check_alike(path, data)
    publish(Plan((PlannedFile("", (literal(path.name, data),)),), folder=False), path, force=True)


def _write_stream(descriptor: int, data: bytes) -> None:
    if descriptor == STDOUT:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
        return
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)


def _is_older(path: Path, head: bytes) -> bool:
    """Whether a path leads to a report that begins with `head`."""
    try:
        if stream(path) is not None or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _status(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_alike(path: Path, data: bytes, count: int = _ALIKE) -> None:
    with LocalFile(path) as file:
        if file.read(0, min(count, file.size)) != data[:count]:
            raise OutputError(f"`{path}` exists and is not an older report: choose another path")
