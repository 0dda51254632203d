"""Two matrices read side by side, in steps that several threads share.

If one lies row by row and the other column by column, one of them is transposed in memory on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np

from converter.errors import ConverterError, ReadError
from converter.io.source import Memory
from converter.tensors.matrix import GAP, Area, bits
from converter.tensors.tensor import Tensor, row_major

if TYPE_CHECKING:
    from numpy.typing import NDArray

THREADS: Final = 2  # one reads while the other compares; more would wait for each other
_Share = TypeVar("_Share")
_CALL: Final = 128 << 10  # bytes that are read in the time that a call takes
_LINE: Final = 64  # bytes of a line of the processor's cache


_Where: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a comparison handles at a time, in bytes unless it says otherwise."""

    step: int = 2 << 20  # compared at a time, so that it stays in the cache
    panel: int = 64 << 20  # the part of a matrix that is transposed at a time: a larger matrix is read in shorter rows
    turned: int = 1 << 20  # the rows that are transposed at a time: they stay in the cache
    turned_rows: int = 32  # minimum number of rows at a time; fewer would make the writes too short
    gap: int = GAP  # the largest gap between two rows that are read in one call


class Workspace:
    """The memory of comparisons, and the threads that share one.

    The memory is lent again, because getting new pages takes as long as filling them.
    """

    def __init__(self, sizes: Sizes | None = None, threads: int = THREADS) -> None:
        self.sizes, self.threads = sizes or Sizes(), min(threads, THREADS)
        self._held: dict[str, NDArray[Any]] = {}

    def lend(self, what: str, rows: int, columns: int, dtype: np.dtype[Any], apart: int = 0) -> NDArray[Any]:
        """Lend [rows, columns], with `apart` unused elements after each row."""
        nbytes = rows * (columns + apart) * dtype.itemsize
        held = self._held.get(what)
        if held is None or len(held) < nbytes:
            held = self._held[what] = np.empty(nbytes, "u1")
        return held[:nbytes].view(dtype).reshape(rows, columns + apart)[:, :columns]


@dataclass(frozen=True, slots=True)
class Pair:
    """The raw bits of the same elements of both tensors. `where` turns a mask over them into row-major indices."""

    expected: NDArray[Any]
    found: NDArray[Any]
    where: _Where


@dataclass(frozen=True, slots=True)
class _Read:
    """An area that a step reads, of the source or of the `output`."""

    area: Area
    output: bool

    def __call__(self, workspace: Workspace, memory: str) -> NDArray[Any]:
        """Return its bits, in the workspace's memory of that name. Raises ReadError if the output can't be read."""
        gap = workspace.sizes.gap
        lent = workspace.lend(memory, 1, self.area.extent(gap), bits(self.area.matrix.dtype))[0]
        try:
            return self.area.read(lent, gap=gap)
        except ConverterError as error:
            raise (ReadError(str(error)) if self.output else error) from error


@dataclass(frozen=True, slots=True)
class _Step:
    """What a thread does at a time: it reads one or two areas, and makes a pair or part of a panel from them.

    `then` is called with the number of the thread and what was read. A step that `waits` begins after all earlier steps
    are done.
    """

    reads: tuple[_Read, ...]
    then: Callable[..., Pair | None]
    waits: bool = False


