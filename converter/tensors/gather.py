"""The row-major bytes of any view, gathered from its storage tile by tile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.io.parts import Buffers
from converter.tensors.decoded import Decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

_STAGE: Final = 1 << 20  # bytes that are read before they are put in their places: they stay in the processor's cache
# The cost of a read, by which we choose between one long read and many short ones. A system call, with Python's part of
# it, takes about as long as copying this many bytes out of the page cache.
_CALL: Final = 64 << 10


@dataclass(slots=True)
class _Dimensions:
    """The dimensions of a view that matter: none of size 1, and neighbours joined if the strides allow it."""

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


def gathered(tensor: Tensor, buffers: Buffers) -> Iterator[memoryview]:
    """Yield the row-major bytes of any view in tiles of at most `buffers.tile` bytes."""
    plan = _Tiles(tensor, buffers.tile)
    with buffers.lent(plan.nbytes) as tile, buffers.lent(_STAGE) as stage:
        reader = _Reader(tensor, plan.dtype, stage)
        for place in plan.places():
            yield plan.fill(tile, reader, *place)


def gathered_ahead(tensor: Tensor, nbytes: int) -> Iterator[memoryview]:
    """Yield the same in tiles of at most `nbytes` bytes. While one tile is in use, the next is gathered."""
    if tensor.nbytes <= nbytes or nbytes < _STAGE:
        yield from gathered(tensor, Buffers(nbytes))
        return
    if tensor.storage.encoding is not None:
        tensor = Decoded(tensor.storage, 1).view(tensor)
    plan = _Tiles(tensor, nbytes)
    places = plan.places()
    tiles = itertools.cycle([np.empty(plan.nbytes, "u1").data for _ in range(2)])
    reader = _Reader(tensor, plan.dtype, memoryview(bytearray(_STAGE)))
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(partial(copy_context().run, plan.fill, next(tiles), reader, *next(places)))
        for place in places:
            done = ahead.result()
            ahead = pool.submit(partial(copy_context().run, plan.fill, next(tiles), reader, *place))
            yield done
        yield ahead.result()


class _Tiles:
    """How a view is cut into tiles. Each is a run along one axis, and holds the dimensions inside that axis whole."""

    def __init__(self, tensor: Tensor, nbytes: int) -> None:
        view = _joined(tensor)
        self.dtype = np.dtype(tensor.dtype.numpy)
        self._shape, self._stride, self._offset = view.shape or [1], view.stride or [1], tensor.offset
        room = max(1, nbytes // self.dtype.itemsize)
        # A tile runs along `axis`, the first axis whose inner dimensions fit into the buffer whole.
        self._axis, self._inner = len(self._shape) - 1, 1
        while self._axis > 0 and self._inner * self._shape[self._axis] <= room:
            self._inner *= self._shape[self._axis]
            self._axis -= 1
        self._rows = max(1, min(self._shape[self._axis], room // self._inner))
        self._swapped = tensor.dtype.swapped if tensor.storage.byteorder == "big" else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the largest tile."""
        return self._rows * self._inner * self.dtype.itemsize

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield where each tile starts in the storage, in elements, and how many rows it has."""
        length, step = self._shape[self._axis], self._stride[self._axis]
        for index in np.ndindex(*self._shape[: self._axis]):
            outer = self._offset + sum(i * s for i, s in zip(index, self._stride, strict=False))
            for start in range(0, length, self._rows):
                yield outer + start * step, min(self._rows, length - start)

    def fill(self, tile: memoryview, reader: _Reader, offset: int, count: int) -> memoryview:
        """Gather the `count` rows from `offset` on into `tile`."""
        out = np.frombuffer(tile, self.dtype, count * self._inner)
        reader.gather(out.reshape(count, *self._shape[self._axis + 1 :]), offset, self._stride[self._axis :])
        if self._swapped > 1:
            out.view(f"<u{self._swapped}").byteswap(inplace=True)
        return tile[: out.nbytes]


class _Reader:
    """Copies strided elements of a storage into an array through a small buffer, with the reads that cost least."""

    def __init__(self, tensor: Tensor, dtype: Any, buffer: memoryview) -> None:
        self._storage, self._dtype, self._buffer = tensor.storage, dtype, buffer

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
            # At least 16 steps must fit into the buffer: that is a cache line of a transposed matrix's rows.
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
        self._storage.readinto(offset * itemsize, self._buffer[:span])
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        copy_strided(out, np.ndarray(out.shape, self._dtype, self._buffer, 0, strides))

    def _strips(
        self, out: NDArray[Any], offset: int, stride: list[int], axis: int, inner: int, *, together: bool
    ) -> None:
        """Read `inner` bytes at each step along `axis`: one by one, or `together` with the bytes between them."""
        itemsize = self._dtype.itemsize
        step = stride[axis] * itemsize
        apart = step if together else inner  # bytes from one step to the next in the buffer
        count = max(1, _STAGE // apart)
        room = self._buffer
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        strides[axis] = apart
        part: list[slice] = [slice(None)] * out.ndim
        position, readinto = offset * itemsize, self._storage.readinto
        for start in range(0, out.shape[axis], count):
            steps = min(count, out.shape[axis] - start)
            if together:
                # Read on to the next step, so that the storage is read in one run and its CRC can be computed.
                readinto(
                    position, room[: steps * step if start + steps < out.shape[axis] else (steps - 1) * step + inner]
                )
            else:
                for at in range(steps):
                    readinto(position + at * step, room[at * inner : (at + 1) * inner])
            position += steps * step
            part[axis] = slice(start, start + steps)
            target = out[tuple(part)]
            copy_strided(target, np.ndarray(target.shape, self._dtype, self._buffer, 0, strides))


def copy_strided(out: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy `source` into `out` of the same shape; transposed matrices in strips of a cache line.

    numpy makes such a copy along only one side, and misses the cache on the other side at every element. Strips of 16
    columns are three times as fast.
    """
    if out.ndim == 2 and source.strides[0] < source.strides[1] and out.strides[0] > out.strides[1]:
        width = max(1, 64 // out.itemsize)
        for start in range(0, out.shape[1], width):
            np.copyto(out[:, start : start + width], source[:, start : start + width], casting="no")
    else:
        np.copyto(out, source, casting="no")
