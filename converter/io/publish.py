"""Write beside, fsync, rename: an output is absent, old or complete, whatever happens while it is written.

What is written is a plan: files, each a row of pieces whose sizes are known before a byte is. While it is made it lies
beside its target under a fixed name, `.<target>.partial`, locked, with a journal of the pieces that are whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from converter.errors import OutputError
from converter.io.local import drop, outgrow_memory
from converter.text import os_reason

KEPT: Final = ("README.md", ".gitignore")  # a folder with nothing else counts as empty, and keeps them
_SYNCED: Final = 256 << 20  # bytes between two entries of the journal
_BEHIND: Final = 64 << 20  # bytes that are written before they are sent to the disk
_ALIKE: Final = 32  # bytes by which a report is known
_MARGIN: Final = 1 << 20  # bytes of room for directories and journals

Progress = Callable[[int], None]  # called with the bytes written since the last call


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an output file, made when it is their turn. `tiles` gives exactly `nbytes`, in order.

    `dtype` is a tensor's, as the file will have it; None for headers and the like.
    """

    name: str
    nbytes: int
    tiles: Callable[[], Iterator[memoryview]]
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of an output: its path below the target (`/` between folders; `` for the target itself) and its pieces."""

    path: str
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.nbytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about an output before a byte of it is written.

    `folder` says whether the target is a folder or a file. `identity` says what the bytes depend on besides the plan
    (the sources' names, sizes and times): a partial output is only continued where both are the same.
    `finish` gives files that depend on what was written before them (a manifest with digests); they are not resumed.
    """

    files: tuple[PlannedFile, ...]
    folder: bool
    identity: str = ""
    finish: Callable[[], Sequence[PlannedFile]] | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all files, but for those of `finish`."""
        return sum(file.nbytes for file in self.files)

    @property
    def passing(self) -> bool:
        """Whether what is read and what is written, about as much, would fill the page cache if it were kept there."""
        return outgrow_memory(2 * self.nbytes)

    def digest(self) -> str:
        """Give a digest of names, order and sizes, and of the sources."""
        described = [[file.path, [[piece.name, piece.nbytes] for piece in file.pieces]] for file in self.files]
        return hashlib.sha256(json.dumps([self.identity, self.folder, described]).encode()).hexdigest()


def literal(name: str, data: bytes) -> Piece:
    """Give a piece whose bytes are known already; its name binds a partial output to them."""
    return Piece(f"{name} {hashlib.sha256(data).hexdigest()}", len(data), lambda: iter([memoryview(data)]))


def check_target(target: Path, *, folder: bool, force: bool, inputs: Sequence[tuple[int, int]] = ()) -> None:
    """Raise OutputError if `target` may not be written: it exists (without `force`), is an input, a symlink, no such parent.

    `inputs` are (device, inode) of the files that are read.
    """
    with _explained(target), contextlib.suppress(FileNotFoundError):
        status = target.lstat()
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a file"
        if stat.S_ISLNK(status.st_mode):
            raise OutputError(f"`{target}` is a symbolic link: name the place it leads to")
        if (status.st_dev, status.st_ino) in inputs:
            raise OutputError(f"`{target}` is the input itself: choose another output")
        if stat.S_ISDIR(status.st_mode) != folder or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            raise OutputError(
                f"`{target}` exists and is {what}, where {'a folder' if folder else 'a file'} should be written"
            )
        if folder:
            for entry in target.rglob("*"):
                inner = entry.lstat()
                if (inner.st_dev, inner.st_ino) in inputs:
                    raise OutputError(f"`{target}` holds the input `{entry.name}`: choose another output")
            if force or all(entry.name in KEPT and entry.is_file() for entry in target.iterdir()):
                return
            raise OutputError(f"`{target}` exists and is not empty: give --force to replace it")
        if not force:
            raise OutputError(f"`{target}` exists: give --force to replace it")


def publish(
    plan: Plan,
    target: Path,
    *,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    inputs: Sequence[tuple[int, int]] = (),
    check: Callable[[], None] | None = None,
) -> None:
    """Write a plan to `target`. Raises OutputError where it can't be; then nothing is left, but for what `resume` keeps.

    With `resume`, what an interrupted run of the same plan on the same sources left whole is kept, and an interruption
    of this run leaves it for the next. `check` is called before what was written takes the target's place, and may raise.
    """
    target = Path(os.path.abspath(target))
    if any(PurePath(file.path).is_absolute() or ".." in PurePath(file.path).parts for file in plan.files):
        raise AssertionError("a file of a plan lies outside of its target")
    with _explained(target):
        check_target(target, folder=plan.folder, force=force, inputs=inputs)
        with _parents(target), _locked(target) as journal:
            partial = target.with_name(f".{target.name}.partial")
            done = journal.done(plan) if resume else 0
            if not done:
                _remove(partial)
            _check_room(plan, target, done)
            journal.begin(plan)
            try:
                _write(plan, partial, journal, done, progress, resume=resume)
                if check is not None:
                    check()
                _swap(partial, target, folder=plan.folder)
            except BaseException:
                if not resume:
                    _remove(partial)
                    journal.forget()
                raise
            journal.forget()


def write_report(path: Path, data: bytes) -> None:
    """Write a document to `path`, over an older one of its kind. Raises OutputError where something else is there."""
    with _explained(path):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(_ALIKE) != data[:_ALIKE]:
                    raise OutputError(f"`{path}` exists and is no older report: choose another path")
    publish(Plan((PlannedFile("", (literal(path.name, data),)),), folder=False), path, force=True)


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders that lead to `target`; where it comes to nothing, remove those that were made."""
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Make an OutputError of what the system says."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"`{target}` can't be written: {os_reason(error)}") from error


