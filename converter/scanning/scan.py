"""Every pickle in a file, whatever kind of file it is: what it names, who has abused that, and what loading it would run.

Nothing is loaded. Where a strict reader refuses the file, scanning goes on as far as it can: the verdict is then
`malformed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, SourceError
from converter.formats import FORMATS
from converter.formats.foreign import HEAD, what
from converter.limits import limits
from converter.reports.scan import FileScan, FindingReport, OpinionReport, ScanReport
from converter.scanning.findings import Findings
from converter.scanning.rules import PLAIN, RULES, SHOWN, UNKNOWN, VERDICTS
from converter.scanning.sources import Item, Location
from converter.scanning.walker import Walker
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.source import Source

_TITLES: Final = frozenset(format.title for format in FORMATS)


def scan(
    locations: Sequence[str | Path | Source],
    *,
    explain: bool = False,
    fickling: bool = True,
    starting: Callable[[int], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScanReport:
    """Scan files, folders and repositories. Dangerous files come first in the report, then the others, the worst first.

    `explain` adds what would be called, as expressions. In a folder, a file that is no checkpoint and holds no pickle is
    only counted; one that was named itself is reported as not looked into. What can't be read in a folder is reported,
    too, and the rest is scanned. `starting` is told how many files there are, `progress` the name of each before it is
    scanned. Raises SourceError for a location that can't be read, or a folder with nothing to scan.
    """
    files: list[FileScan] = []
    skipped = links = 0
    places = [Location(location) for location in locations]
    if starting is not None:
        starting(sum(place.count() for place in places))
    for place in places:
        before, skipped_before = len(files), skipped
        for item in place.items():
            if progress is not None:
                progress(item.name)
            found = _item(item, explain=explain, fickling=fickling)
            links += item.open is None
            if found is None:
                skipped += 1
            else:
                files.append(found)
        if len(files) == before:
            without = plural(skipped - skipped_before, "file")
            raise SourceError(f"`{place.name}` holds nothing to scan: {without} without a pickle")
    worst = max((VERDICTS.index(file.verdict) for file in files), default=0)
    files.sort(key=lambda file: SHOWN.index(file.verdict))
    return ScanReport(VERDICTS[worst], tuple(files), skipped, links)


def fails(report: ScanReport, *, unknown: bool = True) -> bool:
    """Whether a check should fail: it does for anything that is not plain, but for unknown globals only if `unknown`."""
    return VERDICTS.index(report.verdict) > VERDICTS.index(PLAIN if unknown else UNKNOWN)


def scan_file(source: Source, *, explain: bool = False, fickling: bool = True) -> FileScan:
    """Scan one file."""
    found = Findings()
    try:
        kind = Walker(found, explain=explain).file(source)
    except ConverterError as error:  # a file that vanishes, shrinks or can't be read any more
        found.report(error.rule, str(error))
        kind = "unreadable"
    verdict = found.verdict  # the opinion does not change it
    opinion = _second_opinion(found) if fickling and found.sent.nbytes else None
    return FileScan(
        source.name, kind, source.size, verdict, tuple(found.findings), found.unlisted, tuple(found.pickles), opinion
    )


def _item(item: Item, *, explain: bool, fickling: bool) -> FileScan | None:
    """Scan what there is to scan. None for a file in a folder that is no checkpoint and holds no pickle."""
    if item.open is None:
        return _unseen(item.name, item.kind, item.why)
    try:
        source = item.open()
    except SourceError as error:
        if item.named:
            raise
        return _unseen(item.name, "unreadable", str(error))
    with closing(source):
        found = scan_file(source, explain=explain, fickling=fickling)
        if found.pickles or found.verdict != PLAIN or found.kind in _TITLES:
            return found
        if not item.named:
            return None
        nothing_known = source.size > 0 and found.kind == what(bytes(source.read(0, min(HEAD, source.size))))
    if not nothing_known:
        return found
    unknown = _unseen(item.name, found.kind, "nothing is known of such a file, so it was not looked into")
    return replace(found, verdict=unknown.verdict, findings=unknown.findings)


def _unseen(name: str, kind: str, why: str) -> FileScan:
    """The report of something that was not looked into."""
    rule = RULES["not-looked-into"]
    finding = FindingReport("not-looked-into", rule.level, why, "", None)
    return FileScan(name, kind, 0, rule.verdict, (finding,), 0, (), None)


def _second_opinion(found: Findings) -> OpinionReport:
    """Ask fickling, unless the pickles are larger than it can take; add a finding where it disagrees."""
    from converter.scanning import second_opinion

    sent, verdict = found.sent, found.verdict
    if sent.too_much:
        note = (
            f"not asked: {sent.nbytes:,} bytes of pickles with {sent.tensors:,} tensors, and beyond "
            f"{limits().opinion_bytes:,} and {limits().opinion_tensors:,} it takes too long or calls anything malicious"
        )
        return OpinionReport("", None, (), None, note)
    said = second_opinion.ask(sent.pickles)
    if said.severity is None:
        return OpinionReport(said.version, None, said.reasons, None, said.note)
    agrees = said.alarmed == (verdict != PLAIN)
    if said.alarmed and verdict == PLAIN:
        message = f"fickling {said.version} says {said.severity}: {'; '.join(said.reasons[:3])}"
        found.report("second-opinion", message)
    elif not agrees:
        found.report("second-opinion", f"fickling {said.version} found nothing; that raises no trust")
    return OpinionReport(said.version, said.severity, said.reasons, agrees, said.note)
