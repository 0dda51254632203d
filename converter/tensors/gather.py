"""The row-major bytes of any view, gathered tile by tile out of its storage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.tensors.tensor import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

_STAGE: Final = 1 << 20  # bytes read before they are put in their places: what the cache holds
# What a read costs, to choose between one long read and many short ones: a system call and Python's share of it take
# about as long as copying this many bytes out of the page cache.
_CALL: Final = 16 << 10


@dataclass(slots=True)
class _Dimensions:
    """The dimensions of a view that matter: none of size 1, neighbours joined where the order allows it."""

    shape: list[int] = field(default_factory=list)
    stride: list[int] = field(default_factory=list)


def _joined(tensor: Tensor) -> _Dimensions:
    joined = _Dimensions()
    for length, step in zip(tensor.shape, tensor.stride, strict=True):
        if length == 1:
            continue
        if joined.shape and joined.stride[-1] == step * length:
            joined.shape[-1] *= length
            joined.stride[-1] = step
        else:
            joined.shape.append(length)
            joined.stride.append(step)
    return joined


def gathered(tensor: Tensor, nbytes: int) -> Iterator[memoryview]:
    """Give the row-major bytes of any view: a tile is a run of rows, gathered into one of two buffers."""
    view, dtype = _joined(tensor), np.dtype(tensor.dtype.numpy)
    shape, stride = view.shape or [1], view.stride or [1]
    room = max(1, nbytes // dtype.itemsize)
    # The tile runs along `axis`: the first whose inner dimensions fit into the buffer whole.
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= room:
        inner *= shape[axis]
        axis -= 1
    rows = max(1, min(shape[axis], room // inner))
    places = (
        (tensor.offset + sum(i * s for i, s in zip(index, stride[:axis], strict=True)) + start * stride[axis],
         min(rows, shape[axis] - start))
        for index in np.ndindex(*shape[:axis])
        for start in range(0, shape[axis], rows)
    )  # fmt: skip
    reader, swapped = _Reader(tensor, dtype), tensor.dtype.swapped if tensor.storage.byteorder == "big" else 1

    def fill(tile: NDArray[Any], offset: int, count: int) -> memoryview:
        out = tile[: count * inner]
        reader.gather(out.reshape(count, *shape[axis + 1 :]), offset, stride[axis:])
        if swapped > 1:
            out.view(f"<u{swapped}").byteswap(inplace=True)
        return out.view("|u1").data

    if tensor.nbytes <= nbytes or nbytes < _STAGE:
        with _lent(1, rows * inner, dtype) as (tile,):
            for place in places:
                yield fill(tile, *place)
        return
    # While one tile is being used, the next is gathered.
    with _lent(2, rows * inner, dtype) as both, ThreadPoolExecutor(1) as pool:
        tiles = itertools.cycle(both)
        ahead = pool.submit(partial(copy_context().run, fill, next(tiles), *next(places)))
        for place in places:
            done = ahead.result()
            ahead = pool.submit(partial(copy_context().run, fill, next(tiles), *place))
            yield done
        yield ahead.result()


@contextmanager
def _lent(count: int, size: int, dtype: Any) -> Iterator[NDArray[Any]]:
    """Lend [count, size]. What is lent comes back: new pages for every tensor would take as long as filling them."""
    nbytes = count * size * dtype.itemsize
    try:
        whole = _SPARE.pop()
    except IndexError:
        whole = np.empty(2 * TILE, "u1")  # of which only what is used becomes resident
    if len(whole) < nbytes:  # someone asked for larger tiles
        whole = np.empty(nbytes, "u1")
    try:
        yield whole[:nbytes].view(dtype).reshape(count, size)
    finally:
        if not _SPARE and len(whole) == 2 * TILE:
            _SPARE.append(whole)


_SPARE: Final[list[NDArray[Any]]] = []


class _Reader:
    """Copies strided elements of a storage into an array by way of a small buffer, by whichever reads cost least."""

    def __init__(self, tensor: Tensor, dtype: Any) -> None:
        self._storage, self._dtype = tensor.storage, dtype
        self._buffer = bytearray()

    def gather(self, out: NDArray[Any], offset: int, stride: list[int]) -> None:
        """Fill `out` with the elements at `offset` + index · `stride` (elements)."""
        shape, itemsize = out.shape, self._dtype.itemsize
        reach = [(n - 1) * s for n, s in zip(shape, stride, strict=True)]
        span = (1 + sum(reach)) * itemsize
        axis = max(range(len(shape)), key=lambda d: stride[d] if shape[d] > 1 else -1)
        inner, step = span - reach[axis] * itemsize, stride[axis] * itemsize
        if span <= _STAGE and (span <= 4 * out.nbytes or span <= shape[axis] * _CALL):
            self._once(out, offset, stride, span)
        elif inner > _STAGE // 16:
            # So that no less than 16 steps go into the buffer: a cache line of a transposed matrix's rows.
            del reach[axis]
            widest = reach.index(max(reach))
            widest += widest >= axis
            half = shape[widest] // 2
            low: list[slice] = [slice(None)] * len(shape)
            high = list(low)
            low[widest], high[widest] = slice(0, half), slice(half, None)
            self.gather(out[tuple(low)], offset, stride)
            self.gather(out[tuple(high)], offset + half * stride[widest], stride)
        else:
            self._strips(out, offset, stride, axis, inner, together=inner + _CALL > step)

    def _once(self, out: NDArray[Any], offset: int, stride: list[int], span: int) -> None:
        itemsize = self._dtype.itemsize
        self._storage.readinto(offset * itemsize, self._room(span))
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        copy_strided(out, np.ndarray(out.shape, self._dtype, self._buffer, 0, strides))

    def _strips(
        self, out: NDArray[Any], offset: int, stride: list[int], axis: int, inner: int, *, together: bool
    ) -> None:
        """Read `inner` bytes a step along `axis`, `together` with what lies between or by themselves."""
        itemsize = self._dtype.itemsize
        step = stride[axis] * itemsize
        apart = step if together else inner  # bytes from one step to the next in the buffer
        count = max(1, (_STAGE - inner) // apart + 1)
        room = self._room(_STAGE)
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        strides[axis] = apart
        part: list[slice] = [slice(None)] * out.ndim
        position, readinto = offset * itemsize, self._storage.readinto
        for start in range(0, out.shape[axis], count):
            steps = min(count, out.shape[axis] - start)
            if together:
                readinto(position, room[: (steps - 1) * step + inner])
            else:
                for at in range(steps):
                    readinto(position + at * step, room[at * inner : (at + 1) * inner])
            position += steps * step
            part[axis] = slice(start, start + steps)
            target = out[tuple(part)]
            copy_strided(target, np.ndarray(target.shape, self._dtype, self._buffer, 0, strides))

    def _room(self, nbytes: int) -> memoryview:
        if len(self._buffer) < nbytes:
            self._buffer = bytearray(nbytes)
        return memoryview(self._buffer)[:nbytes]


def copy_strided(out: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy `source` into `out` of the same shape; transposed matrices in strips of a cache line.

    numpy walks such a copy along one side only and misses the cache on the other at every element; strips of 16 columns
    run three times as fast.
    """
    if out.ndim == 2 and source.strides[0] < source.strides[1] and out.strides[0] > out.strides[1]:
        width = max(1, 64 // out.itemsize)
        for start in range(0, out.shape[1], width):
            np.copyto(out[:, start : start + width], source[:, start : start + width], casting="no")
    else:
        np.copyto(out, source, casting="no")
