"""Two tensors, element by element: equal bits, or what a change of dtype allows and no more.

Shares no code with the writers: what is read is the storages' bytes, put in place by strides here; roundings are
numpy's and ours; the bounds of GGUF's blocks follow from their definition.
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
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from converter.dtypes import BF16, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype
from converter.errors import ConverterError, ReadError
from converter.io.source import Memory
from converter.tensors.tensor import Tensor, row_major

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RUN: Final = 2 << 20  # bytes that are compared at a time: they stay in the cache
_PANEL: Final = 64 << 20  # bytes of a matrix that are turned over at a time: larger ones are read in shorter runs
_TURNED: Final = 1 << 20  # bytes of rows that are turned over in one go: they stay in the cache
_FEW: Final = 32  # rows of them at least: shorter runs would be written
_CALL: Final = 16 << 10  # bytes that can be read in the time that a call takes
_THREADS: Final = 2
_LINE: Final = 64  # bytes of a line of the cache
_SAMPLE: Final = 1 << 20  # elements that tell whether two tensors resemble each other
_RESEMBLING: Final = 0.05  # of the energy may be lost: Q4_0 loses 0.012 of noise's, another tensor 1 or 2
_UNDECODED: Final = 32  # elements of a block of GGUF's encodings

# 8-bit formats: bits of the mantissa, bias, whether the largest exponent means infinity and NaN, codes that are NaN.
_SMALL: Final = {
    F8_E4M3.name: (3, 7, False, (0x7F, 0xFF)),
    F8_E5M2.name: (2, 15, True, ()),
    F8_E4M3FNUZ.name: (3, 8, False, (0x80,)),
    F8_E5M2FNUZ.name: (2, 16, False, (0x80,)),
}
# Levels on the one side of zero (symmetric encodings), or of the whole range from the least value (affine ones).
_SYMMETRIC: Final = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}
_AFFINE: Final = {"Q5_1": 31, "Q4_1": 15}


_Where: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"


@dataclass(slots=True)
class Outcome:
    """What differs between two tensors. `first` is the row-major index of the first element that does.

    `expected` and `found` are its values and bits; `nan` and `zeroed` count differing elements that became NaN or zero,
    `largest` is the largest difference of finite ones. `exact` is False where a change of dtype was allowed for.
    """

    exact: bool = True
    differing: int = 0
    first: int | None = None
    expected: float | int | None = None
    found: float | int | None = None
    flipped: int = 0  # bits that differ in the first element; 0 where the dtypes do
    nan: int = 0
    zeroed: int = 0
    largest: float | None = None


def compare(
    expected: Tensor,
    found: Tensor,
    room: Room | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Hold one tensor against another of the same shape.

    Raises ReadError where `found` can't be read, and what the source's reader raises.
    """
    room = room or Room()
    outcome = _compared(expected, found, _kind(expected, found, bounded=False), room, progress)
    if outcome.differing and found.storage.encoding is not None and outcome.exact:
        outcome = _compared(expected, found, _kind(expected, found, bounded=True), room)
    return outcome


def equal(expected: Tensor, found: Tensor) -> bool:
    """Whether every bit is the same, or every element what the change of dtype makes of it. Stops at the first that isn't."""
    if expected.shape != found.shape or not comparable(expected, found):
        return False
    kind = _kind(expected, found, bounded=False)
    return not any(kind.unequal(piece.x, piece.y).any() for piece in _Walk(expected, found, kind, Room()).pieces())


def resembling(expected: Tensor, found: Tensor) -> bool:
    """Whether the first million elements are about the same numbers."""
    if expected.shape != found.shape or not (expected.dtype.floating and found.dtype.floating):
        return False
    kind = _kind(expected, found, bounded=True)
    lost = energy = 0.0
    seen = 0
    with np.errstate(all="ignore"):
        for piece in _Walk(expected, found, kind, Room()).pieces():
            x, y = floats(piece.x, expected.dtype), floats(piece.y, found.dtype)
            lost += float(np.square(x - y).sum())
            energy += float(np.square(x).sum())
            seen += x.size
            if seen >= _SAMPLE or not lost <= _RESEMBLING * energy + 1e-30:
                break
    return lost <= _RESEMBLING * energy