class Walk:
    """A walk over two tensors of the same shape, which several threads can share.

    `in_blocks` keeps whole blocks of GGUF, in the output's order.
    """

    def __init__(self, expected: Tensor, found: Tensor, workspace: Workspace, *, in_blocks: bool) -> None:
        self._workspace, self._turn, self._busy = workspace, Condition(), 0
        self._small = expected.nbytes <= workspace.sizes.step
        self._reading = (Lock(), Lock())
        transposed = found.transposed if in_blocks else expected.transposed
        one, other = _matrices(expected, found, transposed=transposed)
        indices = _Indices(expected.shape[-1] if transposed else one.shape[1], transposed)
        if not expected.size:
            self._steps: Iterator[_Step] = iter(())
        elif one.stride[1] == other.stride[1]:
            self._steps = _along(one, other, indices, workspace.sizes)
        else:
            by_rows = not in_blocks and one.stride[1] < other.stride[1]
            self._steps = _across(one, other, indices, workspace, by_rows=by_rows, in_blocks=in_blocks)
        self._next = next(self._steps, None)

    def pairs(self, thread: int = 0) -> Generator[Pair]:
        """Yield the pairs of the steps that no other thread has taken. If one thread fails, all end."""
        try:
            while True:
                with self._turn:
                    self._turn.wait_for(lambda: not (self._busy and self._next is not None and self._next.waits))
                    if (step := self._next) is None:
                        return
                    self._next, self._busy = next(self._steps, None), self._busy + 1
                    self._reading[0].acquire()
                pair = step.then(thread, *self._read(step.reads, thread))
                if pair is not None:
                    yield pair
                with self._turn:
                    self._busy -= 1
                    self._turn.notify_all()
        finally:
            self.stop()

    def shared(self, work: Callable[[Generator[Pair]], _Share]) -> list[_Share]:
        """What `work` makes of the pairs that each of several threads takes; small tensors are left to one thread.

        Raises an error of the source before one of the output.
        """

        def share(thread: int) -> _Share:
            with closing(self.pairs(thread)) as pairs:  # if this thread raises, the other one must not wait for it
                return work(pairs)

        if self._small or self._workspace.threads == 1:
            return [share(0)]
        # The calling thread does no work, as it may be the main thread: there a signal handler could raise between the
        # acquisition of a lock and the `try` that releases it.
        with ThreadPoolExecutor(THREADS) as pool:
            shares = [pool.submit(copy_context().run, share, thread) for thread in range(THREADS)]
            try:
                errors = [error for error in (future.exception() for future in shares) if error is not None]
            except BaseException:
                self.stop()
                raise
        for error in sorted(errors, key=lambda error: isinstance(error, ReadError)):
            raise error
        return [future.result() for future in shares]

    def stop(self) -> None:
        """Make every thread end after its current step."""
        with self._turn:
            self._next = None
            self._turn.notify_all()

    def _read(self, reads: Sequence[_Read], thread: int) -> Iterator[NDArray[Any]]:
        """Read a step's areas.

        CRCs take the least work if the bytes come in order. So if CRCs are taken, a step begins to read when the step
        before it has read its first area. That step may still be reading its second.
        """
        storages = [read.area.matrix.storage for read in reads]
        ordered = any(storage.crc32 is not None or not storage.source.concurrent for storage in storages)
        held = self._reading[0]
        try:
            for index, (read, own) in enumerate(zip(reads, self._reading, strict=False)):
                if index and ordered:
                    own.acquire()
                    held.release()
                    held = own
                elif not index and not ordered:
                    held.release()
                yield read(self._workspace, f"area {index} of {thread}")
        finally:
            if ordered:
                held.release()


@dataclass(frozen=True, slots=True)
class _Indices:
    """Row-major indices in a tensor of `columns` columns. If we read it `transposed`, our rows are its columns."""

    columns: int
    transposed: bool

    def at(self, top: int, left: int) -> _Where:
        """A function that turns a mask into indices; the mask's first element is at that row and column."""

        def where(mask: NDArray[Any]) -> NDArray[Any]:
            rows, columns = np.nonzero(mask)
            i, j = rows + top, columns + left
            index: NDArray[Any] = j * self.columns + i if self.transposed else i * self.columns + j
            return index

        return where


