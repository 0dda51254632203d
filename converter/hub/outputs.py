"""Where outputs go: to the disk, or into a store. An object is absent, old or complete under its name, as a file is."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import OutputError
from converter.hub.stores import FileSystem, StorePath
from converter.io import publish as disk
from converter.io.parts import portioned, portions
from converter.io.publish import KEPT
from converter.steps import at
from converter.text import plural
from converter.words import option

if TYPE_CHECKING:
    from converter.io.publish import Plan, PlannedFile
    from converter.tensors.catalogue import Catalogue

Target = Path | StorePath
_PART: Final = 5 << 20  # bytes of a part of an upload, at least; S3 takes 5 MiB and more
_HANDED: Final = 1 << 18  # bytes that are handed over at once: fsspec copies what goes beyond a part
_TILES: Final = 8 << 20  # bytes of all tiles: less than for the disk, as the packages of stores need memory, too
_PARTS: Final = 9_000  # parts of an upload, at most; S3 takes 10,000


def target_of(output: Target) -> Target:
    """The output as what it is: an address in a store, if it is one, or a path."""
    return StorePath.of(output) or output


def is_taken(target: Target) -> bool:
    """Whether something is where an output should go that only `force` replaces."""
    if isinstance(target, StorePath):
        return _Upload(target).is_taken()
    try:
        disk.check_target(target, folder=target.is_dir(), force=False)
    except OutputError:
        return True
    return False


def check_target(target: Target, *, folder: bool, force: bool, source: Catalogue) -> None:
    """Raise OutputError if `target` is a file of the source, or exists (without `force`)."""
    if isinstance(target, StorePath):
        _Upload(target).check(folder=folder, force=force, names=_names(source))
    else:
        disk.check_target(target, folder=folder, force=force, inputs=source.identities())


def publish(
    plan: Plan,
    target: Target,
    source: Catalogue,
    *,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
    check: Callable[[], None] | None = None,
    threads: int | None = None,
) -> None:
    """Write a plan to the disk as `converter.io.publish` does, or into a store: there one thread works, in the plan's order."""
    if not isinstance(target, StorePath):
        disk.publish(
            plan,
            target,
            force=force,
            resume=resume,
            progress=progress,
            inputs=source.identities(),
            check=check,
            threads=threads,
        )
        return
    if resume:
        raise OutputError(
            f"`{target}` can't be resumed, because an upload starts again: leave {option('resume', True)} out"
        )
    _Upload(target).write(plan, force=force, progress=progress, names=_names(source), check=check)


def _names(source: Catalogue) -> list[str]:
    return [file.name for file in source.origin.sources]


