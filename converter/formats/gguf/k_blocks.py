"""The quantisation to ggml's K-quants: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, with and without weights of importance.

A block is 256 neighbouring elements of a row: 8 or 16 groups, each with a small integer as its scale, and some with another as
its minimum; the block's scale and minimum, in half precision, are the scales of these. Sources: ggml-common.h `block_q4_K` …;
ggml-quants.c `quantize_row_q4_K_ref`, `quantize_row_q4_K_impl` …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.formats.gguf.k_search import (
    Affine,
    Steps,
    affine,
    nearest,
    one_by_one,
    scales_of_scales,
    symmetric,
    total,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK: Final = 256  # elements of a block, in all five
_F32: Final = np.float32

_Q2: Final = Steps(3, -0.5, 0.1, 15, absolute=True)
_Q4: Final = Steps(15, -1.0, 0.1, 20)
_Q5: Final = Steps(31, -0.5, 0.1, 15)
_WEIGHED: Final = {top: Steps(top, -0.9, 0.05, 36, weighed=True) for top in (3, 15, 31)}

# ---- values [blocks, 256], importance of each → encoded [blocks, bytes]; work [4, 256 · blocks] ---------------------


def _q2_k(values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any]) -> bool:
    x, areas = _columns(values, 16), _areas(work, values, 16)
    if importance is None:
        found = affine(x, np.abs(x), _Q2, areas)
        scale, minimum = _by_block(found.scale, 16), _by_block(-found.least, 16)
        d, scales = _largest(scale, 15)
        least, minima = _largest(minimum, 15)
    else:
        weights = _weights(values, importance, x, 16, twice=False)
        found = affine(x, weights, _WEIGHED[3], areas)
        sums = _by_block(total(weights), 16)
        d, scales = scales_of_scales(_by_block(found.scale, 16), sums, 15)
        least, minima = scales_of_scales(_by_block(-found.least, 16), sums, 15)
        d[~np.isfinite(sums).all(axis=0)] = np.inf  # the numbers are too large to be weighed
    packed = (scales | minima << np.uint8(4)).T
    fine = _put(out, 80, d) and _put(out, 82, least)
    levels = _affine_levels(values, x, found, out[:, 80:84], packed & np.uint8(15), packed >> np.uint8(4))
    out[:, :16] = packed
    out[:, 16:80] = _crumbs(levels)
    return fine and _finite(found.scale, found.least)


def _q3_k(values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any]) -> bool:
    x = _columns(values, 16)
    if importance is None:
        scale, kept = one_by_one(x, 4)
        scales = _by_block(scale, 16)
        furthest = _furthest(scales)
        inverse = np.where(furthest != 0, _F32(-32) / furthest, _F32(0))
        d = np.where(furthest != 0, _F32(1) / inverse, _F32(0))
        # C stores the level in eight bits before it bounds it.
        small = np.clip(nearest(inverse * scales).astype("i1"), -32, 31)
        codes = np.where(furthest != 0, small + np.int8(32), 0).astype("u1").T
    else:
        weights = _weights(values, importance, x, 16, twice=True)
        groups = symmetric(x, weights, 4, _areas(work, values, 16))
        kept, scale = groups.levels(x), groups.scale
        scales = _by_block(scale, 16)
        blocks = symmetric(scales, _by_block(total(weights), 16), 32, np.empty((4, *scales.shape), "<f4"))
        d, codes = blocks.scale, blocks.levels(scales).astype("u1").T
    fine = _put(out, 108, d)
    steps = _half(out, 108) * (codes.astype("<f4") - _F32(32))
    levels = _symmetric_levels(values, steps, kept, 4)
    out[:, :32] = np.packbits(levels.reshape(-1, 8, 32) >> np.uint8(2), axis=1, bitorder="little")[:, 0]
    out[:, 32:96] = _crumbs(levels & np.uint8(3))
    low, high = codes & np.uint8(15), (codes >> np.uint8(4)).reshape(-1, 4, 4)
    out[:, 96:104] = low[:, :8] | low[:, 8:] << np.uint8(4)
    out[:, 104:108] = high[:, 0] | high[:, 1] << np.uint8(2) | high[:, 2] << np.uint8(4) | high[:, 3] << np.uint8(6)
    return fine and _finite(scale)


def _q4_k(values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any]) -> bool:
    fine, levels = _with_minima(values, importance, out, work, _Q4)
    out[:, 16:] = _pairs(levels)
    return fine


def _q5_k(values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any]) -> bool:
    fine, levels = _with_minima(values, importance, out, work, _Q5)
    out[:, 16:48] = np.packbits(levels.reshape(-1, 8, 32) >> np.uint8(4), axis=1, bitorder="little")[:, 0]
    out[:, 48:] = _pairs(levels & np.uint8(15))
    return fine


def _with_minima(
    values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any], steps: Steps
) -> tuple[bool, NDArray[Any]]:
    """Write the scales and minima of Q4_K and Q5_K, of six bits each. Returns whether they can be expressed, and the levels."""
    x, areas = _columns(values, 32), _areas(work, values, 32)
    if importance is None:
        weights = np.sqrt(total(x * x) / _F32(32)) + np.abs(x)
        found = affine(x, weights, steps, areas)
        d, scales = _largest(_by_block(found.scale, 8), 63)
        least, minima = _largest(_by_block(-found.least, 8), 63)
    else:
        weights = _weights(values, importance, x, 32, twice=True)
        found = affine(x, weights, _WEIGHED[steps.top], areas)
        sums = _by_block(total(weights), 8)
        d, scales = scales_of_scales(_by_block(found.scale, 8), sums, 63)
        least, minima = scales_of_scales(_by_block(-found.least, 8), sums, 63)
        d[~np.isfinite(sums).all(axis=0)] = np.inf  # the numbers are too large to be weighed
    fine = _put(out, 0, d) and _put(out, 2, least)
    scales, minima = scales.T, minima.T
    if importance is None or steps is _Q5:
        scales, minima = np.minimum(scales, np.uint8(63)), np.minimum(minima, np.uint8(63))
    out[:, 4:8] = scales[:, :4] | scales[:, 4:] >> np.uint8(4) << np.uint8(6)
    out[:, 8:12] = minima[:, :4] | minima[:, 4:] >> np.uint8(4) << np.uint8(6)
    out[:, 12:16] = scales[:, 4:] & np.uint8(15) | minima[:, 4:] << np.uint8(4)
    # With importance, C does not bound the scales of Q4_K. One that is too large overwrites bits of another.
    scales, minima = _six_bits(out[:, 4:8], out[:, 12:16]), _six_bits(out[:, 8:12], out[:, 12:16] >> np.uint8(4))
    return fine and _finite(found.scale, found.least), _affine_levels(values, x, found, out[:, :4], scales, minima)


def _q6_k(values: NDArray[Any], importance: NDArray[Any] | None, out: NDArray[Any], work: NDArray[Any]) -> bool:
    x = _columns(values, 16)
    groups = symmetric(x, None if importance is None else _columns(importance, 16), 32, _areas(work, values, 16))
    scales = _by_block(groups.scale, 16)
    furthest = _furthest(scales)
    empty = np.abs(furthest) < _F32(1e-15)
    inverse = _F32(-128) / np.where(empty, _F32(1), furthest)
    codes = np.minimum(nearest(inverse * scales), 127).astype("i1").T
    fine = _put(out, 208, _F32(1) / inverse)
    steps = _half(out, 208) * codes.astype("<f4")
    kept = groups.levels(x) if (steps == 0).any() else np.empty(x.shape, "<i4")
    levels = _symmetric_levels(values, steps, kept, 32).reshape(-1, 2, 4, 32)
    low, high = levels & np.uint8(15), levels >> np.uint8(4)
    out[:, :128] = (low[:, :, :2] | low[:, :, 2:] << np.uint8(4)).reshape(-1, 128)
    out[:, 128:192] = _crumbs(high)
    out[:, 192:208] = codes.view("u1")
    out[empty] = 0
    return fine and _finite(groups.scale)


# ---- parts of these -------------------------------------------------------------------------------------------------


def _columns(values: NDArray[Any], size: int) -> NDArray[Any]:
    """The groups of `size` elements, side by side: [size, groups]."""
    return np.ascontiguousarray(values.reshape(-1, size).T)


def _areas(work: NDArray[Any], values: NDArray[Any], size: int) -> NDArray[Any]:
    found: NDArray[Any] = work[:, : values.size].reshape(4, size, -1)
    return found


def _by_block(groups: NDArray[Any], count: int) -> NDArray[Any]:
    """One number for each group as [groups of a block, blocks]."""
    return np.ascontiguousarray(groups.reshape(-1, count).T)


def _weights(
    values: NDArray[Any], importance: NDArray[Any], x: NDArray[Any], size: int, *, twice: bool
) -> NDArray[Any]:
    """How much elements count: importance, times the root of their square and their block's mean square, or `twice` that."""
    energy = total(np.ascontiguousarray((values * values).T))
    if twice:
        energy = energy * _F32(2)
    energy = np.repeat(energy / _F32(BLOCK), BLOCK // size)
    found: NDArray[Any] = x * x
    found += energy
    np.sqrt(found, out=found)
    found *= _columns(importance, size)
    return found


def _furthest(scales: NDArray[Any]) -> NDArray[Any]:
    """The scale furthest from zero in each block, of scales [groups, blocks]; the first one of several."""
    found: NDArray[Any] = np.take_along_axis(scales, np.abs(scales).argmax(axis=0)[None], axis=0)[0]
    return found


def _largest(scales: NDArray[Any], top: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The block's scale for the scales of its groups [groups, blocks], of which the largest becomes `top`; and the levels."""
    high = np.maximum(scales.max(axis=0), _F32(0))
    inverse = np.where(high > 0, _F32(top) / high, _F32(0))
    return high / _F32(top), nearest(inverse * scales).astype("u1")


def _put(out: NDArray[Any], position: int, values: NDArray[Any]) -> bool:
    halves = values.astype("<f2")
    out[:, position : position + 2] = halves.view("u1").reshape(-1, 2)
    return bool(np.isfinite(halves).all())


def _half(out: NDArray[Any], position: int) -> NDArray[Any]:
    found: NDArray[Any] = np.ascontiguousarray(out[:, position : position + 2]).view("<f2").astype("<f4")
    return found


def _finite(*arrays: NDArray[Any]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _affine_levels(
    values: NDArray[Any],
    x: NDArray[Any],
    found: Affine,
    halves: NDArray[Any],
    scales: NDArray[Any],
    minima: NDArray[Any],
) -> NDArray[Any]:
    """The levels that follow from the stored scales: uint8 [blocks, 256]. A group whose scale is 0 keeps those of the search."""
    steps, least = _half(halves, 0) * scales, _half(halves, 2) * minima
    groups = values.reshape(len(values), scales.shape[1], -1) + least[:, :, None]
    groups /= steps[:, :, None]
    levels: NDArray[Any] = np.clip(nearest(groups), 0, found.steps.top).astype("u1")
    still = np.flatnonzero(steps.ravel() == 0)
    if len(still):
        levels.reshape(-1, levels.shape[2])[still] = found.levels(x[:, still], still).T
    return levels.reshape(len(values), BLOCK)


def _six_bits(first: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
    """Eight numbers of six bits. Four bytes hold the first four and the upper bits of the last four, whose lower bits follow."""
    last = last & np.uint8(15) | first >> np.uint8(6) << np.uint8(4)
    return np.concatenate([first & np.uint8(63), last], axis=1)


def _symmetric_levels(values: NDArray[Any], steps: NDArray[Any], kept: NDArray[Any], half: int) -> NDArray[Any]:
    """The same for scales without minima. `kept` are the levels of the search, [elements, groups]."""
    groups = values.reshape(len(values), steps.shape[1], -1) / steps[:, :, None]
    levels: NDArray[Any] = np.clip(nearest(groups), -half, half - 1)
    levels += half
    still = np.flatnonzero(steps.ravel() == 0)
    if len(still):
        levels.reshape(-1, levels.shape[2])[still] = kept[:, still].T
    levels = levels.astype("u1")
    return levels.reshape(len(values), BLOCK)


def _pairs(levels: NDArray[Any]) -> NDArray[Any]:
    """Levels of four bits, a group below the next: [blocks, 128]."""
    fours = levels.reshape(-1, 4, 2, 32)
    packed: NDArray[Any] = fours[:, :, 0] | fours[:, :, 1] << np.uint8(4)
    return packed.reshape(-1, 128)


def _crumbs(levels: NDArray[Any]) -> NDArray[Any]:
    """Levels of two bits, four runs of 32 elements above each other: [blocks, 64]."""
    runs = levels.reshape(-1, 2, 4, 32)
    packed: NDArray[Any] = (
        runs[:, :, 0] | runs[:, :, 1] << np.uint8(2) | runs[:, :, 2] << np.uint8(4) | runs[:, :, 3] << np.uint8(6)
    )
    return packed.reshape(-1, 64)


K_KERNELS: Final[dict[str, Callable[..., bool]]] = {
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
