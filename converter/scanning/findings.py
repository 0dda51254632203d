"""What is found in one file: findings, the pickles in it, and what the second opinion is asked about."""

from __future__ import annotations

from dataclasses import dataclass, field

from converter.limits import limits
from converter.pickles.closed_table import TABLE
from converter.reports.scan import FindingReport, GlobalReport, PickleReport
from converter.scanning.danger import danger, evidence
from converter.scanning.rules import RULES, VERDICTS


@dataclass(slots=True)
class Sent:
    """The pickles that the second opinion is asked about."""

    pickles: list[bytes] = field(default_factory=list)
    nbytes: int = 0  # total size of all pickles, also of those too large to keep
    tensors: int = 0

    @property
    def too_much(self) -> bool:
        """Whether fickling would take too long for them, or call anything malicious."""
        return self.nbytes > limits().opinion_bytes or self.tensors > limits().opinion_tensors


@dataclass(slots=True)
class Findings:
    """The findings of one file. `unlisted` counts those past the limit of how many are listed."""

    findings: list[FindingReport] = field(default_factory=list)
    pickles: list[PickleReport] = field(default_factory=list)
    sent: Sent = field(default_factory=Sent)
    unlisted: int = 0
    worst: int = 0  # the worst verdict so far, as its index in VERDICTS

    @property
    def verdict(self) -> str:
        """The worst verdict of all findings."""
        return VERDICTS[self.worst]

    def report(self, rule: str, message: str, place: str = "", byte: int | None = None) -> None:
        """Add a finding, unless it is there already or there are too many for anyone to read."""
        self.worst = max(self.worst, VERDICTS.index(RULES[rule].verdict))
        finding = FindingReport(rule, RULES[rule].level, message, place, byte)
        if len(self.findings) >= limits().scan_findings:
            self.unlisted += 1
        elif finding not in self.findings[-50:] and (place or all(message != f.message for f in self.findings)):
            self.findings.append(finding)

    def judge(self, named: GlobalReport, place: str) -> None:
        """Report what is wrong with a global that a pickle names."""
        if named.known:
            return
        if named.danger is None:
            message = (
                f"{named.module}.{named.name} is outside the closed table: a checkpoint of tensors does not need it"
            )
            self.report("unknown-global", message, place, named.byte)
        else:
            source = f" ({named.evidence})" if named.evidence else ""
            message = f"{named.module}.{named.name} {named.danger} when the file is unpickled{source}"
            self.report("dangerous-global", message, place, named.byte)


def global_report(module: str, name: str, at: int) -> GlobalReport:
    """What is known of a global that a pickle names at byte `at`."""
    if (module, name) in TABLE:
        return GlobalReport(module, name, at, True, None, None)
    return GlobalReport(module, name, at, False, danger(module, name), evidence(module, name))