class _Upload:
    """An output in a store. All objects are uploaded first, and get their names when everything is there and checked."""

    def __init__(self, target: StorePath) -> None:
        self._target = target
        self._system = FileSystem(target.url)

    def is_taken(self) -> bool:
        """Whether there is an object, or a folder that is not empty."""
        found = self._system.info(self._system.path, self._target.url)
        return found is not None and (found["type"] != "directory" or bool(self._stale(())))

    def check(self, *, folder: bool, force: bool, names: Collection[str]) -> None:
        found = self._system.info(self._system.path, self._target.url)
        if self._target.url in names or (folder and any(name.startswith(f"{self._target.url}/") for name in names)):
            raise OutputError(f"`{self._target}` is the input itself: choose another output")
        if found is None:
            return
        if (found["type"] == "directory") != folder:
            what, wanted = ("an object", "a folder") if folder else ("a folder", "an object")
            raise OutputError(f"`{self._target}` exists and is {what}, where {wanted} should be written")
        if force or (folder and not self._stale(())):
            return
        what = "exists and is not empty" if folder else "exists"
        raise OutputError(f"`{self._target}` {what}: give {option('force', True)} to replace it")

    def write(
        self,
        plan: Plan,
        *,
        force: bool,
        progress: Callable[[int], None] | None,
        names: Collection[str],
        check: Callable[[], None] | None,
    ) -> None:
        self.check(folder=plan.folder, force=force, names=names)
        begun: list[_Object] = []
        done: list[_Object] = []
        try:
            with portioned(replace(portions(), tiles=_TILES)):
                for file in plan.files:
                    begun.append(self._begun(file, folder=plan.folder))
                    begun[-1].fill(file, progress)
            for file in plan.finish() if plan.finish else ():
                begun.append(self._begun(file, folder=plan.folder))
                begun[-1].fill(file, None)
            if check is not None:
                check()
            self.check(folder=plan.folder, force=force, names=names)
            # An index, a manifest or a config.json makes a checkpoint of the other files, so they come last.
            for one in sorted(begun, key=lambda one: one.path.endswith(".json")):
                done.append(one)
                one.commit()
            if plan.folder:
                for path in self._stale([one.path for one in begun]):
                    self._call(path, partial(self._system.fs.rm_file, path))
        except BaseException:
            for one in begun:
                one.discard()
            for one in done:
                one.remove()
            raise

    def _begun(self, file: PlannedFile, *, folder: bool) -> _Object:
        inner = f"/{file.path}" if folder else ""
        return _Object(self._system, f"{self._system.path}{inner}", f"{self._target}{inner}", file.nbytes)

    def _stale(self, kept: Collection[str]) -> list[str]:
        """The objects in the folder that are not of this output, and that nobody keeps in a folder by hand."""
        with suppress(FileNotFoundError):
            found = self._call(self._system.path, partial(self._system.fs.find, self._system.path))
            own = {f"{self._system.path}/{name}" for name in KEPT}
            return [path for path in found if path not in kept and path not in own and not path.endswith("/")]
        return []

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        return self._system.call(name, function, verb="written")


class _Object:
    """One object that is uploaded: in parts, which the store puts together at the end, or at the end as a whole."""

    def __init__(self, system: FileSystem, path: str, name: str, nbytes: int) -> None:
        self.path = path
        self._system, self._name, self._nbytes = system, name, nbytes
        self._before = system.info(path, name) is not None
        self._file: Any = None
        self._whole = io.BytesIO() if not system.store.multipart else None

    def fill(self, file: PlannedFile, progress: Callable[[int], None] | None) -> None:
        """Upload the file's bytes."""
        at(self._name)
        size = max(_PART, -(-self._nbytes // _PARTS))
        with self._explained():
            if self._whole is None:
                self._file = self._system.fs.open(self.path, "wb", block_size=size, autocommit=False)
            for piece in file.pieces:
                for tile in piece.tiles():
                    for start in range(0, len(tile), _HANDED):
                        (self._file if self._whole is None else self._whole).write(tile[start : start + _HANDED])
                    if progress is not None:
                        progress(len(tile))
            if self._file is not None:
                self._file.close()

    def commit(self) -> None:
        """Give the object its name."""
        with self._explained():
            if self._whole is None:
                self._file.commit()
                self._file = None
            else:
                self._system.fs.pipe_file(self.path, self._whole.getvalue())
        found = self._system.info(self.path, self._name)
        if found is None or found["size"] != self._nbytes:
            size = "nothing" if found is None else f"{found['size']:,} bytes"
            raise OutputError(
                f"`{self._name}` can't be written: {size} came to be there, not {plural(self._nbytes, 'byte')}"
            )

    def discard(self) -> None:
        """Give up the upload, if it was not completed."""
        if self._file is not None:
            with suppress(Exception):  # the error that led here is the one to tell
                self._file.discard()
            self._file.closed = True  # or it would be completed when it is collected

    def remove(self) -> None:
        """Remove the object, unless it replaced one."""
        if not self._before:
            with suppress(Exception):
                self._system.fs.rm_file(self.path)

    def _explained(self) -> Any:
        return self._system.explained(self._name, "written")
