"""Reads a tensor's rows in another order, in blocks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.io.source import STEP

if TYPE_CHECKING:
    from converter.tensors.rearranged import Move
    from converter.tensors.tensor import Tensor

_RUN: Final = 64 << 10  # bytes. Shorter runs of rows are read together with what lies between them


def fill(tensor: Tensor, moves: tuple[Move, ...], offset: int, buffer: memoryview, *, back: bool) -> None:
    """Fill `buffer` from byte `offset` of the rows in the order that the moves make, or, with `back`, undo."""
    rows = tensor.shape[0]
    width = tensor.nbytes // rows  # bytes of a row
    order, done = _order(rows, moves, back), 0
    while done < len(buffer):
        row, inside = divmod(offset + done, width)
        count = max(1, min(-(-(inside + len(buffer) - done) // width), STEP // width))
        wanted = order[row : row + count]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        most = 64 if count * width < _RUN * len(runs) else 2  # how many times the wanted bytes may be read
        if high - low <= most * count:
            found = _rows(tensor, low, high, width)[wanted - low]
        else:
            found = np.concatenate([_rows(tensor, int(run[0]), int(run[-1]) + 1, width) for run in runs])
        piece = found.reshape(-1).data[inside : inside + len(buffer) - done]
        buffer[done : done + len(piece)] = piece
        done += len(piece)


def _rows(tensor: Tensor, start: int, stop: int, width: int) -> NDArray[Any]:
    array = np.ascontiguousarray(tensor.rows(start, stop).bits())
    return array.reshape(-1).view("u1").reshape(stop - start, width)


@lru_cache(maxsize=16)
def _order(rows: int, moves: tuple[Move, ...], back: bool) -> NDArray[Any]:
    """For each row of the output its row in the base."""
    order = np.arange(rows)
    for move in moves:
        if move.order:
            order = order.reshape(len(move.order), -1)[list(move.order)].reshape(-1)
            continue
        length = rows // move.groups
        first, only = length if move.first is None else move.first, move.groups if move.only is None else move.only
        groups = order.reshape(move.groups, length).copy()
        taken = groups[:only, :first].reshape(only, move.one, move.other, -1).swapaxes(1, 2)
        groups[:only, :first] = taken.reshape(only, first)
        order = groups.reshape(-1)
    return np.argsort(order) if back else order
