"""The IQ1, IQ2 and IQ3 encodings become F32, as in converter/formats/gguf/decoding.py.

A block of 256 stores the numbers of points in a grid; a point is 8 or 4 neighbouring elements. In IQ2 and IQ3 the
elements of points are positive, and each element has a sign bit. The XXS and XS types store seven of a group's eight
signs, and the eighth makes the number of minus signs even. In IQ1 every element is moved by an eighth instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.formats.gguf.grids import grid
from converter.formats.gguf.unpacking import half, nibbles, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CODES: Final = np.arange(256, dtype="u1")
# For the eight bits of a byte, F32's sign bit where the bit is set.
_SIGNS: Final = np.unpackbits(_CODES[:, None], axis=1, bitorder="little") * np.uint32(1 << 31)
_EVEN: Final = _CODES[:128] | (np.unpackbits(_CODES[:128, None], axis=1).sum(axis=1) % 2 << 7).astype("u1")
_SHIFT: Final = np.float32(0.125)  # IQ1 adds or subtracts this


def _iq2_xxs(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    pairs = words(blocks, 2, 66, "<u4").reshape(-1, 8, 2)
    numbers, signs = pairs[:, :, :1].copy().view("u1"), pairs[:, :, 1]
    scales = half(blocks, 0) * _halves(signs >> np.uint32(28)) * np.float32(0.25)
    _signed("IQ2_XXS", numbers, scales, _seven_bits(signs), out)


def _iq2_xs(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    numbers = words(blocks, 2, 66, "<u2")
    scales = half(blocks, 0) * _halves(_in_pairs(blocks[:, 66:])) * np.float32(0.25)
    _signed("IQ2_XS", numbers & np.uint16(511), scales, _EVEN[numbers >> np.uint16(9)], out)


def _iq2_s(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    numbers = _joined(blocks[:, 2:34], blocks[:, 66:74], 2)
    scales = half(blocks, 0) * _halves(_in_pairs(blocks[:, 74:])) * np.float32(0.25)
    _signed("IQ2_S", numbers, scales, blocks[:, 34:66], out)


def _iq3_xxs(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    signs = words(blocks, 66, 98, "<u4")
    scales = half(blocks, 0) * _halves(signs >> np.uint32(28)) * np.float32(0.5)
    _signed("IQ3_XXS", blocks[:, 2:66], scales, _seven_bits(signs), out)


def _iq3_s(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    numbers = _joined(blocks[:, 2:66], blocks[:, 66:74], 1)
    scales = half(blocks, 0) * (1 + 2 * _in_pairs(blocks[:, 106:]))
    _signed("IQ3_S", numbers, scales, blocks[:, 74:106], out)


def _iq1_s(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    high = words(blocks, 34, 50, "<u2")
    numbers = _joined(blocks[:, 2:34], high, 3)
    scales = half(blocks, 0) * (high >> np.uint16(11) & np.uint16(14) | np.uint16(1))
    _shifted(numbers, scales, high >> np.uint16(15), out)


def _iq1_m(blocks: NDArray[Any], out: NDArray[Any]) -> None:
    packed = _in_pairs(blocks[:, 32:48])  # for each point its upper bits, and the sign of the shift
    numbers = blocks[:, :32] | (packed & np.uint16(7)) << np.uint16(8)
    twelve = words(blocks, 48, 56, "<u2")
    nibble = twelve >> np.uint16(12) << np.array([0, 4, 8, 12], "u2")
    scale = np.bitwise_or.reduce(nibble, axis=1, keepdims=True).view("<f2").astype("<f4")
    threes = twelve[:, :, None] >> np.array([0, 3, 6, 9], "u2") & np.uint16(7)
    scales = scale * (2 * threes.reshape(-1, 16) + np.uint16(1))
    _shifted(numbers, scales, packed >> np.uint16(3), out)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _signed(name: str, numbers: NDArray[Any], scales: NDArray[Any], signs: NDArray[Any], out: NDArray[Any]) -> None:
    """Numbers of points [blocks, points, …], scales [blocks, groups], sign bytes [blocks, 32] → `out` [blocks, 256]."""
    points = grid(name)
    np.take(points, numbers, axis=0, out=out.reshape(*numbers.shape, points.shape[1]), mode="wrap")
    groups = out.reshape(len(out), scales.shape[1], -1)
    groups *= scales[:, :, None]
    eights = out.view("<u4").reshape(len(out), 32, 8)
    eights ^= _SIGNS[signs.reshape(-1, 32)]


def _shifted(numbers: NDArray[Any], scales: NDArray[Any], negative: NDArray[Any], out: NDArray[Any]) -> None:
    """Numbers of points [blocks, 32], scales and signs of the shift [blocks, groups] → `out` [blocks, 256]."""
    np.take(grid("IQ1_S"), numbers, axis=0, out=out.reshape(*numbers.shape, 8), mode="wrap")
    groups = out.reshape(len(out), negative.shape[1], -1)
    groups += np.where(negative, -_SHIFT, _SHIFT)[:, :, None]
    groups = out.reshape(len(out), scales.shape[1], -1)
    groups *= scales[:, :, None]


def _joined(low: NDArray[Any], high: NDArray[Any], width: int) -> NDArray[Any]:
    """Numbers of points from their lower 8 bits and their upper `width` bits, which lie together for several points."""
    shifts = np.arange(0, width * low.shape[1] // high.shape[1], width, dtype="u2")
    upper = high[:, :, None] >> shifts & np.uint16((1 << width) - 1)
    numbers: NDArray[Any] = low | upper.reshape(low.shape) << np.uint16(8)
    return numbers


def _halves(numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers plus a half, as F32."""
    found: NDArray[Any] = numbers.astype("<f4") + np.float32(0.5)
    return found


def _in_pairs(packed: NDArray[Any]) -> NDArray[Any]:
    """The four-bit numbers of bytes, the lower one first: [blocks, n] becomes [blocks, 2 · n]."""
    return nibbles(packed).swapaxes(1, 2).reshape(len(packed), -1)


def _seven_bits(packed: NDArray[Any]) -> NDArray[Any]:
    """The sign bytes of four groups of seven bits each."""
    found: NDArray[Any] = _EVEN[packed[:, :, None] >> np.array([0, 7, 14, 21], "u4") & np.uint32(127)]
    return found


KERNELS: Final[dict[str, Callable[[NDArray[Any], NDArray[Any]], None]]] = {
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
}
