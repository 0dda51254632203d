"""Every pickle in a file, whatever kind of file it is: what it names, who has abused that, and what loading it would run.

Nothing is loaded. All globals are kept inert here, those of the closed table too, so that a pickle whose tensors make no
sense is still read to its end. What a strict reader refuses is looked at as far as it goes: the verdict is then `malformed`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import (
    ConverterError,
    LimitError,
    SourceError,
    TruncatedPickleError,
)
from converter.formats import FORMATS, uncollected
from converter.formats.foreign import HEAD, sealed, what
from converter.formats.torch import TORCH_ZIP
from converter.formats.torch import reader as torch
from converter.io.local import LocalFile
from converter.io.source import Memory, Window
from converter.io.zip_archive import DEFLATED, Archive
from converter.limits import limits
from converter.pickles.closed_table import TABLE
from converter.pickles.machine import run
from converter.pickles.opcodes import NAMES, OPCODES, decode
from converter.pickles.values import Opaque, PersistentId
from converter.reports.scan import (
    CallReport,
    FileScan,
    FindingReport,
    GlobalReport,
    OpinionReport,
    PickleReport,
    ScanReport,
)
from converter.scanning.danger import DANGEROUS, MALFORMED, PLAIN, UNKNOWN, VERDICTS, danger, evidence
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.formats.foreign import Foreign
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of finding: its level as SARIF spells it, the verdict it leads to, and what it means."""

    level: str
    verdict: str
    title: str
    meaning: str


RULES: Final = {
    "dangerous-global": Rule(
        "error",
        DANGEROUS,
        "A global that is known to run code",
        "Unpickling the file imports this global and usually calls it. It is known to run code, to read or write files, "
        "or to reach the network. Do not load the file.",
    ),
    "unknown-global": Rule(
        "warning",
        UNKNOWN,
        "A global outside the closed table",
        "The pickle names something that a checkpoint of tensors does not need. Unpickling imports it, whatever it is.",
    ),
    "nested-pickle": Rule(
        "warning",
        PLAIN,
        "A pickle inside data",
        "Text, bytes or a storage hold a pickle of their own. It is inert until something unpickles it.",
    ),
    "hidden-data": Rule(
        "warning",
        PLAIN,
        "Data that nothing refers to",
        "The archive holds records that no tensor refers to and torch.save does not write: room to hide things.",
    ),
    "unchecked": Rule(
        "note",
        PLAIN,
        "Saved without CRCs",
        "The archive has no CRCs, so damage to it can't be noticed.",
    ),
    "program": Rule(
        "warning",
        PLAIN,
        "A program, not a checkpoint",
        "The archive is one that torch runs as a program (TorchScript, torch.package, torch.export).",
    ),
    "malformed": Rule(
        "error",
        MALFORMED,
        "Malformed, or to be understood in two ways",
        "Readers disagree on what such a file holds; a scanner may see another file than the program that loads it.",
    ),
    "not-looked-into": Rule(
        "error",
        MALFORMED,
        "Not looked into",
        "The file, or a part of it, is in a form that this program does not open, or past a limit.",
    ),
    "second-opinion": Rule(
        "warning",
        PLAIN,
        "fickling disagrees",
        "fickling comes to another result. Its opinion stands beside the verdict and does not change it.",
    ),
}

_ZIP: Final = b"PK\3\4"
_NUMPY: Final = b"\x93NUMPY"
_FIRST: Final = 64 << 10  # bytes read to see whether there is a pickle; more where there is
_GROWTH: Final = 16  # times as much is read when a pickle goes on: it is run from its start again
_ENOUGH: Final = 32  # opcodes in a row: text that starts like a pickle has fewer
_PEEK: Final = 256  # bytes that tell most of what is no pickle
_PIECE: Final = 1 << 20  # bytes looked through at a time for the headers of a broken archive
_SPARE: Final = 16 << 20  # bytes that may be read behind the headers of a broken archive, however small it is
_PICKLE_NAMES: Final = (".pkl", ".pickle")
_CALLS: Final = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "BUILD", "EXT1", "EXT2", "EXT4")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][\w.]*(?:\[-?\d+\])?")
_SPELLED: Final = re.compile(rb"[ci][A-Za-z_][\w.]{0,60}\n[A-Za-z_][\w.]{0,60}\n")  # GLOBAL and INST, as text
_BASE64: Final = re.compile(rb"(?:gA[A-Za-z0-9+/]|[YK][A-Za-z0-9+/]{2})[A-Za-z0-9+/\s]{9,}={0,2}\s*")


