"""A job file: which checkpoints, which steps, where their outputs go, and what a task may take."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any, Final, Self

from converter.conversion.convert import check_words
from converter.conversion.job import check_dtype
from converter.errors import ConverterError, JobError
from converter.hub.outputs import Target, check_scheme, target_of
from converter.hub.stores import StorePath
from converter.io import toml_file
from converter.limits import parse as parse_limits
from converter.words import FAIL_ON, check, in_job

STEPS: Final = ("scan", "check", "convert", "verify")
_MEMORY: Final = 4 << 30
_TABLES: Final = {
    "scan": ("policy", "fail_on", "fickling"),
    "convert": ("output", "to", "dtype", "max_shard_size", "force"),
}
_TASKS: Final = ("processes", "seconds", "memory", "attempts")
_KEYS: Final = ("sources", "search", "steps", "journal", "scan", "convert", "tasks", "limits")
_FIELDS: Final = ("path", "name", "folder")  # fields of a template


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with each checkpoint: words and numbers only, so that any process can be told. `memory` is in bytes."""

    steps: tuple[str, ...] = ("scan",)
    policy: str | None = None
    fail_on: str = FAIL_ON[-1]
    fickling: bool = True
    to: str | None = None
    dtype: str = "keep"
    max_shard_size: int | None = None
    limits: tuple[str, ...] = ()
    memory: int = _MEMORY


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its file says it.

    `search` are words to find models on the Hub by, `seconds` is how long one attempt of a task may take, and `kept` is where
    the file says that the journal is.
    """

    path: Path
    sources: tuple[str, ...]
    work: Work = field(default_factory=Work)
    output: str = ""
    force: bool = False
    processes: int | None = None
    seconds: int = 3600
    attempts: int = 3
    kept: str = ""
    search: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The folder that relative paths of the job start from."""
        return self.path.parent

    @property
    def journal(self) -> Target:
        """Where the state of its tasks is kept: a file, by default beside the job file, or an address in a store."""
        if not self.kept:
            return self.path.with_suffix(".journal")
        return StorePath.of(self.kept) or self.base / self.kept

    @property
    def digest(self) -> str:
        """A hash of all that the results of tasks depend on. A journal belongs to one of these."""
        # Drivers on other machines may have the job file and its policy in another folder.
        policy = os.path.relpath(self.work.policy, self.base.absolute()) if self.work.policy else None
        told = [
            [*self.sources, *({"search": words} for words in self.search)],
            asdict(self.work) | {"memory": 0, "policy": policy},
            self.output,
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file. Raises JobError with what is wrong in it."""
        if (stored := StorePath.of(path)) is not None:
            raise JobError(f"`{stored}` can't be used: a job file lies on this machine's disk; copy it here")
        _, document = toml_file.load(path, "job", JobError, "; `batch init` writes one")
        return cls._of(document, path)

    @classmethod
    def _of(cls, document: Mapping[str, Any], path: Path) -> Self:
        where = f"the job `{path}`"
        _known(document, _KEYS, where)
        search = _texts(document["search"], f"{where}: `search`") if "search" in document else ()
        sources = _texts(document.get("sources"), f"{where}: `sources`") if "sources" in document or not search else ()
        steps = _texts(document.get("steps", ["scan"]), f"{where}: `steps`")
        if wrong := [step for step in steps if step not in STEPS]:
            raise JobError(f"{where}: `{wrong[0]:.80}` is not a step: the steps are {', '.join(STEPS)}")
        steps = tuple(step for step in STEPS if step in steps)
        scan, convert = (_table(document, name, keys, where) for name, keys in _TABLES.items())
        tasks, limits = _table(document, "tasks", _TASKS, where), _table(document, "limits", None, where)
        output = _text(convert, "output", "", where)
        if "convert" in steps and not output:
            raise JobError(f'{where}: the step convert needs `output` in [convert], such as "out/{{path}}.safetensors"')
        if "verify" in steps and "convert" not in steps:
            raise JobError(f"{where}: the step verify compares what convert wrote: add convert to `steps`")
        policy = _text(scan, "policy", "", where)
        work = Work(
            steps=steps,
            policy=str((path.parent / policy).absolute()) if policy else None,
            fail_on=_text(scan, "fail_on", FAIL_ON[-1], where),
            fickling=_flag(scan, "fickling", where, default=True),
            to=_text(convert, "to", "", where) or None,
            dtype=_text(convert, "dtype", "keep", where),
            max_shard_size=_number(convert, "max_shard_size", None, where),
            limits=tuple(f"{name}={value}" for name, value in limits.items()),
            memory=_number(tasks, "memory", _MEMORY, where) or 0,
        )
        job = cls(
            path=path,
            sources=sources,
            search=search,
            work=work,
            output=output,
            force=_flag(convert, "force", where, default=False),
            processes=_number(tasks, "processes", None, where),
            seconds=_number(tasks, "seconds", 3600, where) or 0,
            attempts=_number(tasks, "attempts", 3, where) or 0,
            kept=_text(document, "journal", "", where).rstrip("/"),
        )
        _check_template(output, where)
        try:
            check("fail_on", work.fail_on, FAIL_ON)
            parse_limits(work.limits)
            check_scheme(job.kept, JobError)
            if "convert" in steps:
                with in_job():
                    check_dtype(*check_words(target_of(Path(output)), work.to, work.dtype))
        except ConverterError as error:
            raise JobError(f"{where}: {error}") from None
        return job

    def target(self, path: str) -> str:
        """Where the output of a checkpoint goes, by its path below its source, without an ending. Empty without a conversion."""
        if not self.output:
            return ""
        pure = PurePosixPath(path)
        fields = dict(zip(_FIELDS, (path, pure.name, str(pure.parent) if pure.parent.name else ""), strict=True))
        return self.output.format(**fields)


def _check_template(output: str, where: str) -> None:
    """Raise JobError unless a template has names of fields only: what else `str.format` knows can fill the memory."""
    try:
        found = [(name, wanted, how) for _, name, wanted, how in Formatter().parse(output) if name is not None]
    except ValueError:
        found = [("", "", None)]
    if any(name not in _FIELDS or wanted or how for name, wanted, how in found):
        said = ", ".join(f"{{{name}}}" for name in _FIELDS)
        raise JobError(f"{where}: `output` is {output!r:.120}: a template has only {said}")


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise JobError(f"{where}: the key `{key:.80}` is not known: there are {', '.join(keys)}")


def _table(document: Mapping[str, Any], name: str, keys: Sequence[str] | None, where: str) -> dict[str, Any]:
    table = document.get(name, {})
    if type(table) is not dict:
        raise JobError(f"{where}: `{name}` is not a table: write [{name}]")
    if keys is not None:
        _known(table, keys, f"{where}, [{name}]")
    return table


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if type(value) is not list or not value or not all(type(text) is str and text for text in value):
        raise JobError(f"{what} must be a list of texts that is not empty")
    return tuple(value)


def _text(table: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = table.get(key, default)
    if type(value) is not str:
        raise JobError(f"{where}: `{key}` is {value!r:.80}: a text was expected")
    return value


def _number(table: Mapping[str, Any], key: str, default: int | None, where: str) -> int | None:
    value = table.get(key, default)
    if value is not None and (type(value) is not int or value < 1):
        raise JobError(f"{where}: `{key}` is {value!r:.80}: a whole number from 1 was expected")
    return value


def _flag(table: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = table.get(key, default)
    if type(value) is not bool:
        raise JobError(f"{where}: `{key}` is {value!r:.80}: true or false was expected")
    return value


TEMPLATE: Final = """\
# A job of `cerebras-tool batch`. Its schema is schemas/job.schema.json.

# What to read: files, folders with all that is in them, globs, and addresses in stores (s3://bucket/folder).
# Relative paths start from the folder of this file.
sources = ["checkpoints"]

# Words by which models on the Hub are found, as its own search finds them.
# search = ["cerebras gpt"]

# Any of scan, check, convert and verify. They run in this order; a checkpoint that fails one is not worked on further.
steps = ["scan", "convert", "verify"]

# Where the state of the tasks is kept. In S3, drivers on several machines can share the job.
# journal = "s3://bucket/jobs/one"

[scan]
# policy = "policy.toml"      # unknown globals that you accept
# fail_on = "unknown"         # or "dangerous"
# fickling = true             # ask fickling for a second opinion

[convert]
# {path} is the checkpoint's path below its source without an ending, {name} its last part, and {folder} what is before it.
# With an ending, as in "converted/{path}.gguf", the output is one file; otherwise a folder, with the small files, too.
output = "converted/{path}"
to = "safetensors"            # if the output's ending does not say it
# dtype = "keep"
# max_shard_size = 5000000000 # bytes
# force = false               # replace outputs that were there before the job

[tasks]
# processes = 2               # at a time; by default one for each processor
# seconds = 3600              # that one attempt may take
# memory = 4294967296         # bytes that one attempt may take
# attempts = 3                # after a crash, a lost connection or the like

[limits]
# opcodes = 10000000          # any limit of docs/security/limits.md
"""
