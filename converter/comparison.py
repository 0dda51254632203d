"""Two tensors, element by element: equal bits, or what a change of dtype allows and no more.

Shares no code with the writers: what is read is the storages' bytes, put in place by strides here; roundings are
numpy's and ours; the bounds of GGUF's blocks follow from their definition.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import BF16, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype
from converter.errors import ConverterError
from converter.sources import LocalFile
from converter.tensors import Storage, Tensor, row_major

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 8 << 20  # bytes of a tensor that are read at a time where the other lies turned over: long runs of both
_RUN: Final = 512 << 10  # bytes where both lie in the same order: they stay in the cache
_PIECE: Final = 128 << 10  # elements that are compared at a time: they stay in the cache
# Where one lies row by row, the other column by column: rows and columns of a piece, and rows that are turned at a time.
_TALL, _BROAD, _TURNED = 2048, 64, 256
_MAP: Final = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # all pages in one go: a fault each takes longer
_MAPPED: Final = 64 << 20  # bytes of a tensor that is mapped whole; of a larger one, a piece at a time
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


class ReadError(ConverterError):
    """The output's bytes can't be had, or are not what its own checksums say."""


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
    *,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Hold one tensor against another of the same shape.

    Raises ReadError where `found` can't be read, and what the source's reader raises.
    """
    outcome = _compared(expected, found, _kind(expected, found, bounded=False), progress)
    if outcome.differing and found.storage.encoding is not None and outcome.exact:
        outcome = _compared(expected, found, _kind(expected, found, bounded=True), None)
    return outcome


def equal(expected: Tensor, found: Tensor) -> bool:
    """Whether every bit is the same, or every element what the change of dtype makes of it. Stops at the first that isn't."""
    if expected.shape != found.shape or not comparable(expected, found):
        return False
    kind = _kind(expected, found, bounded=False)
    return not any(kind.unequal(piece.x, piece.y).any() for piece in _Walk(expected, found, kind).pieces())


def resembling(expected: Tensor, found: Tensor) -> bool:
    """Whether the first million elements are about the same numbers."""
    if expected.shape != found.shape or not (expected.dtype.floating and found.dtype.floating):
        return False
    kind = _kind(expected, found, bounded=True)
    lost = energy = 0.0
    seen = 0
    with np.errstate(all="ignore"):
        for piece in _Walk(expected, found, kind).pieces():
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
    flat = np.empty(rows * columns, bits) if buffer is None else buffer[: rows * columns]
    if stride == 1 or columns == 1:
        out = flat.reshape(rows, columns)
        raw = memoryview(out.reshape(-1).view("u1"))  # type: ignore[arg-type]
        if step == columns or rows == 1:
            tensor.storage.readinto(start, raw)
        else:
            for row in range(rows):
                part = raw[row * columns * itemsize : (row + 1) * columns * itemsize]
                tensor.storage.readinto(start + row * step * itemsize, part)
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
    where: Callable[[NDArray[Any]], NDArray[Any]]


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


def _compared(expected: Tensor, found: Tensor, kind: _Kind, progress: Callable[[int], None] | None) -> Outcome:
    walk = _Walk(expected, found, kind, progress)

    def part(_: int) -> Outcome:
        outcome = Outcome(exact=kind.exact)
        for piece in walk.pieces():
            mask = kind.unequal(piece.x, piece.y)
            if mask.any():
                _count(outcome, piece, mask, expected.dtype, found.dtype, kind)
        return outcome

    if not walk.mapped:
        return part(0)
    with ThreadPoolExecutor(_THREADS) as pool:
        return _together(list(pool.map(part, range(_THREADS))))


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


