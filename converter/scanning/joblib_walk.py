"""Walks through a joblib file: one pickle, in which each array's bytes follow directly after the array's wrapper.

Source: joblib/numpy_pickle.py of 0.10 to 1.6 (`NumpyArrayWrapper.read_array`, `NumpyUnpickler.load_build`). The numbers
themselves are never looked at. An array of objects is a pickle of its own, with a stack and a memo of its own. What
can't be followed exactly as joblib reads it is malformed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, FormatError, LimitError
from converter.io.parts import portions
from converter.io.source import Memory, Window
from converter.limits import limits
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import only_names, run
from converter.pickles.machine import Reader
from converter.pickles.numpy_rows import layout
from converter.pickles.value_rows import VALUES
from converter.pickles.values import NAMING, Dict, Made, Opaque, Table, Value, ValueRow
from converter.scanning.danger import danger
from converter.scanning.pickle_stream import PickleRun, PickleStream
from converter.scanning.place import Claim, Place
from converter.words import raising

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.walker import Walker

_ALIGNED: Final = "numpy_array_alignment_bytes"  # since joblib 1.2
_FIELDS: Final = frozenset(("subclass", "shape", "order", "dtype", "allow_mmap"))
_NDARRAY: Final = VALUES["numpy", "ndarray"]


def _too_long() -> LimitError:
    return LimitError(
        f"its pickles have more than {limits().pickle_bytes:,} bytes: {raising('pickle_bytes')} to read on"
    )


def _fields(state: object) -> dict[str, Any] | None:
    """The attributes that BUILD sets on a wrapper; None if they are not those that joblib writes."""
    if type(state) is not Dict or not all(type(key) is str for key in state[::2]):
        return None
    fields = dict(state.pairs())
    if len(fields) * 2 != len(state) or fields.keys() - {_ALIGNED} != _FIELDS:
        return None
    shape, order, aligned = fields["shape"], fields["order"], fields.get(_ALIGNED)
    right = type(shape) is tuple and all(type(one) is int and one >= 0 for one in shape)
    right = right and type(order) is str and type(fields["allow_mmap"]) is bool
    right = right and (aligned is None or type(aligned) is int)
    return fields if right and _is_class(fields["subclass"]) else None


def _is_class(value: object) -> bool:
    return type(value) is ValueRow or (type(value) is Opaque and value.args is None)


WRAPPERS: Final[Table] = {
    (module, "NumpyArrayWrapper"): ValueRow(
        module, "NumpyArrayWrapper", lambda args: not args, lambda value, state: _fields(state) is not None
    )
    for module in ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle")
}
_NO_MODULES: Final = _FIELDS | {_ALIGNED} | {name for _, name in WRAPPERS}
_TABLE: Final[Table] = {**VALUES, **WRAPPERS}


@dataclass(frozen=True, slots=True)
class _Array:
    """Bytes of the file that belong to an array: from `start` up to `end`."""

    start: int
    end: int
    objects: bool


_STRING_DTYPE: Final = ("numpy._core._internal", "_convert_to_stringdtype_kwargs")


class _Reading(Reader):
    """How joblib reads a file: its arrays, in order, the globals that it names, and the error where it can't be followed.

    The file is read in windows, because only opcodes count towards the limit of `most` bytes. joblib before 1.2 does
    not know that arrays are `aligned`. `without` is the pickle without its arrays, with all that follows the last one.
    """

    def __init__(self, source: Source, most: int, *, aligned: bool = True) -> None:
        self.source = source
        self.most = most
        self.aligned = aligned
        self.arrays: list[_Array] = []
        self.globals: dict[tuple[str, str], int] = {}
        self.error: ConverterError | None = None
        self.opcodes = 0  # bytes of opcodes that were counted
        self.origin = 0  # where in the file the window begins
        self.window = bytes(source.read(0, min(source.size, portions().window)))
        own: dict[tuple[str, str], int] = {}
        try:
            end = run(self.window, _TABLE, used=own, reader=self).end
            self._count(self.origin + end)
        except ConverterError as error:
            error.__context__ = error.__cause__ = None
            self.error = error.with_traceback(None)
        self.window = b""
        self.without = self._without()
        naming = NAMING & own.keys()
        # What comes after an error can't be followed, so it doesn't count as a use of these functions.
        followed = self.without if self.error is None else self.without[: self.opcodes] + b"."
        if naming and only_names(naming, followed):
            own = {pair: at for pair, at in own.items() if pair not in naming}
        self.globals |= own

    def _count(self, end: int) -> None:
        """Count the opcodes since the last array, which end at this byte of the file."""
        self.opcodes += end - (self.arrays[-1].end if self.arrays else 0)
        if self.opcodes > self.most:
            raise _too_long()

    def _without(self) -> bytes:
        pieces, position = [], 0
        for array in self.arrays:
            pieces.append(bytes(self.source.read(position, array.start - position)))
            position = array.end
        rest = min(self.source.size - position, max(0, self.most + 1 - sum(map(len, pieces))))
        return b"".join([*pieces, bytes(self.source.read(position, rest))])

    def longer(self, needs: int) -> bytes | None:
        """The window with more of the file. Raises LimitError if it would have more than `most` bytes."""
        there = self.source.size - self.origin
        if needs > there:
            return None
        if needs > self.most:
            raise _too_long()
        size = min(there, self.most, max(needs, 2 * len(self.window)))
        position = self.origin + len(self.window)
        self.window += bytes(self.source.read(position, size - len(self.window)))
        return self.window

    def behind(self, position: int, made: Made) -> tuple[bytes, int, object] | None:
        """Pass over the array behind a wrapper."""
        at = self.origin + position
        if type(made) is Opaque:
            pair = (made.module, made.name)
            # A function of torch may return a wrapper that it was given.
            given = made.args if type(made.args) is tuple else ()
            wraps = any(type(one) is ValueRow and (one.module, one.name) in WRAPPERS for one in given)
            if wraps or pair in WRAPPERS or (pair in TABLE and pair not in VALUES):
                raise FormatError(f"the value before byte {at:,} may be the wrapper of an array, or something else")
            return None
        if type(made) is not Value or (made.module, made.name) not in WRAPPERS:
            return None
        fields = _fields(made.state[0]) if made.state is not None and len(made.state) == 1 else None
        if fields is None:
            raise FormatError(f"the wrapper of an array before byte {at:,} is not one that joblib writes")
        item = layout(fields["dtype"])
        if item is None and not _is_string_dtype(fields["dtype"]):
            raise FormatError(f"the wrapper of an array before byte {at:,} has a dtype that is not known here")
        self._count(at)
        if item is None or item.objects:
            if fields["allow_mmap"]:
                raise FormatError(
                    f"the wrapper of an array of objects before byte {at:,} allows mapping them into memory"
                )
            inner = run(self.window, VALUES, position=position, used=self.globals, reader=_Inner(self))
            self.arrays.append(_Array(at, self.origin + inner.end, objects=True))
            return self.window, inner.end, inner.value
        start = at
        if self.aligned and fields.get(_ALIGNED) is not None:
            if at == self.source.size:
                raise FormatError(f"the numbers of an array at byte {at:,} are cut off")
            start += 1 + self.source.read(at, 1)[0]
        end = start + math.prod(fields["shape"]) * item.nbytes
        if end > self.source.size:
            raise FormatError(f"the numbers of an array at byte {start:,} are cut off")
        self.arrays.append(_Array(at, end, objects=False))
        if end - self.origin > len(self.window):
            self.origin = end
            self.window = bytes(self.source.read(end, min(self.source.size - end, portions().window)))
        return self.window, end - self.origin, Value(_NDARRAY, ())


class _Inner(Reader):
    """Reads the pickle of an array of objects, in the window of the file's reading."""

    def __init__(self, outer: _Reading) -> None:
        self.longer = outer.longer  # type: ignore[method-assign]


