"""What a format can do: the type of every record in `converter.formats`.

Everything that the program asks about a format is a field here, with a default where most formats have none. Nothing
outside this package compares a format's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from converter.io.publish import PlannedFile
    from converter.io.source import Source
    from converter.models.recognition import Recognition
    from converter.models.vocabulary import Tokenizer
    from converter.tensors.casting import Loss
    from converter.tensors.catalogue import Catalogue

Finding = tuple[str, str, str]  # what is wrong with what lies beside the weights: name, what, sentence


class Reader(Protocol):
    """Reads a checkpoint's names and layouts from its bytes."""

    def __call__(self, source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
        """`root` is the key that names start below; `shard` counts from 1."""
        ...


class FolderReader(Protocol):
    """Reads a checkpoint that is a folder of its own kind."""

    def __call__(self, path: Path, *, root: str | None = None) -> Catalogue:
        """`root` is the key that names start below."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a conversion is asked for. A format takes what concerns it, and refuses what it can't do.

    `dtype` is a word of `Format.dtypes`. `max_shard_size` counts bytes. `tokenizer` is a folder with tokenizer files.
    `name` is what the output's weight file would be called; None where it lies in a folder and may choose. `form` and
    `sha256` are a parameters folder's; `properties_inside` is whether model.properties goes into it.
    """

    dtype: str = "keep"
    max_shard_size: int | None = None
    keep_buffers: bool = False
    tokenizer: Path | None = None
    name: str | None = None
    form: str = "storages"
    sha256: bool = False
    properties_inside: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """What a format would write: files whose sizes are known before a byte is.

    `dropped` are masks, `tied` the names that are kept under another name. `losses` is filled while the files are
    written, by tensor, where the dtype changes. `finish` makes the files that depend on the others' bytes. `properties`
    is the text of model.properties, and `refused` why there is none.
    """

    files: tuple[PlannedFile, ...]
    tensors: int
    dropped: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    losses: Mapping[str, Loss] = field(default_factory=dict)
    finish: Callable[[], Sequence[PlannedFile]] | None = None
    properties: str | None = None
    refused: str | None = None


class Planner(Protocol):
    """Plans an output: names, offsets and sizes, without reading a tensor, unless it is a mask to be left out."""

    def __call__(self, catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
        """`catalogue` has the canonical names. Raises UnsupportedError, naming the tensor, for what can't be written."""
        ...


def _never(head: bytes) -> bool:
    return False


def _no_folder(path: Path) -> bool:
    return False


def _as_it_is(catalogue: Catalogue) -> Catalogue:
    return catalogue


def _no_disagreements(catalogue: Catalogue) -> Sequence[str]:
    return ()


def _says(catalogue: Catalogue) -> bool:
    return True


def _no_findings(output: Catalogue, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    return iter(())


def _no_tokenizer(catalogue: Catalogue) -> Tokenizer | None:
    return None


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of checkpoint. What a record does not say, the format does not have.

    Reading. `matches` looks at the first HEAD bytes of a file; `read` reads one; `endings` are what its files are
    called, the one that is written first. `is_folder` looks at a folder, `read_folder` reads one. `canonical` gives a
    catalogue the names, shapes and config.json of its family.

    Writing. `plan` plans an output with the dtypes that `dtypes` lists, a word each; `shard` is how many bytes of
    tensors a file in a folder has at most. `whole_folder`: an output is always a folder.

    What lies beside. `self_contained`: configuration and tokenizer lie inside the file. `companions`: they lie beside
    the weights in a folder, and go along. `tokenizer` reads the one inside. `says_activation` tells whether the
    configuration says which activation the model was trained with. `check` holds the rest of a folder against the
    tensors.

    Verifying. `disagreements` asks a second reader of the format. `engines` can compute such a model. `tanh`: what runs
    this form computes GELU by tanh, whatever the model was trained with.

    Scanning. `pickled`: a pickle says what the file holds, so that its globals and its strides are worth showing.
    `contents` is what a scanner looks through: records of an archive, pickles one after another, an array
    of numpy, or nothing.
    """

    name: str
    title: str
    matches: Callable[[bytes], bool] = _never
    read: Reader | None = None
    endings: tuple[str, ...] = ()
    is_folder: Callable[[Path], bool] = _no_folder
    read_folder: FolderReader | None = None
    canonical: Callable[[Catalogue], Catalogue] = _as_it_is
    plan: Planner | None = None
    dtypes: tuple[str, ...] = ()
    shard: int | None = None
    whole_folder: bool = False
    self_contained: bool = False
    companions: bool = True
    tokenizer: Callable[[Catalogue], Tokenizer | None] = _no_tokenizer
    says_activation: Callable[[Catalogue], bool] = _says
    check: Callable[[Catalogue, Mapping[str, Any] | None], Iterator[Finding]] = _no_findings
    disagreements: Callable[[Catalogue], Sequence[str]] = _no_disagreements
    engines: tuple[str, ...] = ("numpy",)
    tanh: bool = False
    pickled: bool = False
    contents: Literal["records", "pickles", "array", "nothing"] = "nothing"

    @property
    def ending(self) -> str | None:
        """What the name of a lone file that is written ends in; None where an output is always a folder."""
        return None if self.whole_folder or self.plan is None else self.endings[0]


def lazily(module: str, name: str) -> Any:
    """A function that imports its module when it is first called: a command imports only the formats that it meets."""

    def call(*args: Any, **options: Any) -> Any:
        return vars(import_module(module))[name](*args, **options)

    return call
