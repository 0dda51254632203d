"""Where a zip archive could start if it is read from the end of the file, as Python's zipfile and torch's miniz read it.

Both take the last end record near the end, whatever length its comment claims and whatever comes before. How far back
each of them looks:

* zipfile: 65,558 bytes, `(1 << 16) + sizeEndCentDir` (CPython 3.11, Lib/zipfile.py, `_EndRecData`; numpy and Keras use it)
* miniz: windows of 4,096 bytes that overlap by 3. It stops after the first one that starts at least 65,557 bytes before
  the end, which is the 17th: 4,096 + 16 * 4,093 bytes (miniz.c, `mz_zip_reader_locate_header_sig`; tried with torch 2.13)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter.io.zip_directory import END, END64, LOCATOR

if TYPE_CHECKING:
    from converter.io.source import Source

REACH: Final = max(65_558, 4096 + 16 * 4093)  # bytes from the end, of zipfile and of miniz
_SIGNATURE: Final = b"PK\5\6"
_ENTRY: Final = b"PK\1\2"
_RECORD: Final = b"PK\3\4"
_PARTS: Final = 10_000  # archives in one file: torch.distributed.checkpoint writes one for each tensor and object
_MOST: Final = 1000  # end records that are looked at, of 22 bytes each


def archive_ends(source: Source, *, whole: bool = False) -> int | None:
    """The byte of the last end record whose directory exists; None if there is none.

    With `whole`, offsets have to count from the start of the file, as torch's miniz requires. An archive that is stored
    uncompressed inside another one does not count then.
    """
    size = min(REACH, source.size)
    tail = bytes(source.read(source.size - size, size))
    at, looked_at = tail.rfind(_SIGNATURE), 0
    while at >= 0 and looked_at < _MOST:
        if len(tail) - at >= END.size and _has_directory(source, tail, at, whole=whole):
            return source.size - len(tail) + at
        at, looked_at = tail.rfind(_SIGNATURE, 0, at), looked_at + 1
    return None


def _has_directory(source: Source, tail: bytes, at: int, *, whole: bool) -> bool:
    """Whether there is a directory where the end record (at `at` of the tail) says, or directly before that record."""
    end = source.size - len(tail) + at
    *_, size, start, _ = END.unpack_from(tail, at)
    places = {start} if whole else {start, end - size}
    locator = bytes(source.read(end - LOCATOR.size, LOCATOR.size)) if end >= LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        *_, wide, _ = LOCATOR.unpack(locator)
        for place in (wide,) if whole else (wide, end - LOCATOR.size - END64.size):
            if 0 <= place <= source.size - END64.size:
                record = END64.unpack(source.read(place, END64.size))
                if record[0] == b"PK\6\6":
                    places |= {record[-1]} if whole else {record[-1], place - record[-2]}
    return any(0 <= place <= end - 4 and bytes(source.read(place, 4)) == _ENTRY for place in places)


def archives(source: Source) -> list[tuple[int, int]]:
    """The start and end of each of several archives that torch.save wrote one after another into one open file.

    Each counts its offsets from its own start. torch's miniz takes those of the last one from the start of the file. If it
    finds a directory there, the list is empty, unless that is the first archive's own. Empty if the file is anything else.
    """
    found: list[tuple[int, int]] = []
    ends, end = END64.size + LOCATOR.size + END.size, source.size
    while end >= ends and len(found) < _PARTS:
        last = bytes(source.read(end - ends, ends))
        start = end - ends - LOCATOR.unpack_from(last, END64.size)[2]
        signatures = last[:4], last[END64.size :][:4], last[-END.size :][:4]
        if signatures != (b"PK\6\6", b"PK\6\7", _SIGNATURE) or start < 0 or bytes(source.read(start, 4)) != _RECORD:
            return []
        found.append((start, end))
        end = start
    if end or len(found) < 2:
        return []
    first, last = (bytes(source.read(one[1] - ends, ends)) for one in (found[-1], found[0]))
    if first != last and _has_directory(source, last, ends - END.size, whole=True):
        return []
    return found[::-1]
