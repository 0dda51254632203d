"""The arithmetic of conversions between floating-point formats: exact if possible, else rounded to nearest, ties to even.

Everything goes through F32, as in PyTorch: F64 to F16 or BF16 rounds twice, and so gives PyTorch's bits. Blocks are
small enough that everything stays in the processor's cache, which is two to four times as fast as whole arrays.

Sources: IEEE 754; OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2), OCP Microscaling Formats 1.0 (E8M0); the FNUZ
kinds: Noune and others, 8-bit Numerical Formats for Deep Neural Networks, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.dtypes import BF16, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype
from converter.tensors.losses import Loss

BLOCK: Final = 64 << 10  # elements of a pass: with fewer, threads would wait more for each other
_PIECE: Final = 256 << 10  # elements of a converted tile: at most 2 MiB


@dataclass(frozen=True, slots=True)
class _Small:
    """An 8-bit format: bits of exponent and mantissa, bias, and the codes that replace IEEE's special values."""

    exponent: int
    mantissa: int
    bias: int
    ieee: bool = False  # infinities and NaNs fill the largest exponent
    nan: tuple[int, ...] = ()


_SMALL: Final = {
    F8_E4M3.name: _Small(4, 3, 7, nan=(0x7F, 0xFF)),
    F8_E5M2.name: _Small(5, 2, 15, ieee=True),
    F8_E4M3FNUZ.name: _Small(4, 3, 8, nan=(0x80,)),
    F8_E5M2FNUZ.name: _Small(5, 2, 16, nan=(0x80,)),
}


def cast_tiles(tiles: Iterator[memoryview], source: Dtype, target: Dtype, loss: Loss) -> Iterator[memoryview]:
    """Yield the elements of `tiles` in another dtype, and count in `loss` what is lost. A piece is valid until the next."""
    widen, narrow, back = _widening(source), _narrowing(target), _widening(target)
    wide = np.empty(BLOCK, "<f4")
    piece = np.empty(_PIECE, target.numpy)
    raw = piece.view("|u1").data
    for tile in tiles:
        values = np.frombuffer(tile, source.numpy)
        for start in range(0, len(values), _PIECE):
            part = values[start : start + _PIECE]
            # Count signalling NaNs and overflows instead of warning about them.
            with np.errstate(all="ignore"):
                for at in range(0, len(part), BLOCK):
                    block = part[at : at + BLOCK]
                    result = piece[at : at + len(block)]
                    singles = block if source == F32 else widen(block, wide[: len(block)])
                    if source == F64:
                        narrow(singles, result, Loss())
                        _compare(block, back(result, wide[: len(block)]), loss)
                    else:
                        narrow(singles, result, loss)
            yield raw[: len(part) * target.itemsize]


# ---- to F32 -------------------------------------------------------------------------------------------------------

_Array: TypeAlias = NDArray[Any]  # an array of the dtype that the variable's name says
_Widening = Callable[[_Array, _Array], _Array]
_Narrowing = Callable[[_Array, _Array, Loss], None]


def _widening(source: Dtype) -> _Widening:
    """A function that fills an F32 array with elements of `source`: exactly, except from F64."""

    def cast(block: _Array, out: _Array) -> _Array:
        np.copyto(out, block, casting="same_kind")
        return out

    def shifted(block: _Array, out: _Array) -> _Array:
        halves = out.view("<u2")
        halves[::2] = 0
        halves[1::2] = block
        return out

    def looked_up(block: _Array, out: _Array) -> _Array:
        # A table is twice as fast as numpy's own cast from F16. "wrap" leaves out the check of the codes, which are all
        # in the table.
        np.take(table, block.view(f"<u{block.itemsize}"), out=out, mode="wrap")
        return out

    if source in (F64, F32):
        return cast
    if source == BF16:
        return shifted
    table = values(source)
    return looked_up


@cache
def values(dtype: Dtype) -> NDArray[Any]:
    """The values of all codes of F16 or an 8-bit format, as F32."""
    if dtype == F16:
        return np.arange(1 << 16, dtype="<u2").view("<f2").astype("<f4")
    codes = np.arange(256)
    if dtype == F8_E8M0:
        return np.where(codes == 0xFF, np.nan, np.ldexp(1.0, codes - 127)).astype("<f4")
    kind = _SMALL[dtype.name]
    steps = 1 << kind.mantissa
    exponent = (codes & 0x7F) >> kind.mantissa
    mantissa = codes % steps
    size = np.where(
        exponent == 0,
        np.ldexp(mantissa / steps, 1 - kind.bias),
        np.ldexp(1 + mantissa / steps, exponent - kind.bias),
    )
    if kind.ieee:
        last = exponent == (1 << kind.exponent) - 1
        size = np.where(last, np.where(mantissa == 0, np.inf, np.nan), size)
    size = np.where(np.isin(codes, kind.nan), np.nan, size)
    return np.copysign(size, np.where(codes < 0x80, 1.0, -1.0)).astype("<f4")


