"""One frozen dataclass per report, and its JSON. schemas/reports/ describes each; a test holds the two together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file that was read."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was read. `format` is one of `converter.formats.FORMATS`, or `parameters`; `writer` what its layout tells.

    `requests` and `bytes_read` are what it took to read something remote; None of what is local.
    """

    location: str
    format: str
    files: tuple[FileReport, ...]
    writer: str | None = None
    requests: int | None = None
    bytes_read: int | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Which model it is. `name` is a declared model's, or None for another model of the architecture."""

    name: str | None
    architecture: str
    complete: bool
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SafetyReport:
    """What the pickles name, and what that means."""

    verdict: str
    globals: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TotalsReport:
    """`parameters` counts elements without buffers, tied names once; `nbytes` everything, tied names once."""

    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class StatisticsReport:
    """Of one tensor's elements. None where it has no finite element, or where its dtype has no order."""

    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    inf: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TensorReport:
    """A tensor; stride and offset in elements, as the file has them, nbytes of the logical tensor.

    `dtype` is as safetensors spells it; what GGUF holds in blocks has the blocks' name (`Q8_0`) and their bytes.
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
    stats: StatisticsReport | None = None


@dataclass(frozen=True, slots=True)
class OtherReport:
    """Something that is no tensor, or a tensor of a kind that can't be carried; `tensors` are the names inside it."""

    name: str
    kind: str
    value: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found."""

    schema: ClassVar = "cerebras-tool/inspection/v1"

    source: SourceReport
    model: ModelReport | None
    safety: SafetyReport
    totals: TotalsReport
    tied: tuple[tuple[str, ...], ...]
    tensors: tuple[TensorReport, ...]
    others: tuple[OtherReport, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What `extract` wrote."""

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
    """What `convert` wrote, or with `written` false would write. `tied` are (name left out, name kept)."""

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


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """The declared models, as schemas/models/ has them."""

    schema: ClassVar = "cerebras-tool/models/v1"

    models: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GlobalReport:
    """A global that a pickle names, `byte` bytes into it. `danger` is what it does when loaded, `evidence` who abused it."""

    module: str
    name: str
    byte: int
    known: bool
    danger: str | None
    evidence: str | None


@dataclass(frozen=True, slots=True)
class CallReport:
    """What an opcode would call if the pickle were loaded, as an expression to be read."""

    opcode: str
    byte: int
    expression: str


@dataclass(frozen=True, slots=True)
class PickleReport:
    """A pickle. `place` is the way to it inside the file, empty for the file itself; bytes count from the start of that.

    `end` is None where it is malformed; `opcodes` counts those that construct calls. `calls` is empty unless asked for.
    """

    place: str
    start: int
    end: int | None
    opcodes: Mapping[str, int]
    globals: tuple[GlobalReport, ...]
    calls: tuple[CallReport, ...]


@dataclass(frozen=True, slots=True)
class FindingReport:
    """A reason. `level` is `error`, `warning` or `note`; `rule` a key of `converter.scan.RULES`; `byte` within `place`."""

    rule: str
    level: str
    message: str
    place: str
    byte: int | None


@dataclass(frozen=True, slots=True)
class OpinionReport:
    """What fickling says, in its words. `severity` is None where it was not asked, or failed; `note` says why."""

    version: str
    severity: str | None
    reasons: tuple[str, ...]
    agrees: bool | None
    note: str | None


@dataclass(frozen=True, slots=True)
class FileScan:
    """What was found in one file. `unlisted` counts findings past the limit of how many are listed."""

    location: str
    kind: str
    nbytes: int
    verdict: str
    findings: tuple[FindingReport, ...]
    unlisted: int
    pickles: tuple[PickleReport, ...]
    fickling: OpinionReport | None


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What `scan` found. `verdict` is the worst of the files'; `skipped` counts those that hold no pickle, in folders."""

    schema: ClassVar = "cerebras-tool/scan/v1"

    verdict: str
    files: tuple[FileScan, ...]
    skipped: int
    links: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is wrong: a tensor, a tie, a file beside the weights, what the model computes.

    `index` is where the first differing element stands; `expected` and `found` are its values, `largest` the largest
    difference; None where there is no such number.
    """

    name: str
    what: str
    detail: str
    elements: int | None = None
    differing: int | None = None
    index: tuple[int, ...] | None = None
    expected: float | None = None
    found: float | None = None
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class VerifiedTensors:
    """Counts of tensors; names of those that are missing or unexpected. `converted`: equal but for the change of dtype."""

    compared: int
    identical: int
    converted: int
    different: tuple[Difference, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedOutput:
    """The verdict on an output. `format` is None where it can't be read, `inference` where nothing was computed."""

    location: str
    format: str | None
    verdict: str
    tensors: VerifiedTensors
    inference: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    schema: ClassVar = "cerebras-tool/verification/v1"

    source: str
    outputs: tuple[VerifiedOutput, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is identical or equivalent."""
        return all(output.verdict != "different" for output in self.outputs)


def to_json(report: Any) -> str:
    """Give a report as one JSON document: ASCII, its schema first, no NaN."""
    return json.dumps({"schema": report.schema} | _plain(report), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, TensorReport) and value.stats is None:
            del plain["stats"]
        return plain
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
