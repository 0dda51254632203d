"""GGUF's blocks become F32: the bits that ggml's C code gives, because the operations and their order are the same.

A block is 32 to 256 neighbouring elements of a row. It stores a small integer for each, and a scale. In blocks of 256,
groups of 16 or 32 elements have small integers as scales of their own, and the block's scale is their scale. Types with
a minimum subtract it, or add it (Q4_1, Q5_1). Source: ggml-quants.c `dequantize_row_q4_K` …; ggml has no such function
for Q8_1, which it uses only for activations, so the elements are level · scale as in Q8_0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.formats.gguf.grid_decoding import KERNELS as GRID_KERNELS
from converter.formats.gguf.unpacking import eighths, half, nibbles, quarters, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.formats.gguf.encodings import Encoding

_TOGETHER: Final = 65536  # elements that are worked on together: they stay in the second-level cache


def dequantise(encoded: NDArray[Any], encoding: Encoding, out: NDArray[Any]) -> None:
    """Write the elements of blocks (flat bytes) into `out` (flat F32)."""
    kernel, together = _KERNELS[encoding.name], _TOGETHER // encoding.block
    blocks, values = encoded.reshape(-1, encoding.nbytes), out.reshape(-1, encoding.block)
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), together):
            kernel(blocks[start : start + together], values[start : start + together])


# ---- encoded [blocks, bytes] → values [blocks, elements] ------------------------------------------------------------


def _q8_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = blocks[:, 2:].view("i1")
    out *= half(blocks, 0)


def _q8_1(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = blocks[:, 4:].view("i1")
    out *= half(blocks, 0)


def _q8_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = blocks[:, 4:260].view("i1")
    out *= words(blocks, 0, 4, "<f4")


def _q4_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = nibbles(blocks[:, 2:]).reshape(out.shape)
    out -= 8
    out *= half(blocks, 0)


def _q4_1(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    _affine(blocks, nibbles(blocks[:, 4:]), out)


def _q5_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = _with_fifth(blocks[:, 6:], blocks[:, 2:6])
    out -= 16
    out *= half(blocks, 0)


def _q5_1(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    _affine(blocks, _with_fifth(blocks[:, 8:], blocks[:, 4:8]), out)


def _affine(blocks: NDArray[Any], levels: NDArray[Any], out: NDArray[Any]) -> None:
    scale, least = half(blocks, 0), half(blocks, 2)
    out[:] = levels.reshape(out.shape)
    out *= scale
    if np.isfinite(scale).all():
        out += least
        return
    # Which of two NaNs a sum keeps depends on how many elements numpy adds at once. ggml keeps that of the product.
    product = out.copy()
    out += least
    np.copyto(out, product, where=np.isnan(product))


def _with_fifth(packed: NDArray[Any], fifth: NDArray[Any]) -> NDArray[Any]:
    levels = nibbles(packed).reshape(-1, 32)
    levels |= np.unpackbits(fifth, axis=1, bitorder="little") << np.uint8(4)
    return levels


def _q1_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    scale = half(blocks, 0) * np.float32(1)  # a signalling NaN becomes a quiet one, as in a product
    np.copyto(out, -scale)
    np.copyto(out, scale, where=np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").view("?"))


def _q2_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    np.take(_IN_ROW, blocks[:, 2:], axis=0, out=out.reshape(-1, 16, 4), mode="wrap")
    out *= half(blocks, 0)


def _q2_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    groups = out.reshape(-1, 16, 16)
    groups[:] = quarters(blocks[:, 16:80].reshape(-1, 2, 32)).reshape(groups.shape)
    scales = nibbles(blocks[:, :16])
    groups *= (half(blocks, 80) * scales[:, 0])[:, :, None]
    groups -= (half(blocks, 82) * scales[:, 1])[:, :, None]


def _q3_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    groups = out.reshape(-1, 16, 16)
    levels = quarters(blocks[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 256)
    levels |= eighths(blocks[:, :32]).reshape(-1, 256) << np.uint8(2)
    groups[:] = levels.reshape(groups.shape)
    groups -= 4
    low, high = nibbles(blocks[:, 96:104]).reshape(-1, 16), quarters(blocks[:, 104:108]).reshape(-1, 16)
    scales = (low | high << np.uint8(4)).astype("<f4")
    scales -= 32
    scales *= half(blocks, 108)
    groups *= scales[:, :, None]


def _q4_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    _affine_k(blocks, nibbles(blocks[:, 16:].reshape(-1, 4, 32)), out)


def _q5_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    levels = nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 256)
    levels |= eighths(blocks[:, 16:48]).reshape(-1, 256) << np.uint8(4)
    _affine_k(blocks, levels, out)


def _affine_k(blocks: NDArray[Any], levels: NDArray[Any], out: NDArray[Any]) -> None:
    """Eight groups of 32 have scales and minima of six bits. The last four have their upper two bits in the first four's."""
    groups = out.reshape(-1, 8, 32)
    groups[:] = levels.reshape(groups.shape)
    first, minima, last = blocks[:, 4:8], blocks[:, 8:12], nibbles(blocks[:, 12:16])
    six, four = np.uint8(63), np.uint8(0x30)
    scales = np.concatenate([first & six, last[:, 0] | (first >> np.uint8(2) & four)], axis=1)
    groups *= (half(blocks, 0) * scales)[:, :, None]
    scales = np.concatenate([minima & six, last[:, 1] | (minima >> np.uint8(2) & four)], axis=1)
    groups -= (half(blocks, 2) * scales)[:, :, None]


