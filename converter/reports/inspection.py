"""What `inspect` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from converter.text import nbytes_text, plural

if TYPE_CHECKING:
    from converter.reports.details import KeyReport, MemoryReport, StatisticsReport, TokenizerReport


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file that was read."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was read. `format` is the name of one of `converter.formats.FORMATS`. `writer` is what the layout says about it.

    `requests` and `bytes_read` count what was read from a server; None for a local file.
    """

    location: str
    format: str
    files: tuple[FileReport, ...]
    writer: str | None = None
    requests: int | None = None
    bytes_read: int | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Which model it is. `name` is the declared model whose shapes it has, or None for any other model of the architecture.

    It is that model, and not another of the same shapes, only if it is `proven`: its files have the declared SHA-256.
    `title` has the architecture and its size in words for people.
    """

    name: str | None
    architecture: str
    title: str
    complete: bool
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    sizes: Mapping[str, int]
    proven: bool = False


@dataclass(frozen=True, slots=True)
class SafetyReport:
    """What the pickles name, and what that means. `unknown` are the globals outside the closed table."""

    verdict: str
    globals: tuple[str, ...]
    findings: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TotalsReport:
    """`parameters` counts elements without buffers, `buffers` theirs, and `nbytes` all bytes; tied names count once."""

    tensors: int
    parameters: int
    nbytes: int
    buffers: int = 0


@dataclass(frozen=True, slots=True)
class TensorReport:
    """A tensor. `stride` and `offset` count elements, as in the file; `nbytes` is the size of the logical tensor.

    `dtype` is as safetensors spells it. A tensor in blocks of GGUF has the blocks' name (`Q8_0`) and their bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str
    shard: int | None
    nbytes: int
    contiguous: bool
    stats: StatisticsReport | None = field(default=None, metadata={"absent": "where it is None"})


@dataclass(frozen=True, slots=True)
class OtherReport:
    """Something that is not one of the weights, or a tensor that can't be carried over.

    `role` is what it is: "beside" the weights, other "weights", "averaged" weights, a "setting" of a whole module, an
    "attribute" of a tensor, "unsupported". `tensors` are the names of the first 1,000 tensors inside it; `tensor_count` counts
    all, and `nbytes` their bytes. `content` is all of a small value of numbers and texts.
    """

    name: str
    kind: str
    value: str
    tensors: tuple[str, ...]
    role: str = "beside"
    tensor_count: int = 0
    nbytes: int = 0
    content: Any = field(default=None, metadata={"absent": "where it is None"})


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """Which part of the file the weights are. `root` are the keys that lead to it, joined with dots.

    `prefix` is what a wrapper had put before every name; the names here leave it out. `module` is the class of a whole
    module, and `program` says what program it is. `averaged` are the names of averaged weights beside these, `buffers` those
    of the tensors that belong to the model, but are not trained. `hooked` are the modules with a hook that may change what
    `state_dict()` gives: their paths, or the class of the outermost one.
    """

    root: str
    prefix: str
    module: str
    program: str
    averaged: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    hooked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeReport:
    """All tensors of one dtype; tied names count once. `bits` is how many a weight takes, on average."""

    dtype: str
    tensors: int
    elements: int
    nbytes: int
    bits: float | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found. `notes` are about the place: weights that were left aside, faults of the config.json."""

    schema: ClassVar = "cerebras-tool/inspection/v1"

    source: SourceReport
    model: ModelReport | None
    weights: WeightsReport
    safety: SafetyReport
    totals: TotalsReport
    tied: tuple[tuple[str, ...], ...]
    tensors: tuple[TensorReport, ...]
    others: tuple[OtherReport, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    metadata: tuple[KeyReport, ...] = ()
    tokenizer: TokenizerReport | None = field(default=None, metadata={"absent": "where it is None"})
    types: tuple[TypeReport, ...] = ()
    memory: MemoryReport | None = field(default=None, metadata={"absent": "where it is None"})

    def __repr__(self) -> str:
        totals = f"{plural(len(self.tensors), 'tensor')}, {nbytes_text(self.totals.nbytes)}"
        return f"<Inspection {self.source.location!r}: {self.source.format}, {totals}>"