class _Journal:
    """What is whole of a partial output: a line with the plan's digest, then a line per synced position."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def done(self, plan: Plan) -> int:
        """Give how many bytes of the plan are known to be whole."""
        lines = os.pread(self._descriptor, 16 << 20, 0).decode("ascii", "replace").split("\n")
        if lines[0] != plan.digest():
            return 0
        return max((int(line) for line in lines[1:-1] if line.isdigit()), default=0)

    def begin(self, plan: Plan) -> None:
        if os.pread(self._descriptor, 64, 0) != plan.digest().encode():
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{plan.digest()}\n".encode(), 0)

    def note(self, position: int) -> None:
        os.pwrite(self._descriptor, f"{position}\n".encode(), os.fstat(self._descriptor).st_size)
        os.fsync(self._descriptor)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[_Journal]:
    path = target.with_name(f".{target.name}.partial.journal")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"`{target}` is being written by another run: wait for it to end") from error
        journal = _Journal(path, descriptor)
        try:
            yield journal
        except BaseException:
            if not os.fstat(descriptor).st_size:
                journal.forget()
            raise
    finally:
        os.close(descriptor)


def _write(plan: Plan, partial: Path, journal: _Journal, done: int, progress: Progress | None, *, resume: bool) -> None:
    """Write the files of a plan that are not whole yet, and what `finish` adds."""
    if plan.folder:
        partial.mkdir(exist_ok=True)
    position = synced = pending = 0
    passing = plan.passing
    unsynced: list[int] = []
    for file in plan.files:
        path = partial / file.path if plan.folder else partial
        if file.nbytes and position + file.nbytes <= done:
            position += file.nbytes
            _tell(progress, file.nbytes)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # What was whole at the last sync may be followed by bytes that were not.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            whole = max(0, done - position)
            os.ftruncate(descriptor, whole)
            _reserve(descriptor, file.nbytes)
            written = dropped = 0
            for piece in file.pieces:
                if written + piece.nbytes <= whole:
                    written += piece.nbytes
                    _tell(progress, piece.nbytes)
                    continue
                start = written
                for tile in piece.tiles():
                    _write_all(descriptor, tile, written)
                    written += len(tile)
                    _tell(progress, len(tile))
                    if passing and written - dropped >= _BEHIND:
                        # The last part sets out to the disk, the one before has got there.
                        before = max(0, dropped - _BEHIND)
                        drop(descriptor, before, written - before)
                        dropped = written
                if written != start + piece.nbytes:
                    raise AssertionError(f"{piece.name}: {written - start} bytes where {piece.nbytes} were planned")
                if resume and position + written - synced >= _SYNCED:
                    _sync(unsynced)
                    os.fsync(descriptor)
                    synced = position + written
                    journal.note(synced)
            unsynced.append(os.dup(descriptor))
            pending += file.nbytes
            if len(unsynced) >= 64 or (passing and pending >= _BEHIND):
                _sync(unsynced, passing=passing)
                pending = 0
        finally:
            os.close(descriptor)
        position += file.nbytes
    _sync(unsynced, passing=passing)
    for file in plan.finish() if plan.finish else ():
        path = partial / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            written = 0
            for piece in file.pieces:
                for tile in piece.tiles():
                    _write_all(descriptor, tile, written)
                    written += len(tile)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if plan.folder:
        for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            _sync_folder(folder)


def _tell(progress: Progress | None, nbytes: int) -> None:
    if progress is not None:
        progress(nbytes)


def _sync(descriptors: list[int], *, passing: bool = False) -> None:
    while descriptors:
        descriptor = descriptors.pop()
        try:
            os.fsync(descriptor)
            if passing:
                drop(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _reserve(descriptor: int, nbytes: int) -> None:
    """Reserve the room at once: a full disk shows before the work, and the blocks lie together.

    On file systems without a device of their own (tmpfs, NFS, FUSE) reserving means writing zeros, so it is left out.
    """
    if nbytes and sys.platform == "linux" and os.major(os.fstat(descriptor).st_dev):
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _check_room(plan: Plan, target: Path, done: int) -> None:
    free = os.statvfs(target.parent)
    room = free.f_bavail * free.f_frsize
    if plan.nbytes - done + _MARGIN > room:
        raise OutputError(f"`{target}` needs {plan.nbytes - done:,} bytes and there is room for {room:,} on its disk")


def _swap(partial: Path, target: Path, *, folder: bool) -> None:
    """Put what was written in the place of what was there."""
    if folder and target.exists():
        for name in KEPT:
            if (target / name).is_file() and not (partial / name).exists():
                shutil.copy2(target / name, partial / name)
        _exchange(partial, target)
        _sync_folder(target.parent)
        _remove(partial)
    else:
        partial.replace(target)
        _sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the kernel can, so that the target is never absent."""
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux":
        at_cwd, exchange = -100, 2
        if library.renameat2(at_cwd, paths[0], at_cwd, paths[1], exchange) == 0:
            return
    elif sys.platform == "darwin":
        swap = 2
        if library.renamex_np(paths[0], paths[1], swap) == 0:
            return
    aside = other.with_name(f".{other.name}.old")
    _remove(aside)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _remove(path: Path) -> None:
    """Remove a partial output; never anything that does not bear our name."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
