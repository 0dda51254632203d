"""What a conversion asks of a format, and what the format would write: the arguments and the result of `Format.plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from converter.io.publish import PlannedFile
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.losses import Loss

About = str | int | Sequence[str]  # what is said about a model: a text, a count, or several texts


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a conversion. A format uses those that concern it, and refuses those that it can't fulfil.

    `dtype` is a word of `Format.dtypes`. `max_shard_size` counts bytes. `tokenizer` is a folder with tokenizer files;
    `no_tokenizer` allows an output that usually holds one to have none.
    `name` is the name of the output's weight file; None if it lies in a folder, where the format chooses. `form` and
    `sha256` are for a parameters folder, and `properties_inside` says whether model.properties goes into it. `types` are
    the dtypes of tensors that were given one by name. `about` is what the files beside the weights say about the model, by
    GGUF's keys. `values` are carried along where the format has a place for them: JSON
    by name. With `pure`, all matrices get one type of GGUF even if `dtype` names a mixture; if it is False, they get the mixture
    even if `dtype` names a type. `imatrix` is a file with the importance of matrices' columns. `generation` is what
    generation_config.json says, for a format that has a place for it inside; None if there is none.
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
    pure: bool | None = None
    imatrix: Path | None = None
    about: Mapping[str, About] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None

    def dtype_of(self, name: str) -> str:
        """The word for the dtype that a tensor is to become."""
        return self.types.get(name, self.dtype)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a format would write: files whose sizes are known before a byte is written.

    `dropped` are masks, and `tied` the names that are kept under another name. `losses` is filled while the files are
    written, for each tensor whose dtype changes. `finish` makes the files that depend on the others' bytes.
    `quantised` are the types of GGUF that tensors are quantised to. `inside` are files beside the weights that became part of
    the output's file, and a sentence about what of them could not. `properties` is the text of
    model.properties, and `refused` the reason if there is none.
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
    quantised: tuple[str, ...] = ()
    inside: Mapping[str, str | None] = field(default_factory=dict)


class Planner(Protocol):
    """Plans an output: names, offsets and sizes. It reads no tensors, except masks that may be left out."""

    def __call__(self, catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
        """`catalogue` has the canonical names. Raises UnsupportedError, naming the tensor, for what can't be written."""
        ...
