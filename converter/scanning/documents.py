"""What `scan` found as JUnit, and as a summary in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from converter.reports import markdown
from converter.reports.junit import Case, Suite
from converter.scanning.rules import SHOWN
from converter.scanning.scan import file_fails
from converter.text import as_code, plural
from converter.words import FAIL_ON, PLAIN

if TYPE_CHECKING:
    from converter.reports.scan import FileScan, ScanReport

_CLASS: Final = "scan"


def suites(report: ScanReport, *, unknown: bool = True) -> list[Suite]:
    """One suite with a case for each file. A case failed if the check fails for its file."""
    counts = Counter(file.verdict for file in report.files)
    found = {"verdict": report.verdict, **{verdict: str(counts[verdict]) for verdict in SHOWN if counts[verdict]}}
    found["fail-on"] = FAIL_ON[-1] if unknown else FAIL_ON[0]
    if report.policy is not None:
        found |= {"policy": PurePath(report.policy.name).name, "policy.sha256": report.policy.sha256}
    return [Suite(_CLASS, [_case(file, unknown) for file in report.files], None, found)]


def to_markdown(report: ScanReport, *, failed: bool) -> str:
    """The summary: how many files have each verdict, then the files that are not plain, with their findings."""
    counts = Counter(file.verdict for file in report.files)
    facts = [f"{plural(len(report.files), 'file')}, {report.skipped:,} without a pickle"]
    if report.policy is not None:
        facts.append(f"The policy accepts {plural(report.policy.accepted, 'unknown global')}")
    return markdown.summary(
        f"cerebras-tool scan: {report.verdict}{'' if failed or report.verdict == PLAIN else ', and passed'}",
        facts,
        ("verdict", "files"),
        [[verdict, f"{counts[verdict]:,}"] for verdict in SHOWN if counts[verdict]],
        [
            (file.location, [f"{file.verdict}, {as_code(file.kind)}", *_lines(file, as_code)])
            for file in report.files
            if file.verdict != PLAIN
        ],
    )


def _case(file: FileScan, unknown: bool) -> Case:
    if not file_fails(file, unknown=unknown):
        return Case(_CLASS, file.location)
    return Case(_CLASS, file.location, file.verdict, file.verdict, "\n".join(_lines(file, str)))


def _lines(file: FileScan, shown: Callable[[str], str]) -> list[str]:
    lines = [
        f"{one.level}: {one.rule}, {shown(one.message)}"
        + (f" [{shown(one.place)}]" if one.place else "")
        + (f" accepted: {shown(one.accepted)}" if one.accepted is not None else "")
        for one in file.findings
    ]
    return [*lines, f"and {plural(file.unlisted, 'more finding')}"] if file.unlisted else lines
