"""The same elements in another order: rows, columns or heads that changed places, a matrix that was transposed.

Each row and each column has a number that follows from its elements, whatever their order. One pass over a tensor finds
all of them; two tensors hold the same rows in another order only if their numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.tensors.tensor import row_major
from converter.verification.roundings import comparable, floats, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.dtypes import Dtype
    from converter.tensors.tensor import Tensor

_BAND: Final = 8 << 20  # bytes of rows that are read at a time
_PART: Final = 1 << 18  # elements of a band that are worked on at a time, so that their numbers stay in the cache
_LONG: Final = 8  # bytes of the longest elements that are told apart
# Odd factors and shifts of the finaliser of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number
# generators, 2014), which turns similar elements into very different numbers.
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_FACTORS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, slots=True)
class Lines:
    """A number for each row of a matrix, and for each column, that does not depend on the order of its elements."""

    rows: NDArray[Any]
    columns: NDArray[Any]

    @property
    def whole(self) -> int:
        """The number of all elements, whatever their order."""
        return int(self.rows.sum())

    @property
    def plain(self) -> bool:
        """Whether all rows are alike, and all columns: tensors of one number say nothing about where they come from."""
        return bool((self.rows == self.rows[0]).all() and (self.columns == self.columns[0]).all())

    def t(self) -> Lines:
        """The numbers of the transposed matrix."""
        return Lines(self.columns, self.rows)


@dataclass(frozen=True, slots=True)
class Order:
    """For each row and column of the matrix after, which one of the matrix before it is; None if all kept their places.

    `transposed` says that the matrix before is transposed first.
    """

    rows: NDArray[Any] | None
    columns: NDArray[Any] | None
    transposed: bool = False


def as_matrix(tensor: Tensor) -> Tensor | None:
    """A tensor as a matrix: a vector is one column, and all dimensions but the last are joined. None if it can't be one."""
    if len(tensor.shape) == 2:
        return tensor
    if len(tensor.shape) == 1:
        return replace(tensor, shape=(*tensor.shape, 1), stride=(*tensor.stride, 1))
    if len(tensor.shape) < 2 or not tensor.contiguous or not tensor.size:
        return None
    shape = (math.prod(tensor.shape[:-1]), tensor.shape[-1])
    return replace(tensor, shape=shape, stride=row_major(shape))


def castable(before: Dtype, after: Dtype) -> bool:
    """Whether the elements after can be told from those before by their bits."""
    plain = before.packed == 1 and after.packed == 1 and max(before.itemsize, after.itemsize) <= _LONG
    return plain and comparable(before, after)


