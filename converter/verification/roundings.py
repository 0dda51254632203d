"""What a change of dtype may do to an element, and no more.

The writers do not share this code. The roundings here are numpy's or written again, and the bounds of GGUF's blocks
follow from the blocks' definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import BF16, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

BLOCK: Final = 256  # elements: whole blocks of every encoding of GGUF
_SMALL_BLOCK: Final = 32  # elements of a block of the encodings that are written here

# 8-bit formats: bits of the mantissa, bias, whether the largest exponent means infinity or NaN, codes that are NaN.
_SMALL: Final = {
    F8_E4M3.name: (3, 7, False, (0x7F, 0xFF)),
    F8_E5M2.name: (2, 15, True, ()),
    F8_E4M3FNUZ.name: (3, 8, False, (0x80,)),
    F8_E5M2FNUZ.name: (2, 16, False, (0x80,)),
}
# Symmetric encodings have this many levels on either side of zero; affine ones have this many steps above the minimum.
_SYMMETRIC: Final = {"Q8_0": 127, "Q5_0": 16, "Q4_0": 8}
_AFFINE: Final = {"Q5_1": 31, "Q4_1": 15}


@dataclass(frozen=True, slots=True)
class _Loss:
    """What an encoding may do to a block of `block` elements, whichever quantiser made it.

    `share` is the squared error as a share of the block's squares. `reach` is how many times the block's scale the
    largest element is: an error of the scale's last digit, half a step of 2^-24, grows by this factor.
    """

    block: int
    share: float
    reach: int


# Quantisers of these encodings search for scales, and may weigh elements by their importance. So there is no bound for an
# element, only for a block. The shares are one and a half to three times the largest that ggml's quantisers lost, with and
# without weights, of blocks of normal, Laplace, Student, uniform, log-normal and constant numbers, some with outliers.
# NVFP4's scales are E4M3, whose smallest steps are 2^14 times as large.
_LOSSES: Final = {
    "Q8_1": _Loss(32, 0.002, 127),
    "Q8_K": _Loss(256, 0.002, 0),
    "Q6_K": _Loss(256, 0.04, 32 * 128),
    "Q5_K": _Loss(256, 0.015, 31 * 63),
    "Q4_K": _Loss(256, 0.04, 15 * 63),
    "Q3_K": _Loss(256, 0.16, 4 * 32),
    "Q2_K": _Loss(256, 0.7, 3 * 15),
    "IQ4_NL": _Loss(32, 0.12, 127),
    "IQ4_XS": _Loss(256, 0.05, 127 * 32),
    "MXFP4": _Loss(32, 0.12, 0),
    "NVFP4": _Loss(64, 0.07, 12 << 14),
    "IQ3_S": _Loss(256, 0.8, 15 * 31),
    "IQ3_XXS": _Loss(256, 0.7, 62 * 8),
    "IQ2_S": _Loss(256, 1, 43 * 4),
    "IQ2_XS": _Loss(256, 1, 43 * 4),
    "IQ2_XXS": _Loss(256, 1.5, 43 * 4),
    "IQ1_M": _Loss(256, 1.3, 17),
    "IQ1_S": _Loss(256, 1.3, 17),
    "TQ1_0": _Loss(256, 1.3, 1),
    "TQ2_0": _Loss(256, 1.3, 1),
    "Q2_0": _Loss(64, 1.3, 2),
    "Q1_0": _Loss(128, 1.3, 1),
}
# The bounds of the simple encodings for a quantiser that weighs elements by their importance, as llama-quantize does with
# --imatrix: it moves many elements by more than half a step. `_TOGETHER` is the same for many blocks taken together, because
# one block may lose much while most lose little. The shares are twice what ggml's quantisers lost with weights from 1e-3 to 1e3.
_WEIGHED: Final = {
    "Q4_0": _Loss(32, 0.6, 8),
    "Q4_1": _Loss(32, 1.3, 15),
    "Q5_0": _Loss(32, 0.6, 16),
    "Q5_1": _Loss(32, 0.9, 31),
}
_TOGETHER: Final = {"Q4_0": 0.08, "Q4_1": 0.08, "Q5_0": 0.04, "Q5_1": 0.04}
_CACHED: Final = 1 << 15  # elements that are worked on at a time in F64, so that they stay in the cache
_LEAST, _MOST = 1e-25, 1e35  # sums of squares of a block between these lose nothing in F32
_ENOUGH: Final = 16  # blocks: over this many, losses even out
_FEW: Final = 400  # weighing moved at least 1 element in 130, so fewer than 1 in this many is damage


@dataclass(frozen=True, slots=True)
class Rule:
    """How elements of two dtypes are compared. `unequal` makes a mask of those that differ by more than is allowed.

    `exact` means that every bit must be equal. `in_blocks` means that the output holds blocks of GGUF. Its elements are
    then decoded to F32, and both tensors must be read in the output's order, in whole blocks.
    """

    unequal: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    exact: bool
    in_blocks: bool = False


def rule(expected: Tensor, found: Tensor, *, bounded: bool) -> Rule:
    """The rule for two tensors. `bounded` allows blocks their bounds even if the source has the same encoding."""
    source, target, encoding = expected.dtype, found.dtype, found.storage.encoding
    if encoding is not None and (bounded or expected.storage.encoding != encoding):
        allowed = _LOSSES.get(encoding)

        def wrong(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
            values, others = floats(x, source), y.view("<f4")
            return _out_of_bounds(values, others, encoding) if allowed is None else _lossy(values, others, allowed)

        return Rule(wrong, exact=False, in_blocks=True)
    if source == target:
        return Rule(_unequal, exact=True)

    def unequal(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        mask: NDArray[Any] = rounded(floats(x, source), target) != y
        if mask.any():
            mask &= ~(np.isnan(floats(x, source)) & np.isnan(floats(y, target)))
        return mask

    return Rule(unequal, exact=False)


def weighed(expected: Tensor, found: Tensor, differing: int) -> Rule | None:
    """The rule for blocks that were made with weights of importance; None if this tensor's were not.

    `differing` is how many of its elements are out of the bounds that hold without weights.
    """
    encoding = found.storage.encoding
    if encoding not in _WEIGHED or differing * _FEW < found.size:
        return None

    def unequal(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        values, others = floats(x, expected.dtype), y.view("<f4")
        wrong: NDArray[Any] = _lossy(values, others, _WEIGHED[encoding])
        wrong |= _too_much(values, others, _TOGETHER[encoding])
        return wrong

    return Rule(unequal, exact=False, in_blocks=True)


def comparable(expected: Dtype, found: Dtype) -> bool:
    """Whether one dtype can be converted to the other: both are the same, or both are floating-point and wide enough."""
    return expected == found or (expected.floating and expected.packed == 1 and found in (F64, F32, F16, BF16))


def floats(bits: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """The values of raw bits: F64 as F64, other floating-point numbers as F32, the rest as they are."""
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
    # Shift the code so that its exponent and mantissa line up with F32's. Then only the bias differs, which the factor
    # corrects.
    size = ((bits & 0x7F).astype("<u4") << np.uint32(23 - mantissa)).view("<f4") * np.float32(2.0 ** (127 - bias))
    if ieee:
        size[(bits & 0x7C) == 0x7C] = np.inf
        size[(bits & 0x7F) > 0x7C] = np.nan
    result = np.where(bits & 0x80, -size, size)
    result[np.isin(bits, nan)] = np.nan
    return result.astype("<f4")


def rounded(values: NDArray[Any], target: Dtype) -> NDArray[Any]:
    """The raw bits of F32 or F64 values as `target`: the nearest value, ties to even. F64 becomes F32 first."""
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
    """How far an encoding may move each of the [blocks, 32] F32 values.

    Levels lie one step apart, so a value may move by half a step. A little more is allowed for float arithmetic, and
    because the scale (and minimum) is rounded to half precision, which moves the levels. Q5_0 and Q4_0 have one level
    less on one side of zero: the side without the block's value furthest from zero. There a value may move by a whole
    step.
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
    """The error of rounding to half precision: half a unit in the last of 11 bits, or half a subnormal step."""
    error: NDArray[Any] = np.maximum(values * 2.0**-11, 2.0**-25)
    return error


