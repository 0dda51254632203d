"""What a format can do: the type of every record in `converter.formats`.

Everything that the program asks about a format is a field here, with a default for most formats. Nothing outside this
package compares a format's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from converter.io.publish import PlannedFile
    from converter.io.source import Source
    from converter.models.recognition import Recognition
    from converter.models.tokenizers.tokenizer import Tokenizer
    from converter.tensors.casting import Loss
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

VALUES: Final = "training."
Finding = tuple[str, str, str]  # something wrong with the files beside the weights: name, what, sentence


class Key(NamedTuple):
    """Something that a file says about itself. Of an array, `value` has the first elements, and `length` counts all."""

    name: str
    type: str
    value: Any
    length: int | None


class Words(NamedTuple):
    """The tokenizer inside a file: counts, ids of special tokens by what they are for, and whether it has a chat template."""

    kind: str
    pre: str
    tokens: int
    merges: int
    special: Mapping[str, int]
    template: bool


class Cache(NamedTuple):
    """What a program keeps for a context of this many tokens, in bytes; if it is not `exact`, it may be less."""

    context: int
    nbytes: int
    exact: bool


class Portion(NamedTuple):
    """Which of a model's files this one is, by what the file itself says: `number`, from 1, of `parts`.

    `tensors` is how many there are in all files together; None if it does not say that.
    """

    number: int
    parts: int
    tensors: int | None

    def said(self, name: str) -> str:
        """The sentence about a file that is read without the others."""
        return f"`{name}` is part {self.number} of {self.parts} of a model, and the others are not read: name the first part"


class Reader(Protocol):
    """Reads a checkpoint's names and layouts from its bytes."""

    def __call__(self, source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
        """`root` is the key that names start below; `shard` counts from 1."""
        ...


class FolderReader(Protocol):
    """Reads a checkpoint that is a folder of its own kind."""

    def __call__(self, path: Path, *, root: Root = None) -> Catalogue:
        """`root` is the key that names start below."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a conversion. A format uses those that concern it, and refuses those that it can't fulfil.

    `dtype` is a word of `Format.dtypes`. `max_shard_size` counts bytes. `tokenizer` is a folder with tokenizer files;
    `no_tokenizer` allows an output that would hold one to be without.
    `name` is the name of the output's weight file; None if it lies in a folder, where the format chooses. `form` and
    `sha256` are for a parameters folder, and `properties_inside` says whether model.properties goes into it. `types` are
    the dtypes of tensors that were given one by name. `about` is what the files beside the weights say about the model, by
    GGUF's keys. `values` are carried along where the format has a place for them: JSON
    by name.
    """

    dtype: str = "keep"
    max_shard_size: int | None = None
    keep_buffers: bool = False
    tokenizer: Path | None = None
    no_tokenizer: bool = False
    name: str | None = None
    form: str = "storages"
    sha256: bool = False
    properties_inside: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def dtype_of(self, name: str) -> str:
        """The word for the dtype that a tensor is to become."""
        return self.types.get(name, self.dtype)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a format would write: files whose sizes are known before a byte is written.

    `dropped` are masks, and `tied` the names that are kept under another name. `losses` is filled while the files are
    written, for each tensor whose dtype changes. `finish` makes the files that depend on the others' bytes.
    `properties` is the text of model.properties, and `refused` the reason if there is none.
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
    """Plans an output: names, offsets and sizes. It reads no tensors, except masks that may be left out."""

    def __call__(self, catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
        """`catalogue` has the canonical names. Raises UnsupportedError, naming the tensor, for what can't be written."""
        ...


def _texts(catalogue: Catalogue) -> Iterator[Key]:
    return (Key(name, "string", text, None) for name, text in catalogue.metadata.items())


def _nothing(catalogue: Catalogue) -> Mapping[str, Any]:
    return {}


def _of_the_first(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return parts[0]


def _no_files(catalogue: Catalogue) -> Mapping[str, bytes]:
    return {}


def _no_words(catalogue: Catalogue) -> Words | None:
    return None


def _no_cache(catalogue: Catalogue, context: int | None) -> Cache | None:
    return None


def _whole(catalogue: Catalogue) -> Portion | None:
    return None


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
    """A kind of checkpoint. A format lacks every ability that its record does not give.

    Reading. `matches` looks at the first HEAD bytes of a file; `read` reads one; `endings` are the endings of its
    files' names, and the first is the one that is written. `is_folder` looks at a folder, `read_folder` reads one.
    `canonical` gives a catalogue the names, shapes and config.json of its family. `portion` tells which part of a model a
    file is; None if it is a whole one. `keys` are what a file says about itself, `words` what it says about its tokenizer,
    and `cache` is what the program that runs it needs besides the weights. `remarks` are what a file says about the model
    and no other file beside an output would: values of JSON by name. `joined` makes one of the metadata of several files;
    of two values of a key it takes the first.

    Writing. `plan` plans an output. `dtypes` are the words for the dtypes that it takes. `shard` is how many bytes of
    tensors a file in a folder has at most. `whole_folder`: an output is always a folder. `values`: its metadata have a place
    for values, whose keys are VALUES and a name.

    Companions. `self_contained`: configuration and tokenizer are inside the file. `companions`: they lie beside the
    weights in a folder, and are copied with them. `tokenizer` reads the one inside, and `tokenizer_files` are
    the files that it would be beside weights; `generation_files` say how to generate text. `says_activation` tells whether the
    configuration names the activation that the model was trained with. `check` compares the other files of a folder
    with the tensors.

    Verifying. `disagreements` asks a second reader of the format. `engines` can compute such a model. `tanh`: the
    programs that run this format compute GELU in its tanh form, whatever the model was trained with. `computed` is
    what these programs compute with, if files beside the tensors tell them where and how to read.

    Scanning. `pickled`: a pickle describes the file, so its globals and strides are worth showing. `contents` is what a
    scanner looks through: records of a zip, members of a tar, pickles one after another, an array of numpy, or nothing.
    """

    name: str
    title: str
    matches: Callable[[bytes], bool] = _never
    read: Reader | None = None
    endings: tuple[str, ...] = ()
    is_folder: Callable[[Path], bool] = _no_folder
    read_folder: FolderReader | None = None
    canonical: Callable[[Catalogue], Catalogue] = _as_it_is
    portion: Callable[[Catalogue], Portion | None] = _whole
    keys: Callable[[Catalogue], Iterator[Key]] = _texts
    words: Callable[[Catalogue], Words | None] = _no_words
    cache: Callable[[Catalogue, int | None], Cache | None] = _no_cache
    remarks: Callable[[Catalogue], Mapping[str, Any]] = _nothing
    joined: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]] = _of_the_first
    plan: Planner | None = None
    dtypes: tuple[str, ...] = ()
    shard: int | None = None
    whole_folder: bool = False
    values: bool = False
    self_contained: bool = False
    companions: bool = True
    tokenizer: Callable[[Catalogue], Tokenizer | None] = _no_tokenizer
    tokenizer_files: Callable[[Catalogue], Mapping[str, bytes]] = _no_files
    generation_files: Callable[[Catalogue], Mapping[str, bytes]] = _no_files
    says_activation: Callable[[Catalogue], bool] = _says
    check: Callable[[Catalogue, Mapping[str, Any] | None], Iterator[Finding]] = _no_findings
    disagreements: Callable[[Catalogue], Sequence[str]] = _no_disagreements
    engines: tuple[str, ...] = ("numpy",)
    tanh: bool = False
    computed: Callable[[Catalogue], Catalogue] = _as_it_is
    pickled: bool = False
    contents: Literal["records", "members", "pickles", "array", "nothing"] = "nothing"

    @property
    def ending(self) -> str | None:
        """The ending of a lone file that is written; None if an output is always a folder."""
        return None if self.whole_folder or self.plan is None else self.endings[0]


def lazily(module: str, name: str) -> Any:
    """A function that imports its module when it is first called: a command imports only the formats that it meets."""

    def call(*args: Any, **options: Any) -> Any:
        return vars(import_module(module))[name](*args, **options)

    return call
