"""What `check` found as SARIF and as JUnit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.checking.rules import RULES
from converter.io.publish import write_report
from converter.reports import junit, sarif

if TYPE_CHECKING:
    from converter.reports.checking import CheckedReport, CheckReport, FaultReport

_IDS: Final = tuple(RULES)


def to_sarif(report: CheckReport) -> dict[str, Any]:
    """The report as a SARIF log with one run: a result for each fault."""
    return sarif.log(
        [
            {
                "id": id,
                "shortDescription": {"text": rule.title},
                "fullDescription": {"text": rule.meaning},
                "defaultConfiguration": {"level": rule.level},
            }
            for id, rule in RULES.items()
        ],
        [(one.location, one.nbytes) for one in report.checkpoints],
        [_result(index, one, fault) for index, one in enumerate(report.checkpoints) for fault in one.faults],
    )


def to_junit(report: CheckReport) -> bytes:
    """The report as JUnit: a suite for each checkpoint, with a case for each kind of fault, failed if there is one."""
    return junit.document("cerebras-tool check", [(one.location, _cases(one)) for one in report.checkpoints])


def write_reports(report: CheckReport, *, sarif_path: Path | None, junit_path: Path | None) -> None:
    """Write the report to files, over older ones. Raises OutputError."""
    if sarif_path is not None:
        sarif.write(to_sarif(report), sarif_path)
    if junit_path is not None:
        write_report(junit_path, to_junit(report))


def _result(index: int, one: CheckedReport, fault: FaultReport) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": sarif.uri(one.location), "index": index}}
    }
    if fault.name:
        location["logicalLocations"] = [{"fullyQualifiedName": sarif.printable(fault.name), "kind": "member"}]
    said = f"{fault.name}: {fault.message}" if fault.name else fault.message
    return {
        "ruleId": fault.rule,
        "ruleIndex": _IDS.index(fault.rule),
        "level": fault.level,
        "message": {"text": sarif.printable(said)},
        "locations": [location],
    }


def _cases(one: CheckedReport) -> list[junit.Case]:
    """A case for each kind of fault, so that their names stay the same; warnings do not fail."""
    found: dict[str, list[FaultReport]] = {}
    for fault in one.faults:
        found.setdefault(fault.rule, []).append(fault)
    cases = []
    for id, rule in RULES.items():
        faults = found.get(id, [])
        if faults and rule.level == "error":
            detail = "\n".join(f"{fault.name}: {fault.message}" if fault.name else fault.message for fault in faults)
            cases.append(junit.Case(one.location, id, rule.title, rule.level, detail))
        else:
            cases.append(junit.Case(one.location, id))
    return cases
