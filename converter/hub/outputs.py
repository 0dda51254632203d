"""Where outputs go: to the disk, or into a store. An object is absent, old or complete under its name, as a file is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, OutputError
from converter.hub.stores import STORES, FileSystem, StorePath
from converter.hub.uploads import Upload, upload_of
from converter.io import publish as disk
from converter.io.parts import portioned, portions
from converter.io.publish import KEPT
from converter.steps import at
from converter.text import safe_text
from converter.words import option

if TYPE_CHECKING:
    from converter.io.publish import Plan, PlannedFile
    from converter.tensors.catalogue import Catalogue

Target = Path | StorePath
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=/)")  # a path has lost a slash of `://`
_TILES: Final = 8 << 20  # bytes of all tiles: less than for the disk, as the packages of stores need memory, too


def target_of(output: Target) -> Target:
    """The output as an address in a store, if it is one, or else as a path. Raises OutputError for other addresses."""
    stored = StorePath.of(output)
    if stored is None:
        check_scheme(str(output), OutputError)
    return stored or output


def check_scheme(place: str, error: type[ConverterError]) -> None:
    """Raise the error if a place to write to is an address, but in no store that is written to."""
    scheme = _SCHEME.match(place)
    if scheme is not None and scheme[1] not in STORES and not Path(scheme[0]).exists():
        schemes = ", ".join(f"{name}://" for name, store in STORES.items() if not store.local)
        whole = f"{scheme[0]}//{place[scheme.end() :].lstrip('/')}"
        raise error(
            f"`{safe_text(whole)}` is an address that nothing is written to: give a path, or an address with {schemes}"
        )


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
    _Upload(target).write(plan, force=force, resume=resume, progress=progress, names=_names(source), check=check)


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
        resume: bool,
        progress: Callable[[int], None] | None,
        names: Collection[str],
        check: Callable[[], None] | None,
    ) -> None:
        store = self._system.store
        if resume and not store.calls:
            raise OutputError(
                f"`{self._target}` can't be resumed, because an upload to {store.title} starts again: leave "
                f"{option('resume', True)} out"
            )
        self.check(folder=plan.folder, force=force, names=names)
        begun: list[Upload] = []
        done: list[Upload] = []
        try:
            with portioned(replace(portions(), tiles=_TILES)):
                for file in plan.files:
                    begun.append(self._begun(file, folder=plan.folder, resume=resume))
                    begun[-1].fill(_tiles(file, progress))
            for file in plan.finish() if plan.finish else ():
                begun.append(self._begun(file, folder=plan.folder, resume=resume))
                begun[-1].fill(_tiles(file, None))
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

    def _begun(self, file: PlannedFile, *, folder: bool, resume: bool) -> Upload:
        inner = f"/{file.path}" if folder else ""
        path, name = f"{self._system.path}{inner}", f"{self._target}{inner}"
        at(name)
        return upload_of(self._system, path, name, file.nbytes, resume=resume)

    def _stale(self, kept: Collection[str]) -> list[str]:
        """The objects in the folder that are neither part of this output nor files that people keep there."""
        with suppress(FileNotFoundError):
            found = self._call(self._system.path, partial(self._system.fs.find, self._system.path))
            own = {f"{self._system.path}/{name}" for name in KEPT}
            return [path for path in found if path not in kept and path not in own and not path.endswith("/")]
        return []

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        return self._system.call(name, function, verb="written")


def _tiles(file: PlannedFile, progress: Callable[[int], None] | None) -> Iterator[memoryview]:
    """The bytes of a file in tiles. Each counts as progress once it was taken."""
    for piece in file.pieces:
        for tile in piece.tiles():
            yield tile
            if progress is not None:
                progress(len(tile))
