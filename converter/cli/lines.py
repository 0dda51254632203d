"""Prints the report of `scan` as plain lines. It imports little."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from converter.cli.render import BAD, BOLD, GOOD, WARN, Piece, Screen, columns
from converter.scanning.libraries import LIBRARIES
from converter.scanning.rules import RULES, SHOWN
from converter.text import plural, safe_text, without_middle

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, PolicyReport, ScanReport

_REASON: Final = 100  # characters of a reason in a line that does not go to a terminal
_LEAST: Final = 20  # characters of a reason, at least: a shorter one would say nothing
_LONGEST: Final = 8000  # characters of a location; a longer one is cut in its middle. Paths have up to 4096 bytes
_HANG: Final = 4  # columns by which the rest of a wrapped line is indented
_UNBROKEN: Final = 1 << 30  # columns, if the output is not a terminal: one line for each finding, however long it is
_VERDICTS: Final = {"plain": GOOD, "unknown-globals": WARN, "program": WARN, "dangerous": BAD, "malformed": BAD}


def scan(report: ScanReport, *, summary: bool = False) -> None:
    """Print the report of `scan`: plain files on one line each, the others with their reasons.

    A `summary` has only a line for each file that is not plain, and the counts.
    """
    width = columns(sys.stdout)
    out = Screen(width=width or _UNBROKEN)
    for file in report.files:
        if not summary:
            _file(file, out)
        elif file.verdict != "plain":
            out.line(*_line(file, width), hang=_HANG)
    counts = Counter(file.verdict for file in report.files)
    listed = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in SHOWN if counts[verdict])
    if summary or len(report.files) > 1 or report.skipped or report.links:
        skipped = f"; {report.skipped:,} without a pickle skipped" if report.skipped else ""
        links = (
            f"; {plural(report.links, 'link or special file', 'links or special files')} not followed"
            if report.links
            else ""
        )
        out.line((f"{plural(len(report.files), 'file')}: {listed}{skipped}{links}", BOLD), hang=_HANG)
    if report.policy is not None:
        for line in _policy(report.policy):
            out.line(line, hang=_HANG)


def _file(file: FileScan, out: Screen) -> None:
    out.line(_verdict(file), f"  {_location(file)} · {safe_text(file.kind)}", hang=_HANG)
    for line in _reasons(file):
        out.line(line, hang=_HANG, cut=True)


def _reasons(file: FileScan) -> Iterator[str]:
    # With --explain, all calls follow in their order.
    yield from _findings(file.findings, calls=not any(pickle.calls for pickle in file.pickles))
    if file.unlisted:
        yield f"  and {plural(file.unlisted, 'more finding')}"
    for pickle in file.pickles:
        for call in pickle.calls:
            yield f"  would run: {safe_text(call.expression, 600)}  ({call.opcode} at byte {call.byte:,})"
    opinion = file.fickling
    if opinion is not None and (file.verdict != "plain" or not opinion.agrees):
        version = f" {opinion.version}" if opinion.version else ""
        said = opinion.severity or f"no opinion, {opinion.note}"
        yield f"  fickling{version}: {safe_text(said, 400)}"


def _verdict(file: FileScan) -> Piece:
    return f"{file.verdict:<15}", _VERDICTS[file.verdict]


def _line(file: FileScan, width: int | None) -> tuple[Piece, str]:
    """A file on one line, with as much of its first reason as fits."""
    location = _location(file)
    reason = next((finding for finding in file.findings if RULES[finding.rule].verdict == file.verdict), None)
    room = _REASON if width is None else width - len(f"{'':<15}  {location} · ")
    said = f" · {safe_text(reason.message, room)}" if reason is not None and room >= _LEAST else ""
    return _verdict(file), f"  {location}{said}"


def _location(file: FileScan) -> str:
    return without_middle(safe_text(file.location, _LONGEST))


def _place(finding: FindingReport) -> str:
    at = f"byte {finding.byte:,}" if finding.byte is not None else ""
    where = " ".join(filter(None, (safe_text(finding.place) if finding.place else "", at)))
    return f" [{where}]" if where else ""


def _findings(findings: Sequence[FindingReport], *, calls: bool) -> Iterator[str]:
    """A line for each finding. Findings about one library share a line if their globals are called without arguments."""
    groups: dict[str, list[FindingReport]] = {}
    for finding in findings:
        if (package := _package(finding)) is not None:
            groups.setdefault(package, []).append(finding)
    for finding in findings:
        group = groups.get(_package(finding) or "", [finding])
        if len(group) == 1:
            accepted = f"; accepted: {safe_text(finding.accepted)}" if finding.accepted is not None else ""
            yield f"  {finding.level}: {safe_text(finding.message, 400)}{_place(finding)}{accepted}"
            if finding.call is not None and calls:
                yield f"    called: {safe_text(finding.call)}"
        elif finding is group[0]:
            yield _group(group)


def _package(finding: FindingReport) -> str | None:
    """The library of a finding that may share a line with other findings of the same library; otherwise None."""
    plain = finding.call is None or finding.call.endswith("()")
    return finding.package if plain and finding.name is not None else None


def _group(group: Sequence[FindingReport]) -> str:
    library = LIBRARIES[group[0].package or ""]
    accepted = sum(finding.accepted is not None for finding in group)
    by_policy = f"; {accepted:,} of them accepted" if accepted else ""
    return f"  {group[0].level}: {library.together(finding.name or '' for finding in group)}{by_policy}"


def _policy(policy: PolicyReport) -> Iterator[str]:
    yield (
        f"policy {safe_text(policy.name)}: {plural(policy.accepted, 'unknown global')} accepted in "
        f"{plural(policy.files, 'file')}"
    )
    for words, entries in (("has expired and does not count", policy.expired), ("fits nothing here", policy.unused)):
        for entry in entries:
            yield f"  {safe_text(entry)} {words}"
