"""What `scan` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


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
    """A reason. `level` is `error`, `warning` or `note`; `rule` a key of `scanning.rules.RULES`; `byte` within `place`."""

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
