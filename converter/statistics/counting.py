"""What is counted in one pass over a tensor's elements: how often each value occurs, and exact sums.

Elements of up to 16 bits have so few values that a table of counts says everything. Wider ones become F64, and of these
the upper 19 bits are counted: sign, exponent and 7 bits of the mantissa (F32's upper 16 bits), so that a value is known to
2^-8 of itself. Their range, sums and zeros are taken from the elements themselves.

For words, np.bincount counts: other threads can count at the same time, because it gives the interpreter's lock away. It
makes a new table at each call, so np.add.at counts with the larger table of wide elements: that takes as long, but keeps the
lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import BF16, BOOL, F4, F32, F64, Dtype
from converter.tensors.cast_kernels import values as values_of_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray

PASS: Final = 128 << 10  # elements of a pass: with fewer, calls of numpy cost more than the cache saves
FEW: Final = 16 << 10  # elements of a wide dtype that are sorted rather than counted, which is exact
_FEW_WORDS: Final = 4 << 10  # words that are sorted sooner than a table of all words is looked through
_DOT: Final = 8 << 10  # elements of a dot product: OpenBLAS starts threads of its own for more than 10,000
_CENTRED: Final = 1e-3  # spread, as a share of the mean square, below which squares are taken around the mean
_LOST: Final = 45  # bits of F64 that are not counted
_KEYS: Final = 1 << (64 - _LOST)
_NEGATIVE: Final = _KEYS >> 1  # the key of -0.0
_STEP: Final = 1 << (52 - _LOST)  # keys of an exponent
# The keys that F32 can have, except that of 0, without the sign.
_SINGLES: Final = ((1023 - 149) * _STEP, (1023 + 128) * _STEP)
_ONE: Final = np.array(1, np.int64)
_SHORT: Final = 32 << 10  # words: np.add.at counts fewer than these sooner than np.bincount makes its table
_WORDS_AT_ONCE: Final = 256 << 10  # words a call of np.bincount: with fewer, making its table takes longer
_ONES: Final = np.ones(_DOT)


class Workspace:
    """The memory of one thread."""

    def __init__(self) -> None:
        self.wide = np.empty(PASS, np.float64)
        self.rows = self.wide.reshape(-1, _DOT)
        self._words: NDArray[np.int64] | None = None
        self._tables: dict[int, NDArray[np.int64]] = {}

    def table(self, size: int) -> NDArray[np.int64]:
        """A table of that many zeros. Whoever counts in it leaves zeros behind."""
        if size not in self._tables:
            self._tables[size] = np.zeros(size, np.int64)
        return self._tables[size]

    @property
    def words(self) -> NDArray[np.int64]:
        """Room for the words that are counted at once."""
        if self._words is None:
            self._words = np.empty(_WORDS_AT_ONCE, np.int64)
        return self._words


@dataclass(slots=True)
class Counts:
    """What was found in some elements. `keys` and `counts` are pieces of a table: one for each part of a tensor, or more.

    `keys` of a wide dtype and the moments are those of the finite elements. The moments are `mean`, and `squares`: the sum of
    the squared distances from it. `low`, `high` and `zeros` are only kept for a wide dtype.
    """

    keys: list[NDArray[Any]] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    finite: int = 0
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0

    def add(self, keys: NDArray[Any], counts: NDArray[np.int64]) -> None:
        """Add a piece of a table."""
        self.keys.append(keys)
        self.counts.append(counts)

    def join(self, other: Counts) -> None:
        """Add what was found in other elements of the tensor."""
        self.keys += other.keys
        self.counts += other.counts
        self.zeros += other.zeros
        self.nan += other.nan
        self.inf += other.inf
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.moments(other.finite, other.mean, other.squares)

    def moments(self, count: int, mean: float, squares: float) -> None:
        """Add the moments of `count` finite elements. Source: Chan, Golub and LeVeque, 1979."""
        if count:
            whole = self.finite + count
            apart = mean - self.mean
            self.mean += apart * (count / whole)
            self.squares += squares + apart * apart * (self.finite * (count / whole))
            self.finite = whole


@dataclass(frozen=True, slots=True)
class Kind:
    """How the elements of some dtypes are counted.

    `take` counts a tile of canonical bytes, which holds whole elements. `settle` moves what `take` left in the table of the
    thread to the counts. `values` gives the values of keys as F64. `exact` says that they are the elements'; else an
    element is within 2^-8 of its key's value. Up to `few` elements are not counted: `elements` gives them, as real numbers,
    from their canonical bytes.
    """

    take: Callable[[memoryview, Dtype, Workspace, Counts], None]
    settle: Callable[[Dtype, Workspace, Counts], None]
    values: Callable[[Dtype, NDArray[Any]], NDArray[np.float64]]
    exact: bool
    few: int = FEW

    def elements(self, dtype: Dtype, data: bytes) -> NDArray[Any]:
        """The elements as real numbers of a dtype of numpy."""
        return self.values(dtype, np.frombuffer(data, "<u2")) if self.exact else np.frombuffer(data, dtype.numpy)


def kind(dtype: Dtype) -> Kind | None:
    """How elements of a dtype are counted; None if they are complex, or no numbers."""
    if dtype.packed > 1:
        return _BYTES if dtype == F4 else None
    if np.dtype(dtype.numpy).kind == "c" or not (dtype.floating or dtype.safetensors):
        return None
    if dtype == F64:
        return _DOUBLES
    return {1: _BYTES, 2: _WORDS}.get(dtype.itemsize, _NUMBERS)


# ---- up to 16 bits: the table says everything -----------------------------------------------------------------------


def _take_codes(tile: memoryview, dtype: Dtype, work: Workspace, counts: Counts) -> None:
    """Count words of two bytes. Elements of one byte are counted in pairs, which takes half as many additions."""
    table, words = work.table(1 << 16), work.words
    codes = np.frombuffer(tile, "<u2", len(tile) // 2)
    for start in range(0, codes.size, words.size):
        part = codes[start : start + words.size]
        keys = words[: part.size]
        np.copyto(keys, part)
        if part.size < _SHORT:
            np.add.at(table, keys, _ONE)
        else:
            found = np.bincount(keys)
            table[: found.size] += found
    if len(tile) % 2:
        counts.add(np.array([tile[-1]]), np.ones(1, np.int64))


def _settle_words(dtype: Dtype, work: Workspace, counts: Counts) -> None:
    _drain(work.table(1 << 16), 0, 1 << 16, counts)


def _settle_bytes(dtype: Dtype, work: Workspace, counts: Counts) -> None:
    pairs = work.table(1 << 16).reshape(256, 256)
    counts.add(np.arange(256), pairs.sum(axis=0) + pairs.sum(axis=1))
    pairs[:] = 0


def _drain(table: NDArray[np.int64], start: int, stop: int, counts: Counts) -> None:
    keys = start + np.flatnonzero(table[start:stop] != 0)  # numpy searches truth values seven times as fast as counts
    counts.add(keys, table[keys])
    table[keys] = 0


def _values_of_codes(dtype: Dtype, keys: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[Any]
    if dtype == BOOL:
        found = keys != 0
    elif dtype == BF16:
        found = (keys.astype(np.uint32) << 16).view(np.float32)
    elif dtype.floating:
        found = values_of_codes(dtype)[keys]
    else:
        found = keys.astype(f"<u{dtype.itemsize}").view(dtype.numpy)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return found.astype(np.float64)


# ---- wider: the table says the distribution, the elements the rest ---------------------------------------------------


def _take_numbers(tile: memoryview, dtype: Dtype, work: Workspace, counts: Counts) -> None:
    elements = np.frombuffer(tile, dtype.numpy)
    for start in range(0, elements.size, PASS):
        part = elements[start : start + PASS]
        rows = _widened(part, work)
        total = sum((rows @ _ONES).tolist())
        if not math.isfinite(total):
            part = _finite(part, counts)
            rows = _widened(part, work)
            total = sum((rows @ _ONES).tolist())
        if part.size:
            low, high = _extremes(part)
            counts.low, counts.high = min(counts.low, low), max(counts.high, high)
            if _moments(rows, part.size, total, counts):
                _widened(part, work)
            _count(work.wide[: part.size], work.table(_KEYS))


def _take_doubles(tile: memoryview, dtype: Dtype, work: Workspace, counts: Counts) -> None:
    """The smallest F64 share their key with zero, so zeros are counted apart."""
    elements = np.frombuffer(tile, dtype.numpy)
    counts.zeros += elements.size - int(np.count_nonzero(elements))
    _take_numbers(tile, dtype, work, counts)


def _widened(part: NDArray[Any], work: Workspace) -> NDArray[np.float64]:
    """The elements as F64 in rows of _DOT; zeros fill the last one."""
    wide, rows = work.wide, -(-part.size // _DOT)
    np.copyto(wide[: part.size], part)
    wide[part.size : rows * _DOT] = 0
    return work.rows[:rows]


def _finite(part: NDArray[Any], counts: Counts) -> NDArray[Any]:
    """The finite elements; the others are counted."""
    good = np.isfinite(part)
    found, nan = int(np.count_nonzero(good)), int(np.count_nonzero(np.isnan(part)))
    counts.nan += nan
    counts.inf += part.size - found - nan
    some: NDArray[Any] = part[good]
    return some


def _extremes(part: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest of finite elements."""
    if part.dtype != np.float32:
        return float(np.minimum.reduce(part)), float(np.maximum.reduce(part))
    # Integers compare faster, because none is NaN. If F32's bits are read as integers, the greatest unsigned one is the
    # lowest negative number, if there is any, and the greatest signed one is the highest positive number.
    bits = part.view(np.uint32)
    low, high = int(np.maximum.reduce(bits)), int(np.maximum.reduce(part.view(np.int32)))
    if low >> 31 == 0:
        low = int(np.minimum.reduce(bits))
    elif high < 0:
        high = int(np.minimum.reduce(bits))
    least, greatest = np.array((low, high), np.uint32).view(np.float32).tolist()
    return least, greatest


