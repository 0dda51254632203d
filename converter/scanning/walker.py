"""Walks through a file to every pickle in it: decides what the file is, and what its parts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, NamesError
from converter.formats import FORMATS, marked, of
from converter.formats.foreign import HEAD, known, program, sealed, what
from converter.formats.marks import NPY_MAGIC
from converter.formats.readings import other_readings
from converter.formats.records import NPZ, TORCH_TAR
from converter.formats.shards import absent_parts
from converter.io.codecs import TITLES, Codec, codec, inflated, is_compressed
from converter.io.source import Memory, Window
from converter.io.spool import Spool, Spooled
from converter.io.tar import is_header
from converter.io.zip_ends import archive_ends
from converter.limits import limits
from converter.pickles.arguments import LOAD_FROM_BYTES
from converter.pickles.opcodes import NAMES
from converter.reports.scan import CallReport, PickleReport
from converter.scanning import joblib_walk, numpy_walk, onnx, tar_walk, torch_bytes, zip_walk
from converter.scanning.budget import Budget
from converter.scanning.findings import Findings
from converter.scanning.pickle_stream import PickleRun, PickleStream
from converter.scanning.place import ENDINGS, Claim, Place
from converter.text import listed, plural

if TYPE_CHECKING:
    from converter.formats.foreign import Foreign
    from converter.formats.format import Format
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

_FILE: Final = Place()
_TAR: Final = "a tar archive"
_PICKLE: Final = "pickle"
_CONTAINERS: Final = frozenset((zip_walk.TITLE, NPZ.title, _TAR, *TITLES))


def _format(head: bytes) -> Format | None:
    """The format that decides how a file is looked through. A tar is looked through by its members, whatever they are."""
    return next(
        (one for one in FORMATS if one.read is not None and one.contents != "members" and one.matches(head)), None
    )


class Walker:
    """Looks through one file and adds what it finds to `findings`.

    `explain` adds the calls that loading would make. A file that was `named` is reported even if it is of no known
    kind.
    """

    def __init__(self, findings: Findings, *, explain: bool, named: bool) -> None:
        self.findings = findings
        self.budget = Budget()
        self.explain = explain
        self.named = named
        self.recognised = False  # whether anything inside the file is of a known kind

    def file(self, source: Source) -> str:
        """Look through a whole file, and return what it is."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        format = _format(head)
        kind = self.content(source, _FILE, head, format)
        archive = format is not None and format.contents == "records"
        end = None
        if not archive:
            # A member that is stored uncompressed has been looked into already.
            packed = codec(head)
            opened = format is None and (is_header(head) or (packed is not None and packed.title == kind))
            end = archive_ends(source, whole=opened)
            zip_walk.at_the_end(self, source, end)
        broken = not kind and end is None and not self.check_kind(source, head, source.name)
        if kind in _CONTAINERS:
            self.nothing()
        kind = kind or self.marked(source, head) or what(head, broken=broken)
        self.ambiguous(source, head, format, kind)
        return kind

    def content(self, source: Source, place: Place, head: bytes, format: Format | None) -> str:
        """Look through a file, or a record that is a file, with the first HEAD bytes `head`.

        Return what it is, empty if it is nothing that is known here.
        """
        if format is not None and format.read is not None:
            if format.contents == "records":
                return self.zip(source, place)
            if format.contents == "array":
                numpy_walk.look(self, source, place)
                return format.title
            catalogue = self.read_strictly(source, format.read, place)
            if format.contents == "pickles":
                self.legacy(source, catalogue, place)
            return format.title
        if is_header(head):
            return self.tar(source, place)
        if head == zip_walk.NO_RECORDS:
            return zip_walk.TITLE
        if head.startswith(zip_walk.EMPTY):  # numpy.load takes it for a zip archive, and looks at the end of the file
            behind = not place.name and archive_ends(source) is not None
            return zip_walk.UNSOUND if behind else self.zip(source, place)  # `file` has looked at the end of the file
        if (kind := codec(head)) is not None and self.compressed(source, place, kind):
            return kind.title
        if (archive := sealed(head)) is not None:
            self.unopened(archive, place)
            return archive.title
        if onnx.matches(head) and onnx.look(self, source, place.name):
            return onnx.TITLE
        code = program(head)
        if code is not None:
            self.findings.report("program", f"`{source.name}` is {code.title}: {code.how}", place.name)
        end = self.pickles(source, place)
        if not end and (code is not None or place.claim is not Claim.PICKLE):
            return "" if code is None else code.title
        self.check_end(source, place, end)
        return _PICKLE

    def marked(self, source: Source, head: bytes) -> str:
        """Read the folder that a local file marks as one of a format, and return what it is; empty for any other file."""
        path = Path(source.name)
        format = marked(path, head) if source.identity is not None else None
        if format is None or format.read_folder is None:
            return ""
        read = format.read_folder
        self.read_strictly(source, lambda _: read(path.parent), Place("the folder"))
        return format.title

    def ambiguous(self, source: Source, head: bytes, format: Format | None, kind: str) -> None:
        """Report what else a file could be read as, and look into that."""
        # Two lines of a text can be a GLOBAL. If the kind is unknown, `content` has already looked for a pickle.
        known = format is not None or is_header(head) or codec(head) is not None or sealed(head) is not None
        pickled = not known or (format is not None and format.contents == "pickles")
        others = other_readings(source, head, pickled=pickled, archive=True)
        for other in others:
            if other == kind:
                continue
            self.findings.report("malformed", f"the file is two in one: as {kind}, and as {other}")
            if is_header(head) and other == _TAR:
                self.tar(source, _FILE)
            elif (found := codec(head)) is not None and found.title == other:
                self.compressed(source, _FILE, found)
            elif kind != _PICKLE:
                self.pickles(source, replace(_FILE, claim=Claim.PICKLE), most=1)

    def record(self, source: Source, place: Place) -> None:
        """Look at a record that may hold pickles."""
        head = bytes(source.read(0, min(HEAD, source.size)))
        format = next((one for one in zip_walk.INSIDE if one.matches(head)), None)
        if head.startswith(zip_walk.ZIP):
            self.recognise(self.zip(source, place))
        elif place.claim is Claim.DATA and not head.startswith(NPY_MAGIC):
            self.check_data(source, replace(place, depth=place.depth + 1))
        else:
            self.recognise(self.content(source, place, head, format))

    def recognise(self, kind: str) -> None:
        """Note that something inside the file is of a known kind, unless it only contains other things."""
        self.recognised |= bool(kind) and kind not in _CONTAINERS

    def zip(self, source: Source, place: Place) -> str:
        """Look at every record of an archive, unless it is nested too deep. Return what it is."""
        if place.name and not self.may_go_into(place, "an archive"):
            return zip_walk.TITLE
        return zip_walk.look(self, source, place.into() if place.name else place)

    def tar(self, source: Source, place: Place) -> str:
        """Look at every member of a tar archive, unless it is nested too deep. Return what it is."""
        if place.name and not self.may_go_into(place, "an archive"):
            return _TAR
        inside = place.into() if place.name else place
        if tar_walk.look(self, source, inside) and TORCH_TAR.read is not None:
            self.storages(self.read_strictly(source, TORCH_TAR.read, place), inside)
        return _TAR

    def may_go_into(self, place: Place, what: str) -> bool:
        """Whether something at `place` may be opened. If it is nested too deep, this is reported."""
        if place.depth + 1 <= limits().scan_nesting:
            return True
        self.findings.report("not-looked-into", f"{what} inside {limits().scan_nesting} others", place.name)
        return False

    def compressed(self, source: Source, place: Place, kind: Codec) -> bool:
        """Look at what a file inflates to. False if it only starts like a compressed file, and no library inflates it."""
        if kind.inflater is None:
            message = f"{kind.title}: no library that inflates it is installed; unpack it, and scan what comes out"
            self.findings.report("not-looked-into", message, place.name)
            return True
        if kind.trial is not None and not is_compressed(source, kind):
            return False
        if not self.may_go_into(place, "a compressed file"):
            return True
        inner = Place(f"{place.name}, inflated" if place.name else "inflated", place.depth + 1, place.claim)
        spool = Spool()
        try:
            size = 0
            try:
                for piece in inflated(source, kind):
                    self.budget.inflate(len(piece), source.size)
                    spool.append([piece])
                    size += len(piece)
            except ConverterError as error:
                self.findings.report(error.rule, str(error), place.name)
            if size:
                content = Spooled(spool, size, inner.name)
                head = bytes(content.read(0, min(HEAD, size)))
                found = self.content(content, inner, head, _format(head))
                self.recognise(found)
                if not found and not place.name:
                    self.recognised |= self.check_kind(content, head, source.name)
        finally:
            spool.close()
        return True

    def check_kind(self, source: Source, head: bytes, name: str) -> bool:
        """Report a file without a pickle, unless its kind is known or nobody would expect a checkpoint in it.

        Return whether its kind is known.
        """
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
        if known(source, head):
            return True
        if ending is not None:
            message = f"its name ends in {ending}, as pickles and checkpoints do, but it is neither"
            self.findings.report("malformed", message)
        elif self.named:
            self.findings.report("not-looked-into", "it is of no kind that is known here, so it was not looked into")
        return False

    def nothing(self) -> None:
        """Report an archive or a compressed file that was named, if it is sound, and nothing in it is of a known kind."""
        found = self.findings
        if self.named and not (self.recognised or found.pickles or found.findings):
            found.report("not-looked-into", "nothing in it is of a kind that is known here, so it was not looked into")

    def unopened(self, archive: Foreign, place: Place) -> None:
        """Report that a file was not looked into."""
        self.findings.report("not-looked-into", f"{archive.title}: {archive.unopened}", place.name)

    def check_end(self, source: Source, place: Place, end: int) -> None:
        """Report bytes after the last pickle."""
        if end < source.size:
            message = (
                f"it goes on for {plural(source.size - end, 'byte')} after the last pickle, which ends at byte {end:,}"
            )
            self.findings.report("malformed", message, place.name, end)

    def read_strictly(self, source: Source, read: Callable[[Source], Catalogue], place: Place) -> Catalogue | None:
        """Read the file as `extract` does, which checks layouts, records and sizes. None if the file is refused."""
        try:
            catalogue = read(source)
        except NamesError:  # nothing is wrong with the file: torch tells the tensors apart
            return None
        except ConverterError as error:
            self.findings.report(error.rule, str(error), place.name)
            return None
        for problem in catalogue.problems:
            self.findings.report("hidden-data", problem, place.name)
        if place is _FILE:
            self.portion(source, catalogue)
        if catalogue.unchecked:
            self.findings.report("unchecked", f"`{source.name}` was saved without CRCs", place.name)
        return catalogue

    def portion(self, source: Source, catalogue: Catalogue) -> None:
        """Report the other parts of a cut model that do not lie beside a local file."""
        portion = of(catalogue).portion(catalogue)
        if portion is None or source.identity is None:
            return
        path = Path(source.name)
        if absent := absent_parts(path.name, portion, lambda name: path.with_name(name).exists()):
            absence = "is not beside it" if len(absent) == 1 else "are not beside it"
            self.findings.report(
                "incomplete",
                f"`{path}` is part {portion.number} of {portion.parts} of a model: {listed(absent)} {absence}",
            )

    def legacy(self, source: Source, catalogue: Catalogue | None, place: Place) -> None:
        """Look at the five pickles of a legacy stream, and at the beginning of each storage."""
        end = self.pickles(source, place, most=5)
        if catalogue is None:
            self.pickles(source, replace(place, claim=Claim.DATA), end)
            return
        self.storages(catalogue, place)

    def storages(self, catalogue: Catalogue | None, place: Place) -> None:
        """Look at the beginning of each storage."""
        way = f"{place.name}, " if place.name else ""
        for storage in () if catalogue is None else catalogue.storages:
            if storage.nbytes:
                inner = Place(f"{way}storage {storage.key[:80]}", place.depth + 1, Claim.DATA)
                self.check_data(Window(storage.source, storage.offset, storage.nbytes), inner)

    def check_data(self, source: Source, place: Place) -> None:
        """Look whether bytes that should be data are a pickle that names something."""
        found = PickleStream(source, self.budget, Claim.DATA).run_at(0)
        if found.plausible:
            self.findings.report("nested-pickle", "the data is itself a pickle", place.name)
            self.add(found, source, replace(place, name=f"{place.name}, as a pickle"))

    def pickles(self, source: Source, place: Place, start: int = 0, most: int | None = None) -> int:
        """Add the pickles that follow one another. Return the byte where they end, which is `start` if there is none."""
        stream = PickleStream(source, self.budget, place.claim)
        for found in stream.runs(start, most):
            if not start and (end := joblib_walk.look(self, source, place, found)) is not None:
                return end
            self.add(found, source, place)
        if stream.cut is not None:
            self.cut(place, stream.cut)
        return stream.end

    def cut(self, place: Place, position: int) -> None:
        """Report that the pickles from `position` on are too many."""
        most = self.budget.most_pickles
        few = "" if most == limits().scan_pickles else ", with so few bytes each"
        message = f"more than {most:,} pickles{few}: what follows was not looked into"
        self.findings.report("not-looked-into", message, place.name, position)

    def add(
        self, found: PickleRun, source: Source, place: Place, known: frozenset[tuple[str, str]] = frozenset()
    ) -> None:
        """Add a pickle and the pickles inside its texts. `known` are globals that are harmless in this layout."""
        sent, name = self.findings.sent, place.name
        sent.tensors += found.tensors
        first = {(call.module, call.name): call for _, call in reversed(found.calls)}
        named = self.findings.global_reports(found.globals, first)
        if (files := torch_bytes.look(self, found, place)) is not None:
            known |= {LOAD_FROM_BYTES}
        if known:
            named = [replace(one, known=True) if (one.module, one.name) in known else one for one in named]
        listed, calls = tuple(named[: limits().scan_findings]), self.calls(found, source) if self.explain else ()
        self.findings.pickles.append(PickleReport(name, found.start, found.end, found.opcodes, listed, calls))
        self.budget.pickles += 1
        for one in named:
            self.findings.judge(one, name)
        for at, note in found.notes:
            self.findings.report(note.rule, str(note), name, at)
        if found.error is not None:
            self.findings.report(found.error.rule, str(found.error), name, found.failed)
        # Pickles in data at the top level occur only in malformed files, whose verdict no second opinion changes.
        if not place.depth and place.claim is not Claim.DATA:
            nbytes = (source.size if found.end is None else found.end) - found.start
            sent.nbytes += nbytes
            if sent.nbytes <= limits().opinion_bytes:
                sent.pickles.append(bytes(source.read(found.start, nbytes)))
        for at, text in found.texts:
            if files is not None and text in files:
                continue
            if place.depth >= limits().scan_nesting:
                self.findings.report("not-looked-into", f"a pickle inside {place.depth} others", name, at)
                break
            if self.budget.pickles_left <= 0:
                self.cut(place, at)
                break
            self.budget.texts += 1
            inside = Memory(text, name)
            inner = PickleStream(inside, self.budget, Claim.DATA).run_at(0)
            if inner.plausible or (inner.error is None and inner.texts):
                self.findings.report("nested-pickle", f"the text at byte {at:,} is itself a pickle", name, at)
                way = f"{name}{', ' if name else ''}text at byte {at:,}, as a pickle"
                self.add(inner, inside, Place(way, place.depth + 1, Claim.DATA))

    def calls(self, found: PickleRun, source: Source) -> tuple[CallReport, ...]:
        """The calls outside the table that loading would make, as expressions, in order."""
        from converter.pickles.decompile import expression

        return tuple(CallReport(NAMES[source.read(at, 1)[0]], at, expression(call)) for at, call in found.calls)
