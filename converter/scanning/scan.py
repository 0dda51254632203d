"""Every pickle in a file, whatever kind of file it is: what it names, who has abused that, and what loading it would run.

Nothing is loaded. Where a strict reader refuses the file, scanning goes on as far as it can: the verdict is then
`malformed`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import SourceError
from converter.formats import FORMATS
from converter.io.local import LocalFile
from converter.limits import limits
from converter.reports.scan import FileScan, FindingReport, OpinionReport, ScanReport
from converter.scanning.findings import Findings
from converter.scanning.rules import PLAIN, RULES, UNKNOWN, VERDICTS
from converter.scanning.walker import Walker
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.io.source import Source

_TITLES: Final = frozenset(format.title for format in FORMATS)


def scan(locations: Sequence[str | Path], *, explain: bool = False, fickling: bool = True) -> ScanReport:
    """Scan files, folders and repositories; links in a folder are counted, not followed.

    `explain` adds what would be called, as expressions. A file without a pickle is reported as plain if it was named
    itself, and only counted if it lies in a folder. Raises SourceError for a location that can't be read, or a folder with
    nothing to scan.
    """
    files: list[FileScan] = []
    skipped = links = 0
    for location in locations:
        before = len(files)
        for source, named in _sources(str(location)):
            if source is None:
                links += 1
                continue
            if isinstance(source, FileScan):
                found = source
            else:
                found = scan_file(source, explain=explain, fickling=fickling, named=named)
            if named or found.pickles or found.verdict != PLAIN or found.kind in _TITLES:
                files.append(found)
            else:
                skipped += 1
        if len(files) == before:
            raise SourceError(
                f"`{location}` holds nothing to scan: {skipped:,} files without a pickle, {links:,} links or special "
                "files, which are not followed"
            )
    worst = max((VERDICTS.index(file.verdict) for file in files), default=0)
    return ScanReport(VERDICTS[worst], tuple(files), skipped, links)


def fails(report: ScanReport, *, unknown: bool = True) -> bool:
    """Whether a check should fail: it does for anything that is not plain, but for unknown globals only if `unknown`."""
    return VERDICTS.index(report.verdict) > VERDICTS.index(PLAIN if unknown else UNKNOWN)


def scan_file(source: Source, *, explain: bool = False, fickling: bool = True, named: bool = True) -> FileScan:
    """Scan one file. Unless it was `named`, it may be something that nobody knows and that holds no pickle."""
    found = Findings()
    kind = Walker(found, explain=explain, named=named).file(source)
    verdict = found.verdict  # the opinion does not change it
    opinion = _second_opinion(found) if fickling and found.sent.nbytes else None
    return FileScan(
        source.name, kind, source.size, verdict, tuple(found.findings), found.unlisted, tuple(found.pickles), opinion
    )


def _sources(location: str) -> Iterator[tuple[Source | FileScan | None, bool]]:
    """Yield what there is to scan, and whether it was named itself: bytes, a report of what can't be read, None for a link."""
    if "/" in location and not os.path.lexists(location):
        from converter.hub.locations import is_remote

        if is_remote(location):
            from converter.hub.repository import open_files

            remote = list(open_files(location))
            yield from ((source, len(remote) == 1) for source in remote)
            return
    path = Path(location)
    if not path.is_dir():
        yield LocalFile(path), True
        return
    for parent, names, files in os.walk(path, onerror=_unreadable):
        names.sort()
        yield from ((None, False) for name in names if Path(parent, name).is_symlink())
        for name in sorted(files):
            inner = Path(parent, name)
            if not stat.S_ISREG(inner.lstat().st_mode):
                yield None, False
                continue
            try:
                yield LocalFile(inner), False
            except SourceError as error:
                rule = RULES[error.rule]
                finding = FindingReport(error.rule, rule.level, str(error), "", None)
                yield FileScan(str(inner), "unreadable", 0, rule.verdict, (finding,), 0, (), None), False


def _unreadable(error: OSError) -> None:
    raise SourceError(f"`{error.filename}` can't be read: {os_reason(error)}") from error


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
