"""A tensor's row-major bytes in parts that several threads read at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from converter.io.parts import Buffers, Part, portions
from converter.io.source import STEP
from converter.tensors.decoded import Decoded

if TYPE_CHECKING:
    from converter.tensors.tensor import Storage, Tensor

    # Makes the bytes to write, from a view and its canonical bytes.
    Made = Callable[[Tensor, Iterator[memoryview], Buffers], Iterator[memoryview]]


def tensor_parts(
    tensor: Tensor,
    whole: bool = False,
    *,
    rows: bool = False,
    size: Callable[[int], int] | None = None,
    made: Made | None = None,
    step: int = STEP,
) -> tuple[Part, ...]:
    """The parts of a tensor's row-major bytes, or of what `made` makes of them. With `whole` there is only one.

    `size` gives the bytes that `made` makes of a number of elements. Parts hold whole rows, or whole blocks of any
    encoding; with `rows`, which is for matrices, always whole rows. What lies in order is read `step` bytes at a time.
    """
    most = tensor.nbytes if whole else portions().run if tensor.streams else portions().strided
    if rows:
        most = max(most // (row := tensor.shape[-1] * tensor.dtype.itemsize), 1) * row
    views = list(_views(tensor, most)) if tensor.size else []
    last = _Last(len(views), tensor.storage)
    again = tensor.storage.encoding is not None and not tensor.streams and len(views) > 1
    decoded = Decoded(tensor.storage, len(views)) if again else None

    def part(view: Tensor) -> Part:
        def tiles(buffers: Buffers) -> Iterator[memoryview]:
            read = _read(view, buffers, last, decoded, step)
            return read if made is None else made(view, read, buffers)

        return Part(view.nbytes if size is None else size(view.size), tiles)

    return tuple(map(part, views))


def storage_parts(storage: Storage, whole: bool = False) -> tuple[Part, ...]:
    """The parts of a storage's bytes in their order. With `whole` there is only one."""

    def part(start: int, nbytes: int) -> Part:
        return Part(nbytes, lambda buffers: _in_order(storage, start, nbytes, buffers))

    step = storage.nbytes if whole else portions().run
    return tuple(part(start, min(step, storage.nbytes - start)) for start in range(0, storage.nbytes, step or 1))


def _views(tensor: Tensor, most: int) -> Iterator[Tensor]:
    """Cut a tensor into views whose row-major bytes follow each other, of at most `most` bytes if no row is longer."""
    if tensor.nbytes <= most:
        yield tensor
    elif tensor.contiguous:
        count = most // tensor.dtype.itemsize
        for start in range(0, tensor.size, count):
            shape = (min(count, tensor.size - start),)
            yield replace(tensor, shape=shape, stride=(1,), offset=tensor.offset + start)
    elif tensor.shape[0] == 1 or tensor.nbytes // tensor.shape[0] > most:
        for row in range(tensor.shape[0] if len(tensor.shape) > 1 else 0):
            inner = replace(tensor.rows(row, row + 1), shape=tensor.shape[1:], stride=tensor.stride[1:])
            yield from _views(inner, most)
    else:
        count = -(-tensor.nbytes // most)
        rows = -(-tensor.shape[0] // count)
        for start in range(0, tensor.shape[0], rows):
            yield tensor.rows(start, min(start + rows, tensor.shape[0]))


def _read(view: Tensor, buffers: Buffers, last: _Last, decoded: Decoded | None, step: int) -> Iterator[memoryview]:
    if view.streams:
        yield from _in_order(view.storage, view.offset * view.dtype.itemsize, view.nbytes, buffers, step)
        return
    from converter.tensors.gather import gathered

    view.prefetch()
    if decoded is not None:
        yield from gathered(decoded.view(view), buffers)
        decoded.read()
    else:
        yield from gathered(view, buffers)
    last.read()


def _in_order(storage: Storage, start: int, nbytes: int, buffers: Buffers, step: int = STEP) -> Iterator[memoryview]:
    with buffers.lent(min(step, nbytes)) as buffer:
        yield from storage.tiles(start, nbytes, buffer)
    storage.release(start, nbytes)


class _Last:
    """Releases a storage when the last of a number of views of it has been read."""

    def __init__(self, views: int, storage: Storage) -> None:
        self._left, self._storage = views, storage
        self._lock = Lock()

    def read(self) -> None:
        """Note that one more view was read."""
        with self._lock:
            self._left -= 1
            done = self._left == 0
        if done:
            self._storage.release()
