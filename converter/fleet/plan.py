"""From a job's sources to its tasks: a task is a checkpoint, in one file or in shards."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from converter.errors import JobError
from converter.fleet.job import Job
from converter.formats.folders import kind_of
from converter.formats.marks import INDEX, SHARD
from converter.hub.locations import check_online, parse
from converter.hub.owners import models, searched
from converter.hub.stores import FileSystem, store_of
from converter.scanning import policy
from converter.text import natural, os_reason

_WILD: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Task:
    """A checkpoint that is worked on, what it is converted to (or nothing), and the bytes of its files."""

    source: str
    output: str
    nbytes: int


def tasks(job: Job) -> list[Task]:
    """The tasks of a job, the largest first.

    Raises JobError if there is none, if two would write the same output, or if one would write among the sources.
    """
    _check(job)
    found: dict[str, Task] = {}  # tasks by place, as a place may have several spellings
    folders: dict[str, str] = {}  # folders in which all checkpoints are sources, by place, too
    for location, path, nbytes in _places(job, folders):
        found.setdefault(_place(location, job.base), Task(location, job.target(path), nbytes))
    outputs: dict[str, str] = {}
    for task in found.values():
        if not task.output:
            continue
        output = _place(task.output, job.base)
        if inside := next((folders[above] for above in _above(output) if above in folders), None):
            raise JobError(
                f"the job `{job.path}`: `{task.output}` would be written into the source `{inside}`, where the next run would "
                f"take it for a checkpoint: choose an `output` elsewhere, or a source such as `{inside.rstrip('/')}/*.bin`"
            )
        if (other := outputs.setdefault(output, task.source)) != task.source:
            advice = (
                "give one source that has both in it, or make two jobs"
                if "{path}" in job.output
                else "use {path} in `output`"
            )
            raise JobError(
                f"the job `{job.path}`: `{other}` and `{task.source}` would both be written to `{task.output}`: {advice}"
            )
    if not found:
        raise JobError(
            f"the job `{job.path}`: there is no checkpoint in {', '.join(f'`{name}`' for name in job.sources)}"
        )
    # The largest first, so that no long task is left for the end; equal ones in the order in which people count: 2 before 10.
    return sorted(found.values(), key=lambda task: (-task.nbytes, natural(task.source)))


def _check(job: Job) -> None:
    """Raise an error if no task of a job could be done: its policy can't be read, or its store can't be reached."""
    if "scan" in job.work.steps and job.work.policy:
        policy.load(Path(job.work.policy))
    if store_of(job.output) is not None:
        FileSystem(job.output)


def _place(location: str, base: Path) -> str:
    """The one name by which a place is compared."""
    return location if "://" in location else os.path.normpath(base.absolute() / location)


def _above(place: str) -> Iterator[str]:
    """Yield a place, and all folders that it lies in."""
    while place:
        yield place
        place = place.rpartition("/")[0]


def _places(job: Job, folders: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """Yield the checkpoints of all sources, as `_found` does."""
    for source in job.sources:
        yield from _found(source, job.base, folders)
    for words in job.search:
        yield from ((f"hf://{name}", name, 0) for name in searched(words))


def _found(source: str, base: Path, folders: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """Yield the location of each checkpoint at a source, its path below it without an ending, and its bytes.

    Folders that are looked into are noted in `folders`.
    """
    if store_of(source) is not None:
        yield from _stored(source.rstrip("/"), folders)
        return
    wild = bool(_WILD & set(source)) and not (base / source).exists()
    if source.startswith("hf://") and wild:
        yield from ((f"{source.rpartition('/')[0]}/{name}", name, 0) for name in models(source))
        return
    if "://" in source:
        yield source, _named(source), 0
        return
    paths = sorted(glob.glob(source, root_dir=base, recursive=True)) if wild else [source]  # noqa: PTH207 (may be absolute)
    if not paths:
        raise JobError(f"`{source}` fits no file in `{base}`")
    for path in paths:
        place = base / path
        if place.is_dir():
            folders[_place(path, base)] = path
            yield from _within(path.rstrip("/"), dict(_walk(place)))
        elif place.exists():
            yield path, place.stem, place.stat().st_size
        elif place.is_symlink():
            raise JobError(f"`{path}` is a link to a file that is not there")
        else:
            raise JobError(f"`{path}` is not there: no such file or folder in `{base}`")


def _named(source: str) -> str:
    """What a checkpoint on the Hub or at a URL is called: after its repository, or after its file without the ending."""
    place = parse(source)
    if isinstance(place, str):
        return PurePosixPath(urlsplit(place).path).stem
    name = (place.file or place.repository).rpartition("/")[2]
    return name.rpartition(".")[0] if place.file and kind_of(name) is not None else name


def _stored(source: str, folders: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    from converter.hub.store_folder import StoreFolder

    if _WILD & set(source):
        system = FileSystem(source)
        check_online(source)
        if system.info(system.path, source) is None:
            fitting = system.call(source, lambda: sorted(system.fs.glob(system.path)), verb="listed")
            if not fitting:
                raise JobError(f"`{source}` fits no object in {system.store.title}")
            for path in fitting:
                yield from _stored(f"{source.partition('://')[0]}://{path.strip('/')}", folders)
            return
    folder = StoreFolder(source, deep=None)
    if folder.is_folder:
        folders[source] = source
        yield from _within(source, {name: folder.nbytes(name) or 0 for name in folder.within})
    else:
        yield source, PurePosixPath(source).stem, folder.size


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    def refused(error: OSError) -> None:
        raise JobError(f"`{error.filename}` can't be read: {os_reason(error)}") from None

    for where, folders, files in os.walk(root, onerror=refused):
        folders.sort()
        for name in sorted(files):
            path = Path(where, name)
            try:
                yield path.relative_to(root).as_posix(), path.stat().st_size
            except PermissionError as error:
                refused(error)
            except OSError:  # a link that leads nowhere is no checkpoint
                continue


def _within(root: str, files: dict[str, int]) -> Iterator[tuple[str, str, int]]:
    """Yield the checkpoints among the files below a folder: an index with its shards, or a file."""
    inner: dict[str, list[str]] = {}
    for name in files:
        folder, _, last = name.rpartition("/")
        if kind_of(last) is not None:
            inner.setdefault(folder, []).append(last)
    for folder, names in inner.items():
        where = f"{folder}/" if folder else ""
        groups: dict[tuple[str, str], list[str]] = {}
        for name in names:
            match = INDEX.fullmatch(name)
            ending = match[1] if match else f".{name.rpartition('.')[2]}"
            groups.setdefault((ending, "") if match or SHARD.fullmatch(name) else (ending, name), []).append(name)
        for members in groups.values():
            nbytes = sum(files[where + name] for name in members)
            index = next((name for name in members if INDEX.fullmatch(name)), None)
            # Alone in its folder, a checkpoint is named by the folder, so that its config.json and tokenizer go along.
            if len(groups) == 1 or (index is None and len(members) > 1):
                yield f"{root}/{folder}".rstrip("/"), folder or PurePosixPath(root).name, nbytes
            else:
                chosen = index or members[0]
                stem = chosen.partition(".")[0] if index else chosen.rpartition(".")[0]
                yield f"{root}/{where}{chosen}", where + stem, nbytes
