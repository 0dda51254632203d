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
import secrets
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from converter.errors import OutputError
from converter.io.folder import Folder, identity, is_plain
from converter.io.journal import locked
from converter.io.local import outgrow_memory
from converter.io.parts import Buffers, Part, known, portions
from converter.io.writer import File, Policy, Progress, cores, missing, present, write, write_in_order
from converter.text import os_reason, plural
from converter.words import option

KEPT: Final = ("README.md", ".gitignore")  # a folder that holds only these counts as empty, and keeps them
_MARGIN: Final = 1 << 20  # bytes of room for directories and journals


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an output file, made when they are written: its `parts`, one after another.

    `dtype` is a tensor's dtype in the output file; None for headers and the like.
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
        buffers = Buffers(portions().tiles)
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
    whole = Path(os.path.abspath(target))
    with explained(target), contextlib.suppress(FileNotFoundError), Folder.opened(whole.parent) as parent:
        _check(target, parent, whole.name, folder=folder, force=force, inputs=inputs)


def _check(
    target: Path, parent: Folder, name: str, *, folder: bool, force: bool, inputs: Sequence[tuple[int, int]]
) -> None:
    status = parent.status(name or ".")
    if status is None:
        return
    what = "a folder" if stat.S_ISDIR(status.st_mode) else "a file"
    if stat.S_ISLNK(status.st_mode):
        raise OutputError(f"`{target}` is a symbolic link: name the place it leads to")
    if identity(status) in inputs:
        raise OutputError(f"`{target}` is the input itself: choose another output")
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise OutputError(f"`{target}` is neither a file nor a folder: choose another path")
    if stat.S_ISDIR(status.st_mode) != folder:
        raise OutputError(
            f"`{target}` exists and is {what}, where {'a folder' if folder else 'a file'} should be written"
        )
    if folder:
        empty = True
        for where, folders, files, descriptor in os.fwalk(name or ".", dir_fd=parent.descriptor):
            for entry in (*folders, *files):
                inner = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
                if identity(inner) in inputs:
                    raise OutputError(f"`{target}` holds the input `{entry}`: choose another output")
                empty = empty and where == (name or ".") and entry in KEPT and is_plain(inner)
        if not (force or empty):
            raise OutputError(f"`{target}` exists and is not empty: give {option('force', True)} to replace it")
    elif not force:
        raise OutputError(f"`{target}` exists: give {option('force', True)} to replace it")


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
        raise AssertionError("a file of a plan lies outside of its target")
    check_target(target, folder=plan.folder, force=force, inputs=inputs)
    partial = _partial(target)
    with (
        explained(target),
        _parents(target) as parent,
        locked(target, parent, f"{partial}.journal") as journal,
        contextlib.ExitStack() as stack,
    ):
        # Check again, in the folder that is held now: the path to it may lead elsewhere than before.
        _check(target, parent, target.name, folder=plan.folder, force=force, inputs=inputs)
        before, left, made = parent.status(target.name), parent.status(partial), journal.made
        ours = left is not None and identity(left) == made and left.st_uid == os.geteuid()
        digest, whole = plan.digest(), frozenset[int]()
        if resume and ours and made is not None:
            root = stack.enter_context(parent.inner(partial, make=False)) if plan.folder else parent
            files = _placed(plan, plan.files, root, target)
            whole = present(files, journal.whole(_key(digest, made)))
        if not whole:
            parent.remove(partial, made)
            files = _placed(plan, plan.files, parent, target)
        _check_room(target, parent.descriptor, missing(files, whole))
        made = None
        try:
            if not whole:
                root = stack.enter_context(parent.inner(partial, make=True)) if plan.folder else parent
                files = _placed(plan, plan.files, root, target)
            if not plan.folder:
                parent.make(partial)
            if (made := _identity(parent, partial)) is None:
                raise OutputError(f"`{target}` can't be written: the part that was written has disappeared")
            journal.begin(_key(digest, made), whole)
            policy = Policy(threads or cores(), plan.passing, progress, journal.note if resume else None)
            write(files, policy, whole)
            late = _placed(plan, plan.finish() if plan.finish else (), root, target)
            for file in late:
                write_in_order(file)
            if plan.folder:
                root.sync(file.name for file in (*files, *late))
            if check is not None:
                check()
            if _identity(parent, partial) != made or _identity(parent, target.name) != (before and identity(before)):
                raise OutputError(f"`{target}` was changed by another program while it was written: start again")
            _swap(parent, root, target.name, partial, folder=plan.folder, before=before)
        except BaseException as error:
            if resume:
                kept = target.parent / partial
                error.add_note(
                    f"what was written stays in `{kept}`: the same command goes on there, and `rm -r {shlex.quote(str(kept))}"
                    f" {shlex.quote(f'{kept}.journal')}` removes it"
                )
            else:
                parent.remove(partial, made)
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

    When all files are whole, each replaces the old file of its name. `check` is called before anything is written, at a
    time when no other run can write there any more, and may raise.
    """
    if any("/" in file.path for file in plan.files):
        raise AssertionError("files that are added lie in the folder itself")
    with (
        explained(folder),
        _parents(Path(os.path.abspath(folder)) / "any") as inside,
        locked(folder, inside, ".partial.journal") as journal,
    ):
        files = [_file(inside, f".{file.path}.partial", file, folder / file.path) for file in plan.files]
        try:
            check()
            _check_room(folder, inside.descriptor, missing(files, frozenset()))
            for file in files:
                inside.remove(file.name)
            write(files, Policy(threads or cores(), plan.passing, progress))
            for file, planned in zip(files, plan.files, strict=True):
                _rename(inside, file.name, planned.path)
            inside.sync()
        finally:
            for file in files:
                inside.remove(file.name)
            journal.forget()


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[Folder]:
    """Make the folders that lead to `target`, and yield the last of them. If the body of the `with` fails, remove them again.

    The part of the path that exists is the user's and may contain links. The folders that are made are not links.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        with contextlib.ExitStack() as stack:
            parent = stack.enter_context(Folder.opened(made[-1].parent if made else target.parent))
            for folder in reversed(made):
                with contextlib.suppress(FileExistsError):  # another run may make the same ones
                    os.mkdir(folder.name, dir_fd=parent.descriptor)
                parent = stack.enter_context(parent.inner(folder.name, make=False))
            yield parent
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Raise OutputError with the system's reason for an OSError in the body of the `with`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"`{target}` can't be written: {os_reason(error)}") from error