def _moments(rows: NDArray[np.float64], size: int, total: float, counts: Counts) -> bool:
    """Add the moments of `size` elements. Return whether they were overwritten to find them."""
    mean = total / size
    square = sum(np.vecdot(rows, rows).tolist())
    squares = square - mean * total
    # The difference of two nearly equal numbers has few right digits.
    centred = bool(squares < _CENTRED * square)
    if centred:
        wide = rows.reshape(-1)[:size]
        wide -= mean
        squares = sum(np.vecdot(rows, rows).tolist())
    counts.moments(size, mean, squares)
    return centred


def _count(wide: NDArray[np.float64], table: NDArray[np.int64]) -> None:
    """Count the keys of F64, which are overwritten."""
    bits = wide.view(np.uint64)
    np.right_shift(bits, _LOST, out=bits)
    np.add.at(table, bits.view(np.int64), _ONE)


def _settle_numbers(dtype: Dtype, work: Workspace, counts: Counts) -> None:
    table = work.table(_KEYS)
    counts.zeros += int(table[0] + table[_NEGATIVE])
    for sign in (0, _NEGATIVE):
        if dtype == F32:
            _drain(table, sign, sign + 1, counts)
            _drain(table, sign + _SINGLES[0], sign + _SINGLES[1], counts)
        else:
            _drain(table, sign, sign + _NEGATIVE, counts)


def _settle_doubles(dtype: Dtype, work: Workspace, counts: Counts) -> None:
    _drain(work.table(_KEYS), 0, _KEYS, counts)


def _middles(dtype: Dtype, keys: NDArray[Any]) -> NDArray[np.float64]:
    bits = (keys.astype(np.uint64) << np.uint64(_LOST)) | np.uint64(1 << (_LOST - 1))
    found: NDArray[np.float64] = np.where(keys % _NEGATIVE == 0, 0.0, bits.view(np.float64))
    return found


_BYTES: Final = Kind(_take_codes, _settle_bytes, _values_of_codes, exact=True, few=0)
_WORDS: Final = Kind(_take_codes, _settle_words, _values_of_codes, exact=True, few=_FEW_WORDS)
_DOUBLES: Final = Kind(_take_doubles, _settle_doubles, _middles, exact=False)
_NUMBERS: Final = Kind(_take_numbers, _settle_numbers, _middles, exact=False)