def scan(locations: Sequence[str | Path], *, explain: bool = False, fickling: bool = True) -> ScanReport:
    """Scan files, and folders and repositories with all that is in them; links in a folder are counted, not followed.

    `explain` adds what would be called, as expressions. A file without a pickle is plain where it is named, and counted
    where it lies in a folder. Raises SourceError for a location that can't be read, or a folder with nothing to scan.
    """
    files: list[FileScan] = []
    skipped = links = 0
    for location in locations:
        before = len(files)
        for source, named in _sources(str(location)):
            if source is None:
                links += 1
                continue
            found = source if isinstance(source, FileScan) else scan_file(source, explain=explain, fickling=fickling)
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
    """Say whether a check should fail: for anything that is not plain; unless `unknown`, not for unknown globals."""
    return VERDICTS.index(report.verdict) > VERDICTS.index(PLAIN if unknown else UNKNOWN)


def scan_file(source: Source, *, explain: bool = False, fickling: bool = True) -> FileScan:
    """Scan one file."""
    look = _Look(explain)
    kind = look.file(source)
    verdict = VERDICTS[look.worst]
    opinion = _second_opinion(look, verdict) if fickling and look.sent_nbytes else None
    return FileScan(
        source.name, kind, source.size, verdict, tuple(look.findings), look.unsaid, tuple(look.pickles), opinion
    )


_TITLES: Final = frozenset(format.title for format in FORMATS)


def _sources(location: str) -> Iterator[tuple[Source | FileScan | None, bool]]:
    """Give what there is to scan, and whether it was named itself: bytes, a report of what can't be read, None for a link."""
    if "/" in location and not os.path.lexists(location):
        from converter.hub import repository as hub

        if hub.is_remote(location):
            remote = list(hub.open_files(location))
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


@dataclass(slots=True)
class _Seen:
    """One pickle, run inert. `error` says why it could not be run to its end, `reached` how far it was decoded."""

    start: int
    end: int | None
    used: dict[tuple[str, str], int]
    calls: list[tuple[int, Opaque]]
    error: ConverterError | None
    reached: int
    opcodes: dict[str, int]
    texts: list[tuple[int, bytes]]
    tensors: int
    decoded: int  # opcodes

    @property
    def plausible(self) -> bool:
        """Whether what it names are names: of bytes that are no pickle at all, some can still be run."""
        named = [
            (module, name)
            for module, name in self.used
            if _IDENTIFIER.fullmatch(module) and _IDENTIFIER.fullmatch(name)
        ]
        if not named or self.error is None:
            return bool(named)
        return bool(self.calls) or self.decoded > _ENOUGH or any(danger(module, name) for module, name in named)


