"""The findings in one file, the pickles in it, and those that the second opinion is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converter.limits import limits
from converter.pickles.closed_table import TABLE
from converter.pickles.values import ODD
from converter.reports.scan import FindingReport, GlobalReport, PickleReport
from converter.scanning.calls import brief
from converter.scanning.danger import danger, evidence, sentence
from converter.scanning.libraries import library
from converter.scanning.rules import RULES, VERDICTS

if TYPE_CHECKING:
    from converter.pickles.values import Opaque
    from converter.scanning.policy import Policy


@dataclass(slots=True)
class Sent:
    """The pickles that the second opinion is asked about."""

    pickles: list[bytes] = field(default_factory=list)
    nbytes: int = 0  # total size of all pickles, including those too large to keep
    tensors: int = 0

    @property
    def too_much(self) -> bool:
        """Whether these pickles are so many or large that fickling would take too long or call any file malicious."""
        return self.nbytes > limits().opinion_bytes or self.tensors > limits().opinion_tensors


@dataclass(slots=True)
class Findings:
    """The findings of one file. `unlisted` counts those past the limit on how many are listed."""

    policy: Policy | None = None
    findings: list[FindingReport] = field(default_factory=list)
    pickles: list[PickleReport] = field(default_factory=list)
    sent: Sent = field(default_factory=Sent)
    unlisted: int = 0
    accepted: int = 0  # unknown globals that the policy accepts
    unaccepted: int = 0  # unknown globals that it does not accept
    worst: int = 0  # the worst verdict so far, as its index in VERDICTS

    @property
    def verdict(self) -> str:
        """The worst verdict of all findings."""
        return VERDICTS[self.worst]

    def report(self, rule: str, message: str, place: str = "", byte: int | None = None) -> None:
        """Add a finding, unless it is already there or the list is too long for anyone to read."""
        self.add(FindingReport(rule, RULES[rule].level, message, place, byte))

    def add(self, finding: FindingReport) -> None:
        """Add a finding as `report` does."""
        if not self.fits(finding.rule):
            return
        if finding not in self.findings[-50:] and (
            finding.place or all(finding.message != known.message for known in self.findings)
        ):
            self.findings.append(finding)

    def fits(self, rule: str) -> bool:
        """Count a finding of this rule for the verdict, and return whether there is room to list it."""
        self.worst = max(self.worst, VERDICTS.index(RULES[rule].verdict))
        if len(self.findings) < limits().scan_findings:
            return True
        self.unlisted += 1
        return False

    def judge(self, named: GlobalReport, place: str) -> None:
        """Report what is wrong with a global that a pickle names."""
        if named.known:
            return
        if named.danger is None:
            self.accepted += named.accepted is not None
            self.unaccepted += named.accepted is None
        rule = "unknown-global" if named.danger is None else "dangerous-global"
        if not self.fits(rule):  # a file may name very many globals
            return
        path = f"{named.module}.{named.name}"
        if named.danger is None:
            known = library(named.module)
            words = known.words if known is not None else "a checkpoint of tensors does not need it"
            message = f"{path} is outside the closed table: {words}"
            if named.name.endswith(ODD):
                message = f"{path} is a call with arguments, or a state, that are not known to be harmless"
        else:
            source = f" ({named.evidence})" if named.evidence else ""
            message = f"{path} {sentence(named.module, named.name, named.danger)}{source}"
        self.add(
            FindingReport(
                rule, RULES[rule].level, message, place, named.byte, path, named.call, named.package, named.accepted
            )
        )

    def global_reports(
        self, globals: Mapping[tuple[str, str], int], calls: Mapping[tuple[str, str], Opaque]
    ) -> list[GlobalReport]:
        """What is known about the globals that a pickle names. `globals` has the byte of each, `calls` its first call, if any."""
        return [self._global(module, name, at, calls.get((module, name))) for (module, name), at in globals.items()]

    def _global(self, module: str, name: str, at: int, call: Opaque | None) -> GlobalReport:
        if (module, name) in TABLE:
            return GlobalReport(module, name, at, True, None, None)
        why, said = danger(module, name), brief(call) if call is not None else None
        if why is not None:
            return GlobalReport(module, name, at, False, why, evidence(module, name), said)
        known = library(module)
        accepted = self.policy.accepts(module, name) if self.policy is not None else None
        return GlobalReport(
            module, name, at, False, None, None, said, known.package if known is not None else None, accepted
        )