def _along(one: Tensor, other: Tensor, indices: _Indices, sizes: Sizes) -> Iterator[_Step]:
    """Walk over two matrices that lie in the same order. A step is several rows, or part of a long row."""
    rows, columns = one.shape
    size = sizes.step // max(one.dtype.itemsize, other.dtype.itemsize)
    wide = min(columns, size)
    high = min(rows, size // wide)
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            place = (top, min(rows, top + high), left, min(columns, left + wide))
            reads = (_Read(Area(one, *place), output=False), _Read(Area(other, *place), output=True))
            yield _Step(reads, partial(_side_by_side, indices.at(top, left)))


def _across(
    one: Tensor, other: Tensor, indices: _Indices, workspace: Workspace, *, by_rows: bool, in_blocks: bool
) -> Iterator[_Step]:
    """Walk over two matrices, of which one lies row by row (`one` if `by_rows`) and the other column by column.

    The one with the shorter rows is transposed into a panel of memory, and the other is read along the panel as it is.
    Each step makes a few long calls, because threads that often ask for the interpreter slow each other down.
    """
    sizes = workspace.sizes
    ours, theirs = (one, other.t()) if by_rows else (one.t(), other)
    turns_ours = in_blocks or ours.shape[1] <= ours.shape[0]
    turned, straight = (ours, theirs) if turns_ours else (theirs, ours)
    indices = replace(indices, transposed=indices.transposed != (by_rows if turns_ours else not by_rows))
    rows, columns = straight.shape
    itemsize = turned.dtype.itemsize
    # A matrix that does not fit into the panel is cut, so one of the two is read in parts of its rows: never blocks of
    # GGUF, which would be decoded again. The parts are nearly equal, because a narrow one takes as many calls as a wide one.
    high, wide = rows, columns
    if rows * columns * itemsize > sizes.panel and columns >= rows and not in_blocks:
        wide = _equal(columns, max(1, sizes.panel // (rows * itemsize)))
    elif rows * columns * itemsize > sizes.panel:
        high = _equal(rows, max(1, sizes.panel // (columns * itemsize)))
    # If rows were a power of two apart, all their lines would share a few places of the cache.
    apart = max(1, _LINE // itemsize)
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            bottom, right = min(rows, top + high), min(columns, left + wide)
            panel = workspace.lend("panel", bottom - top, right - left, bits(turned.dtype), apart)
            length, part = _lying(turned, top, bottom)
            deep = max(sizes.turned_rows, sizes.turned // ((length.stop - length.start) * itemsize))
            for start in range(left, right, deep):
                stop = min(right, start + deep)
                area = Area(turned, start, stop, length.start, length.stop)
                turn = partial(_turn, workspace, apart, panel[:, start - left : stop - left], part)
                yield _Step((_Read(area, output=not turns_ours),), turn, waits=start == left)
            length, part = _lying(straight, left, right)
            row = Area(straight, 0, 2, length.start, length.stop).extent(sizes.gap) // 2
            deep = max(1, sizes.step // (row * straight.dtype.itemsize))
            for start in range(top, bottom, deep):
                stop = min(bottom, start + deep)
                area = Area(straight, start, stop, length.start, length.stop)
                beside = panel[start - top : stop - top]
                pair = partial(_beside, beside, indices.at(start, left), part, ours=turns_ours)
                yield _Step((_Read(area, output=turns_ours),), pair, waits=start == top)


def _lying(matrix: Tensor, left: int, right: int) -> tuple[slice, slice]:
    """Which columns are read of a matrix for a part of its rows, and which of those are meant.

    Whole rows are read if that takes less time than a call for each row.
    """
    columns = matrix.shape[1]
    if matrix.stride == (columns, 1) and (columns - (right - left)) * matrix.dtype.itemsize <= _CALL:
        return slice(0, columns), slice(left, right)
    return slice(left, right), slice(0, right - left)


def _equal(length: int, most: int) -> int:
    """The length of each part but the last, if as few as possible of at most `most` are nearly equal."""
    return -(-length // -(-length // most))


def _turn(workspace: Workspace, apart: int, panel: NDArray[Any], part: slice, thread: int, rows: NDArray[Any]) -> None:
    """Transpose a part of rows into their place in the panel, through a copy whose rows are `apart`."""
    rows = rows[:, part]
    spread = workspace.lend(f"rows to turn over of {thread}", len(rows), rows.shape[1], rows.dtype, apart)
    np.copyto(spread, rows)
    np.copyto(panel, spread.T)


def _beside(panel: NDArray[Any], where: _Where, part: slice, _: int, straight: NDArray[Any], *, ours: bool) -> Pair:
    straight = straight[:, part]
    return Pair(panel, straight, where) if ours else Pair(straight, panel, where)


def _side_by_side(where: _Where, _: int, one: NDArray[Any], other: NDArray[Any]) -> Pair:
    return Pair(np.ascontiguousarray(one), np.ascontiguousarray(other), where)


def _matrices(expected: Tensor, found: Tensor, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """Both tensors as matrices: transposed, or with all dimensions but the first joined."""
    if transposed:
        expected, found = expected.t(), found.t()
    if len(expected.shape) == 2:
        return expected, found
    shape = (1, *expected.shape, *(1,) * (not expected.shape))
    if len(expected.shape) > 2:
        shape = (expected.shape[0], math.prod(expected.shape[1:]))
    return _reshaped(expected, shape), _reshaped(found, shape)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.contiguous:
        return replace(tensor, shape=shape, stride=row_major(shape))
    if len(tensor.shape) == 1:
        return replace(tensor, shape=shape, stride=(0, *tensor.stride))
    # No format here writes a view of three or more dimensions that is not contiguous. Such a view is read whole, once.
    gathered = Memory(b"".join(bytes(tile) for tile in tensor.tiles()), tensor.storage.source.name)
    return Tensor(
        tensor.dtype,
        shape,
        row_major(shape),
        0,
        replace(tensor.storage, source=gathered, offset=0, nbytes=tensor.nbytes, byteorder="little", crc32=None),
    )