@dataclass(slots=True)
class _Look:
    """What is found while one file is looked at."""

    explain: bool
    findings: list[FindingReport] = field(default_factory=list)
    pickles: list[PickleReport] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)  # the pickles, for the second opinion
    sent_nbytes: int = 0  # of all, those that are too large to be kept included
    tensors: int = 0
    run: int = 0  # bytes of pickles that were run
    spent: int = 0  # bytes read behind the headers of a broken archive
    worst: int = 0  # of VERDICTS
    unsaid: int = 0

    def say(self, rule: str, message: str, place: str = "", byte: int | None = None) -> None:
        """Add a finding, unless it is there already, or there are too many to be read."""
        self.worst = max(self.worst, VERDICTS.index(RULES[rule].verdict))
        finding = FindingReport(rule, RULES[rule].level, message, place, byte)
        if len(self.findings) >= limits().scan_findings:
            self.unsaid += 1
        elif finding not in self.findings[-50:] and (place or all(message != f.message for f in self.findings)):
            self.findings.append(finding)

    def file(self, source: Source) -> str:
        """Look at a whole file; give what it is."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        for format in FORMATS:
            if format.matches(head):
                if format.contents == "records":
                    return self.zip(source, "", 0)
                if format.contents == "array":
                    self.numpy(source, "", 0)
                    return format.title
                catalogue = self.strict(source, format.read)
                if format.contents == "pickles":
                    self.legacy(source, catalogue)
                self.appended(source)
                return format.title
        if (archive := sealed(head)) is not None:
            self.unopened(archive, "")
            return archive.title
        end = self.stream(source, "", 0)
        self.appended(source)
        if not end:
            return what(head)
        if end < source.size:
            self.say("malformed", f"{source.size - end:,} bytes that are no pickle follow at byte {end:,}", "", end)
        return "pickle"

    def unopened(self, archive: Foreign, place: str) -> None:
        """Say that what is in an archive was not looked at."""
        self.say("not-looked-into", f"{archive.title}: unpack it, and scan what comes out", place)

    def strict(self, source: Source, read: Any) -> Catalogue | None:
        """Have the reader that `extract` uses look at it, too: at layouts, records, sizes."""
        try:
            catalogue: Catalogue = read(source)
        except ConverterError as error:
            self.say(error.rule, str(error))
            return None
        for problem in catalogue.problems:
            self.say("hidden-data", problem)
        if catalogue.unchecked:
            self.say("unchecked", f"`{source.name}` was saved without CRCs")
        return catalogue

    def legacy(self, source: Source, catalogue: Catalogue | None) -> None:
        """Look at the five pickles of a legacy stream, and at what its storages begin with."""
        end = self.stream(source, "", 0, most=5)
        if catalogue is None:
            self.stream(source, "", end, strict=False)
            return
        for storage in catalogue.storages:
            if storage.nbytes:
                place = f"storage {storage.key[:80]}"
                self.hidden(Window(source, storage.offset, storage.nbytes), place, 1)

    def zip(self, source: Source, place: str, depth: int) -> str:
        """Look at every record of an archive; give what it is."""
        try:
            archive = Archive(source)
        except ConverterError as error:
            self.say(error.rule, str(error), place)
            self.salvage(source, place, depth)
            return "zip archive that is not sound"
        checkpoint = "data.pkl" in archive and bool(archive.root)
        for name, record in archive.records.items():
            inner = f"{place}{archive.root}{name}"
            try:
                storage = checkpoint and name.startswith(("data/", "tensors/"))
                # Storages are many, and each may be a request.
                head = archive.head(name, _PEEK if storage else _FIRST)
                if not self.worth(head, name, storage, record.nbytes):
                    continue
                if record.method == DEFLATED or record.nbytes <= limits().pickle_bytes - self.run:
                    data = archive.read(name, limits().pickle_bytes - self.run, check=record.crc32 != 0)
                    content: Source = Memory(data, inner)
                else:
                    content = archive.open(name)
                self.record(content, inner, depth, storage)
            except ConverterError as error:
                self.say(error.rule, str(error), inner)
                self.header(source, record.header, place, depth)
        if checkpoint and not place:
            self.strict(source, torch.read)
        if checkpoint:
            return TORCH_ZIP.title
        return "numpy archive (npz)" if all(name.endswith(".npy") for name in archive.records) else "zip archive"

    def worth(self, head: bytes, name: str, storage: bool, nbytes: int) -> bool:
        """Say whether a record's first bytes ask for a closer look."""
        if head.startswith((_ZIP, _NUMPY)) or (not storage and name.endswith(_PICKLE_NAMES)):
            return True
        if not storage and sealed(head) is not None:
            return True
        if head[:1] == b"\x80" and head[1:2] <= b"\5":
            return True
        seen = _seen(head, 0)
        if isinstance(seen.error, TruncatedPickleError):
            return seen.plausible or seen.error.needs <= nbytes
        return seen.plausible or (not storage and seen.error is None)

    def record(self, source: Source, place: str, depth: int, storage: bool) -> None:
        """Look at a record that is worth it."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        if head.startswith(_ZIP):
            if depth + 1 > limits().scan_nesting:
                self.say("not-looked-into", f"an archive inside {limits().scan_nesting} others", place)
            else:
                self.zip(source, f"{place}/", depth + 1)
        elif head.startswith(_NUMPY):
            self.numpy(source, place, depth)
        elif storage:
            self.hidden(source, place, depth + 1)
        elif (archive := sealed(head)) is not None:
            self.unopened(archive, place)
        else:
            claimed = place.endswith(_PICKLE_NAMES)
            end = self.stream(source, place, 0, claimed=claimed, depth=depth)
            if 0 < end < source.size or (claimed and not end and source.size):
                self.say(
                    "malformed", f"{source.size - end:,} bytes that are no pickle follow at byte {end:,}", place, end
                )

    def numpy(self, source: Source, place: str, depth: int) -> None:
        """Look at the pickle behind the header of an array of objects."""
        head = bytes(source.read(0, min(12, source.size)))
        width = 2 if head[6:7] == b"\1" else 4
        start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
        if len(head) < 12 or start > source.size or start > limits().json_bytes:
            self.say("malformed", "the header of the numpy array is cut off", place)
            return
        header = bytes(source.read(8 + width, start - 8 - width))
        if b"O" in header:
            end = self.stream(source, place, start, claimed=True, depth=depth)
            if end < source.size:
                self.say(
                    "malformed", f"{source.size - end:,} bytes that are no pickle follow at byte {end:,}", place, end
                )
        else:
            self.hidden(Window(source, start, source.size - start), place, depth + 1)

    def appended(self, source: Source) -> None:
        """Look for an archive behind something else: a loader that goes by the end of a file finds it there."""
        size = min(source.size, _FIRST)
        tail = bytes(source.read(source.size - size, size))
        if (at := tail.rfind(b"PK\5\6")) >= 0 and len(tail) - at >= 22 and tail.rfind(b"PK\1\2", 0, at) >= 0:
            self.say("malformed", "a zip archive stands at the end of the file, and something else before it")
            self.salvage(source, "", 0)

    def salvage(self, source: Source, place: str, depth: int) -> None:
        """Look at whatever has a local header in an archive that is not sound."""
        overlap, position = len(_ZIP) - 1, 0
        while position < source.size:
            data = bytes(source.read(position, min(_PIECE + overlap, source.size - position)))
            at = data.find(_ZIP)
            while at >= 0:
                if not self.header(source, position + at, place, depth):
                    return
                at = data.find(_ZIP, at + 1)
            position += _PIECE

    def header(self, source: Source, position: int, place: str, depth: int) -> bool:
        """Look at what follows a local header, whatever the directory says. False when enough was spent on that."""
        if self.spent > min(limits().pickle_bytes, 8 * source.size + _SPARE):
            self.say("not-looked-into", "its records overlap so often that not all of them were looked at", place)
            return False
        fixed = bytes(source.read(position, min(30, source.size - position)))
        start = position + 30 + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")
        if len(fixed) < 30 or start >= source.size:
            return True
        raw = bytes(source.read(position + 30, int.from_bytes(fixed[26:28], "little")))
        name = f"{place}{raw.decode('utf-8', 'replace')}"
        self.remains(Window(source, start, source.size - start), name, depth)
        # Whether it is deflated may be said in two ways, so the data itself is asked.
        if _inflated(bytes(source.read(start, min(_PEEK, source.size - start)))):
            data = bytes(source.read(start, min(_PIECE, source.size - start)))
            inflated = _inflated(data)
            self.spent += len(data) + len(inflated)
            self.remains(Memory(inflated, name), name, depth)
            if inflated.startswith(_ZIP) and depth < limits().scan_nesting:
                self.salvage(Memory(inflated, name), f"{name}/", depth + 1)
        return True

    def remains(self, source: Source, place: str, depth: int) -> None:
        """Look for pickles at the start of something whose end is not known."""
        head = bytes(source.read(0, min(_PEEK, source.size)))
        start = 10 + int.from_bytes(head[8:10], "little") if head.startswith(_NUMPY) else 0
        self.spent += len(head)
        seen = _seen(head, 0)
        if (
            not start
            and seen.error is not None
            and not seen.plausible
            and not isinstance(seen.error, TruncatedPickleError)
        ):
            return
        run = self.run
        self.stream(source, place, start, strict=False, depth=depth)
        self.spent += max(_FIRST >> 4, self.run - run)

    def hidden(self, source: Source, place: str, depth: int) -> None:
        """Look whether data is a pickle that names something."""
        seen = self.next(source, 0, False, b"")[0]
        if seen.plausible:
            self.say("nested-pickle", "the data is itself a pickle", place)
            self.add(seen, source, f"{place}, as a pickle", depth)

    def stream(
        self,
        source: Source,
        place: str,
        start: int,
        *,
        most: int | None = None,
        claimed: bool = False,
        strict: bool = True,
        depth: int = 0,
    ) -> int:
        """Run pickles one after another; give the byte where they end: `start` where there is none.

        Not `strict`: what follows the first may be anything. `claimed`: it should be a pickle, whatever it begins with.
        """
        position, count = start, 0
        data = b""
        waiting: list[_Seen] = []  # they run, but so does a text that starts with `N.`
        while position < source.size and (most is None or count + len(waiting) < most):
            if len(self.pickles) + len(waiting) >= limits().scan_pickles:
                self.say("not-looked-into", f"more than {limits().scan_pickles:,} pickles", place, position)
                return source.size
            marked = bytes(source.read(position, min(2, source.size - position)))
            proto = marked[:1] == b"\x80" and len(marked) == 2 and marked[1] <= 5
            seen, data = self.next(source, position, strict, data)
            sure = seen.plausible or (
                strict and (proto or (claimed and not count) or isinstance(seen.error, LimitError))
            )
            if seen.error is not None and not sure:
                break
            waiting.append(seen)
            if sure or seen.end == source.size:
                for one in waiting:
                    self.add(one, source, place, depth)
                count += len(waiting)
                waiting.clear()
            if seen.end is None:
                return source.size
            position = seen.end
        return waiting[0].start if waiting else position

    def next(self, source: Source, start: int, strict: bool, data: bytes) -> tuple[_Seen, bytes]:
        """Run the pickle at `start`; more of the source is read while there is a pickle that goes on. Gives what was read."""
        most = min(source.size, start + max(0, limits().pickle_bytes - self.run))
        if isinstance(source, Memory) and (strict or bytes(source.read(start, 1)) == b"\x80"):
            # One copy for all the pickles of a record.
            data = data if len(data) >= most else bytes(source.read(0, most))
        elif len(data) < min(start + _FIRST, source.size):
            data = bytes(source.read(0, min(max(start + _FIRST, 2 * len(data)), source.size)))
        while True:
            seen = _seen(data, start)
            error = seen.error
            if not isinstance(error, TruncatedPickleError) or error.needs > source.size:
                break
            # Of data that only might be a pickle, more is read when it starts like one.
            if not (strict or seen.plausible or data[start : start + 1] == b"\x80"):
                break
            if error.needs > most:
                seen.error = LimitError(
                    f"its pickles have more than {limits().pickle_bytes:,} bytes: give --limit pickle_bytes=… to read on"
                )
                break
            size = max(error.needs, _GROWTH * len(data))
            # All of it, if that is not much more: it would be run once again otherwise.
            data = bytes(source.read(0, min(most, size if 2 * size < source.size else source.size)))
        self.run += max(seen.reached - start, 0)
        return seen, data

    def add(self, seen: _Seen, source: Source, place: str, depth: int) -> None:
        """Report a pickle, and those inside its texts."""
        self.tensors += seen.tensors
        named = [_global(module, name, at) for (module, name), at in seen.used.items()]
        calls = self.calls(seen, source) if self.explain else ()
        self.pickles.append(
            PickleReport(place, seen.start, seen.end, seen.opcodes, tuple(named[: limits().scan_findings]), calls)
        )
        for one in named:
            self.judge(one, place)
        if seen.error is not None:
            self.say(seen.error.rule, str(seen.error), place, seen.reached)
        if not depth:
            nbytes = (source.size if seen.end is None else seen.end) - seen.start
            self.sent_nbytes += nbytes
            if self.sent_nbytes <= limits().opinion_bytes:
                self.sent.append(bytes(source.read(seen.start, nbytes)))
        for at, text in seen.texts:
            if depth >= limits().scan_nesting:
                self.say("not-looked-into", f"a pickle inside {depth} others", place, at)
                break
            inner = Memory(text, place)
            found = self.next(inner, 0, False, b"")[0]
            if found.plausible or (found.error is None and found.texts):
                self.say("nested-pickle", f"the text at byte {at:,} is itself a pickle", place, at)
                self.add(found, inner, f"{place}{', ' if place else ''}text at byte {at:,}, as a pickle", depth + 1)

    def calls(self, seen: _Seen, source: Source) -> tuple[CallReport, ...]:
        """Write what would be called outside the table, in the order in which it would be."""
        from converter.pickles.decompile import expression

        return tuple(CallReport(NAMES[source.read(at, 1)[0]], at, expression(call)) for at, call in seen.calls)

    def judge(self, named: GlobalReport, place: str) -> None:
        """Say what is wrong with a global."""
        if named.known:
            return
        if named.danger is None:
            message = (
                f"{named.module}.{named.name} is outside the closed table: a checkpoint of tensors does not need it"
            )
            self.say("unknown-global", message, place, named.byte)
        else:
            source = f" ({named.evidence})" if named.evidence else ""
            message = f"{named.module}.{named.name} {named.danger} when the file is unpickled{source}"
            self.say("dangerous-global", message, place, named.byte)


def _global(module: str, name: str, at: int) -> GlobalReport:
    if (module, name) in TABLE:
        return GlobalReport(module, name, at, True, None, None)
    return GlobalReport(module, name, at, False, danger(module, name), evidence(module, name))


def _persistent(value: Any) -> object:
    """Keep a persistent id inert; `('module', class, …)` of torch before 0.4 stands for the class."""
    if type(value) is tuple and len(value) == 4 and value[0] == "module":
        return value[1]
    return PersistentId(value)


def _seen(data: bytes, start: int) -> _Seen:
    """Run a pickle inert, and go over it once more for what the machine does not keep: calls, texts that are pickles."""
    used: dict[tuple[str, str], int] = {}
    calls: list[tuple[int, Opaque]] = []  # those outside the table, as many as are shown
    end: int | None = None
    error: ConverterError | None = None
    reached = start
    tensors = 0

    def called(at: int, made: Opaque) -> None:
        nonlocal tensors
        if (made.module, made.name) in TABLE:
            tensors += made.name.startswith("_rebuild_")
        elif len(calls) < limits().scan_findings:
            calls.append((at, made))

    counts, texts = [0] * 256, []
    try:
        with uncollected():
            reached = end = run(data, {}, _persistent, start, used=used, called=called).end
        for code, argument, at in _noteworthy(data, start):
            counts[code] += 1
            if argument is not None and (raw := _pickle_in(argument)):
                texts.append((at, raw))
    except ConverterError as problem:
        error, last, reached = problem.with_traceback(None), ["", ""], start
        error.__context__ = error.__cause__ = None  # their frames would keep all that was made
        for code, argument, at in _decoded(data, start):
            counts[code] += 1
            reached = at
            kind = type(argument)
            if kind is str or kind is bytes:
                last = [last[1], argument if kind is str else ""]
                if len(argument) > _SHORT and (raw := _pickle_in(argument)):
                    texts.append((at, raw))
            # The machine stopped; another reader may have gone on, so what is named further on counts, too.
            elif kind is tuple:
                used.setdefault(argument, at)
            elif code == _STACK_GLOBAL and last[0]:
                used.setdefault((last[0], last[1]), at)
    opcodes = {name: counts[OPCODES[name][0]] for name in _CALLS if counts[OPCODES[name][0]]}
    return _Seen(start, end, used, calls, error, reached, opcodes, texts, tensors, sum(counts))


def _decoded(data: bytes, start: int) -> Iterator[tuple[int, Any, int]]:
    """Give opcodes as far as they are sound."""
    with suppress(ConverterError):
        yield from decode(data, start)


def _noteworthy(data: bytes, position: int) -> Iterator[tuple[int, str | bytes | None, int]]:
    """Give those opcodes of a sound pickle that construct calls, and those whose text may be a pickle."""
    start = position
    while True:
        position = _PASSED(data, position).end()  # type: ignore[union-attr]
        code = data[position]
        if code in _CALLING:
            yield code, None, position
            position += 1
            continue
        here = decode(data, position, start=start)
        code, argument, at = next(here)
        yield code, argument if isinstance(argument, str | bytes) and len(argument) > _SHORT else None, at
        if code == _STOP:
            return
        position = next(here)[2]


def _passed() -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Make what passes over opcodes that are neither calls nor long texts, so that Python needn't look at each."""
    widths = {0: rb"", 1: rb".", 2: rb"..", 3: rb".{4}", 4: rb".{4}", 5: rb".{8}", 6: rb".{8}"}
    codes: dict[bytes, bytes] = {}
    for name, (code, kind) in OPCODES.items():
        if kind in widths and name not in _CALLS and name != "STOP":
            codes[widths[kind]] = codes.get(widths[kind], b"") + re.escape(bytes([code]))
    choices = [b"[" + those + b"]" + (b"" if width else b"+") + width for width, those in codes.items()]
    short = [(length, b".{%d}" % length) for length in range(_SHORT + 1)]
    for names, zeros in ((("SHORT_BINUNICODE", "SHORT_BINBYTES", "SHORT_BINSTRING", "LONG1"), b""),
                         (("BINUNICODE", "BINBYTES", "BINSTRING"), b"\0\0\0")):  # fmt: skip
        those = b"".join(re.escape(bytes([OPCODES[name][0]])) for name in names)
        choices += [b"[" + those + b"]" + re.escape(bytes([length])) + zeros + rest for length, rest in short]
    choices += [b"c[^\n]*\n[^\n]*\n", b"[ILFgp][^\n]*\n"]
    return re.compile(b"(?:" + b"|".join(choices) + b")*+", re.DOTALL).match