class _Walk:
    """A way over two tensors, block by block, which several threads may go together: each block is one's.

    The source's storage is read from front to back where it can be; blocks of GGUF, in the output's order.
    """

    def __init__(
        self, expected: Tensor, found: Tensor, kind: _Kind, progress: Callable[[int], None] | None = None
    ) -> None:
        self._flat, self._progress = kind.flat, progress
        self._turned = found.transposed if kind.flat else expected.transposed
        self._one, self._other = _matrix(expected, found, self._turned)
        rows, columns = self._one.shape
        itemsize = max(expected.dtype.itemsize, found.dtype.itemsize)
        apart = self._one.stride[1] != self._other.stride[1]
        room = BLOCK if apart or self._one.stride[1] != 1 else _RUN
        self._high = max(1, min(rows, room // max(1, columns * itemsize)))
        self._wide = columns if columns * itemsize <= room else room // itemsize
        self._total = expected.shape[-1] if self._turned else columns
        self._places = iter(
            [(a, c) for a in range(0, rows, self._high) for c in range(0, columns, self._wide)] if expected.size else []
        )
        self._reading = Lock()
        self.mapped = apart and not kind.flat and expected.nbytes > _RUN and _mappable(self._other.storage)

    def pieces(self) -> Iterator[_Piece]:
        """Give the pieces of blocks that nobody else has taken. Memory is used again from one to the next."""
        room = self._high * self._wide
        ours, theirs = np.empty(room, _bits(self._one.dtype)), np.empty(room, _bits(self._other.dtype))
        turn = _Turner(ours.dtype)
        while True:
            with self._reading:
                at = next(self._places, None)
                if at is None:
                    return
                a, c = at
                b, d = min(self._one.shape[0], a + self._high), min(self._one.shape[1], c + self._wide)
                x = read(self._one, a, b, c, d, ours)
            tall, broad = (_TALL, _BROAD) if self.mapped else (b - a, d - c)
            for i in range(a, b, tall):
                for j in range(c, d, broad):
                    area = (i, min(b, i + tall), j, min(d, j + broad))
                    try:
                        y = self._window(*area) if self.mapped else read(self._other, *area, theirs)
                    except ConverterError as error:
                        raise ReadError(str(error)) from error
                    part = x[i - a : area[1] - a, j - c : area[3] - c]
                    place = _Place(i, j, part.shape[1], self._total, self._turned)
                    yield from _aligned(part, y, place, turn, flat=self._flat)
            if self._progress is not None:
                self._progress(x.nbytes)

    @cached_property
    def _map(self) -> NDArray[Any] | None:
        """The other tensor whole, if it is small enough to be mapped all the while."""
        rows, columns = self._other.shape
        return _mapped(self._other, 0, rows, 0, columns) if self._other.nbytes <= _MAPPED else None

    def _window(self, a: int, b: int, c: int, d: int) -> NDArray[Any]:
        return _mapped(self._other, a, b, c, d) if self._map is None else self._map[a:b, c:d]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block lies: its first row and column, its width, and the tensor's, whose rows are our columns if `turned`."""

    row: int
    column: int
    width: int
    total: int
    turned: bool

    def index(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[Any]:
        """Give row-major indices in the tensor."""
        i, j = rows + self.row, columns + self.column
        index: NDArray[Any] = j * self.total + i if self.turned else i * self.total + j
        return index


def _aligned(x: NDArray[Any], y: NDArray[Any], place: _Place, turn: _Turner, *, flat: bool) -> Iterator[_Piece]:
    """Cut two blocks into pieces: runs where both lie row by row, else tiles, which both find in the cache."""
    if flat or (x.flags.c_contiguous and y.flags.c_contiguous):
        one, other = np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(y).reshape(-1)
        for start in range(0, len(one), _PIECE):

            def where(mask: NDArray[Any], start: int = start) -> NDArray[Any]:
                at = np.flatnonzero(mask) + start
                return place.index(at // place.width, at % place.width)

            yield _Piece(one[start : start + _PIECE], other[start : start + _PIECE], where)
        return
    for row in range(0, x.shape[0], _TALL):
        for column in range(0, x.shape[1], _BROAD):

            def inside(mask: NDArray[Any], row: int = row, column: int = column) -> NDArray[Any]:
                columns, rows = np.nonzero(mask)
                return place.index(rows + row, columns + column)

            area = (slice(row, row + _TALL), slice(column, column + _BROAD))
            one = turn(x[area]) if _by_rows(x) and not _by_rows(y) else x[area].T
            yield _Piece(one, y[area].T, inside)


def _by_rows(block: NDArray[Any]) -> bool:
    return block.strides[1] == block.itemsize


class _Turner:
    """Turns blocks over, in memory that is used again.

    A copy across rows that lie a power of two apart finds their lines in the same few places of the cache, and is
    several times slower. So some rows at a time are first brought together, a line further apart than they are long.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype

    @cached_property
    def _together(self) -> NDArray[Any]:
        return np.empty((_TURNED, _BROAD + max(1, _LINE // self._dtype.itemsize)), self._dtype)

    @cached_property
    def _turned(self) -> NDArray[Any]:
        return np.empty(_BROAD * _TALL, self._dtype)

    def __call__(self, block: NDArray[Any]) -> NDArray[Any]:
        rows, columns = block.shape
        turned = self._turned[: block.size].reshape(columns, rows)
        for start in range(0, rows, _TURNED):
            part = block[start : start + _TURNED]
            together = self._together[: len(part), :columns]
            np.copyto(together, part)
            np.copyto(turned[:, start : start + _TURNED], together.T)
        return turned


def _mappable(storage: Storage) -> bool:
    """Whether the storage's bytes are a file's, as they are."""
    return isinstance(storage.source, LocalFile) and storage.byteorder == "little"


def _mapped(tensor: Tensor, a: int, b: int, c: int, d: int) -> NDArray[Any]:
    """Give a part of a matrix without a copy, and its rows without a call each, which would take longer than they do.

    A file that was cut since it was opened raises ReadError, unless that happens while the part is looked at.
    """
    file, itemsize = tensor.storage.source, tensor.dtype.itemsize
    start = tensor.storage.offset + (tensor.offset + a * tensor.stride[0] + c * tensor.stride[1]) * itemsize
    size = (1 + (b - a - 1) * tensor.stride[0] + (d - c - 1) * tensor.stride[1]) * itemsize
    before = start % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(file.fileno(), before + size, _MAP, mmap.PROT_READ, offset=start - before)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise ReadError(f"`{file.name}` can't be mapped at byte {start:,}: {error}") from error
    strides = [step * itemsize for step in tensor.stride]
    return np.ndarray((b - a, d - c), _bits(tensor.dtype), pages, before, strides)


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
    gathered = _Gathered(tensor)
    return Tensor(
        tensor.dtype,
        shape,
        row_major(shape),
        0,
        replace(tensor.storage, source=gathered, offset=0, nbytes=tensor.nbytes, byteorder="little", crc32=None),
    )


@dataclass
class _Gathered:
    """The row-major bytes of a view of three dimensions and more, which no format here has: read whole, once."""

    tensor: Tensor
    name: str = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.size = self.tensor.storage.source.name, self.tensor.nbytes
        self._data = memoryview(b"".join(bytes(tile) for tile in self.tensor.tiles()))

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        return self._data[offset : offset + size]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        buffer[:] = self.read(offset, len(buffer))


def _bits(dtype: Dtype) -> str:
    return f"<u{dtype.itemsize}" if dtype.itemsize <= 8 else "<u8,<u8"
