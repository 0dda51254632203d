"""Walks through a joblib file: one pickle, in which each array's bytes follow directly after the array's wrapper.

Source: joblib/numpy_pickle.py of 0.10 to 1.5 (`NumpyArrayWrapper.read_array`, `NumpyUnpickler.load_build`). The numbers
themselves are never looked at. An array of objects is a pickle of its own.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, FormatError
from converter.io.source import Memory, Window
from converter.pickles.machine import run
from converter.pickles.values import Dict, Opaque
from converter.scanning.pickle_stream import PickleRun, PickleStream
from converter.scanning.place import Claim, Place

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.walker import Walker

WRAPPERS: Final = frozenset(
    (
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"),
    )
)
_DTYPE: Final = ("numpy", "dtype")
_ALIGNED: Final = "numpy_array_alignment_bytes"
_OBJECTS: Final = "O"


@dataclass(frozen=True, slots=True)
class _Array:
    """Bytes of the file that belong to an array: from `start` up to `end`."""

    start: int
    end: int
    objects: bool


def look(walker: Walker, source: Source, place: Place, plainly: PickleRun) -> int | None:
    """Look through a file as joblib reads it, and return where it ends; None if it is not a joblib file.

    `plainly` is what an unpickler sees that does not know joblib's layout: it reads the numbers as opcodes.
    """
    if not (WRAPPERS & plainly.globals.keys()):
        return None
    size = min(source.size, walker.budget.pickle_nbytes)
    data = bytes(source.read(0, size))
    arrays = _arrays(data)
    if not arrays:
        return None
    pieces, position = [], 0
    for array in arrays:
        pieces.append(data[position : array.start])
        position = array.end
    pieces.append(data[position:])
    without = Memory(b"".join(pieces), place.name)
    way = f"{place.name}, " if place.name else ""
    inner = Place(f"{way}without its arrays", place.depth + 1, place.claim)
    stream = PickleStream(without, walker.budget, Claim.PICKLE)
    seen: set[tuple[str, str]] = set()
    for found in stream.runs(0, 1):
        seen |= found.globals.keys()
        walker.add(found, without, inner, known=WRAPPERS)
    for array in arrays:
        if array.objects:
            content = Window(source, array.start, array.end - array.start)
            nested = Place(f"{way}objects of an array, byte {array.start:,}", place.depth + 1, Claim.PICKLE)
            for found in PickleStream(content, walker.budget, Claim.PICKLE).runs(0, 1):
                seen |= found.globals.keys()
                walker.add(found, content, nested)
    if {pair for pair, at in plainly.globals.items() if at >= arrays[0].start} - seen:
        message = "joblib reads these bytes as the numbers of an array, and pickle as opcodes that name globals"
        walker.findings.report("malformed", message, place.name, arrays[0].start)
        walker.add(plainly, source, replace(place, name=f"{way}read by pickle"))
    return stream.end + sum(array.end - array.start for array in arrays)


def _arrays(data: bytes) -> list[_Array]:
    """The arrays after their wrappers, in the order of the file."""
    found: list[_Array] = []

    def behind(position: int, made: Opaque) -> int:
        if (made.module, made.name) not in WRAPPERS:
            return 0
        array = _array(data, position, made)
        found.append(array)
        return array.end - position

    with suppress(ConverterError):  # the caller looks at the rest of the file, and reports the error
        run(data, {}, behind=behind)
    return found


def _array(data: bytes, position: int, made: Opaque) -> _Array:
    """Where the array of a wrapper lies. Raises FormatError for a wrapper without a usable dtype or shape."""
    state = made.state[-1] if made.state else None
    fields = {key: value for key, value in state.pairs() if type(key) is str} if type(state) is Dict else {}
    code = _code(fields.get("dtype"))
    shape = fields.get("shape")
    if code is None or type(shape) is not tuple or not all(type(one) is int and one >= 0 for one in shape):
        raise FormatError(f"the wrapper of an array before byte {position:,} has no dtype or no shape")
    if code == _OBJECTS:
        return _Array(position, run(data, {}, position=position).end, objects=True)
    if not code[1:].isdigit() or len(code) > 10:
        raise FormatError(f"the wrapper of an array before byte {position:,} has the dtype `{code:.20}`")
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    start = position
    if fields.get(_ALIGNED) is not None:
        start += 1 + data[position]
    end = start + math.prod(shape) * width
    if end > len(data):
        raise FormatError(f"the numbers of an array at byte {start:,} are cut off")
    return _Array(position, end, objects=False)


def _code(dtype: Any) -> str | None:
    """The letter and width of a pickled dtype, such as `f8`."""
    if type(dtype) is not Opaque or (dtype.module, dtype.name) != _DTYPE or type(dtype.args) is not tuple:
        return None
    code = dtype.args[0] if dtype.args else None
    if type(code) is not str or not code:
        return None
    state = dtype.state[-1] if dtype.state else None
    if type(state) is tuple and len(state) > 5 and code[0] == "V":
        return None  # a dtype with fields: the width is in its state, and a field may hold objects
    return _OBJECTS if code[0] == "O" else code
