"""Walks through a numpy array: its header says whether a pickle follows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, FormatError, UnsafeError
from converter.formats.npz.header import descriptor, start_of_data
from converter.io.source import Window
from converter.limits import limits
from converter.scanning.place import Claim
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.place import Place
    from converter.scanning.walker import Walker

_FIXED: Final = 12  # bytes before the header, at most
# The names that numpy writes for dtypes of plain bytes. Any other text may stand for objects: `O`, `object`, `i4,O`.
_INERT: Final = re.compile(r"[<>|=]?(?:[fiubcSaUVB?]\d{0,10}|[mM]8(?:\[[0-9A-Za-z/]{1,16}\])?)").fullmatch
_OBJECTS: Final = ("|O", "O")  # as numpy writes it
_DEPTH: Final = 16


def look(walker: Walker, source: Source, place: Place) -> None:
    """Look at the pickle after the header of an object array, or at the data of any other array."""
    cut_off = "the header of the numpy array is cut off"
    head = bytes(source.read(0, min(_FIXED, source.size)))
    try:
        start = start_of_data(head.ljust(_FIXED, b"\0"), "this file")
        if len(head) < _FIXED or start > source.size:
            raise FormatError(cut_off)
    except ConverterError as error:
        walker.findings.report("malformed", str(error), place.name)
        return
    objects = True
    try:
        objects = _holds_objects(descriptor(bytes(source.read(0, start)), "this file"), 0)
    except UnsafeError as error:
        walker.findings.report("malformed", str(error), place.name)
    except ConverterError as error:
        walker.findings.report(error.rule, str(error), place.name)
    if objects:
        walker.check_end(source, place, walker.pickles(source, replace(place, claim=Claim.PICKLE), start))
    else:
        inner = replace(place, depth=place.depth + 1, claim=Claim.DATA)
        walker.check_data(Window(source, start, source.size - start), inner)


def _holds_objects(descr: Any, depth: int) -> bool:
    """Whether a dtype holds Python objects. Raises UnsafeError for a dtype that might, in a form that numpy does not write."""
    if depth > _DEPTH:
        raise UnsafeError("the dtype of the numpy array is nested too deep to tell what it holds")
    if isinstance(descr, str):
        if descr in _OBJECTS:
            return True
        if _INERT(descr):
            return False
        raise UnsafeError(
            f"`descr` of the numpy array is `{descr:.40}`: numpy writes no such dtype, and may read it as objects"
        )
    if isinstance(descr, tuple) and len(descr) == 2:  # a dtype and a shape
        return _holds_objects(descr[0], depth + 1)
    if isinstance(descr, list) and all(isinstance(field, tuple) and len(field) in (2, 3) for field in descr):
        found = [_holds_objects(field[1], depth + 1) for field in descr[: limits().line]]
        if len(descr) > len(found):
            raise UnsafeError(
                f"the numpy array has {plural(len(descr), 'field')}: at most {limits().line:,} are looked at"
            )
        return any(found)
    raise UnsafeError("`descr` of the numpy array is not one that numpy writes")
