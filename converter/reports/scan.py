"""What `scan` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from converter.text import plural


@dataclass(frozen=True, slots=True)
class GlobalReport:
    """A global that a pickle names, `byte` bytes into it.

    `danger` is what it does when loaded, and `evidence` where its abuse is on record.

    Outside the closed table: `call` is its first call, cut short; `package` the known package that it is from; `accepted`
    the policy's reason.
    """

    module: str
    name: str
    byte: int
    known: bool
    danger: str | None
    evidence: str | None
    call: str | None = None
    package: str | None = None
    accepted: str | None = None


@dataclass(frozen=True, slots=True)
class CallReport:
    """What an opcode would call if the pickle were loaded, as an expression to be read."""

    opcode: str
    byte: int
    expression: str


@dataclass(frozen=True, slots=True)
class PickleReport:
    """A pickle. `place` is the path to it inside the file, empty for the file itself; bytes count from the start of the place.

    `end` is None if the pickle is malformed; `opcodes` counts those that construct calls. `calls` is empty unless asked
    for.
    """

    place: str
    start: int
    end: int | None
    opcodes: Mapping[str, int]
    globals: tuple[GlobalReport, ...]
    calls: tuple[CallReport, ...]


@dataclass(frozen=True, slots=True)
class FindingReport:
    """A reason for the verdict. `rule` is a key of `scanning.rules.RULES`; `byte` counts within `place`.

    `level` is `error`, `warning` or `note`. If the finding is about a global, it has its full `name`, and the fields
    of GlobalReport.
    """

    rule: str
    level: str
    message: str
    place: str
    byte: int | None
    name: str | None = None
    call: str | None = None
    package: str | None = None
    accepted: str | None = None


@dataclass(frozen=True, slots=True)
class OpinionReport:
    """What fickling says, in its own words. `severity` is None if it was not asked or failed; `note` says why.

    `alarmed` is whether it considers the file unsafe: LIKELY_UNSAFE or worse.
    """

    version: str
    severity: str | None
    reasons: tuple[str, ...]
    agrees: bool | None
    note: str | None
    alarmed: bool = False


@dataclass(frozen=True, slots=True)
class FileScan:
    """What was found in one file. `unlisted` counts findings past the limit of how many are listed.

    `accepted` counts the unknown globals that a policy accepts, `unaccepted` those that none does. The verdict does not
    change by that.
    """

    location: str
    kind: str
    nbytes: int
    verdict: str
    findings: tuple[FindingReport, ...]
    unlisted: int
    pickles: tuple[PickleReport, ...]
    fickling: OpinionReport | None
    accepted: int = 0
    unaccepted: int = 0


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What a policy did: how many unknown globals it accepted, in how many files.

    `expired` and `unused` list the globals of the entries that have expired, and of those that matched nothing. `sha256`
    is of the policy's file.
    """

    name: str
    sha256: str
    entries: int
    accepted: int
    files: int
    expired: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What `scan` found. `verdict` is the worst of the files'; `skipped` counts those that hold no pickle, in folders."""

    schema: ClassVar = "cerebras-tool/scan/v1"

    verdict: str
    files: tuple[FileScan, ...]
    skipped: int
    links: int
    policy: PolicyReport | None = None

    def __repr__(self) -> str:
        return f"<ScanReport {plural(len(self.files), 'file')}: {self.verdict}>"