def _key(digest: str, made: tuple[int, int]) -> str:
    """The first line of the journal: the plan, and the partial output that the parts below lie in."""
    return f"{digest} {made[0]}:{made[1]}"


def _identity(folder: Folder, name: str) -> tuple[int, int] | None:
    status = folder.status(name)
    return None if status is None else identity(status)


def _placed(plan: Plan, files: Sequence[PlannedFile], root: Folder, target: Path) -> list[File]:
    """The files as they lie in the partial output: below `root`, or under the one name."""
    if plan.folder:
        return [_file(root, file.path, file, target / file.path) for file in files]
    return [_file(root, _partial(target), file, target) for file in files]


def _partial(target: Path) -> str:
    return f".{target.name}.partial"


def _file(folder: Folder, name: str, planned: PlannedFile, title: Path) -> File:
    parts = [(part, piece) for piece in planned.pieces for part in piece.parts]
    at = tuple(str(title) if piece.dtype is None else piece.name for _, piece in parts)
    return File(folder, name, tuple(part for part, _ in parts), str(title), at)


def _check_room(target: Path, folder: int, nbytes: int) -> None:
    free = os.statvfs(folder)
    room = free.f_bavail * free.f_frsize
    if nbytes + _MARGIN > room:
        raise OutputError(f"`{target}` needs {plural(nbytes, 'byte')} and there is room for {room:,} on its disk")


def _swap(
    parent: Folder, root: Folder, name: str, partial: str, *, folder: bool, before: os.stat_result | None
) -> None:
    """Put the new output in the place of the old one."""
    if folder and before is not None:
        with parent.inner(name, make=False) as old:
            for kept in KEPT:
                _keep(old, root, kept)
        _exchange(parent, partial, name)
        parent.sync()
        parent.remove(partial, identity(before))
    else:
        _rename(parent, partial, name)
        parent.sync()


def _keep(old: Folder, new: Folder, name: str) -> None:
    """Copy an old file with its mode and times.

    A file is not kept if the new output has one of its name, if it is a link, or if it has a second name.
    """
    status = old.status(name)
    if status is None or not is_plain(status) or new.status(name) is not None:
        return
    reading = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=old.descriptor)
    with os.fdopen(reading, "rb") as source:
        if identity(os.fstat(reading)) != identity(status):
            raise OutputError(f"`{old.path / name}` was changed by another program: start again")
        new.make(name)
        with new.writing(name) as writing, os.fdopen(writing, "wb", closefd=False) as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fchmod(writing, stat.S_IMODE(status.st_mode))
            os.utime(writing, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rename(folder: Folder, name: str, to: str) -> None:
    os.replace(name, to, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)


def _exchange(folder: Folder, one: str, other: str) -> None:
    """Swap two entries of a folder in one step where the kernel can, so that the target is never absent."""
    library = ctypes.CDLL(None, use_errno=True)
    places = folder.descriptor, os.fsencode(one), folder.descriptor, os.fsencode(other)
    exchange = 2  # the flag has the same value on Linux and macOS
    with contextlib.suppress(AttributeError):  # glibc before 2.28 has no such function
        swap = library.renameatx_np if sys.platform == "darwin" else library.renameat2
        if swap(*places, exchange) == 0:
            return
    aside = f".{other}.{secrets.token_hex(8)}.old"
    _rename(folder, other, aside)
    _rename(folder, one, other)
    _rename(folder, aside, one)
