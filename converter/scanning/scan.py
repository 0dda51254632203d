"""Every pickle in a file, whatever kind of file it is: what it names, who has abused that, and what loading it would run.

Nothing is loaded. Where a strict reader refuses the file, scanning goes on as far as it can: the verdict is then
`malformed`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import SourceError
from converter.formats import FORMATS
from converter.io.local import LocalFile
from converter.limits import limits
from converter.reports.scan import FileScan, FindingReport, OpinionReport, ScanReport
from converter.scanning.findings import Findings
from converter.scanning.rules import PLAIN, RULES, UNKNOWN, VERDICTS
from converter.scanning.second_opinion import Opinions
from converter.scanning.walker import Walker
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.policy import Policy

_TITLES: Final = frozenset(format.title for format in FORMATS)


def scan(
    locations: Sequence[str | Path], *, explain: bool = False, fickling: bool = True, policy: Path | None = None
) -> ScanReport:
    """Scan files, folders and repositories; links in a folder are counted, not followed.

    `explain` adds what would be called, as expressions. A file without a pickle is reported as plain if it was named
    itself, and only counted if it lies in a folder. `policy` is a file of accepted globals, see `converter.scanning.policy`.
    Raises SourceError for a location that can't be read, or a folder with nothing to scan; PolicyError for a policy that
    is malformed or lies in what is scanned.
    """
    accepted = _policy(policy, locations) if policy is not None else None
    with Opinions() if fickling else nullcontext() as opinions:
        files, skipped, links = _files(locations, explain, opinions, accepted)
    worst = max((VERDICTS.index(file.verdict) for file in files), default=0)
    by_policy = None
    if accepted is not None:
        counts = [file.accepted for file in files if file.accepted]
        by_policy = accepted.report(sum(counts), len(counts))
    return ScanReport(VERDICTS[worst], tuple(files), skipped, links, by_policy)


def _policy(path: Path, locations: Sequence[str | Path]) -> Policy:
    from converter.scanning import policy

    policy.check_place(path, (Path(location) for location in locations))
    return policy.load(path)


def _files(
    locations: Sequence[str | Path], explain: bool, opinions: Opinions | None, policy: Policy | None
) -> tuple[list[FileScan], int, int]:
    """Scan what lies at the locations; count what holds no pickle, and links."""
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
                found = _scanned(source, explain, opinions, policy)
            if named or found.pickles or found.verdict != PLAIN or found.kind in _TITLES:
                files.append(found)
            else:
                skipped += 1
        if len(files) == before:
            raise SourceError(
                f"`{location}` holds nothing to scan: {skipped:,} files without a pickle, {links:,} links or special "
                "files, which are not followed"
            )
    return files, skipped, links


def fails(report: ScanReport, *, unknown: bool = True) -> bool:
    """Whether a check should fail: it does for any file that is not plain, unless a policy accepts all that is unknown in it.

    Without `unknown`, unknown globals fail only where fickling says LIKELY_UNSAFE or worse.
    """
    return any(_fails(file, unknown) for file in report.files)


def _fails(file: FileScan, unknown: bool) -> bool:
    if file.verdict != UNKNOWN:
        return file.verdict != PLAIN
    alarmed = file.fickling is not None and file.fickling.alarmed
    return (unknown or alarmed) and not (file.accepted and not file.unaccepted)


def scan_file(
    source: Source, *, explain: bool = False, fickling: bool = True, policy: Policy | None = None
) -> FileScan:
    """Scan one file."""
    with Opinions() if fickling else nullcontext() as opinions:
        return _scanned(source, explain, opinions, policy)


def _scanned(source: Source, explain: bool, opinions: Opinions | None, policy: Policy | None) -> FileScan:
    found = Findings(policy)
    kind = Walker(found, explain=explain).file(source)
    verdict = found.verdict  # the opinion does not change it
    # It can change something only where globals are unknown: what is plain names none, all else fails in any case.
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


def _second_opinion(found: Findings, opinions: Opinions) -> OpinionReport:
    """Ask fickling, unless the pickles are larger than it can take; add a finding where it disagrees."""
    sent = found.sent
    if sent.too_much:
        note = (
            f"not asked: {sent.nbytes:,} bytes of pickles with {sent.tensors:,} tensors, and beyond "
            f"{limits().opinion_bytes:,} and {limits().opinion_tensors:,} it takes too long or calls anything malicious"
        )
        return OpinionReport("", None, (), None, note)
    if not sent.pickles:
        return OpinionReport("", None, (), None, "not asked: the pickles lie inside others")
    said = opinions.ask(sent.pickles)
    if said.severity is None:
        return OpinionReport(said.version, None, said.reasons, None, said.note)
    if not said.alarmed:
        found.report("second-opinion", f"fickling {said.version} found nothing; that raises no trust")
    return OpinionReport(said.version, said.severity, said.reasons, said.alarmed, said.note, said.alarmed)
