"""The catalogue: a state dict whose tensors are read when they are asked for, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from converter.errors import MissingTensorError
from converter.io.local import working_folder
from converter.tensors.tensor import Tensor
from converter.text import nbytes_text, plural, safe_name, safe_text

if TYPE_CHECKING:
    from collections.abc import ItemsView, ValuesView

    from converter.io.source import Source
    from converter.io.traffic import Traffic
    from converter.tensors.tensor import Storage


# What lies beside the weights: another part, a state dict of its own, averaged weights, a module's own attributes, an
# attribute of a tensor.
Role = Literal["beside", "weights", "averaged", "setting", "attribute"]
_SHOWN: Final = 20  # tensors that a notebook shows
# What the rest of this package calls. A person who completes a name does not look for these, so `dir` leaves them out.
_INNER: Final = frozenset(
    (
        *("arrange", "canonical", "check_open", "check_unchanged", "concurrent", "expect", "fingerprint", "identities"),
        *("meant", "pass_by", "place", "with_config", "with_origin", "with_tensors"),
    )
)


@dataclass(frozen=True, slots=True)
class Other:
    """Something in a checkpoint that is not one of the weights, kept inert. `value` is one of `converter.pickles.values`.

    `role` is what it is to the weights.
    """

    name: str
    kind: str
    value: object
    role: Role = "beside"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A tensor of a kind that can't be carried over: quantised, sparse, of an encoding that is not decoded here.

    `dtype` and `shape` are None if the file does not say them, and `nbytes` is 0. `way_out` says what people can do
    about such a tensor. `storage` are its bytes, and `code` is the number of its type in the file, if a copy can have them as
    they are. `what` is what it is in words, if it is no tensor itself.
    """

    name: str
    kind: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    nbytes: int = 0
    way_out: str = "turn it into a plain tensor with torch and save again"
    storage: Storage | None = None
    code: int | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file that a catalogue was read from; `nbytes` is its size when it was opened."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class GlobalUse:
    """A global that a pickle names: its first position, how often it is named, and whether it is in the closed table."""

    module: str
    name: str
    known: bool
    position: int  # byte in the pickle
    file: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a catalogue came from, apart from what it contains.

    `format` is the name of a record of `converter.formats`. `config` is the config.json beside the weights. `traffic`
    counts what was read from servers; None for local files. `notes` are sentences about what was found there: weights
    that were left aside, faults of the config.json. `folder`: a folder was named, or an index, and not one file of many.
    `base` is the folder that relative names started from when it was opened.
    """

    location: str
    format: str
    files: tuple[File, ...] = ()
    sources: tuple[Source, ...] = ()
    config: Mapping[str, Any] | None = None
    traffic: Traffic | None = None
    notes: tuple[str, ...] = ()
    folder: bool = False
    base: Path = field(default_factory=working_folder, repr=False)

    def path_of(self, name: str) -> Path:
        """The path of a local file or folder that is called `name` here, wherever the working folder is by now."""
        return Path(name) if self.base == working_folder() else self.base / name


@dataclass(frozen=True, eq=False)
class Catalogue(Mapping[str, Tensor]):
    """A state dict whose tensors are read when they are asked for, in the order of the file.

    `storages` are all storages of the files in order, referenced or not. `others` are values that are not tensors, kept
    inert. `unsupported` are tensors of kinds that can't be carried over. `globals` are the globals that the pickles
    name. `problems` are sentences about contradictions that leave the rest readable. `missing` are names that an index
    lists and no shard holds. `unchecked` says that it was saved without CRCs. `canonical` says that names, shapes and
    config.json are those of its family already. `metadata` is what the file itself says, under keys that its author
    chose; `facts` are what the reader found out, under keys of ours. `meant` finds the tensors that a name of another form
    of the model means. Leaving a `with` block closes its files.
    """

    tensors: Mapping[str, Tensor]
    origin: Origin
    storages: tuple[Storage, ...] = ()
    others: tuple[Other, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    globals: tuple[GlobalUse, ...] = ()
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unchecked: bool = False
    canonical: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    meant: Callable[[Catalogue, str], Sequence[str]] | None = None

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            meant = None if self.meant is None else partial(self.meant, self)
            raise MissingTensorError(name, self.tensors, self.location, meant) from None

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def get(self, name: str, default: Any = None) -> Any:
        """The tensor of that name, or `default`."""
        return self.tensors.get(name, default)

    # Mapping's own views look every tensor up again, which takes a second for 100,000 tensors.
    def items(self) -> ItemsView[str, Tensor]:
        """The names with their tensors."""
        return self.tensors.items()

    def values(self) -> ValuesView[Tensor]:
        """The tensors."""
        return self.tensors.values()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __dir__(self) -> list[str]:
        return [name for name in object.__dir__(self) if name not in _INNER]

    def __repr__(self) -> str:
        return f"<Catalogue {self.location!r}: {plural(len(self), 'tensor')}, {self.format}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a small page, or a table of the first tensors where nothing can make pages."""
        from converter.tensors.notebook import drawn

        return drawn("catalogue", self) or self._table()

    def _table(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(safe_name(name))}</td><td>{tensor.dtype.name}</td>"
            f"<td>{escape(_shape(tensor.shape))}</td><td style='text-align:right'>{nbytes_text(tensor.nbytes)}</td></tr>"
            for name, tensor in islice(self.tensors.items(), _SHOWN)
        )
        rest = f"<p>and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        head = f"<p><b>{escape(safe_text(self.location))}</b>: {plural(len(self), 'tensor')}, {escape(self.format)}</p>"
        titles = "<tr><th>name</th><th>dtype</th><th>shape</th><th>bytes</th></tr>"
        return f"{head}<table>{titles}{rows}</table>{rest}"

    def _ipython_key_completions_(self) -> list[str]:
        """The names that a notebook offers after `catalogue[`."""
        return list(self.tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_open(self) -> None:
        """Raise SourceError if a file was closed."""
        for source in self.origin.sources:
            source.check_open()

    def close(self) -> None:
        """Close the files; tensors can't be read any more."""
        for source in self.origin.sources:
            source.close()

    @property
    def location(self) -> str:
        """The path or URL that it was opened from."""
        return self.origin.location

    @property
    def place(self) -> str:
        """The location as it can be opened now: the working folder may have changed since a relative path was given."""
        return self.location if "://" in self.location else str(self.origin.path_of(self.location))

    @property
    def path(self) -> Path:
        """The place of a local checkpoint as a path."""
        return Path(self.place)

    @property
    def format(self) -> str:
        """The name of its format, a record of `converter.formats`."""
        return self.origin.format

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The config.json beside the weights."""
        return self.origin.config

    def with_tensors(self, tensors: Mapping[str, Tensor], storages: Sequence[Storage] = ()) -> Catalogue:
        """A catalogue of other tensors that keeps everything else."""
        return replace(self, tensors=dict(tensors), storages=tuple(storages))

    def with_origin(self, **changes: Any) -> Catalogue:
        """The same catalogue with some facts about its origin replaced: fields of Origin by name."""
        return replace(self, origin=replace(self.origin, **changes))

    def with_config(self, config: Mapping[str, Any] | None, fault: str | None) -> Catalogue:
        """The same catalogue with a config.json, and a note about its fault if it has one."""
        notes = (fault,) if fault is not None else ()
        return self.with_origin(config=config, notes=(*self.origin.notes, *notes))

    def fingerprint(self) -> str:
        """A text that changes when the files do: their names, sizes and versions."""
        return repr([(source.name, source.size, source.version) for source in self.origin.sources] or self.origin.files)

    def tied(self) -> list[list[str]]:
        """Groups of names of one and the same view."""
        groups: dict[Tensor, list[str]] = {}
        for name, tensor in self.tensors.items():
            groups.setdefault(tensor, []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    def unknown_globals(self) -> list[str]:
        """The globals that the pickles name outside the closed table, sorted."""
        return sorted({str(use) for use in self.globals if not use.known})

    def identities(self) -> list[tuple[int, int]]:
        """Device and inode of the files that are read, so that none of them is overwritten."""
        return [source.identity for source in self.origin.sources if source.identity is not None]

    @property
    def concurrent(self) -> bool:
        """Whether several threads may read different tensors at once without loss of speed."""
        return all(source.concurrent for source in self.origin.sources)

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Announce the order in which tensors will be read, so that remote files are fetched ahead in that order."""
        for source, ranges in self._ranges(tensor.storage for tensor in tensors):
            source.expect(ranges)

    def arrange(self) -> None:
        """Announce that tensors will probably be read in the catalogue's order. This ends the opening of a checkpoint."""
        ordered = (*(tensor.storage for tensor in self.tensors.values()), *self.storages)
        found = {id(source): (source, ranges) for source, ranges in self._ranges(ordered)}
        for source in self.origin.sources:
            source.arrange(found.get(id(source), (source, []))[1])

    def pass_by(self) -> None:
        """Keep nothing that is read from now on in the page cache."""
        for source in self.origin.sources:
            source.pass_by()

    def check_unchanged(self) -> None:
        """Raise SourceError if a file was written to since it was opened."""
        for source in self.origin.sources:
            source.check_unchanged()

    def _ranges(self, storages: Iterable[Storage]) -> list[tuple[Source, list[tuple[int, int]]]]:
        """For each file, the ranges of the storages in it, in order."""
        if self.origin.traffic is None:  # announcing is of no use for local files
            return []
        found: dict[int, tuple[Source, list[tuple[int, int]]]] = {}
        for storage in storages:
            for source, start, end in storage.spans():
                found.setdefault(id(source), (source, []))[1].append((start, end))
        return list(found.values())


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "scalar"
