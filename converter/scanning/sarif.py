"""Writes a scan as SARIF 2.1.0, for dashboards that collect the findings of code scanners.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0, errata 01.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from converter.io.publish import write_report
from converter.scanning.rules import RULES
from converter.text import json_without_commands, safe_text

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, PolicyReport, ScanReport

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_IDS: Final = tuple(RULES)
_ESCAPE: Final = re.compile(r"(%[0-9A-Fa-f]{2})")
_IN_PATH: Final = "/:@!$&'()*+,;="  # reserved characters that a path may hold
_IN_AUTHORITY: Final = "[]:!$&'()*+,;="


def to_sarif(report: ScanReport) -> dict[str, Any]:
    """A scan as a SARIF log with one run. Files below the current folder are named relative to it."""
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "cerebras-tool", "version": _version(), "rules": [_rule(id) for id in _IDS]}
                },
                "invocations": [{"executionSuccessful": True}],
                "artifacts": [
                    {"location": {"uri": _uri(file.location)}, "length": file.nbytes, "roles": ["analysisTarget"]}
                    for file in report.files
                ],
                "results": [
                    _result(index, file, finding)
                    for index, file in enumerate(report.files)
                    for finding in file.findings
                ],
                **({"properties": _run_properties(report.policy)} if report.policy is not None else {}),
            }
        ],
    }


def write_sarif(report: ScanReport, path: Path) -> None:
    """Write a scan to a file, over an older one. Raises OutputError."""
    document = json_without_commands(json.dumps(to_sarif(report), indent=2))
    write_report(path, f"{document}\n".encode())


def _version() -> str:
    try:
        return version("cerebras-tool")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


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
            "expired": [*map(_printable, policy.expired)],
            "unused": [*map(_printable, policy.unused)],
        }
    }


def _result(index: int, file: FileScan, finding: FindingReport) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(file.location), "index": index}}
    location: dict[str, Any] = {"physicalLocation": physical}
    # Inside an archive, bytes are counted from the start of a record, which a region cannot express.
    if finding.byte is not None and not finding.place:
        physical["region"] = {"byteOffset": finding.byte, "byteLength": 1}
    if finding.place:
        location["logicalLocations"] = [{"fullyQualifiedName": _printable(finding.place), "kind": "member"}]
    at = f" (byte {finding.byte:,} of {finding.place})" if finding.place and finding.byte is not None else ""
    call = f"; called: {finding.call}" if finding.call is not None else ""
    result = {
        "ruleId": finding.rule,
        "ruleIndex": _IDS.index(finding.rule),
        "level": RULES[finding.rule].level,
        "message": {"text": _printable(finding.message + at + call)},
        "locations": [location],
    }
    if finding.accepted is not None:
        justification = _printable(finding.accepted)
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
    return result


def _printable(text: str) -> str:
    """A text without control characters, because dashboards show messages unchanged."""
    return safe_text(text, 2000)


def _uri(location: str) -> str:
    """A location as a URI, or as one relative to the current folder. Source: RFC 3986."""
    scheme, remote, rest = location.partition("://")
    if remote:  # a path never has `://`, because repeated slashes count as one
        authority, slash, path = rest.partition("/")
        # A URL keeps its escapes; on the Hub the name of a file is plain text.
        kept = _ESCAPE.split(path) if scheme in ("https", "http") else [path]
        quoted = "".join(part if number % 2 else quote(part, safe=_IN_PATH) for number, part in enumerate(kept))
        return f"{scheme}://{quote(authority, safe=_IN_AUTHORITY)}{slash}{quoted}"
    local = PurePath(location)
    if local.is_absolute():
        here = Path.cwd()
        if not local.is_relative_to(here):
            return "file://" + _quoted(local)
        local = local.relative_to(here)
    return _quoted(local)


def _quoted(path: PurePath) -> str:
    # A path is bytes, so a name that is not valid text keeps its bytes.
    return quote(str(path).encode("utf-8", "surrogateescape"), safe="/")