_SHORT: Final = 10  # characters of a text that is no pickle
_STOP: Final = OPCODES["STOP"][0]
_CALLING: Final = frozenset(OPCODES[name][0] for name in _CALLS if OPCODES[name][1] == 0)
_PASSED: Final = _passed()
_STACK_GLOBAL: Final = OPCODES["STACK_GLOBAL"][0]


def _pickle_in(text: str | bytes) -> bytes | None:
    """Give the bytes of a text that may be a pickle, in base64 perhaps."""
    if isinstance(text, str):
        if not (text[0] == "\x80" or text[0].isascii()):
            return None
        try:
            text = text.encode("latin-1")
        except UnicodeEncodeError:
            return None
    if text[0] == 0x80:
        return text if text[1] <= 5 else None
    if _SPELLED.search(text, 0, 4096):
        return text
    if _BASE64.fullmatch(text):
        try:
            raw = base64.b64decode(text)
        except (binascii.Error, ValueError):
            return None
        return raw if raw[:1] == b"\x80" or _SPELLED.search(raw, 0, 4096) else None
    return None


def _inflated(data: bytes) -> bytes:
    """Inflate as much as there is, up to a piece. Empty where it is not deflated at all."""
    try:
        return zlib.decompressobj(-15).decompress(data, _PIECE)
    except zlib.error:
        return b""


def _second_opinion(look: _Look, verdict: str) -> OpinionReport:
    """Ask fickling, unless the pickles are larger than it can take; say where it disagrees."""
    from converter.scanning import second_opinion

    nbytes = look.sent_nbytes
    if nbytes > limits().opinion_bytes or look.tensors > limits().opinion_tensors:
        note = (
            f"not asked: {nbytes:,} bytes of pickles with {look.tensors:,} tensors, and beyond "
            f"{limits().opinion_bytes:,} and {limits().opinion_tensors:,} it takes too long or calls anything malicious"
        )
        return OpinionReport("", None, (), None, note)
    said = second_opinion.ask(look.sent)
    if said.severity is None:
        return OpinionReport(said.version, None, said.reasons, None, said.note)
    agrees = said.alarmed == (verdict != PLAIN)
    if said.alarmed and verdict == PLAIN:
        look.say("second-opinion", f"fickling {said.version} says {said.severity}: {'; '.join(said.reasons[:3])}")
    elif not agrees:
        look.say("second-opinion", f"fickling {said.version} found nothing; that raises no trust")
    return OpinionReport(said.version, said.severity, said.reasons, agrees, said.note)