def comparable(expected: Tensor, found: Tensor) -> bool:
    """Whether one dtype can stand for the other: the same, or both floating-point and wide enough to be rounded to."""
    return expected.dtype == found.dtype or (
        expected.dtype.floating and expected.dtype.packed == 1 and found.dtype in (F64, F32, F16, BF16)
    )


def read(tensor: Tensor, a: int, b: int, c: int, d: int, buffer: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read a part of a matrix by its strides, as raw bits; into `buffer` (flat, of such bits) where one is given."""
    bits = _bits(tensor.dtype)
    step, stride = tensor.stride
    rows, columns, itemsize = b - a, d - c, tensor.dtype.itemsize
    start = (tensor.offset + a * step + c * stride) * itemsize
    needed = _extent(tensor, rows, columns)
    flat = np.empty(needed, bits) if buffer is None else buffer[:needed]
    if stride == 1 or columns == 1:
        raw = memoryview(flat.view("u1"))  # type: ignore[arg-type]
        if needed > rows * columns or step == columns or rows == 1:
            tensor.storage.readinto(start, raw)
            step = step if rows > 1 else columns
            out = np.ndarray((rows, columns), bits, flat, 0, (step * itemsize, itemsize))
        else:
            out = flat.reshape(rows, columns)
            for row in range(rows):
                part = raw[row * columns * itemsize : (row + 1) * columns * itemsize]
                tensor.storage.readinto(start + row * step * itemsize, part)
    elif step > stride:
        out = flat.reshape(rows, columns)
        span = memoryview(bytearray(((columns - 1) * stride + 1) * itemsize))
        for row in range(rows):
            tensor.storage.readinto(start + row * step * itemsize, span)
            out[row] = np.ndarray((columns,), bits, span, 0, (stride * itemsize,))
    else:
        # Column by column; every one a run where rows are neighbours.
        out = flat.reshape(columns, rows)
        raw = memoryview(out.reshape(-1).view("u1"))  # type: ignore[arg-type]
        for column in range(columns):
            part = raw[column * rows * itemsize : (column + 1) * rows * itemsize]
            at = start + column * stride * itemsize
            if step == 1 or rows == 1:
                tensor.storage.readinto(at, part)
            else:
                span = memoryview(bytearray(((rows - 1) * step + 1) * itemsize))
                tensor.storage.readinto(at, span)
                out[column] = np.ndarray((rows,), bits, span, 0, (step * itemsize,))
        out = out.T
    swapped = tensor.dtype.swapped
    if tensor.storage.byteorder == "big" and swapped > 1:
        flat.view(f"u{swapped}").byteswap(inplace=True)
    return out


def _extent(tensor: Tensor, rows: int, columns: int) -> int:
    """Give the elements that are read for a part of a matrix: with the gaps between rows if a call each costs more.

    Gaps no longer than the rows: what is read stays in proportion.
    """
    step, stride = tensor.stride
    gap = (step - columns) * tensor.dtype.itemsize
    return rows * columns + (
        (rows - 1) * (step - columns) if stride == 1 and 0 < gap <= min(_CALL, columns * tensor.dtype.itemsize) else 0
    )


def floats(bits: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """Give the values of raw bits: F64 as F64, other floating-point numbers as F32, the rest as it is."""
    if dtype in (F64, F32, F16):
        values: NDArray[Any] = bits.view(dtype.numpy)
        return values.astype("<f4") if dtype is F16 else values
    if dtype is BF16:
        return (bits.astype("<u4") << np.uint32(16)).view("<f4")
    if dtype is F8_E8M0:
        wide = bits.astype("<u4") << np.uint32(23)
        wide[bits == 0] = 1 << 22  # 2^-127, a subnormal number
        wide[bits == 0xFF] = 0x7FC00000
        return wide.view("<f4")
    if dtype.name not in _SMALL:
        return bits.view(dtype.numpy)
    mantissa, bias, ieee, nan = _SMALL[dtype.name]
    # Put where F32 has its exponent's low bits and its mantissa's high ones, a code is its value but for the bias.
    size = ((bits & 0x7F).astype("<u4") << np.uint32(23 - mantissa)).view("<f4") * np.float32(2.0 ** (127 - bias))
    if ieee:
        size[(bits & 0x7C) == 0x7C] = np.inf
        size[(bits & 0x7F) > 0x7C] = np.nan
    result = np.where(bits & 0x80, -size, size)
    result[np.isin(bits, nan)] = np.nan
    return result.astype("<f4")


def rounded(values: NDArray[Any], target: Dtype) -> NDArray[Any]:
    """Give the raw bits of F32 or F64 values as `target`: nearest, of two the even one; from F64 by way of F32."""
    if target is F64:
        return values.astype("<f8").view("<u8")
    with np.errstate(all="ignore"):
        singles = values.astype("<f4", copy=False)
        if target is F16:
            return singles.astype("<f2").view("<u2")
        bits = singles.view("<u4")
        if target is F32:
            return bits
        high, low = bits >> np.uint32(16), bits & np.uint32(0xFFFF)
        up = (low > 0x8000) | ((low == 0x8000) & (high % 2 == 1))
        return np.where(np.isnan(singles), high | 0x40, high + up).astype("<u2")


def bounds(values: NDArray[Any], encoding: str) -> NDArray[Any]:
    """Give how far an encoding may move each of [blocks, 32] F32 values.

    Levels lie a step apart, so half a step; a little more for the float arithmetic; and what rounding the scale (and
    minimum) to half precision moves the element's level. Q5_0 and Q4_0 have one level less on the side away from the
    block's furthest value: there it is up to a step.
    """
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    furthest = np.maximum(np.abs(low), np.abs(high))
    if encoding in _AFFINE:
        levels = _AFFINE[encoding]
        step = (high - low) / levels
        extra: NDArray[Any] | int = _half_error(np.abs(low))
        heights = values - low
        allowed = np.broadcast_to(step * (0.5 + 1e-4), values.shape)
    else:
        levels = _SYMMETRIC[encoding]
        step, extra, heights = furthest / levels, 0, np.abs(values)
        allowed = np.broadcast_to(step * (0.5 + 1e-4), values.shape)
        if encoding != "Q8_0":
            other_side = np.where(high > -low, values < 0, np.where(high < -low, values > 0, values != 0))
            clipped = other_side & (np.abs(values) > (levels - 0.5 - 1e-4) * step)
            allowed = np.where(clipped, step * (1 + 1e-4), allowed)
    reached = np.minimum(np.nan_to_num(heights / step) + 1, levels)
    result: NDArray[Any] = allowed + reached * _half_error(step) + extra + furthest * 2.0**-21
    return result


def _half_error(values: NDArray[Any]) -> NDArray[Any]:
    """Give what half precision may be off: half a unit of the last place, of 11 bits or of a subnormal number."""
    error: NDArray[Any] = np.maximum(values * 2.0**-11, 2.0**-25)
    return error


# ---- walking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """Parts of both tensors, of one shape. `where` gives row-major indices of a mask's elements."""

    x: NDArray[Any]
    y: NDArray[Any]
    where: _Where


@dataclass(frozen=True, slots=True)
class _Kind:
    """How two dtypes are held against each other: `unequal` gives a mask. `flat`: rows must lie in the file's order."""

    unequal: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    exact: bool
    flat: bool = False


def _kind(expected: Tensor, found: Tensor, *, bounded: bool) -> _Kind:
    source, target, encoding = expected.dtype, found.dtype, found.storage.encoding
    if encoding is not None and (bounded or expected.storage.encoding != encoding):
        return _Kind(lambda x, y: _beyond(floats(x, source), y.view("<f4"), encoding), exact=False, flat=True)
    if source == target:
        return _Kind(_unequal, exact=True)

    def unequal(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        mask: NDArray[Any] = rounded(floats(x, source), target) != y
        if mask.any():
            mask &= ~(np.isnan(floats(x, source)) & np.isnan(floats(y, target)))
        return mask

    return _Kind(unequal, exact=False)


def _unequal(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    mask: NDArray[Any] = x != y
    return mask


def _beyond(values: NDArray[Any], found: NDArray[Any], encoding: str) -> NDArray[Any]:
    blocks = values.astype("<f4", copy=False).reshape(-1, _UNDECODED)
    with np.errstate(all="ignore"):
        near = np.abs(blocks - found.reshape(-1, _UNDECODED)) <= bounds(blocks, encoding)
    result: NDArray[Any] = ~near.reshape(values.shape)
    return result


def _compared(
    expected: Tensor, found: Tensor, kind: _Kind, room: Room, progress: Callable[[int], None] | None = None
) -> Outcome:
    walk = _Walk(expected, found, kind, room)

    def part(thread: int) -> Outcome:
        outcome = Outcome(exact=kind.exact)
        with closing(walk.pieces(thread)) as pieces:  # whatever is raised here, the other thread must not wait for it
            for piece in pieces:
                mask = kind.unequal(piece.x, piece.y)
                if mask.any():
                    _count(outcome, piece, mask, expected.dtype, found.dtype, kind)
                if progress is not None:
                    progress(piece.x.nbytes)
        return outcome

    if expected.nbytes <= _RUN:
        return part(0)
    # None in this thread, which signals interrupt: it could be between taking a lock and being ready to give it back.
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [pool.submit(copy_context().run, part, thread) for thread in range(_THREADS)]
        try:
            errors = [error for error in (one.exception() for one in parts) if error is not None]
        except BaseException:
            walk.stop()
            raise
    # What is wrong with the source comes first.
    for error in sorted(errors, key=lambda error: isinstance(error, ReadError)):
        raise error
    return _together([one.result() for one in parts])


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    """Give the outcome of a tensor from those of its parts."""
    first = min(outcomes, key=lambda part: math.inf if part.first is None else part.first)
    return replace(
        first,
        differing=sum(part.differing for part in outcomes),
        nan=sum(part.nan for part in outcomes),
        zeroed=sum(part.zeroed for part in outcomes),
        largest=max((part.largest for part in outcomes if part.largest is not None), default=None),
    )


def _count(outcome: Outcome, piece: _Piece, mask: NDArray[Any], source: Dtype, target: Dtype, kind: _Kind) -> None:
    where = piece.where(mask)
    x, y = piece.x[mask], piece.y[mask]
    outcome.differing += len(where)
    if not kind.exact and not kind.flat:
        source, x = target, rounded(floats(x, source), target)
    if source.name in ("C64", "C128", "C32") or source.packed > 1:
        wanted, got = x, y
    else:
        wanted, got = floats(x, source), floats(y, target)
        with np.errstate(all="ignore"):
            if target.floating:
                outcome.nan += int(np.count_nonzero(np.isnan(got) & ~np.isnan(wanted)))
            apart = np.abs(wanted.astype("<f8") - got.astype("<f8"))
        apart = apart[np.isfinite(apart)]
        if len(apart):
            outcome.largest = max(outcome.largest or 0.0, float(apart.max()))
    outcome.zeroed += int(np.count_nonzero(y == 0)) if y.dtype.names is None else 0
    at = int(where.argmin())
    if outcome.first is None or where[at] < outcome.first:
        outcome.first = int(where[at])
        outcome.expected, outcome.found = _plain(wanted[at]), _plain(got[at])
        outcome.flipped = (
            (int.from_bytes(x[at].tobytes(), "little") ^ int.from_bytes(y[at].tobytes(), "little")).bit_count()
            if source == target and not kind.flat
            else 0
        )


def _plain(value: Any) -> float | int | None:
    plain = value.item()
    return plain if isinstance(plain, float | int) else None


class Room:
    """Memory for comparisons, used again from one to the next: new pages each time would take as long as filling them."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}

    def __call__(self, what: str, rows: int, columns: int, dtype: np.dtype[Any], apart: int = 0) -> NDArray[Any]:
        """Lend [rows, columns], the rows `apart` elements from each other's ends."""
        nbytes = rows * (columns + apart) * dtype.itemsize
        held = self._held.get(what)
        if held is None or len(held) < nbytes:
            held = self._held[what] = np.empty(nbytes, "u1")
        return held[:nbytes].view(dtype).reshape(rows, columns + apart)[:, :columns]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a matrix: rows from the first number of `area` to the second, columns from the third to the fourth."""

    tensor: Tensor
    area: tuple[int, int, int, int]
    output: bool

    def read(self, room: Room, what: str) -> NDArray[Any]:
        """Give it, in memory lent by that name. Faults of the output are findings: ReadError."""
        a, b, c, d = self.area
        lent = room(what, 1, _extent(self.tensor, b - a, d - c), _bits(self.tensor.dtype))[0]
        try:
            return read(self.tensor, *self.area, lent)
        except ConverterError as error:
            raise (ReadError(str(error)) if self.output else error) from error


@dataclass(frozen=True, slots=True)
class _Step:
    """What a thread does at a time: reads `parts`, and makes a piece of them or something that later pieces need.

    `then` gets the number of the thread and what was read. `waits`: it may not begin before all earlier steps are done.
    """

    parts: tuple[_Part, ...]
    then: Callable[..., _Piece | None]
    waits: bool = False


class _Walk:
    """A way over two tensors in steps, which several threads may go together. Blocks of GGUF stay in the output's order."""

    def __init__(self, expected: Tensor, found: Tensor, kind: _Kind, room: Room) -> None:
        self._room, self._turn, self._busy = room, Condition(), 0
        self._reading = (Lock(), Lock())
        turned = found.transposed if kind.flat else expected.transposed
        one, other = _matrix(expected, found, turned)
        place = _Place(expected.shape[-1] if turned else one.shape[1], turned)
        if not expected.size:
            self._steps: Iterator[_Step] = iter(())
        elif one.stride[1] == other.stride[1]:
            self._steps = _along(one, other, place)
        else:
            upright = not kind.flat and one.stride[1] < other.stride[1]
            self._steps = _across(one, other, place, room, upright=upright, flat=kind.flat)
        self._next = next(self._steps, None)

    def pieces(self, thread: int = 0) -> Generator[_Piece]:
        """Give the pieces of steps that no other thread has taken. Where one fails, all end."""
        try:
            while True:
                with self._turn:
                    self._turn.wait_for(lambda: not (self._busy and self._next is not None and self._next.waits))
                    if (step := self._next) is None:
                        return
                    self._next, self._busy = next(self._steps, None), self._busy + 1
                    self._reading[0].acquire()
                piece = step.then(thread, *self._read(step.parts, thread))
                if piece is not None:
                    yield piece
                with self._turn:
                    self._busy -= 1
                    self._turn.notify_all()
        finally:
            self.stop()

    def stop(self) -> None:
        """Have all threads end after the step that they are at."""
        with self._turn:
            self._next = None
            self._turn.notify_all()

    def _read(self, parts: Sequence[_Part], thread: int) -> Iterator[NDArray[Any]]:
        """Read. Where CRCs are taken on the way, after the step before: a first part while that reads its second."""
        storages = [part.tensor.storage for part in parts]
        ordered = any(one.crc32 is not None or not one.source.concurrent for one in storages)
        held = self._reading[0]
        try:
            for index, (part, own) in enumerate(zip(parts, self._reading, strict=False)):
                if index and ordered:
                    own.acquire()
                    held.release()
                    held = own
                elif not index and not ordered:
                    held.release()
                yield part.read(self._room, f"part {index} of {thread}")
        finally:
            if ordered:
                held.release()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where pieces lie in a tensor of `total` columns; its rows are our columns if `turned`."""

    total: int
    turned: bool

    def at(self, row: int, column: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Give what makes row-major indices in the tensor of a mask whose first element is at that row and column."""

        def where(mask: NDArray[Any]) -> NDArray[Any]:
            rows, columns = np.nonzero(mask)
            i, j = rows + row, columns + column
            index: NDArray[Any] = j * self.total + i if self.turned else i * self.total + j
            return index

        return where


def _along(one: Tensor, other: Tensor, place: _Place) -> Iterator[_Step]:
    """Walk over two matrices that lie the same way: runs of rows, or parts of one where it is long."""
    rows, columns = one.shape
    size = _RUN // max(one.dtype.itemsize, other.dtype.itemsize)
    wide = min(columns, size)
    high = min(rows, size // wide)
    for a in range(0, rows, high):
        for c in range(0, columns, wide):
            area = (a, min(rows, a + high), c, min(columns, c + wide))
            parts = (_Part(one, area, output=False), _Part(other, area, output=True))
            yield _Step(parts, partial(_side_by_side, place.at(a, c)))


def _across(one: Tensor, other: Tensor, place: _Place, room: Room, *, upright: bool, flat: bool) -> Iterator[_Step]:
    """Walk over two matrices of which one lies row by row, `one` if `upright`, the other column by column.

    The one with the shorter rows, the leaf, is turned over in a panel of memory, and the other, the spine, read along
    it. All in few calls that take long: threads hinder each other where each asks for the interpreter again and again.
    """
    ours, theirs = (one, other.t()) if upright else (one.t(), other)
    first = flat or ours.shape[1] <= ours.shape[0]  # whether ours is turned over
    leaf, spine = (ours, theirs) if first else (theirs, ours)
    place = replace(place, turned=place.turned != (upright if first else not upright))
    rows, columns = spine.shape
    itemsize = leaf.dtype.itemsize
    # What does not fit into the panel is cut across the longer rows, into whole blocks of GGUF.
    high, wide = rows, columns
    if rows * columns * itemsize > _PANEL and columns >= rows:
        wide = max(_UNDECODED, _PANEL // (rows * itemsize) // _UNDECODED * _UNDECODED)
    elif rows * columns * itemsize > _PANEL:
        high = max(1, _PANEL // (columns * itemsize))
    # Rows that lie a power of two apart would find their lines in the same few places of the cache.
    apart = max(1, _LINE // itemsize)
    for a in range(0, rows, high):
        for c in range(0, columns, wide):
            b, d = min(rows, a + high), min(columns, c + wide)
            panel = room("panel", b - a, d - c, _bits(leaf.dtype), apart)
            deep = max(_FEW, _TURNED // ((b - a) * itemsize))
            for start in range(c, d, deep):
                area = (start, min(d, start + deep), a, b)
                part = panel[:, start - c : area[1] - c]
                yield _Step((_Part(leaf, area, output=not first),), partial(_turn, room, apart, part), waits=start == c)
            deep = max(1, _RUN // (_extent(spine, 2, d - c) // 2 * spine.dtype.itemsize))
            for start in range(a, b, deep):
                area = (start, min(b, start + deep), c, d)
                part = panel[start - a : area[1] - a]
                then = partial(_beside, part, place.at(start, c), ours=first)
                yield _Step((_Part(spine, area, output=first),), then, waits=start == a)


def _turn(room: Room, apart: int, panel: NDArray[Any], thread: int, block: NDArray[Any]) -> None:
    together = room(f"together of {thread}", len(block), block.shape[1], block.dtype, apart)
    np.copyto(together, block)
    np.copyto(panel, together.T)


def _beside(panel: NDArray[Any], where: _Where, _: int, run: NDArray[Any], *, ours: bool) -> _Piece:
    return _Piece(panel, run, where) if ours else _Piece(run, panel, where)


def _side_by_side(where: _Where, _: int, one: NDArray[Any], other: NDArray[Any]) -> _Piece:
    return _Piece(np.ascontiguousarray(one), np.ascontiguousarray(other), where)


def _matrix(expected: Tensor, found: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
    """Give both as matrices: turned over, or with their last dimensions joined where they lie in one run."""
    if turned:
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
    gathered = _gathered(tensor)
    return Tensor(
        tensor.dtype,
        shape,
        row_major(shape),
        0,
        replace(tensor.storage, source=gathered, offset=0, nbytes=tensor.nbytes, byteorder="little", crc32=None),
    )


def _gathered(tensor: Tensor) -> Memory:
    """The row-major bytes of a view of three dimensions and more, which no format here has: read whole, once."""
    return Memory(b"".join(bytes(tile) for tile in tensor.tiles()), tensor.storage.source.name)


def _bits(dtype: Dtype) -> np.dtype[Any]:
    return np.dtype(f"<u{dtype.itemsize}" if dtype.itemsize <= 8 else "<u8,<u8")
