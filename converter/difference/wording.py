"""What happened to a tensor, in words and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from converter.difference.measures import INF, NAN, Apart, Some
from converter.text import plural, shortened

if TYPE_CHECKING:
    from converter.difference.parts import Whole
    from converter.reports.difference import Change, TensorSide

EVERY_BIT: Final = "every bit is equal"
_NAMED: Final = 4  # parts that are named


def was_called(name: str) -> str:
    """How the words on a renamed tensor begin."""
    return f"it was called {name}; "


def became(before: float, after: float) -> str:
    """Two values, with as many digits as they need to look different."""
    if type(before) is int or type(after) is int:
        return f"{before} became {after}"
    for places in (6, 9, 17):
        one, other = (f"{value:.{places}g}" for value in (before, after))
        if one != other:
            break
    return f"{one} became {other}"


def lost(found: Apart, shape: tuple[int, ...]) -> str:
    """What happened to elements that no figure shows."""
    kinds = ((found.became, "became {}"), (found.was, "were {} before"))
    said = [
        f"{all[what].number:,} {word.format(what)}{_first(all[what], shape)}"
        for all, word in kinds
        for what in (NAN, INF)
        if what in all and found.differing != 1
    ]
    if found.stayed:
        said.append(f"{found.stayed:,} stayed NaN or Inf")
    if found.beyond:
        said.append(f"{found.beyond:,} by more than F64 can hold")
    if found.resigned == found.differing > 1:
        said.append("in nothing but the sign of zero")
    return "".join(f"; {one}" for one in said)


def _first(some: Some, shape: tuple[int, ...]) -> str:
    return f", {'at' if some.number == 1 else 'the first at'} {list(place(some.first, shape))}"


def rounded(found: Apart) -> str:
    """What a change of dtype did to the values."""
    return "rounded" if found.differing else "every number equal"


def measured(change: Change, found: Apart, shape: tuple[int, ...]) -> Change:
    """The change with its figures. `shape` is the shape of the elements that were compared."""
    known = found.index is not None and not found.beyond
    return replace(
        change,
        elements=found.elements,
        differing=found.differing,
        cosine=digits(found.cosine, 8),
        relative=digits(found.relative),
        largest=digits(found.largest) if known else None,
        index=place(found.index, shape) if known and found.index is not None else None,
    )


def place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A row-major index as one for each dimension."""
    found = []
    for length in reversed(shape):
        index, place = divmod(index, length)
        found.append(place)
    return tuple(reversed(found))


def sized(side: TensorSide) -> str:
    """Its shape."""
    return "×".join(map(str, side.shape)) or "scalar"


def described(side: TensorSide) -> str:
    """Its dtype and shape."""
    return f"{side.dtype} {sized(side)}"


def joined(whole: Whole, side: TensorSide, parts: Sequence[TensorSide]) -> str:
    """How a tensor was put together from its parts, or split into them."""
    names = [part.name for part in parts]
    shown = " and ".join((", ".join(names[:-1]), names[-1])) if len(names) <= _NAMED else shortened(names, _NAMED)
    said = [f"split into {shown}" if whole.split else f"joined from {shown}"]
    turned = [turned for turned, part in zip(whole.turned, parts, strict=True) if len(part.shape) > 1]
    if any(turned):
        said.append("each transposed" if all(turned) else "some of them transposed")
    if whole.turns is not None:
        line = "element" if len(side.shape) == 1 else "column" if whole.across else "row"
        said.append(f"{plural(whole.turns, line)} of each in turn")
    before, after = (side, parts[0]) if whole.split else (parts[0], side)
    return closed(", ".join(said), before, after)


def closed(how: str, before: TensorSide, after: TensorSide) -> str:
    """What happened to the places of elements, and that nothing else happened but another dtype."""
    kept = f"{before.dtype} to {after.dtype}, rounded" if before.dtype != after.dtype else "every element is equal"
    return f"{how}, {kept}" if how else kept


def digits(value: float | None, digits: int = 4) -> float | None:
    """Rounded, because the last digits depend on the processor."""
    return None if value is None else float(f"{value:.{digits}g}")
