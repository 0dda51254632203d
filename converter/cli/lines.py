"""What `scan` prints: lines, for which no more than typer is imported."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from converter.scanning.libraries import LIBRARIES
from converter.text import plural, safe_text

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, PolicyReport, ScanReport

_SHOWN: Final = 6  # names of a library's globals in one line
_RED: Final = {"fg": "red", "bold": True}
_VERDICTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"fg": "green"},
    "unknown-globals": {"fg": "yellow"},
    "dangerous": _RED,
    "malformed": _RED,
}


def scan(report: ScanReport) -> None:
    """Print what `scan` found: plain files in a line each, the others with their reasons."""
    lines = [line for file in report.files for line in _file(file)]
    counts = Counter(file.verdict for file in report.files)
    listed = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in _VERDICTS if counts[verdict])
    if len(report.files) > 1 or report.skipped or report.links:
        skipped = f"; {report.skipped:,} without a pickle skipped" if report.skipped else ""
        links = f"; {report.links:,} links or special files not followed" if report.links else ""
        lines.append(typer.style(f"{plural(len(report.files), 'file')}: {listed}{skipped}{links}", bold=True))
    if report.policy is not None:
        lines += _policy(report.policy)
    # Where the reader has seen enough, the exit code is still the verdict's.
    with contextlib.suppress(BrokenPipeError):
        # Colours are left out where nobody's terminal is.
        typer.echo("\n".join(lines), color=False if os.environ.get("NO_COLOR") else None)


def _file(file: FileScan) -> Iterator[str]:
    verdict = typer.style(f"{file.verdict:<15}", **_VERDICTS[file.verdict])
    yield f"{verdict}  {safe_text(file.location)} · {safe_text(file.kind)}"
    # With --explain all calls follow, in their order.
    yield from _findings(file.findings, calls=not any(pickle.calls for pickle in file.pickles))
    if file.unlisted:
        yield f"  and {file.unlisted:,} findings more"
    for pickle in file.pickles:
        for call in pickle.calls:
            yield f"  would run: {safe_text(call.expression, 600)}  ({call.opcode} at byte {call.byte:,})"
    opinion = file.fickling
    if opinion is not None and (file.verdict != "plain" or not opinion.agrees):
        version = f" {opinion.version}" if opinion.version else ""
        said = opinion.severity or f"no opinion, {opinion.note}"
        yield f"  fickling{version}: {safe_text(said, 400)}"


def _findings(findings: Sequence[FindingReport], *, calls: bool) -> Iterator[str]:
    """A line for each finding; one for all that a file names of a library, if they are called without arguments."""
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
    """The library that a finding may share a line with others of."""
    plain = finding.call is None or finding.call.endswith("()")
    return finding.library if plain and finding.name is not None else None


def _group(group: Sequence[FindingReport]) -> str:
    library = LIBRARIES[group[0].library or ""]
    names = dict.fromkeys((finding.name or "").removeprefix(f"{library.package}.") for finding in group)
    # The class alone, unless two modules have one of that name.
    short = Counter(name.rpartition(".")[2] for name in names)
    shown = [last if short[last := name.rpartition(".")[2]] == 1 else name for name in names]
    listed = ", ".join([*(safe_text(name, 60) for name in shown[:_SHOWN]), *(["…"] if len(shown) > _SHOWN else [])])
    accepted = sum(finding.accepted is not None for finding in group)
    by_policy = f"; {accepted:,} of them accepted" if accepted else ""
    return (
        f"  {group[0].level}: {library.package}: {len(names):,} {library.many} ({listed}), outside the closed table; "
        f"{library.effect}{by_policy}"
    )


def _policy(policy: PolicyReport) -> Iterator[str]:
    yield (
        f"policy {safe_text(policy.name)}: {plural(policy.accepted, 'unknown global')} accepted in "
        f"{plural(policy.files, 'file')}"
    )
    for words, entries in (("has expired and does not count", policy.expired), ("fits nothing here", policy.unused)):
        for entry in entries:
            yield f"  {safe_text(entry)} {words}"


def _place(finding: FindingReport) -> str:
    at = f"byte {finding.byte:,}" if finding.byte is not None else ""
    where = " ".join(filter(None, (safe_text(finding.place) if finding.place else "", at)))
    return f" [{where}]" if where else ""
