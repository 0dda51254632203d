"""Walks through every record of a zip archive, and through what is left of a broken archive."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, TruncatedPickleError
from converter.formats.foreign import program, sealed
from converter.formats.marks import ARRAY, NPY_MAGIC
from converter.formats.records import GGUF, NPY, NPZ, SAFETENSORS, TORCH_LEGACY, TORCH_ZIP
from converter.formats.torch import reader as torch
from converter.formats.torch.records import PICKLE, another_case
from converter.io.codecs import codec
from converter.io.source import Memory, Window
from converter.io.tar import is_header
from converter.io.zip_directory import DEFLATED
from converter.io.zip_ends import archives
from converter.io.zip_records import Archive
from converter.limits import limits
from converter.scanning import onnx, programs
from converter.scanning.pickle_stream import FIRST, run_pickle
from converter.scanning.place import PICKLES, Claim, Place

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.walker import Walker

ZIP: Final = b"PK\3\4"
EMPTY: Final = b"PK\5\6"  # how an archive without records starts
NO_RECORDS: Final = EMPTY + bytes(18)  # the whole of an archive without records
TITLE: Final = "zip archive"
PEEK: Final = 256  # bytes that are enough to recognise most data that is not a pickle
_PIECE: Final = 1 << 20  # bytes that are searched at a time for the headers of a broken archive
INSIDE: Final = (NPY, TORCH_LEGACY, SAFETENSORS, GGUF)  # files that are read strictly inside an archive, too
UNSOUND: Final = "zip archive that is not sound"


def look(walker: Walker, source: Source, place: Place) -> str:
    """Look at every record of an archive. Return what the archive is."""
    findings = walker.findings
    try:
        archive = Archive(source)
    except ConverterError as error:
        if parts := archives(source):
            found = {
                look(walker, Window(source, start, end - start), replace(place, name=f"{place.name}part {number}/"))
                for number, (start, end) in enumerate(parts, 1)
            }
            return TITLE if found == {TITLE} else f"{len(parts):,} zip archives, one after another"
        findings.report(error.rule, str(error), place.name)
        salvage(walker, source, place)
        return UNSOUND
    checkpoint = bool(archive.root) and any(name.lower() == PICKLE for name in archive.records)
    keras = programs.is_keras(archive)
    for name, record in archive.records.items():
        if keras and name == programs.KERAS_WEIGHTS:
            continue  # reported with the model
        inner = Place(f"{place.name}{archive.root}{name}", place.depth, _claim(name, checkpoint))
        try:
            # There may be many storages, and each read may be a request to a server.
            head = archive.head(name, PEEK if inner.claim is Claim.DATA else FIRST)
            if not _may_hold_something(head, inner.claim, record.nbytes):
                continue
            if record.method == DEFLATED:
                walker.budget.inflate(record.nbytes, source.size)
            if record.nbytes <= walker.budget.pickle_nbytes:
                data = archive.read(name, record.nbytes, check=record.crc32 != 0)
                content: Source = Memory(data, inner.name)
            else:
                content = archive.open(name)
            walker.record(content, inner)
        except ConverterError as error:
            findings.report(error.rule, str(error), inner.name)
            behind_header(walker, source, record.header, place)
    for what in programs.of_archive(archive):
        findings.report("program", what, place.name.rstrip("/"))
    for message in another_case(archive):
        findings.report("malformed", message, place.name)
    if checkpoint:
        walker.read_strictly(source, torch.read, Place(place.name.rstrip("/")))
        return TORCH_ZIP.title
    arrays = bool(archive.records) and all(name.endswith(ARRAY) for name in archive.records)
    return NPZ.title if arrays else TITLE


def at_the_end(walker: Walker, source: Source, end: int | None) -> None:
    """Look into an archive whose end record is at byte `end`, after something else. Some loaders start at the end."""
    if end is None:
        return
    message = "there is a zip archive at the end of the file, and something else before it"
    walker.findings.report("malformed", message, "", end)
    salvage(walker, source, Place())


def salvage(walker: Walker, source: Source, place: Place) -> None:
    """Look after every local header in a broken archive."""
    overlap, position = len(ZIP) - 1, 0
    while position < source.size:
        data = bytes(source.read(position, min(_PIECE + overlap, source.size - position)))
        at = data.find(ZIP)
        while at >= 0:
            if not behind_header(walker, source, position + at, place):
                return
            at = data.find(ZIP, at + 1)
        position += _PIECE


def behind_header(walker: Walker, source: Source, position: int, place: Place) -> bool:
    """Look at the bytes after a local header, whatever the directory says. False if the budget for that is spent."""
    if not walker.budget.may_salvage(source.size):
        message = "its records overlap so often that not all of them were looked at"
        walker.findings.report("not-looked-into", message, place.name)
        return False
    fixed = bytes(source.read(position, min(30, source.size - position)))
    start = position + 30 + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")
    if len(fixed) < 30 or start >= source.size:
        return True
    raw = bytes(source.read(position + 30, int.from_bytes(fixed[26:28], "little")))
    inner = Place(f"{place.name}{raw.decode('utf-8', 'replace')}", place.depth, Claim.DATA)
    _open_ended(walker, Window(source, start, source.size - start), inner)
    # The headers may disagree on whether the data is deflated, so try to inflate it.
    if _inflated(bytes(source.read(start, min(PEEK, source.size - start)))):
        data = bytes(source.read(start, min(_PIECE, source.size - start)))
        inflated = _inflated(data)
        walker.budget.salvage_nbytes += len(data) + len(inflated)
        _open_ended(walker, Memory(inflated, inner.name), inner)
        if inflated.startswith(ZIP) and inner.depth < limits().scan_nesting:
            salvage(walker, Memory(inflated, inner.name), Place(f"{inner.name}/", inner.depth + 1))
    return True


def _open_ended(walker: Walker, source: Source, place: Place) -> None:
    """Look for pickles at the start of a record whose end is unknown."""
    head = bytes(source.read(0, min(PEEK, source.size)))
    start = 10 + int.from_bytes(head[8:10], "little") if head.startswith(NPY_MAGIC) else 0
    walker.budget.salvage_nbytes += len(head)
    found = run_pickle(head, 0)
    if not (start or found.error is None or found.plausible or isinstance(found.error, TruncatedPickleError)):
        return
    before = walker.budget.run_nbytes
    walker.pickles(source, place, start)
    walker.budget.salvage_nbytes += max(FIRST >> 4, walker.budget.run_nbytes - before)


def _claim(name: str, checkpoint: bool) -> Claim:
    """What a record's name says about it, in any case: torch ignores case when it looks up records."""
    name = name.lower()
    if checkpoint and name.startswith(("data/", "tensors/")):
        return Claim.DATA
    return Claim.PICKLE if name.endswith(PICKLES) else Claim.WHOLE


def _may_hold_something(head: bytes, claim: Claim, nbytes: int) -> bool:
    """Whether a record of `nbytes` may be a pickle or contain one, as far as its first bytes tell."""
    if head.startswith((ZIP, NPY_MAGIC)) or claim is Claim.PICKLE or TORCH_LEGACY.matches(head):
        return True
    if claim is not Claim.DATA and (sealed(head) is not None or codec(head) is not None or is_header(head)):
        return True
    if claim is not Claim.DATA and (SAFETENSORS.matches(head) or GGUF.matches(head)):
        return True
    if claim is not Claim.DATA and (onnx.matches(head) or program(head) is not None):
        return True
    if head[:1] == b"\x80" and head[1:2] <= b"\5":
        return True
    found = run_pickle(head, 0)
    if isinstance(found.error, TruncatedPickleError):
        return found.plausible or found.error.needs <= nbytes
    return found.plausible or (claim is not Claim.DATA and found.error is None)


def _inflated(data: bytes) -> bytes:
    """As much as can be inflated, up to one piece. Empty if the data is not deflated."""
    try:
        return zlib.decompressobj(-15).decompress(data, _PIECE)
    except zlib.error:
        return b""
