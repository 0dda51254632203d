"""The way through a file to every pickle in it: records of archives, arrays, streams, and what is left of broken ones."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, TruncatedPickleError
from converter.formats import FORMATS
from converter.formats.foreign import HEAD, known, sealed, what
from converter.formats.npz import ARRAY, NPZ
from converter.formats.torch import TORCH_ZIP
from converter.formats.torch import reader as torch
from converter.io.source import Memory, Window
from converter.io.zip_directory import DEFLATED
from converter.io.zip_records import Archive
from converter.limits import limits
from converter.pickles.opcodes import NAMES
from converter.reports.scan import CallReport, PickleReport
from converter.scanning.budget import Budget
from converter.scanning.findings import Findings, global_report
from converter.scanning.pickle_stream import FIRST, PickleRun, PickleStream, run_pickle
from converter.scanning.place import ENDINGS, Claim, Place

if TYPE_CHECKING:
    from converter.formats.foreign import Foreign
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

_ZIP: Final = b"PK\3\4"
_NUMPY: Final = b"\x93NUMPY"
_PEEK: Final = 256  # bytes that tell most of what is no pickle
_PIECE: Final = 1 << 20  # bytes looked through at a time for the headers of a broken archive
_PICKLE_NAMES: Final = (".pkl", ".pickle")
_FILE: Final = Place()


class Walker:
    """Looks through one file and adds what it finds to `findings`.

    `explain` adds what would be called. A file that was `named` to be scanned is not passed over when nobody knows what it is.
    """

    def __init__(self, findings: Findings, *, explain: bool, named: bool) -> None:
        self.findings = findings
        self.budget = Budget()
        self.explain = explain
        self.named = named

    def file(self, source: Source) -> str:
        """Look through a whole file; return what it is."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        for format in FORMATS:
            if format.read is not None and format.matches(head):
                if format.contents == "records":
                    return self.zip(source, _FILE)
                if format.contents == "array":
                    self.numpy(source, _FILE)
                    return format.title
                catalogue = self.read_strictly(source, format.read)
                if format.contents == "pickles":
                    self.legacy(source, catalogue)
                self.archive_at_the_end(source)
                return format.title
        if (archive := sealed(head)) is not None:
            self.unopened(archive, _FILE)
            return archive.title
        end = self.pickles(source, _FILE)
        self.archive_at_the_end(source)
        if not end:
            self.unknown(source, head)
            return what(head)
        self.check_end(source, _FILE, end)
        return "pickle"

    def unknown(self, source: Source, head: bytes) -> None:
        """Report a file that holds no pickle, unless it is known what it is, or nobody expects a checkpoint of it."""
        ending = next((ending for ending in ENDINGS if source.name.lower().endswith(ending)), None)
        if known(head):
            return
        if ending is not None:
            message = f"its name ends in {ending}, as pickles and checkpoints do, and it is none that can be read"
            self.findings.report("malformed", message)
        elif self.named:
            self.findings.report("not-looked-into", "it is nothing that is known here, so nobody has looked into it")

    def unopened(self, archive: Foreign, place: Place) -> None:
        """Report that an archive was not looked into."""
        self.findings.report("not-looked-into", f"{archive.title}: unpack it, and scan what comes out", place.name)

    def check_end(self, source: Source, place: Place, end: int) -> None:
        """Report what follows the last pickle."""
        if end < source.size:
            message = f"{source.size - end:,} bytes that are no pickle follow at byte {end:,}"
            self.findings.report("malformed", message, place.name, end)

    def read_strictly(self, source: Source, read: Callable[[Source], Catalogue]) -> Catalogue | None:
        """Read the file as `extract` does, because that checks layouts, records and sizes. None where it is refused."""
        try:
            catalogue = read(source)
        except ConverterError as error:
            self.findings.report(error.rule, str(error))
            return None
        for problem in catalogue.problems:
            self.findings.report("hidden-data", problem)
        if catalogue.unchecked:
            self.findings.report("unchecked", f"`{source.name}` was saved without CRCs")
        return catalogue

    def legacy(self, source: Source, catalogue: Catalogue | None) -> None:
        """Look at the five pickles of a legacy stream, and at what its storages begin with."""
        end = self.pickles(source, _FILE, most=5)
        if catalogue is None:
            self.pickles(source, replace(_FILE, claim=Claim.DATA), end)
            return
        for storage in catalogue.storages:
            if storage.nbytes:
                place = Place(f"storage {storage.key[:80]}", 1, Claim.DATA)
                self.check_data(Window(source, storage.offset, storage.nbytes), place)

    def zip(self, source: Source, place: Place) -> str:
        """Look at every record of an archive; return what it is."""
        try:
            archive = Archive(source)
        except ConverterError as error:
            self.findings.report(error.rule, str(error), place.name)
            self.salvage(source, place)
            return "zip archive that is not sound"
        checkpoint = "data.pkl" in archive and bool(archive.root)
        for name, record in archive.records.items():
            inner = Place(f"{place.name}{archive.root}{name}", place.depth, _claim(name, checkpoint))
            try:
                # There may be many storages, and each read may be a request.
                head = archive.head(name, _PEEK if inner.claim is Claim.DATA else FIRST)
                if not _may_hold_pickles(head, inner.claim, record.nbytes):
                    continue
                if record.method == DEFLATED or record.nbytes <= self.budget.pickle_nbytes:
                    data = archive.read(name, self.budget.pickle_nbytes, check=record.crc32 != 0)
                    content: Source = Memory(data, inner.name)
                else:
                    content = archive.open(name)
                self.record(content, inner)
            except ConverterError as error:
                self.findings.report(error.rule, str(error), inner.name)
                self.behind_header(source, record.header, place)
        if checkpoint and not place.name:
            self.read_strictly(source, torch.read)
        if checkpoint:
            return TORCH_ZIP.title
        arrays = bool(archive.records) and all(name.endswith(ARRAY) for name in archive.records)
        return NPZ.title if arrays else "zip archive"

    def record(self, source: Source, place: Place) -> None:
        """Look at a record that may hold pickles."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        if head.startswith(_ZIP):
            if place.depth + 1 > limits().scan_nesting:
                message = f"an archive inside {limits().scan_nesting} others"
                self.findings.report("not-looked-into", message, place.name)
            else:
                self.zip(source, Place(f"{place.name}/", place.depth + 1))
        elif head.startswith(_NUMPY):
            self.numpy(source, place)
        elif place.claim is Claim.DATA:
            self.check_data(source, replace(place, depth=place.depth + 1))
        elif (archive := sealed(head)) is not None:
            self.unopened(archive, place)
        else:
            end = self.pickles(source, place)
            if end or place.claim is Claim.PICKLE:
                self.check_end(source, place, end)

    def numpy(self, source: Source, place: Place) -> None:
        """Look at the pickle behind the header of an array of objects."""
        head = bytes(source.read(0, min(12, source.size)))
        width = 2 if head[6:7] == b"\1" else 4
        start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
        if len(head) < 12 or start > source.size or start > limits().json_bytes:
            self.findings.report("malformed", "the header of the numpy array is cut off", place.name)
            return
        header = bytes(source.read(8 + width, start - 8 - width))
        if b"O" in header:
            self.check_end(source, place, self.pickles(source, replace(place, claim=Claim.PICKLE), start))
        else:
            inner = replace(place, depth=place.depth + 1, claim=Claim.DATA)
            self.check_data(Window(source, start, source.size - start), inner)

    def archive_at_the_end(self, source: Source) -> None:
        """Look for an archive behind something else: a loader that starts from the end of a file finds it there."""
        size = min(source.size, FIRST)
        tail = bytes(source.read(source.size - size, size))
        if (at := tail.rfind(b"PK\5\6")) >= 0 and len(tail) - at >= 22 and tail.rfind(b"PK\1\2", 0, at) >= 0:
            message = "a zip archive stands at the end of the file, and something else before it"
            self.findings.report("malformed", message)
            self.salvage(source, _FILE)

    def salvage(self, source: Source, place: Place) -> None:
        """Look behind every local header in an archive that is not sound."""
        overlap, position = len(_ZIP) - 1, 0
        while position < source.size:
            data = bytes(source.read(position, min(_PIECE + overlap, source.size - position)))
            at = data.find(_ZIP)
            while at >= 0:
                if not self.behind_header(source, position + at, place):
                    return
                at = data.find(_ZIP, at + 1)
            position += _PIECE

    def behind_header(self, source: Source, position: int, place: Place) -> bool:
        """Look at what follows a local header, whatever the directory says. False when the budget for that is spent."""
        if not self.budget.may_salvage(source.size):
            message = "its records overlap so often that not all of them were looked at"
            self.findings.report("not-looked-into", message, place.name)
            return False
        fixed = bytes(source.read(position, min(30, source.size - position)))
        start = position + 30 + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")
        if len(fixed) < 30 or start >= source.size:
            return True
        raw = bytes(source.read(position + 30, int.from_bytes(fixed[26:28], "little")))
        inner = Place(f"{place.name}{raw.decode('utf-8', 'replace')}", place.depth, Claim.DATA)
        self.open_ended(Window(source, start, source.size - start), inner)
        # The headers may disagree on whether it is deflated, so try to inflate it.
        if _inflated(bytes(source.read(start, min(_PEEK, source.size - start)))):
            data = bytes(source.read(start, min(_PIECE, source.size - start)))
            inflated = _inflated(data)
            self.budget.salvage_nbytes += len(data) + len(inflated)
            self.open_ended(Memory(inflated, inner.name), inner)
            if inflated.startswith(_ZIP) and inner.depth < limits().scan_nesting:
                self.salvage(Memory(inflated, inner.name), Place(f"{inner.name}/", inner.depth + 1))
        return True

    def open_ended(self, source: Source, place: Place) -> None:
        """Look for pickles at the start of a record whose end is not known."""
        head = bytes(source.read(0, min(_PEEK, source.size)))
        start = 10 + int.from_bytes(head[8:10], "little") if head.startswith(_NUMPY) else 0
        self.budget.salvage_nbytes += len(head)
        found = run_pickle(head, 0)
        if not (start or found.error is None or found.plausible or isinstance(found.error, TruncatedPickleError)):
            return
        before = self.budget.run_nbytes
        self.pickles(source, place, start)
        self.budget.salvage_nbytes += max(FIRST >> 4, self.budget.run_nbytes - before)

    def check_data(self, source: Source, place: Place) -> None:
        """Look whether data that should be none is a pickle that names something."""
        found = PickleStream(source, self.budget, Claim.DATA).run_at(0)
        if found.plausible:
            self.findings.report("nested-pickle", "the data is itself a pickle", place.name)
            self.add(found, source, replace(place, name=f"{place.name}, as a pickle"))

    def pickles(self, source: Source, place: Place, start: int = 0, most: int | None = None) -> int:
        """Add the pickles that stand one after another; return the byte where they end: `start` where there is none."""
        stream = PickleStream(source, self.budget, place.claim)
        for found in stream.runs(start, most):
            self.add(found, source, place)
        if stream.cut is not None:
            message = f"more than {limits().scan_pickles:,} pickles"
            self.findings.report("not-looked-into", message, place.name, stream.cut)
        return stream.end

    def add(self, found: PickleRun, source: Source, place: Place) -> None:
        """Add a pickle, and those inside its texts."""
        sent, name = self.findings.sent, place.name
        sent.tensors += found.tensors
        named = [global_report(module, global_name, at) for (module, global_name), at in found.globals.items()]
        listed, calls = tuple(named[: limits().scan_findings]), self.calls(found, source) if self.explain else ()
        self.findings.pickles.append(PickleReport(name, found.start, found.end, found.opcodes, listed, calls))
        self.budget.pickles += 1
        for one in named:
            self.findings.judge(one, name)
        for at, note in found.notes:
            self.findings.report(note.rule, str(note), name, at)
        if found.error is not None:
            self.findings.report(found.error.rule, str(found.error), name, found.failed)
        if not place.depth:
            nbytes = (source.size if found.end is None else found.end) - found.start
            sent.nbytes += nbytes
            if sent.nbytes <= limits().opinion_bytes:
                sent.pickles.append(bytes(source.read(found.start, nbytes)))
        for at, text in found.texts:
            if place.depth >= limits().scan_nesting:
                self.findings.report("not-looked-into", f"a pickle inside {place.depth} others", name, at)
                break
            inside = Memory(text, name)
            inner = PickleStream(inside, self.budget, Claim.DATA).run_at(0)
            if inner.plausible or (inner.error is None and inner.texts):
                self.findings.report("nested-pickle", f"the text at byte {at:,} is itself a pickle", name, at)
                way = f"{name}{', ' if name else ''}text at byte {at:,}, as a pickle"
                self.add(inner, inside, Place(way, place.depth + 1, Claim.DATA))

    def calls(self, found: PickleRun, source: Source) -> tuple[CallReport, ...]:
        """What would be called outside the table, as expressions, in the order in which it would be called."""
        from converter.pickles.decompile import expression

        return tuple(CallReport(NAMES[source.read(at, 1)[0]], at, expression(call)) for at, call in found.calls)


def _claim(name: str, checkpoint: bool) -> Claim:
    """What a record's name claims of it."""
    if checkpoint and name.startswith(("data/", "tensors/")):
        return Claim.DATA
    return Claim.PICKLE if name.endswith(_PICKLE_NAMES) else Claim.WHOLE


def _may_hold_pickles(head: bytes, claim: Claim, nbytes: int) -> bool:
    """Whether a record of `nbytes` may hold pickles, as far as its first bytes tell."""
    if head.startswith((_ZIP, _NUMPY)) or claim is Claim.PICKLE:
        return True
    if claim is not Claim.DATA and sealed(head) is not None:
        return True
    if head[:1] == b"\x80" and head[1:2] <= b"\5":
        return True
    found = run_pickle(head, 0)
    if isinstance(found.error, TruncatedPickleError):
        return found.plausible or found.error.needs <= nbytes
    return found.plausible or (claim is not Claim.DATA and found.error is None)


def _inflated(data: bytes) -> bytes:
    """As much as can be inflated, up to a piece. Empty where the data is not deflated at all."""
    try:
        return zlib.decompressobj(-15).decompress(data, _PIECE)
    except zlib.error:
        return b""
