"""What a format can do: the type of every record in `converter.formats`.

Everything that the program asks about a format is a field here, with a default for most formats. Nothing outside this
package compares a format's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from converter.formats.planned import Planner
    from converter.formats.said import Alias, Cache, Finding, Hyperparameters, Key, Portion, Words
    from converter.io.source import Source
    from converter.models.tokenizers.tokenizer import Tokenizer
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

VALUES: Final = "training."


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


def _texts(catalogue: Catalogue) -> Iterator[Key]:
    if not catalogue.metadata:
        return iter(())
    from converter.formats.said import Key  # most files have no keys, so they need not load it

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


def _no_hyperparameters(catalogue: Catalogue) -> Hyperparameters | None:
    return None


def _no_aliases(catalogue: Catalogue) -> Sequence[Alias]:
    return ()


def _whole(catalogue: Catalogue) -> Portion | None:
    return None


def _never(head: bytes) -> bool:
    return False


def _as_it_is(catalogue: Catalogue) -> Catalogue:
    return catalogue


def _no_disagreements(catalogue: Catalogue) -> Iterator[Finding]:
    return iter(())


def _says(catalogue: Catalogue) -> bool:
    return True


def _no_findings(output: Catalogue, settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    return iter(())


def _no_quantiser(types: Sequence[str]) -> str | None:
    return None


def _no_tokenizer(catalogue: Catalogue) -> Tokenizer | None:
    return None


class EntriesReader(Protocol):
    """Reads such a folder wherever it lies, by what its `marker` says."""

    def __call__(self, place: str, manifest: dict[str, Any], opened: Callable[[str, int], Source]) -> Catalogue:
        """`opened` opens a file by its path in the folder and by its size."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of checkpoint. A format lacks every ability that its record does not give.

    Reading. `matches` looks at the first HEAD bytes of a file; `read` reads one; `endings` are the endings of its
    files' names, and the first is the one that is written. `read_folder` reads a folder, which is one of this format if it
    holds a file named `marker`; `marks` looks at the first HEAD bytes of such a file; `read_entries` reads it from elsewhere.
    `weights` is the word of --weights for such files in a folder.
    `canonical` gives a catalogue the names, shapes and config.json of its family. `portion` tells which part of a model a
    file is; None if it is a whole one. `keys` are what a file says about itself, `words` what it says about its tokenizer,
    and `cache` is what the program that runs it needs besides the weights. `remarks` are what a file says about the model
    and no other file beside an output would say: values of JSON by name. `hyperparameters` are what a file says about how
    its model is computed, besides its config.json, and `in_config` those of them that a config.json has, too. `joined`
    merges the metadata of several files; if a key has two values, the first one counts.

    Writing. `plan` plans an output. `dtypes` are the words for the dtypes that it takes, `mixtures` those for a choice
    of dtypes by what a tensor is for. `quantiser` names the program that makes blocks of some types. `shard` is how many bytes of
    tensors a file in a folder has at most. `whole_folder`: an output is always a folder. `values`: its metadata have a place
    for values, whose keys are VALUES and a name. `ties`: only one of two names of a tensor is written.

    Companions. `self_contained`: configuration and tokenizer are inside the file. `companions`: they lie beside the
    weights in a folder, and are copied with them. `tokenizer` reads the one inside, and `tokenizer_files` are
    the files that it would be beside weights; `generation_files` say how to generate text, and `generation` is
    the part of a generation_config.json that the format can say. `says_activation` tells whether the
    configuration names the activation that the model was trained with. `check` compares the other files of a folder
    with the tensors.

    Verifying. `disagreements` asks a second reader of the format, and says which files it was not
    asked about. `engines` can compute such a model. `tanh`: the
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
    marker: str = ""
    marks: Callable[[bytes], bool] = _never
    read_folder: FolderReader | None = None
    read_entries: EntriesReader | None = None
    canonical: Callable[[Catalogue], Catalogue] = _as_it_is
    portion: Callable[[Catalogue], Portion | None] = _whole
    keys: Callable[[Catalogue], Iterator[Key]] = _texts
    words: Callable[[Catalogue], Words | None] = _no_words
    cache: Callable[[Catalogue, int | None], Cache | None] = _no_cache
    remarks: Callable[[Catalogue], Mapping[str, Any]] = _nothing
    hyperparameters: Callable[[Catalogue], Hyperparameters | None] = _no_hyperparameters
    in_config: Callable[[Catalogue], Sequence[Alias]] = _no_aliases
    joined: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]] = _of_the_first
    plan: Planner | None = None
    dtypes: tuple[str, ...] = ()
    mixtures: tuple[str, ...] = ()
    quantiser: Callable[[Sequence[str]], str | None] = _no_quantiser
    shard: int | None = None
    weights: str | None = None
    whole_folder: bool = False
    values: bool = False
    ties: bool = False
    self_contained: bool = False
    companions: bool = True
    tokenizer: Callable[[Catalogue], Tokenizer | None] = _no_tokenizer
    tokenizer_files: Callable[[Catalogue], Mapping[str, bytes]] = _no_files
    generation_files: Callable[[Catalogue], Mapping[str, bytes]] = _no_files
    generation: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    says_activation: Callable[[Catalogue], bool] = _says
    check: Callable[[Catalogue, Mapping[str, Any] | None], Iterator[Finding]] = _no_findings
    disagreements: Callable[[Catalogue], Iterator[Finding]] = _no_disagreements
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
