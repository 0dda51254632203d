"""Write beside, fsync, rename: an output is absent, old or complete, whatever happens while it is written.

An output is written by a plan: files, each a row of pieces whose sizes are known before a byte is written. While it is
written it lies beside its target as `.<target>.partial`, with a journal, which is locked and lists the parts that are
whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
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
from converter.io.journal import locked
from converter.io.local import outgrow_memory
from converter.io.parts import TILES, Buffers, Part, known
from converter.io.writer import File, Policy, Progress, cores, missing, present, sync_folder, write, write_in_order
from converter.text import os_reason

KEPT: Final = ("README.md", ".gitignore")  # a folder with nothing else counts as empty, and keeps them
_ALIKE: Final = 32  # first bytes that an older report must have in common with the new one to be overwritten
_MARGIN: Final = 1 << 20  # bytes of room for directories and journals


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an output file, made when they are written: its `parts`, one after another.

    `dtype` is that of a tensor in the output file; None for headers and the like.
    """

    name: str
    parts: tuple[Part, ...]
    dtype: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def tiles(self) -> Iterator[memoryview]:
        """Yield its bytes in order; each tile is valid until the next is asked for."""
        buffers = Buffers(TILES)
        for part in self.parts:
            for tile in part.tiles(buffers):
                if part.seen is not None:
                    part.seen(tile)
                yield tile


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

    `folder` says whether the target is a folder or a file. `identity` is what the bytes depend on besides the plan (the
    sources' names, sizes and times): a partial output is only continued if both are the same. `finish` makes the files
    that depend on the bytes of the others, such as a manifest with digests. These are never resumed.
    """

    files: tuple[PlannedFile, ...]
    folder: bool
    identity: str = ""
    finish: Callable[[], Sequence[PlannedFile]] | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all files, except those that `finish` makes."""
        return sum(file.nbytes for file in self.files)

    @property
    def passing(self) -> bool:
        """Whether input and output, which are about as large, would fill the page cache if they stayed in it."""
        return outgrow_memory(2 * self.nbytes)

    def digest(self) -> str:
        """A digest of names, order and sizes, and of the sources."""
        described = [
            [file.path, [[piece.name, [part.nbytes for part in piece.parts]] for piece in file.pieces]]
            for file in self.files
        ]
        return hashlib.sha256(json.dumps([self.identity, self.folder, described]).encode()).hexdigest()


def literal(name: str, data: bytes) -> Piece:
    """A piece whose bytes are known already. A partial output is only continued if they are the same."""
    return Piece(f"{name} {hashlib.sha256(data).hexdigest()}", (known(data),))


def late(name: str, nbytes: int, make: Callable[[], bytes]) -> Piece:
    """A piece of `nbytes` bytes that are known once all other pieces are written."""
    return Piece(name, (Part(nbytes, lambda buffers: iter([memoryview(make())]), late=True),))


def check_target(target: Path, *, folder: bool, force: bool, inputs: Sequence[tuple[int, int]] = ()) -> None:
    """Raise OutputError if `target` is an input or a link, exists (without `force`), or has no parent folder.

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
    threads: int | None = None,
) -> None:
    """Write a plan to `target`. Raises OutputError if that fails; then nothing is left, except what `resume` keeps.

    As many threads read, check and write as there are processors, or as `threads` says; the bytes are the same. With
    `resume`, the run keeps the whole parts that an interrupted run of the same plan wrote from the same sources. If it
    is interrupted itself, it leaves its whole parts to the next run. `check` is called before the output takes the
    target's place, and may raise.
    """
    target = Path(os.path.abspath(target))
    if any(PurePath(file.path).is_absolute() or ".." in PurePath(file.path).parts for file in plan.files):
        raise AssertionError("a file of a plan lies outside its target")
    with _explained(target):
        check_target(target, folder=plan.folder, force=force, inputs=inputs)
        partial = _partial(target)
        with _parents(target), locked(target, partial.with_name(f"{partial.name}.journal")) as journal:
            files = _placed(plan, plan.files, partial)
            digest = plan.digest()
            whole = present(files, journal.whole(digest)) if resume else frozenset[int]()
            if not whole:
                _remove(partial)
            _check_room(target, target.parent, missing(files, whole))
            journal.begin(digest, whole)
            policy = Policy(threads or cores(), plan.passing, progress, journal.note if resume else None)
            try:
                if plan.folder:
                    partial.mkdir(exist_ok=True)
                write(files, policy, whole)
                for file in _placed(plan, plan.finish() if plan.finish else (), partial):
                    write_in_order(file)
                if plan.folder:
                    for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
                        sync_folder(folder)
                if check is not None:
                    check()
                _swap(partial, target, folder=plan.folder)
            except BaseException:
                if not resume:
                    _remove(partial)
                    journal.forget()
                raise
            journal.forget()


def add(
    plan: Plan,
    folder: Path,
    *,
    check: Callable[[], None],
    progress: Progress | None = None,
    threads: int | None = None,
) -> None:
    """Write the files of a plan into `folder`, and leave its other files alone. Raises OutputError as `publish` does.

    When all are whole, each file replaces the one with its name. `check` is called before anything is written, when no
    other run can write there any more, and may raise.
    """
    targets = [folder / file.path for file in plan.files]
    files = [_file(_partial(target), file) for target, file in zip(targets, plan.files, strict=True)]
    with _explained(folder), _parents(folder / "any"), locked(folder, folder / ".partial.journal") as journal:
        try:
            check()
            _check_room(folder, folder, missing(files, frozenset()))
            for file in files:
                _remove(file.path)
            write(files, Policy(threads or cores(), plan.passing, progress))
            for file, target in zip(files, targets, strict=True):
                file.path.replace(target)
            sync_folder(folder)
        finally:
            for file in files:
                _remove(file.path)
            journal.forget()


def write_report(path: Path, data: bytes) -> None:
    """Write a document to `path`, over an older one of its kind. Raises OutputError if anything else is there."""
    with _explained(path):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(_ALIKE) != data[:_ALIKE]:
                    raise OutputError(f"`{path}` exists and is not an older report: choose another path")
    publish(Plan((PlannedFile("", (literal(path.name, data),)),), folder=False), path, force=True)


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders that lead to `target`, and remove them again if the body of the `with` fails."""
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
    """Raise OutputError with the system's reason for an OSError in the body of the `with`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"`{target}` can't be written: {os_reason(error)}") from error


def _partial(target: Path) -> Path:
    """Where an output lies while it is written."""
    return target.with_name(f".{target.name}.partial")


def _placed(plan: Plan, files: Sequence[PlannedFile], partial: Path) -> list[File]:
    """The files with their paths in the partial output."""
    return [_file(partial / file.path if plan.folder else partial, file) for file in files]


def _file(path: Path, planned: PlannedFile) -> File:
    return File(path, tuple(part for piece in planned.pieces for part in piece.parts))


def _check_room(target: Path, folder: Path, nbytes: int) -> None:
    free = os.statvfs(folder)
    room = free.f_bavail * free.f_frsize
    if nbytes + _MARGIN > room:
        raise OutputError(f"`{target}` needs {nbytes:,} bytes and there is room for {room:,} on its disk")


def _swap(partial: Path, target: Path, *, folder: bool) -> None:
    """Put the new output in the place of the old one."""
    if folder and target.exists():
        for name in KEPT:
            if (target / name).is_file() and not (partial / name).exists():
                shutil.copy2(target / name, partial / name)
        _exchange(partial, target)
        sync_folder(target.parent)
        _remove(partial)
    else:
        partial.replace(target)
        sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step if the kernel can, so that the target is never absent."""
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux":
        at_cwd, exchange = -100, 2
        with contextlib.suppress(AttributeError):  # glibc before 2.28 has no such function
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
    """Remove a partial output."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
