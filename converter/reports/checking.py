"""What `check` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from converter.text import plural
from converter.words import FaultLevel


@dataclass(frozen=True, slots=True)
class FaultReport:
    """A fault. `rule` is a key of `checking.rules.RULES`, and `name` that of a tensor or a file; empty for the whole."""

    rule: str
    level: FaultLevel
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class CheckedReport:
    """A checkpoint that was checked. `format` and `title` are empty if it can't be opened.

    `title` says which model it is. `tensors` counts them, and `nbytes` the bytes of the files. `seconds` is how long the check
    took; the JSON does not have it.
    """

    location: str
    format: str
    title: str
    tensors: int
    nbytes: int
    faults: tuple[FaultReport, ...]
    seconds: float | None = field(default=None, compare=False, metadata={"unprinted": "it differs from run to run"})

    def count(self, level: str) -> int:
        """How many faults have this level."""
        return sum(fault.level == level for fault in self.faults)


@dataclass(frozen=True, slots=True)
class UnreadReport:
    """A location that could not be checked, and the `class` and the `message` of the error."""

    location: str
    error: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found. `counts` are of all faults, by their levels. `unread` is what could not be checked, if there is any."""

    schema: ClassVar = "cerebras-tool/check/v1"

    checkpoints: tuple[CheckedReport, ...]
    counts: Mapping[str, int]
    unread: tuple[UnreadReport, ...] | None = field(default=None, metadata={"absent": "all could be checked"})

    @property
    def ok(self) -> bool:
        """Whether everything could be checked and no fault is an error."""
        return not self.unread and not self.counts["error"]

    def __repr__(self) -> str:
        counts = ", ".join(plural(number, level) for level, number in self.counts.items())
        unread = f", {len(self.unread)} could not be checked" if self.unread else ""
        return f"<CheckReport {plural(len(self.checkpoints), 'checkpoint')}: {counts}{unread}>"