def lines(matrix: Tensor, dtype: Dtype) -> Lines:
    """The numbers of a matrix whose elements are rounded to a dtype first. One pass, in bounded memory."""
    if matrix.transposed:
        return lines(matrix.t(), dtype).t()
    height, width = matrix.shape
    rows, columns = np.zeros(height, np.uint64), np.zeros(width, np.uint64)
    deep = max(1, _PART // max(width, 1))
    for top, band in _bands(matrix, dtype):
        for start in range(0, len(band), deep):
            mixed = _mixed(band[start : start + deep])
            rows[top + start : top + start + len(mixed)] = mixed.sum(axis=1)
            columns += mixed.sum(axis=0)
    return Lines(rows, columns)


def order(before: Tensor, after: Tensor, ours: Lines, theirs: Lines) -> Order | None:
    """How the elements of a matrix changed places, if that is all that happened and rows and columns stayed whole."""
    for transposed in (False, True):
        lines = ours.t() if transposed else ours
        source = before.t() if transposed else before
        if source.shape != after.shape:
            continue
        rows, columns = _places(lines.rows, theirs.rows), _places(lines.columns, theirs.columns)
        if rows is None or columns is None:
            continue
        found = Order(_moved(rows), _moved(columns), transposed)
        if _holds(source, after, found):
            return found
    return None


def _bands(matrix: Tensor, dtype: Dtype) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield bands of rows as raw bits of a dtype, each with the number of its first row."""
    height, width = matrix.shape
    deep = max(1, _BAND // max(1, width * matrix.dtype.itemsize))
    buffer = bytearray(min(deep, height) * width * matrix.dtype.itemsize)
    for top in range(0, height if width else 0, deep):
        yield top, _bits(matrix.rows(top, min(height, top + deep)), dtype, buffer)


def _bits(matrix: Tensor, dtype: Dtype, buffer: bytearray | None = None) -> NDArray[Any]:
    raw = matrix.bits(buffer)
    raw = raw.view(f"u{raw.dtype.itemsize}")
    return raw if matrix.dtype == dtype else rounded(floats(raw, matrix.dtype), dtype)


def _mixed(bits: NDArray[Any]) -> NDArray[Any]:
    """A number for each element that depends on all of its bits."""
    found = bits.astype(np.uint64)
    found += _STEP
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        found ^= found >> shift
        found *= factor
    found ^= found >> _SHIFTS[-1]
    return found


def _places(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any] | None:
    """For each line after, one before with the same number: that in its own place if it can be. None if there is none."""
    free, open = (np.nonzero(ours != theirs)[0] for _ in range(2))
    one, other = ours[free], theirs[open]
    first, second = np.argsort(one, kind="stable"), np.argsort(other, kind="stable")
    if not np.array_equal(one[first], other[second]):
        return None
    found = np.arange(len(ours))
    found[open[second]] = free[first]
    return found


def _moved(places: NDArray[Any]) -> NDArray[Any] | None:
    return None if np.array_equal(places, np.arange(len(places))) else places


def _holds(before: Tensor, after: Tensor, order: Order) -> bool:
    """Whether a matrix is another one in this order. Both are read again: their numbers do not say where elements lie."""
    if before.transposed:  # rows are read one by one from where they lie row by row
        return _holds(before.t(), after.t(), Order(order.columns, order.rows))
    for top, band in _bands(after, after.dtype):
        rows = np.arange(top, top + len(band)) if order.rows is None else order.rows[top : top + len(band)]
        start = 0
        for stop in (*(np.nonzero(np.diff(rows) != 1)[0] + 1), len(rows)):
            source = _bits(before.rows(int(rows[start]), int(rows[stop - 1]) + 1), after.dtype)
            source = source if order.columns is None else source[:, order.columns]
            if not np.array_equal(source, band[start:stop]):
                return False
            start = stop
    return True


# ---- in words --------------------------------------------------------------------------------------------------------


def said(order: Order, shape: tuple[int, ...], head: int | None) -> str:
    """What happened, such as "rows in reverse order". `shape` is that after, and `head` the length of a head."""
    one, other = ("element", "element") if len(shape) == 1 else ("row", "column")
    found = ["transposed"] if order.transposed else []
    for places, noun in ((order.rows, one), (order.columns, other)):
        if places is not None:
            found.append(_axis(places.tolist(), noun, head))
    return ", ".join(found)


def _axis(places: list[int], noun: str, head: int | None) -> str:
    count = len(places)
    moved = [here for here, source in enumerate(places) if here != source]
    if places == list(range(count))[::-1] and count > 2:
        return f"{noun}s in reverse order"
    if len(moved) == 2:
        return f"{noun}s {moved[0]:,} and {moved[1]:,} exchanged"
    if (size := _rotary(places)) is not None:
        return f"{noun}s of each head of {size} in the other order of rotary positions"
    breaks = [here for here in range(1, count) if places[here] != places[here - 1] + 1]
    size = math.gcd(count, *breaks, *(places[here] for here in (0, *breaks)))
    if size > 1:
        if head is not None and size % head == 0 and count % head == 0:
            size, noun, many = head, "head", "heads"
        else:
            many = f"blocks of {size:,} {noun}s"
        blocks = [place // size for place in places[::size]]
        moved = [here for here, source in enumerate(blocks) if here != source]
        if len(moved) == 2 and noun == "head":
            return f"heads {moved[0]:,} and {moved[1]:,} exchanged"
        if len(moved) == 2:
            first, last = (f"{here * size:,} to {(here + 1) * size - 1:,}" for here in moved)
            return f"{noun}s {first} and {last} exchanged"
        return f"{len(moved):,} of {len(blocks):,} {many} in other places"
    return f"{len(moved):,} of {count:,} {noun}s in other places"


def _rotary(places: list[int]) -> int | None:
    """The length of a head, if each head has its even elements before its odd ones, or the other way round."""
    count = len(places)
    for found in (places, _inverse(places)):
        size = 2 * found.index(1)
        if size < 4 or count % size:
            continue
        half = size // 2
        if all(found[at] == at - at % size + 2 * (at % half) + at % size // half for at in range(count)):
            return size
    return None


def _inverse(places: list[int]) -> list[int]:
    found = [0] * len(places)
    for here, source in enumerate(places):
        found[source] = here
    return found