def _q6_k(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    groups = out.reshape(-1, 16, 16)
    # In each half of a block, 64 bytes hold the lower bits of 128 elements, and 32 bytes the upper ones.
    levels = nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    levels |= quarters(blocks[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 256) << np.uint8(4)
    groups[:] = levels.reshape(groups.shape)
    groups -= 32
    groups *= (half(blocks, 208) * blocks[:, 192:208].view("i1"))[:, :, None]


def _tq1_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    at = 0
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        packed = blocks[:, start:stop]
        for digits in _TRITS[:count]:
            out[:, at : at + stop - start] = digits[packed]
            at += stop - start
    out *= half(blocks, 52)


def _tq2_0(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    out[:] = quarters(blocks[:, :64].reshape(-1, 2, 32)).reshape(out.shape)
    out -= 1
    out *= half(blocks, 64)


def _iq4_nl(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    np.take(_NONLINEAR, nibbles(blocks[:, 2:]).reshape(out.shape), out=out, mode="wrap")
    out *= half(blocks, 0)


def _iq4_xs(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    groups = out.reshape(-1, 8, 32)
    np.take(_NONLINEAR, nibbles(blocks[:, 8:].reshape(-1, 8, 16)).reshape(groups.shape), out=groups, mode="wrap")
    low = nibbles(blocks[:, 4:8]).swapaxes(1, 2).reshape(-1, 8)
    high = quarters(blocks[:, 2:4]).swapaxes(1, 2).reshape(-1, 8)
    scales = (low | high << np.uint8(4)).astype("<f4")
    scales -= 32
    scales *= half(blocks, 0)
    groups *= scales[:, :, None]


def _mxfp4(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    np.take(_E2M1, nibbles(blocks[:, 1:]).reshape(out.shape), out=out, mode="wrap")
    out *= _E8M0[blocks[:, :1]]


def _nvfp4(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    groups = out.reshape(-1, 4, 16)
    np.take(_E2M1, nibbles(blocks[:, 4:].reshape(-1, 4, 8)).reshape(groups.shape), out=groups, mode="wrap")
    groups *= _UE4M3[blocks[:, :4]][:, :, None]


# ---- tables ---------------------------------------------------------------------------------------------------------

_CODES: Final = np.arange(256)
# The levels of IQ4_NL and IQ4_XS.
_NONLINEAR: Final = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], "<f4")
# E2M1's numbers are doubled, to be whole, and the scales of the blocks are halved. As an integer, -0 becomes 0.
_E2M1: Final = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], "<f4")
_E8M0: Final = np.ldexp(1.0, _CODES - 128).astype("<f4")  # ggml does not read 255 as NaN
# NVFP4's scales are halved, too. They are E4M3 without a sign: ggml ignores the upper bit, and reads 127 as 0.
_UE4M3: Final = np.ldexp(
    np.where(_CODES & 0x78, 8 + (_CODES & 7), _CODES & 7), np.maximum(_CODES >> 3 & 15, 1) - 11
) * (_CODES != 127)
# The four elements of a byte of Q2_0.
_IN_ROW: Final = (_CODES[:, None] >> np.array([0, 2, 4, 6]) & 3).astype("<f4") - np.float32(1)
# TQ1_0 keeps the digits in base 3 as a fraction of 256: the first digit is 3/256 of the byte, and the next is that of
# 3 times the byte, of which only the lower 8 bits are kept.
_TRITS: Final = ((_CODES * 3 ** np.arange(5)[:, None] & 0xFF) * 3 >> 8).astype("<f4") - np.float32(1)

_KERNELS: Final[dict[str, Callable[[NDArray[Any], NDArray[Any]], None]]] = {
    "Q8_0": _q8_0,
    "Q8_1": _q8_1,
    "Q8_K": _q8_k,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q1_0": _q1_0,
    "Q2_0": _q2_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
    **GRID_KERNELS,
}
