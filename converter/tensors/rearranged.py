"""A tensor with its rows in another order: a view that strides can't express, which copies blocks of rows as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

from converter.errors import LayoutError
from converter.io.source import Derived
from converter.tensors.tensor import Storage, Tensor, row_major


class Move(NamedTuple):
    """One step of an order. The rows are cut into `groups`, of which the first `only` are changed, and in each its first rows.

    Those are seen as [one, other, the rest], and `one` and `other` are swapped. With `order`, the rows are cut into as many
    equal parts instead, which are put into that order.
    """

    groups: int = 1
    only: int | None = None
    first: int | None = None
    one: int = 1
    other: int = 1
    order: tuple[int, ...] = ()


def rearranged(tensor: Tensor, moves: Sequence[Move], *, back: bool = False) -> Tensor:
    """The tensor with its rows in the order that all moves make; with `back` in the order that they were made from.

    Moving a moved tensor back gives the first one. Raises LayoutError if the rows can't be cut as a move says.
    """
    held, moves = tensor.storage.source, tuple(moves)
    if not moves or not tensor.size or not tensor.shape:
        return tensor
    if isinstance(held, _Rearranged) and held.moves == moves and held.back != back and _is_whole(tensor):
        return held.tensor
    rows = tensor.shape[0]
    for move in moves:
        _check(rows, move)
    source = _Rearranged(tensor, moves, back)
    storage = Storage(
        source, 0, source.size, tensor.storage.key, tensor.storage.shard, encoding=tensor.storage.encoding
    )
    return replace(tensor, stride=row_major(tensor.shape), offset=0, storage=storage)


def _is_whole(tensor: Tensor) -> bool:
    return (
        tensor.contiguous and tensor.nbytes == tensor.storage.nbytes and isinstance(tensor.storage.source, _Rearranged)
    )


def _check(rows: int, move: Move) -> None:
    if move.order:
        if rows % len(move.order):
            raise LayoutError(f"{rows:,} rows can't be cut into {len(move.order)} equal parts")
        return
    if move.groups < 1 or rows % move.groups:
        raise LayoutError(f"{rows:,} rows can't be cut into {move.groups:,} equal groups")
    length = rows // move.groups
    first = length if move.first is None else move.first
    if not 0 <= first <= length or first % max(1, move.one * move.other) or min(move.one, move.other) < 1:
        raise LayoutError(
            f"{first:,} of {length:,} rows can't be cut into {move.one:,} times {move.other:,} equal parts"
        )
    if not 0 <= (move.groups if move.only is None else move.only) <= move.groups:
        raise LayoutError(f"{move.groups:,} groups of rows are fewer than {move.only:,}")


class _Rearranged(Derived):
    """The bytes of the rows in their new order."""

    def __init__(self, tensor: Tensor, moves: tuple[Move, ...], back: bool) -> None:
        super().__init__(tensor.storage.source, tensor.storage.source.name, tensor.nbytes)
        self.tensor, self.moves, self.back = tensor, moves, back
        self._left, self._lock = tensor.nbytes, Lock()

    def release(self, offset: int, size: int) -> None:
        """Release the base when all of this was released: its rows come in no order."""
        with self._lock:
            self._left -= size
            done = self._left <= 0
        if done:
            super().release(0, self.size)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        from converter.tensors.moved_rows import fill  # this imports numpy, which listing a checkpoint does without

        fill(self.tensor, self.moves, offset, buffer, back=self.back)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        tensor = self.tensor
        last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True) if length)
        itemsize = tensor.dtype.itemsize
        return tensor.storage.offset + tensor.offset * itemsize, (last + 1) * itemsize