def _is_string_dtype(dtype: object) -> bool:
    """Whether a dtype is numpy's StringDType. joblib pickles such an array, like one of objects."""
    return type(dtype) is Opaque and (dtype.module, dtype.name) == _STRING_DTYPE


def look(walker: Walker, source: Source, place: Place, plainly: PickleRun) -> int | None:
    """Look through a file as joblib reads it, and return where it ends; None if it is not a joblib file.

    `plainly` is what an unpickler sees if it does not know joblib's layout: it reads the numbers as opcodes.
    """
    if not (WRAPPERS.keys() & plainly.globals.keys()):
        return None
    most = max(0, walker.budget.pickle_nbytes)
    reading = _Reading(source, most)
    arrays = reading.arrays
    limited = isinstance(reading.error, LimitError)
    if reading.error is not None:
        untold = str(reading.error) if limited else f"joblib's reading can't be followed: {reading.error}"
        walker.findings.report(reading.error.rule, untold, place.name)
    if not arrays:
        return None
    without = Memory(reading.without, place.name)
    way = f"{place.name}, " if place.name else ""
    inner = Place(f"{way}without its arrays", place.depth + 1, place.claim)
    stream = PickleStream(without, walker.budget, Claim.PICKLE, _TABLE)
    seen: set[tuple[str, str]] = set()
    for found in stream.runs(0, 1):
        seen |= found.globals.keys()
        # An error here only says that `without` ends at the limit.
        told = replace(found, error=None) if limited and found.end is None else found
        walker.add(told, without, inner, known=frozenset(WRAPPERS))
    for array in arrays:
        if array.objects:
            content = Window(source, array.start, array.end - array.start)
            nested = Place(f"{way}objects of an array, byte {array.start:,}", place.depth + 1, Claim.PICKLE)
            for found in PickleStream(content, walker.budget, Claim.PICKLE).runs(0, 1):
                seen |= found.globals.keys()
                walker.add(found, content, nested)
    others = reading.globals.keys() | _Reading(source, most, aligned=False).globals.keys()
    if others - seen and not limited:
        message = "versions of joblib disagree on which of these bytes are numbers and which are opcodes"
        walker.findings.report("malformed", message, place.name, arrays[0].start)
    stops = _stops(plainly)
    invented = {pair: at for pair, at in plainly.globals.items() if arrays[0].start <= at < stops and pair not in seen}
    if any(danger(module, name) for module, name in invented):
        message = "joblib reads these bytes as the numbers of an array, and pickle as opcodes that name globals"
        walker.findings.report("malformed", message, place.name, arrays[0].start)
        walker.add(plainly, source, replace(place, name=f"{way}read by pickle"))
    else:
        # This also happens in honest pickles of objects: read without the arrays, the memo's numbers stand for other texts.
        for one in walker.findings.global_reports(invented, {}):
            walker.findings.judge(one, f"{way}read by pickle")
    return source.size if limited else stream.end + sum(array.end - array.start for array in arrays)


def _stops(plainly: PickleRun) -> int:
    """The byte at which an unpickler that does not know joblib's layout always stops.

    Such an unpickler reads the pickle of an array of objects with the memo of the whole file, which holds other texts. Often
    it then finds a name of the wrapper's where a module's name should be, and stops, because there is no such module.
    """
    stops = [at for (module, _), at in plainly.globals.items() if module in _NO_MODULES]
    stops += [plainly.reached + 1 if plainly.error is None else plainly.failed]
    return min(stops)
