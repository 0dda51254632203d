"""Makes a finding smaller: leaves out one piece after another as long as the same statement does not hold."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from converter.errors import ConverterError
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from tests.peers.oracle.child import PICKLE
from tests.peers.oracle.judge import Finding, judge, ours
from tests.peers.oracle.pool import Child

_VARIES = re.compile(r"0x[0-9a-f]+|[\d,]+|b'.*?'|b\".*?\"")
_MOST = 400  # files that are tried for one finding


def smaller(finding: Finding, child: Child) -> Finding:
    """The smallest file found for which the same statement does not hold."""
    best = finding
    left = _MOST
    why = cause(finding.data) if finding.what == PICKLE else ""

    def still(data: bytes) -> bool:
        nonlocal best, left
        left -= 1
        said = ours(finding.what, finding.name, data)
        found = judge(finding.what, finding.name, data, said, child.one(finding.what, data))
        if found is not None and found.kind == finding.kind and (finding.what != PICKLE or cause(data) == why):
            best = found
            return True
        return False

    if finding.kind == "slow":
        return finding
    _shorten(_pieces(finding.data) if finding.what == PICKLE else _chunks(finding.data), still, lambda: left > 0)
    return best


def _shorten(pieces: list[bytes], still: Callable[[bytes], bool], more: Callable[[], bool]) -> None:
    """Leave out halves, quarters … of the pieces, as long as `still` holds for what is left."""
    size = max(1, len(pieces) // 2)
    while more():
        at, changed = 0, False
        while at < len(pieces) and more():
            without = pieces[:at] + pieces[at + size :]
            if still(b"".join(without)):
                pieces, changed = without, True
            else:
                at += size
        if size == 1 and not changed:
            return
        size = max(1, size // 2)


def _chunks(data: bytes) -> list[bytes]:
    """A container, in pieces about as large as a record."""
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def _pieces(data: bytes) -> list[bytes]:
    """The opcodes of a pickle as far as they can be told apart, and the rest byte by byte."""
    places = list(_places(data))
    rest = [data[at : at + 1] for at in range(places[-1] if places else 0, len(data))]
    return [data[start:end] for start, end in pairwise(places)] + rest


def _places(data: bytes) -> Iterator[int]:
    try:
        for _, _, position in pickletools.genops(data):
            yield position
    except Exception:  # genops raises whatever its readers raise
        return


def opcodes(data: bytes) -> str:
    """The names of a pickle's opcodes, as far as they can be told."""
    found = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            found.append(f"{opcode.name} {argument!r}"[:60] if argument is not None else opcode.name)
    except Exception as error:
        found.append(f"({error})"[:100])
    return "; ".join(found[:60])


def cause(data: bytes) -> str:
    """Where our machine stops, without details that differ from file to file."""
    return _VARIES.sub("…", stopped(data))[:120]


def stopped(data: bytes) -> str:
    """Where our machine stops, and why."""
    try:
        end = run(data, TABLE).end
    except ConverterError as error:
        return str(error)
    return "runs to its end" if end == len(data) else "bytes follow it"