# ---- from F32 -----------------------------------------------------------------------------------------------------


def _narrowing(target: Dtype) -> _Narrowing:
    if target == F16:
        return _to_f16()
    return _to_bf16() if target == BF16 else _copy


def _copy(block: _Array, out: _Array, loss: Loss) -> None:
    """F32 to F32 or F64: nothing is lost."""
    out[:] = block


def _to_bf16() -> _Narrowing:
    arrays = np.empty((2, BLOCK), "<u4")

    def narrow(block: _Array, out: _Array, loss: Loss) -> None:
        bits = block.view("<u4")
        size, sums = arrays[:, : len(block)]
        # Add half a unit of the last place that is kept, less one if that place is even; then cut.
        np.right_shift(bits, 16, out=sums)
        np.bitwise_and(sums, 1, out=sums)
        np.add(sums, 0x7FFF, out=sums)
        np.add(sums, bits, out=sums)
        np.copyto(out, sums.view("<u2")[1::2])
        np.bitwise_and(bits, 0x7FFFFFFF, out=size)
        changed = int(np.count_nonzero(size.view("<u2")[::2]))
        # Up to half of BF16's smallest subnormal number, a value becomes zero.
        zeroed = int(np.count_nonzero(size)) - int(np.count_nonzero(size > 0x8000))
        if size.max() >= 0x7F7F8000:  # rounds to infinity, is infinite, or is NaN
            large = np.flatnonzero(size >= 0x7F7F8000)
            sizes = size[large]
            changed -= int(np.count_nonzero(sizes & 0xFFFF))
            _count_large(sizes, loss)
            nan = large[sizes > 0x7F800000]
            out[nan] = (bits[nan] >> 16) | 0x40
        loss.underflowed += zeroed
        loss.rounded += changed - zeroed

    return narrow


def _to_f16() -> _Narrowing:
    arrays = np.empty((4, BLOCK), "<u4")

    def narrow(block: _Array, out: _Array, loss: Loss) -> None:
        bits, halves = block.view("<u4"), out.view("<u2")
        size, magic, sums, left = arrays[:, : len(block)]
        # Add the value to a power of two that is 2^13 times as large (or 2^13 times F16's smallest normal number). The
        # machine then rounds away just the bits that F16 has no room for, and the sum's last bits are those that F16
        # keeps.
        np.bitwise_and(bits, 0x7FFFFFFF, out=size)
        np.bitwise_and(bits, 0x7F800000, out=magic)
        np.maximum(magic, 113 << 23, out=magic)
        np.add(magic, 13 << 23, out=magic)
        np.add(size.view("<f4"), magic.view("<f4"), out=sums.view("<f4"))
        np.subtract(sums.view("<f4"), magic.view("<f4"), out=left.view("<f4"))
        np.subtract(sums, magic, out=sums)  # the value in units of its last place in F16
        np.right_shift(magic, 13, out=magic)
        np.subtract(magic, (13 + 113) << 10, out=magic)  # the exponent minus one; the value's leading bit adds one
        np.add(sums, magic, out=sums)
        np.right_shift(bits, 16, out=magic)
        np.bitwise_and(magic, 0x8000, out=magic)
        np.bitwise_or(sums, magic, out=sums)
        np.copyto(halves, sums.view("<u2")[::2])
        changed = int(np.count_nonzero(left != size))
        zeroed = int(np.count_nonzero(size)) - int(np.count_nonzero(left))
        if size.max() >= 0x477FF000:  # 65520: rounds to infinity, is infinite, or is NaN
            large = np.flatnonzero(size >= 0x477FF000)
            sizes = size[large]
            changed -= int(np.count_nonzero(left[large] != sizes))
            _count_large(sizes, loss)
            halves[large] = magic[large] | np.where(sizes > 0x7F800000, 0x7E00 | (sizes >> 13) & 0x3FF, 0x7C00)
        loss.underflowed += zeroed
        loss.rounded += changed - zeroed

    return narrow


def _count_large(sizes: _Array, loss: Loss) -> None:
    """Count NaNs and overflows among values that round to no finite number, given their bits without the sign."""
    loss.nan += int(np.count_nonzero(sizes > 0x7F800000))
    loss.overflowed += int(np.count_nonzero(sizes < 0x7F800000))


def _compare(before: _Array, after: _Array, loss: Loss) -> None:
    """Count what F64 lost on its way to `after`."""
    nan = np.isnan(before)
    changed = (before != after) & ~nan
    overflowed = changed & np.isinf(after)
    underflowed = changed & (after == 0)
    loss.nan += int(np.count_nonzero(nan))
    loss.overflowed += int(np.count_nonzero(overflowed))
    loss.underflowed += int(np.count_nonzero(underflowed))
    loss.rounded += int(np.count_nonzero(changed & ~overflowed & ~underflowed))
