"""What `extract` and `convert` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from converter.text import nbytes_text, plural


@dataclass(frozen=True, slots=True)
class DroppedReport:
    """Something that the source has and the output does not, and why. It holds `tensors` tensors of `nbytes` bytes together.

    `kind` is its type, or "mask".
    """

    name: str
    kind: str
    reason: str
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What `extract` wrote.

    `carried` are the names of the values that went along, `excluded` those of tensors that were left out as asked, and
    `renamed` pairs of the old name and the new.
    """

    schema: ClassVar = "cerebras-tool/extraction/v1"

    source: str
    folder: str
    form: str
    model: str | None
    files: int
    nbytes: int
    tensors: int
    properties: str | None
    dropped: tuple[DroppedReport, ...]
    carried: tuple[str, ...]
    notes: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        totals = f"{plural(self.tensors, 'tensor')}, {nbytes_text(self.nbytes)}"
        return f"<ExtractReport {self.source!r} to {self.folder!r}: {totals}>"


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
class DtypeLossReport:
    """What the change to a dtype lost, in elements. Numbers become F32 before they become blocks of GGUF."""

    dtype: str
    nan: int
    overflowed: int
    underflowed: int
    rounded: int


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert` wrote or, if `written` is false, would write. `tied` are pairs of the name left out and the name kept.

    `carried` are the names of the values beside the weights that went along.
    `excluded` are the names among `dropped` that were left out as asked, `renamed` pairs of the old name and the new.
    `quantiser` is the program that made blocks of GGUF; None if none were made.
    `losses` are the parts of `loss` by dtype, without those that lost nothing.
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
    dropped: tuple[DroppedReport, ...]
    carried: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]
    loss: LossReport
    notes: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    quantiser: str | None = None
    losses: tuple[DtypeLossReport, ...] = ()

    def __repr__(self) -> str:
        planned = "" if self.written else ", not written"
        totals = f"{plural(self.tensors, 'tensor')}, {nbytes_text(self.nbytes)}"
        return f"<ConversionReport {self.source!r} to {self.output!r}: {totals}{planned}>"