def _unequal(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    mask: NDArray[Any] = x != y
    return mask


def _out_of_bounds(values: NDArray[Any], found: NDArray[Any], encoding: str) -> NDArray[Any]:
    blocks = values.astype("<f4", copy=False).reshape(-1, _SMALL_BLOCK)
    with np.errstate(all="ignore"):
        near = np.abs(blocks - found.reshape(-1, _SMALL_BLOCK)) <= bounds(blocks, encoding)
    result: NDArray[Any] = ~near.reshape(values.shape)
    return result


def _too_much(values: NDArray[Any], found: NDArray[Any], share: float) -> NDArray[Any]:
    """All elements, if together they lost more than this share of their squares and are enough to tell; else none."""
    with np.errstate(all="ignore"):
        lost = np.square(values.astype("<f8") - found).sum()
        near = lost <= share * np.square(values.astype("<f8")).sum()
    return np.full(values.shape, values.size >= _ENOUGH * _SMALL_BLOCK and not near)


def _lossy(values: NDArray[Any], found: NDArray[Any], allowed: _Loss) -> NDArray[Any]:
    """All elements of the blocks that lost too much, or that became zeros although the scale could have held them."""
    blocks, others = (array.reshape(-1, allowed.block) for array in (values, found))
    near = np.empty(len(blocks), bool)
    least = allowed.block * (allowed.reach * 2.0**-25) ** 2
    step = max(1, _CACHED // allowed.block)
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), step):
            one, other = (array[start : start + step] for array in (blocks, others))
            energy, lost = _squares(one, other)
            if not ((energy > _LEAST) & (energy < _MOST) & (lost < _MOST)).all():  # squares that F32 has no place for
                energy, lost = _squares(one.astype("<f8"), other.astype("<f8"))
            part = lost <= allowed.share * energy + least
            # Zeros lose as much as there was, which only a small block may do, or one of an encoding that may lose it all.
            unsure = part & (energy > least) & (lost >= energy * (1 - 1e-5))
            if unsure.any():
                part[unsure] = other[unsure].any(axis=1)
            near[start : start + step] = part
    return np.repeat(~near, allowed.block).reshape(values.shape)


def _squares(blocks: NDArray[Any], others: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each block the sum of its squares, and that of the squares of what was lost."""
    apart = blocks - others
    return np.einsum("ij,ij->i", blocks, blocks), np.einsum("ij,ij->i", apart, apart)


def lossy_share(encoding: str | None) -> float:
    """The share of a tensor's squares that its encoding may lose; 0 for encodings with a bound for each element."""
    return _LOSSES[encoding].share if encoding in _LOSSES else 0
