"""What `scan` found as SARIF, for dashboards that collect the findings of code scanners."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from converter.reports import sarif
from converter.reports.sarif import printable
from converter.scanning.rules import RULES

if TYPE_CHECKING:
    from converter.reports.scan import FindingReport, PolicyReport, ScanReport

_PAGE: Final = "scan.md#verdicts"
SARIF_RULES: Final = tuple(
    sarif.Rule(id, rule.level, rule.title, rule.meaning, _PAGE, rule.severity, {"verdict": rule.verdict})
    for id, rule in RULES.items()
)


def to_sarif(report: ScanReport) -> dict[str, Any]:
    """A scan as a SARIF log with one run. Files below the current folder are named relative to it."""
    return sarif.log(
        SARIF_RULES,
        [(file.location, file.nbytes) for file in report.files],
        [_result(index, finding) for index, file in enumerate(report.files) for finding in file.findings],
        _run_properties(report.policy) if report.policy is not None else None,
    )


def _run_properties(policy: PolicyReport) -> dict[str, Any]:
    return {
        "policy": {
            "name": printable(PurePath(policy.name).name),
            "sha256": policy.sha256,
            "entries": policy.entries,
            "accepted": policy.accepted,
            "files": policy.files,
            "expired": [*map(printable, policy.expired)],
            "unused": [*map(printable, policy.unused)],
        }
    }


def _result(index: int, finding: FindingReport) -> sarif.Result:
    at = f" (byte {finding.byte:,} of {finding.place})" if finding.place and finding.byte is not None else ""
    call = f"; called: {finding.call}" if finding.call is not None else ""
    return sarif.Result(
        finding.rule,
        RULES[finding.rule].level,
        finding.message + at + call,
        index,
        place=finding.place,
        # Inside an archive, bytes are counted from the start of a record, which a region cannot express.
        byte=None if finding.place else finding.byte,
        subject=finding.name or "",
        accepted=finding.accepted,
    )
