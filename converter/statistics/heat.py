"""A matrix as a small picture: the root of the mean square of the elements in each cell of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import F32, Dtype
from converter.reports.details import HeatReport
from converter.tensors.casting import can_convert, converted
from converter.tensors.losses import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

GRID: Final = 24  # cells along each side of a picture, at most
LEVELS: Final = 255
_PASS: Final = 64 << 10  # elements of a pass, so that they stay in the cache


def pictured(tensor: Tensor) -> bool:
    """Whether a tensor gets a picture: a matrix of floating-point numbers, with more of them than a picture has cells."""
    matrix = len(tensor.shape) == 2 and min(tensor.shape) > 1
    return matrix and tensor.size >= GRID * GRID and can_convert(tensor.dtype, F32)


class Heat:
    """Sums of squares in the cells of a matrix of that shape, [rows, columns], whose elements come row by row."""

    def __init__(self, shape: Sequence[int], dtype: Dtype) -> None:
        (self._rows, self._columns), self._dtype = shape, dtype
        self._edges = [_edges(length) for length in shape]
        self._grid = np.zeros((len(self._edges[0]), len(self._edges[1])))

    def take(self, tile: memoryview, start: int) -> None:
        """Add the elements of a tile, the first of which is number `start` of the matrix."""
        for piece in converted(iter([tile]), self._dtype, F32, Loss()):
            elements = np.frombuffer(piece, "<f4")
            for at in range(0, elements.size, _PASS):
                self._add(elements[at : at + _PASS], start + at)
            start += elements.size

    def join(self, other: Heat) -> None:
        """Add what another one counted."""
        self._grid += other._grid

    def report(self, *, turned: bool) -> HeatReport | None:
        """The picture, of the transposed matrix if `turned`. None if no element is a finite number."""
        rows, columns = self._edges
        numbers = np.outer(np.diff([*rows, self._rows]), np.diff([*columns, self._columns]))
        values = np.sqrt(self._grid / numbers)
        largest = float(values.max())
        if not math.isfinite(largest):
            return None
        cells = np.rint(values / (largest or 1.0) * LEVELS).astype(np.int64)
        picture = cells.T if turned else cells
        return HeatReport(len(picture), len(picture[0]), largest, tuple(picture.reshape(-1).tolist()))

    def _add(self, elements: NDArray[Any], start: int) -> None:
        """Add elements that follow each other: the end of a row, whole rows, and the beginning of another."""
        square = np.square(elements, dtype=np.float64)
        if not math.isfinite(float(square.sum())):
            square[~np.isfinite(square)] = 0
        row, column = divmod(start, self._columns)
        at = 0
        while at < square.size:
            wide = min(self._columns - column, square.size - at)
            high = (square.size - at) // self._columns if not column else 1
            part = square[at : at + wide * max(1, high)].reshape(max(1, high), wide)
            self._cells(part, row, column)
            at += part.size
            row, column = row + len(part), 0

    def _cells(self, part: NDArray[Any], row: int, column: int) -> None:
        """Add a rectangle of elements, the first of which is at `row` and `column`."""
        (tops, first), (lefts, left) = (
            _cuts(edges, start, start + length)
            for edges, start, length in zip(self._edges, (row, column), part.shape, strict=True)
        )
        sums = np.add.reduceat(np.add.reduceat(part, lefts, axis=1), tops, axis=0)
        self._grid[first : first + len(tops), left : left + len(lefts)] += sums


def _edges(length: int) -> NDArray[Any]:
    """Where each cell begins along a side of that length."""
    count = min(GRID, length)
    return np.arange(count) * length // count


def _cuts(edges: NDArray[Any], start: int, stop: int) -> tuple[NDArray[Any], int]:
    """Where cells begin between `start` and `stop`, counted from `start`, and the number of the first of them."""
    first = int(np.searchsorted(edges, start, side="right")) - 1
    last = int(np.searchsorted(edges, stop, side="left"))
    return np.maximum(edges[first:last] - start, 0), first
