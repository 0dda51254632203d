"""What `extract` and `convert` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What `extract` wrote. `excluded` are the names left out as asked, `renamed` pairs of the old name and the new."""

    schema: ClassVar = "cerebras-tool/extraction/v1"

    source: str
    folder: str
    form: str
    model: str | None
    files: int
    nbytes: int
    tensors: int
    properties: str | None
    notes: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedTensorReport:
    """A tensor of an output: its offset in the file and its size, in bytes, padding included."""

    name: str
    dtype: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class PlannedFileReport:
    """A file of an output, and the tensors in it."""

    path: str
    nbytes: int
    tensors: tuple[PlannedTensorReport, ...]


@dataclass(frozen=True, slots=True)
class LossReport:
    """What a change of dtype lost, in elements."""

    nan: int
    overflowed: int
    underflowed: int
    rounded: int


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert` wrote or, if `written` is false, would write. `tied` are pairs of the name left out and the name kept.

    `excluded` are the names among `dropped` that were left out as asked, `renamed` pairs of the old name and the new.
    """

    schema: ClassVar = "cerebras-tool/conversion/v1"

    source: str
    output: str
    format: str
    dtype: str
    model: str | None
    written: bool
    nbytes: int
    tensors: int
    files: tuple[PlannedFileReport, ...]
    dropped: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]
    loss: LossReport
    notes: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
