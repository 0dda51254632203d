"""What `scan` prints: lines, for which no more than typer is imported."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import typer

from converter.text import plural, safe_text

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, ScanReport

_RED: Final = {"fg": "red", "bold": True}
_VERDICTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"fg": "green"},
    "unknown-globals": {"fg": "yellow"},
    "program": {"fg": "yellow", "bold": True},
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
    # Where the reader has seen enough, the exit code is still the verdict's.
    with contextlib.suppress(BrokenPipeError):
        # Colours are left out where nobody's terminal is.
        typer.echo("\n".join(lines), color=False if os.environ.get("NO_COLOR") else None)


def _file(file: FileScan) -> Iterator[str]:
    verdict = typer.style(f"{file.verdict:<15}", **_VERDICTS[file.verdict])
    yield f"{verdict}  {safe_text(file.location)} · {safe_text(file.kind)}"
    for finding in file.findings:
        yield f"  {finding.level}: {safe_text(finding.message, 400)}{_place(finding)}"
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


def _place(finding: FindingReport) -> str:
    at = f"byte {finding.byte:,}" if finding.byte is not None else ""
    where = " ".join(filter(None, (safe_text(finding.place) if finding.place else "", at)))
    return f" [{where}]" if where else ""
