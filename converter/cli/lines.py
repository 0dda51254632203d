"""What `scan` prints: lines, for which no more than typer is imported."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

import typer

from converter.cli.following import shortened
from converter.scanning.libraries import LIBRARIES
from converter.scanning.rules import RULES, SHOWN
from converter.text import plural, safe_text

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, FindingReport, PolicyReport, ScanReport

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")  # what `typer.style` writes, the only escapes in a line
_END: Final = "\x1b[0m"  # of what has a colour
_REASON: Final = 100  # characters of a reason in a line, where it goes to no terminal
_LEAST: Final = 20  # characters of a reason below which it says nothing
_LONGEST: Final = 8000  # characters of a location, before it is cut in its middle: paths have 4096 bytes
_NAMES: Final = 6  # of a library's globals in one line
_RED: Final = {"fg": "red", "bold": True}
_VERDICTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {"fg": "green"},
    "unknown-globals": {"fg": "yellow"},
    "program": {"fg": "yellow", "bold": True},
    "dangerous": _RED,
    "malformed": _RED,
}


def scan(report: ScanReport, *, summary: bool = False) -> None:
    """Print what `scan` found: plain files in a line each, the others with their reasons.

    Of a `summary`, a line for each file that is not plain is left, and the counts.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if summary:
        lines = [_line(file, width) for file in report.files if file.verdict != "plain"]
    else:
        lines = [line for file in report.files for line in _file(file)]
    counts = Counter(file.verdict for file in report.files)
    listed = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in SHOWN if counts[verdict])
    if summary or len(report.files) > 1 or report.skipped or report.links:
        skipped = f"; {report.skipped:,} without a pickle skipped" if report.skipped else ""
        links = (
            f"; {plural(report.links, 'link or special file', 'links or special files')} not followed"
            if report.links
            else ""
        )
        lines.append(typer.style(f"{plural(len(report.files), 'file')}: {listed}{skipped}{links}", bold=True))
    if report.policy is not None:
        lines += _policy(report.policy)
    if width is not None:
        lines = [_fitted(line, width) for line in lines]
    # Where the reader has seen enough, the exit code is still the verdict's.
    with contextlib.suppress(BrokenPipeError):
        # Colours are left out where nobody's terminal is.
        typer.echo("\n".join(lines), color=False if os.environ.get("NO_COLOR") else None)


def _file(file: FileScan) -> Iterator[str]:
    verdict = typer.style(f"{file.verdict:<15}", **_VERDICTS[file.verdict])
    yield f"{verdict}  {_location(file)} · {safe_text(file.kind)}"
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


def _line(file: FileScan, width: int | None) -> str:
    """A file in one line, with as much of its first reason as there is room for."""
    location = _location(file)
    reason = next((finding for finding in file.findings if RULES[finding.rule].verdict == file.verdict), None)
    room = _REASON if width is None else width - len(f"{'':<15}  {location} · ")
    said = f" · {safe_text(reason.message, room)}" if reason is not None and room >= _LEAST else ""
    return f"{typer.style(f'{file.verdict:<15}', **_VERDICTS[file.verdict])}  {location}{said}"


def _fitted(line: str, width: int) -> str:
    """A line cut between words into several that fit. Words are left whole: a name can then be copied from a terminal."""
    text = _COLOUR.sub("", line)
    if len(text) <= width:
        return line
    first, *others = wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    styled = line[: line.rfind(_END) + len(_END)] if _END in line else ""
    if first.startswith(shown := _COLOUR.sub("", styled)):
        first = styled + first[len(shown) :]
    return "\n".join([first, *others])


def _location(file: FileScan) -> str:
    return shortened(safe_text(file.location, _LONGEST))


def _place(finding: FindingReport) -> str:
    at = f"byte {finding.byte:,}" if finding.byte is not None else ""
    where = " ".join(filter(None, (safe_text(finding.place) if finding.place else "", at)))
    return f" [{where}]" if where else ""


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
    listed = ", ".join([*(safe_text(name, 60) for name in shown[:_NAMES]), *(["…"] if len(shown) > _NAMES else [])])
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
