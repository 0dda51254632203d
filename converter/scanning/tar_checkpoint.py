"""The members of a checkpoint that torch before 0.1.10 wrote as a tar: pickles with the bytes of numbers between them.

`converter.formats.torch.tar` explains the layout. `pickle` and `sys_info` are plain pickles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from converter.errors import ConverterError, FormatError, TruncatedPickleError
from converter.io.source import Window
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from converter.scanning.pickle_stream import run_pickle
from converter.scanning.place import Place

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.scanning.walker import Walker

_FIRST: Final = 2048  # bytes of a pickle that are read at first; the pickle of a tensor or a storage has about 100
_MOST: Final = 16 << 20  # bytes of a pickle at most: the list of views may be long
Raw = Callable[["Source", int, Any], int]  # how many bytes follow a pickle, by its end and its value


def look(walker: Walker, source: Source, place: Place, raw: Raw) -> None:
    """Look at each pickle of a member, and skip the bytes after it."""
    position = 0
    count: int | None = None
    while position < source.size:
        size = min(_FIRST, source.size - position)
        while True:
            data = bytes(source.read(position, size))
            found = run_pickle(data, 0)
            more = min(_MOST, source.size - position)
            if not isinstance(found.error, TruncatedPickleError) or size >= more:
                break
            size = min(more, max(found.error.needs, 16 * size))
        walker.budget.run_nbytes += found.reached
        if walker.budget.pickles_left <= 0:
            walker.cut(place, position)
            return
        at = Place(f"{place.name}, byte {position:,}", place.depth, place.claim)
        walker.add(found, Window(source, position, source.size - position), at)
        if found.end is None:
            return
        position += found.end
        if count == 0:
            continue  # only the list of views is left, and no numbers follow it
        value = _value(data)
        if count is None:
            if type(value) is not int or value < 0:
                raise FormatError(f"`{place.name}` does not start with the count of its entries")
            count = value
            continue
        if type(value) is not tuple or len(value) != 3:
            raise FormatError(
                f"the entry before byte {position:,} is not a tuple of three, so it is unknown what follows it"
            )
        count -= 1
        position += raw(source, position, value)
    if position > source.size:
        raise FormatError(f"the numbers at the end of `{place.name}` are cut off")


def _value(data: bytes) -> Any:
    """The value of a pickle that names only globals of the closed table; None for any other."""
    try:
        return run(data, TABLE).value
    except ConverterError:
        return None
