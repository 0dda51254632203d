"""The quantisation to ggml's simple blocks: Q8_0, Q5_1, Q5_0, Q4_1, Q4_0.

A block is 32 neighbouring elements of a row, stored as small integers and one scale in half precision; `_1` types also
have a minimum. The bytes are those of ggml's reference quantiser, which gguf-py follows. Sources: ggml-common.h
`block_q8_0` …; ggml-quants.c `quantize_row_q8_0_ref` …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 32  # elements of a block, in all five
_INVERTIBLE: Final = np.float32(2.0**-128)  # 1 divided by this, or by less, is infinite


# ---- values [blocks, 32] → encoded [blocks, bytes]; work [2, blocks, 32] --------------------------------------------
#
# numpy is only fast along long axes. So the rows are laid side by side, four elements (16 bytes) at a time: [8, blocks · 4], and
# the levels, a byte each, are then [8, blocks] words of four.


def _q8_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    fours, low, high = _ends(values, work[0])
    scale = np.abs(np.maximum(high, -low)) / np.float32(127)
    fours *= _inverse(scale)
    # Round half away from zero: add a half of the same sign and cut. The largest float below ½ gives the right result
    # for every float; ½ itself would take 0.49999997 to 1.
    halves = np.bitwise_and(fours.view("<u4"), np.uint32(0x80000000), out=work[1].view("<u4").reshape(fours.shape))
    halves |= np.uint32(0x3EFFFFFF)
    fours += halves.view("<f4")
    out[:, 2:].view("<u4")[:] = _words(fours, work[1], "i1").T
    return put_half(out, 0, scale)


def _q4_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, 8, work)
    out[:, 2:].view("<u4")[:] = _halves(levels).T
    return put_half(out, 0, scale)


def _q4_1(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, low, levels = _affine(values, 15, work)
    out[:, 4:].view("<u4")[:] = _halves(levels).T
    return put_half(out, 0, scale) and put_half(out, 2, low)


def _q5_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, 16, work)
    out[:, 2:6].view("<u4")[:, 0] = _fifths(levels)
    out[:, 6:].view("<u4")[:] = _halves(levels).T
    return put_half(out, 0, scale)


def _q5_1(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, low, levels = _affine(values, 31, work)
    out[:, 4:8].view("<u4")[:, 0] = _fifths(levels)
    out[:, 8:].view("<u4")[:] = _halves(levels).T
    return put_half(out, 0, scale) and put_half(out, 2, low)


def _symmetric(values: NDArray[Any], half: int, work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scales, and levels 0 … 2·half - 1. The value furthest from zero becomes level 0; of two such values the first."""
    fours, low, high = _ends(values, work[0])
    furthest = np.where(high > -low, high, low)
    ties = np.flatnonzero(high == -low)
    furthest[ties] = values[ties, np.abs(values[ties]).argmax(axis=1)]
    furthest += np.float32(0)  # if all values are zeros, C finds +0
    scale = furthest / np.float32(-half)
    fours *= _inverse(scale)
    fours += np.float32(half + 0.5)
    levels = _words(fours, work[1], "u1", bits=half.bit_length())
    # If the scale is so small that its inverse is infinite, C's levels are 0.
    levels[:, np.flatnonzero((np.abs(scale) <= _INVERTIBLE) & (scale != 0))] = 0
    return scale, levels


def _affine(values: NDArray[Any], top: int, work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Scales, minima, and levels 0 … top. If the minimum is zero, it has the sign of the first zero."""
    fours, low, high = _ends(values, work[0])
    zeros = np.flatnonzero(low == 0)
    low[zeros] = values[zeros, values[zeros].argmin(axis=1)]
    scale = (high - low) / np.float32(top) + np.float32(0)  # + 0: never -0
    fours -= low.repeat(4)
    fours *= _inverse(scale)
    fours += np.float32(0.5)
    return scale, low, _words(fours, work[1], "u1", bits=top.bit_length())


def _ends(values: NDArray[Any], work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The values [8, blocks · 4], and the smallest and the largest of every block."""
    fours = work.reshape(-1).view("c16").reshape(8, -1)  # [8, blocks]
    np.copyto(fours, values.view("c16").T)
    fours = fours.view("<f4")  # [8, blocks · 4]
    low, high = fours.min(axis=0).reshape(-1, 4).T.copy(), fours.max(axis=0).reshape(-1, 4).T.copy()
    return fours, np.minimum.reduce(low, axis=0), np.maximum.reduce(high, axis=0)


def _words(fours: NDArray[Any], work: NDArray[Any], dtype: str, bits: int | None = None) -> NDArray[Any]:
    """The elements [8, blocks · 4] cut to whole numbers, as words of four bytes [8, blocks].

    With `bits`, numbers of so many bits: rounding may have taken the outermost one level further, from where it comes back.
    """
    levels = work.reshape(-1).view(dtype)[: fours.size]
    np.copyto(levels, fours.reshape(-1), casting="unsafe")
    words = levels.view("<u4").reshape(8, -1)
    if bits is not None:
        words -= (words >> np.uint32(bits)) & np.uint32(0x01010101)  # numpy's minimum of bytes takes ten times as long
    return words


def _halves(levels: NDArray[Any]) -> NDArray[Any]:
    """Pack the low four bits: element i below element i + 16. Words [8, blocks] → [4, blocks]."""
    low = levels & np.uint32(0x0F0F0F0F)
    low[4:] <<= np.uint32(4)
    low[:4] |= low[4:]
    return low[:4]


def _fifths(levels: NDArray[Any]) -> NDArray[Any]:
    """Pack the bits of value 16: a word for every block, [8, blocks] → [blocks]."""
    bits = levels >> np.uint32(4)
    bits &= np.uint32(0x01010101)
    bits *= np.uint32(0x01020408)  # moves the bit of byte i to bit 24 + i
    bits >>= np.uint32(24)
    bits <<= np.arange(0, 32, 4, dtype="<u4")[:, None]
    packed: NDArray[Any] = np.bitwise_or.reduce(bits, axis=0)
    return packed


def _inverse(scale: NDArray[Any]) -> NDArray[Any]:
    """1/scale, four times each; 0 for scales so small that they are 0 in half precision."""
    inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse.repeat(4)


def put_half(out: NDArray[Any], position: int, values: NDArray[Any]) -> bool:
    """Write numbers in half precision at a byte of every block. False if one is not finite there."""
    halves = values.astype("<f2")
    out[:, position : position + 2].view("<f2")[:, 0] = halves
    return bool(np.isfinite(halves).all())


def nibbles(levels: NDArray[Any]) -> NDArray[Any]:
    """Pack the low four bits: element i below element i + 16. Returns the first 16 columns of [blocks, 32]."""
    eight = levels.reshape(-1).view("<u8") & np.uint64(0x0F0F0F0F0F0F0F0F)
    # Process all rows in one run, which is faster than row by row; every second result is unused.
    eight[:-2] |= eight[2:] << np.uint64(4)
    return eight.view("u1").reshape(-1, BLOCK)[:, :16]


def fifth_bits(levels: NDArray[Any]) -> NDArray[Any]:
    """Pack the bits of value 16: four bytes for every block, [blocks, 32] → [blocks, 4]."""
    return np.packbits(levels.reshape(-1) & np.uint8(16), bitorder="little").reshape(-1, 4)


KERNELS: Final[dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], bool]]] = {
    "Q8_0": _q8_0,
    "Q5_1": _q5_1,
    "Q5_0": _q5_0,
    "Q4_1": _q4_1,
    "Q4_0": _q4_0,
}
