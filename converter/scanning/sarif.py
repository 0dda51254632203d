"""Writes a scan as SARIF 2.1.0, for dashboards that collect the findings of code scanners.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0, errata 01.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.reports import sarif
from converter.reports.sarif import printable, uri
from converter.scanning.rules import RULES

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, PolicyReport, ScanReport

_IDS: Final = tuple(RULES)


def to_sarif(report: ScanReport) -> dict[str, Any]:
    """A scan as a SARIF log with one run. Files below the current folder are named relative to it."""
    results = [_result(index, file, finding) for index, file in enumerate(report.files) for finding in file.findings]
    return sarif.log(
        [_rule(id) for id in _IDS],
        [(file.location, file.nbytes) for file in report.files],
        results,
        _run_properties(report.policy) if report.policy is not None else None,
    )


def write_sarif(report: ScanReport, path: Path) -> None:
    """Write a scan to a file, over an older one. Raises OutputError."""
    sarif.write(to_sarif(report), path)


def _rule(id: str) -> dict[str, Any]:
    rule = RULES[id]
    return {
        "id": id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "defaultConfiguration": {"level": rule.level},
        "properties": {"tags": ["security"], "verdict": rule.verdict},
    }


def _run_properties(policy: PolicyReport) -> dict[str, Any]:
    return {
        "policy": {
            "entries": policy.entries,
            "accepted": policy.accepted,
            "files": policy.files,
            "expired": [*map(printable, policy.expired)],
            "unused": [*map(printable, policy.unused)],
        }
    }


def _result(index: int, file: FileScan, finding: FindingReport) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri(file.location), "index": index}}
    location: dict[str, Any] = {"physicalLocation": physical}
    # Inside an archive, bytes are counted from the start of a record, which a region cannot express.
    if finding.byte is not None and not finding.place:
        physical["region"] = {"byteOffset": finding.byte, "byteLength": 1}
    if finding.place:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(finding.place), "kind": "member"}]
    at = f" (byte {finding.byte:,} of {finding.place})" if finding.place and finding.byte is not None else ""
    call = f"; called: {finding.call}" if finding.call is not None else ""
    result = {
        "ruleId": finding.rule,
        "ruleIndex": _IDS.index(finding.rule),
        "level": RULES[finding.rule].level,
        "message": {"text": printable(finding.message + at + call)},
        "locations": [location],
    }
    if finding.accepted is not None:
        justification = printable(finding.accepted)
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
    return result
