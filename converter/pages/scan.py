"""The page of `scan`: a verdict on each file, the reasons with their places, and what the pickles name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter.pages import page
from converter.scanning.rules import RULES, SHOWN
from converter.text import plural, safe_text
from converter.words import PLAIN

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, GlobalReport, ScanReport

_VALUE: Final = 2000  # characters of a value that are shown
_LISTED: Final = 1000  # files whose reasons are shown; the table has all
_TONES: Final[Mapping[str, str]] = {
    "plain": "good",
    "unknown-globals": "warn",
    "program": "warn",
}  # any other verdict is bad


def scan(report: ScanReport) -> bytes:
    """The page, in UTF-8."""
    counts = Counter(file.verdict for file in report.files)
    reasons = [file for file in sorted(report.files, key=lambda file: SHOWN.index(file.verdict)) if _explained(file)]
    return page(
        "scan",
        {
            "kind": "scan",
            "files": [
                (
                    file.location,
                    safe_text(file.location, _VALUE),
                    safe_text(file.kind),
                    file.nbytes,
                    file.verdict,
                    _first(file),
                )
                for file in report.files
            ],
        },
        kind="scan",
        title=_title(counts),
        cards=[(verdict, counts[verdict]) for verdict in SHOWN if counts[verdict]],
        skipped=report.skipped,
        links=report.links,
        policy=report.policy,
        files=[_file(file) for file in reasons[:_LISTED]],
        more=max(0, len(reasons) - _LISTED),
    )


def _title(counts: Counter[str]) -> str:
    """How many files are not plain, by their verdicts, the harmful ones first."""
    found = [verdict for verdict in SHOWN if counts[verdict] and verdict != PLAIN]
    if sum(counts.values()) == 1:
        return f"Verdict: {next(iter(counts))}"
    if not found:
        return f"All {plural(counts[PLAIN], 'file')} plain" if counts else "No file"
    return ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in found)


def _explained(file: FileScan) -> bool:
    """Whether there is anything to say about a file but its verdict."""
    return bool(file.verdict != "plain" or file.findings or any(pickle.globals for pickle in file.pickles))


def _first(file: FileScan) -> str:
    """The first reason for the verdict."""
    found = next((one for one in file.findings if RULES[one.rule].verdict == file.verdict), None)
    return "" if found is None else safe_text(found.message, _VALUE)


def _file(file: FileScan) -> dict[str, Any]:
    opinion = file.fickling
    said = None if opinion is None else safe_text(opinion.severity or f"no opinion, {opinion.note}", _VALUE)
    return {
        "location": safe_text(file.location, _VALUE),
        "kind": safe_text(file.kind),
        "verdict": file.verdict,
        "tone": _TONES.get(file.verdict, "bad"),
        "findings": [_finding(finding) for finding in file.findings],
        "unlisted": file.unlisted,
        "globals": [_global(one, pickle.place) for pickle in file.pickles for one in pickle.globals],
        "calls": [
            (safe_text(call.expression, _VALUE), call.opcode, call.byte)
            for pickle in file.pickles
            for call in pickle.calls
        ],
        "fickling": said,
    }


def _finding(finding: FindingReport) -> dict[str, Any]:
    return {
        "level": finding.level,
        "tone": {"error": "bad", "warning": "warn"}.get(finding.level, "quiet"),
        "message": safe_text(finding.message, _VALUE),
        "title": RULES[finding.rule].title,
        "where": _place(finding.place, finding.byte),
        "call": None if finding.call is None else safe_text(finding.call, _VALUE),
        "accepted": None if finding.accepted is None else safe_text(finding.accepted, _VALUE),
    }


def _global(one: GlobalReport, place: str) -> dict[str, Any]:
    known = "in the closed table: it makes tensors or plain values"
    return {
        "name": safe_text(f"{one.module}.{one.name}"),
        "tone": "good" if one.known else "bad" if one.danger else "warn",
        "said": known if one.known else safe_text(one.danger or "outside the closed table", _VALUE),
        "evidence": safe_text(one.evidence or "", _VALUE),
        "where": _place(place, one.byte),
    }


def _place(place: str, byte: int | None) -> str:
    at = f"byte {byte:,}" if byte is not None else ""
    return " ".join(filter(None, (safe_text(place, _VALUE) if place else "", at)))
