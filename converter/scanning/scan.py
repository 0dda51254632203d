"""Scans every pickle in a file of any kind: what it names, where that was abused, and what loading it would run.

Nothing is loaded. If a strict reader refuses the file, the scan still goes on as far as it can, and the verdict is
`malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, SourceError
from converter.formats import FORMATS
from converter.limits import limits
from converter.reports.scan import FileScan, FindingReport, OpinionReport, ScanReport
from converter.scanning.findings import Findings
from converter.scanning.rules import RULES, SHOWN, VERDICTS
from converter.scanning.second_opinion import Opinions
from converter.scanning.sources import Item, Location
from converter.scanning.walker import Walker
from converter.steps import step
from converter.text import plural
from converter.words import PLAIN, UNKNOWN

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.policy import Policy

_TITLES: Final = frozenset(format.title for format in FORMATS)


def scan(
    locations: Sequence[str | Path | Source],
    *,
    explain: bool = False,
    fickling: bool = True,
    policy: Path | None = None,
    starting: Callable[[int], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScanReport:
    """Scan files, folders and repositories. Dangerous files come first in the report, then the others, the worst first.

    `explain` adds the calls that loading would make, as expressions. In a folder, a file that is not a checkpoint and
    holds no pickle is only counted; a file that was named is reported as not looked into. A file of a folder that can't
    be read is reported, too, and the rest is scanned. `starting` is called with the number of files, `progress` with
    the name of each before it is scanned. `policy` is a file of accepted globals, see `converter.scanning.policy`.
    Raises SourceError for a location that can't be read or a folder without anything to scan; PolicyError for a policy
    that is malformed or lies in what is scanned.
    """
    places = [Location(location) for location in locations]
    accepted = _policy(policy, places) if policy is not None else None
    with Opinions() if fickling else nullcontext() as opinions:
        look = partial(_scanned, explain=explain, opinions=opinions, policy=accepted)
        files, skipped, links = _files(places, look, starting, progress)
    worst = max((VERDICTS.index(file.verdict) for file in files), default=0)
    files.sort(key=lambda file: SHOWN.index(file.verdict))
    by_policy = None
    if accepted is not None:
        counts = [file.accepted for file in files if file.accepted]
        by_policy = accepted.report(sum(counts), len(counts))
    return ScanReport(VERDICTS[worst], tuple(files), skipped, links, by_policy)


def _policy(path: Path, places: Sequence[Location]) -> Policy:
    from converter.scanning import policy

    scanned = [folder for place in places for folder in place.folders()]
    policy.check_place(path, scanned)
    return policy.load(path)


def _files(
    places: Sequence[Location],
    look: Callable[[Source, bool], FileScan],
    starting: Callable[[int], None] | None,
    progress: Callable[[str], None] | None,
) -> tuple[list[FileScan], int, int]:
    """Scan everything at the places. Files without a pickle and links are only counted."""
    files: list[FileScan] = []
    skipped = links = 0
    if starting is not None:
        starting(sum(place.count() for place in places))
    for place in places:
        before, skipped_before = len(files), skipped
        for item in place.items():
            if progress is not None:
                progress(item.name)
            with step("scan", item.name):
                found = _item(item, look)
            links += item.open is None
            if found is None:
                skipped += 1
            else:
                files.append(found)
        if len(files) == before:
            without = plural(skipped - skipped_before, "file")
            raise SourceError(f"`{place.name}` holds nothing to scan: {without} without a pickle")
    return files, skipped, links


def fails(report: ScanReport, *, unknown: bool = True) -> bool:
    """Whether a check should fail: for any file that is not plain, unless the policy accepts all its unknown globals.

    Without `unknown`, unknown globals fail only if fickling says LIKELY_UNSAFE or worse.
    """
    return any(file_fails(file, unknown=unknown) for file in report.files)


def file_fails(file: FileScan, *, unknown: bool = True) -> bool:
    """Whether a check should fail for this file."""
    if file.verdict != UNKNOWN:
        return file.verdict != PLAIN
    alarmed = file.fickling is not None and file.fickling.alarmed
    return (unknown or alarmed) and not (file.accepted and not file.unaccepted)


def scan_file(
    source: Source, *, explain: bool = False, fickling: bool = True, policy: Policy | None = None, named: bool = True
) -> FileScan:
    """Scan one file. None for a file that was not `named`, is of no known kind and holds no pickle."""
    with Opinions() if fickling else nullcontext() as opinions:
        return _scanned(source, named, explain=explain, opinions=opinions, policy=policy)


def _scanned(
    source: Source, named: bool, *, explain: bool, opinions: Opinions | None, policy: Policy | None
) -> FileScan:
    found = Findings(policy)
    try:
        kind = Walker(found, explain=explain, named=named).file(source)
    except ConverterError as error:  # the file vanished, shrank or can't be read any more
        found.report(error.rule, str(error))
        kind = "unreadable"
    verdict = found.verdict  # before the second opinion, which does not change it
    # It matters only for unknown globals: a plain file has none, and every other verdict fails anyway.
    opinion = _second_opinion(found, opinions) if opinions is not None and verdict == UNKNOWN else None
    return FileScan(
        source.name,
        kind,
        source.size,
        verdict,
        tuple(found.findings),
        found.unlisted,
        tuple(found.pickles),
        opinion,
        found.accepted,
        found.unaccepted,
    )


def _item(item: Item, look: Callable[[Source, bool], FileScan]) -> FileScan | None:
    """Scan one item. None for a file in a folder that is not a checkpoint and holds no pickle."""
    if item.open is None:
        return _unseen(item.name, item.kind, item.why)
    try:
        source = item.open()
    except SourceError as error:
        if item.named:
            raise
        return _unseen(item.name, "unreadable", str(error))
    with closing(source):
        found = look(source, item.named)
    return found if item.named or found.pickles or found.verdict != PLAIN or found.kind in _TITLES else None


def _unseen(name: str, kind: str, why: str) -> FileScan:
    """The report of something that was not looked into."""
    rule = RULES["not-looked-into"]
    finding = FindingReport("not-looked-into", rule.level, why, "", None)
    return FileScan(name, kind, 0, rule.verdict, (finding,), 0, (), None)


def _second_opinion(found: Findings, opinions: Opinions) -> OpinionReport:
    """Ask fickling, unless the pickles are too large for it. Add a finding if it disagrees."""
    sent = found.sent
    if sent.too_much:
        note = (
            f"not asked: its pickles have {sent.nbytes:,} bytes and {sent.tensors:,} tensors; beyond {limits().opinion_bytes:,} "
            f"bytes or {limits().opinion_tensors:,} tensors, fickling takes too long or calls any file malicious"
        )
        return OpinionReport("", None, (), None, note)
    if not sent.pickles:
        return OpinionReport("", None, (), None, "not asked: the pickles lie inside others")
    said = opinions.ask(sent.pickles)
    if said.severity is None:
        return OpinionReport(said.version, None, said.reasons, None, said.note)
    if not said.alarmed:
        found.report(
            "second-opinion", f"fickling {said.version} found nothing; that does not make the file trustworthy"
        )
    return OpinionReport(said.version, said.severity, said.reasons, said.alarmed, said.note, said.alarmed)
