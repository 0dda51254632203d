"""The searches for scales of ggml's K-quants, for many groups of elements at once: the bits that its C code finds.

Groups lie side by side, one in each column, so that a sum over the first axis adds the elements of every group in the order in
which C adds them. Source: ggml-quants.c `make_qx_quants`, `make_q3_quants`, `make_qkx2_quants`, `make_qkx3_quants`,
`make_qp_quants`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_F32: Final = np.float32
_TINY: Final = _F32(1e-15)  # a group whose elements are all smaller counts as zeros (GROUP_MAX_EPS)
_MAGIC: Final = _F32(12582912)  # 1.5 · 2^23: adding it leaves the nearest integer in the lowest bits
_FARTHEST: Final = _F32(4194303)  # the largest number that `nearest` rounds correctly
_PASSES: Final = 5  # passes over the levels of a group, one by one


def nearest(values: NDArray[Any]) -> NDArray[Any]:
    """The nearest integers of F32 numbers, as int32. Beyond ± 2^22, infinity and NaN become the integers that C finds there."""
    found: NDArray[Any] = (values + _MAGIC).view("<i4")
    found &= 0x007FFFFF
    found -= 0x00400000
    return found


def total(rows: NDArray[Any]) -> NDArray[Any]:
    """The sum over the first axis, one row after another. numpy adds a single column in another order, unless it accumulates."""
    if rows[0].size == 1:
        last: NDArray[Any] = np.add.accumulate(rows, axis=0)[-1]
        return last
    found: NDArray[Any] = np.add.reduce(rows, axis=0, initial=_F32(0))
    return found


@dataclass(frozen=True, slots=True)
class Symmetric:
    """Scales of groups, and how their levels were found. Level 0 stands for `-half` times the scale."""

    scale: NDArray[Any]  # F32 [groups]
    inverse: NDArray[Any]
    empty: NDArray[Any]  # bool: all zeros
    half: int

    def levels(self, x: NDArray[Any]) -> NDArray[Any]:
        """The levels of the elements that the scales were found for: int32 [elements, groups]."""
        found: NDArray[Any] = np.clip(nearest(x * self.inverse), -self.half, self.half - 1)
        found += self.half
        found[:, self.empty] = 0
        return found


def symmetric(x: NDArray[Any], weights: NDArray[Any] | None, half: int, work: NDArray[Any]) -> Symmetric:
    """Find the scales of groups, F32 [elements, groups], by trying nineteen. Without weights, an element's is its square.

    `work` is [4, elements, groups].
    """
    levels, product, squares, cubes = work
    np.abs(x, out=product)
    first = product.argmax(axis=0)
    furthest = np.take_along_axis(x, first[None], axis=0)[0]
    empty = np.abs(furthest) < _TINY
    furthest[empty] = 1
    weights = np.multiply(x, x, out=squares) if weights is None else weights
    np.multiply(weights, x, out=cubes)

    def sums(inverse: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        np.multiply(x, inverse, out=levels)
        np.rint(levels, out=levels)
        np.clip(levels, _F32(-half), _F32(half - 1), out=levels)
        mixed = total(np.multiply(cubes, levels, out=product))
        np.multiply(weights, levels, out=product)
        return mixed, total(np.multiply(product, levels, out=product))

    inverse = _F32(-half) / furthest
    mixed, energy = sums(inverse)
    scale = np.where(energy != 0, mixed / energy, _F32(0))
    best = scale * mixed
    for step in range(-9, 10):
        if step == 0:
            continue
        tried = -(_F32(half) + _F32(0.1) * _F32(step)) / furthest
        mixed, energy = sums(tried)
        better = (energy > 0) & (mixed * mixed > best * energy)
        np.copyto(scale, mixed / energy, where=better)
        np.copyto(best, scale * mixed, where=better)
        np.copyto(inverse, tried, where=better)
    scale[empty] = 0
    return Symmetric(scale, inverse, empty, half)


def one_by_one(x: NDArray[Any], half: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scales of groups, and levels 0 … 2 · half - 1, by changing a level at a time as long as that lessens the error."""
    first = np.abs(x).argmax(axis=0)
    furthest = np.take_along_axis(x, first[None], axis=0)[0]
    empty = np.abs(furthest) < _TINY
    furthest[empty] = 1
    levels = np.clip(np.rint(x * (_F32(-half) / furthest)), _F32(-half), _F32(half - 1))
    weights = x * x
    cubes = weights * x
    mixed, energy = total(cubes * levels), total(weights * levels * levels)
    scale = np.empty_like(mixed)
    left = np.arange(len(mixed))  # the groups that changed in the pass before
    done = levels.copy()
    for _ in range(_PASSES):
        changed = np.zeros(len(left), "?")
        for row, weight, cube, level in zip(x, weights, cubes, levels, strict=True):
            less = mixed - cube * level
            rest = energy - weight * level * level
            new = np.where(less > 0, nearest(row * rest / less), level).astype("<f4")
            np.minimum(new, _F32(half - 1), out=new)
            np.maximum(new, _F32(-half), out=new)
            less += cube * new
            rest += weight * new * new
            better = (new != level) & (rest > 0) & (less * less * energy > mixed * mixed * rest)
            np.copyto(level, new, where=better)
            np.copyto(mixed, less, where=better)
            np.copyto(energy, rest, where=better)
            changed |= better
        done[:, left] = levels
        scale[left] = np.where(energy > 0, mixed / energy, _F32(0))
        if not changed.any():
            break
        left, x, weights, cubes, levels = left[changed], *(array[:, changed] for array in (x, weights, cubes, levels))
        mixed, energy = mixed[changed], energy[changed]
    scale[empty] = 0
    done += half
    done[:, empty] = 0
    return scale, done


@dataclass(frozen=True, slots=True)
class Steps:
    """A search for a scale and a minimum: levels 0 … top, and the inverses that are tried.

    An inverse is `top + first + step · i`, divided by the range, for i from 0 to `count`. `absolute`: errors are not squared.
    `weighed`: as ggml searches with an importance matrix, where levels beyond the ends become the last.
    """

    top: int
    first: float
    step: float
    count: int
    absolute: bool = False
    weighed: bool = False


@dataclass(frozen=True, slots=True)
class Affine:
    """Scales and minima (none above 0) of groups, and how their levels were found."""

    scale: NDArray[Any]  # F32 [groups]
    least: NDArray[Any]
    inverse: NDArray[Any]
    base: NDArray[Any]
    steps: Steps

    def levels(self, x: NDArray[Any], groups: Any = slice(None)) -> NDArray[Any]:
        """The levels of the elements, F32 [elements, groups], that the scales of these groups were found for: int32."""
        values = (x - self.base[groups]) * self.inverse[groups]
        if self.steps.weighed:
            values = np.minimum(np.fmax(values, _F32(0)), _F32(self.steps.top))
        found: NDArray[Any] = np.clip(nearest(values), 0, self.steps.top)
        return found


def affine(x: NDArray[Any], weights: NDArray[Any], steps: Steps, work: NDArray[Any]) -> Affine:
    """Find the scales and minima of groups, F32 [elements, groups]. `work` is [3, elements, groups] or more."""
    levels, product, other = work[:3]
    top = _F32(steps.top)
    lowest, high = x.min(axis=0), x.max(axis=0)
    zeros = np.flatnonzero(lowest == 0)
    lowest[zeros] = np.take_along_axis(x[:, zeros], x[:, zeros].argmin(axis=0)[None], axis=0)[
        0
    ]  # the first of two zeros
    base = np.where(lowest > 0, _F32(0), lowest)
    flat = high == base
    at_first = base.copy()
    all_weights, all_x = total(weights), np.add.reduce(np.multiply(weights, x, out=product), axis=0)

    def span() -> NDArray[Any]:
        found: NDArray[Any] = high - base
        found[flat] = 1
        return found

    def round_all(inverse: NDArray[Any], weighed: bool) -> None:
        np.subtract(x, base, out=levels)
        np.multiply(levels, inverse, out=levels)
        finite = bool(np.isfinite(inverse).all())
        if weighed and not finite:
            np.fmax(levels, _F32(0), out=levels)  # NaN, too, becomes 0
        if weighed or (finite and (np.abs((lowest - base) * inverse) <= _FARTHEST).all()):
            np.clip(levels, _F32(0), top, out=levels)
            np.rint(levels, out=levels)
        else:
            np.copyto(levels, np.clip(nearest(levels), 0, steps.top), casting="same_kind")

    def error(scale: NDArray[Any], least: NDArray[Any]) -> NDArray[Any]:
        np.multiply(levels, scale, out=other)
        np.add(other, least, out=other)
        np.subtract(other, x, out=other)
        np.abs(other, out=other) if steps.absolute else np.multiply(other, other, out=other)
        return total(np.multiply(other, weights, out=other))

    inverse = top / span()
    scale = _F32(1) / inverse
    round_all(inverse, weighed=False)
    best = error(scale, base)
    # If a range is so small that its inverse is infinite, all levels are 0.
    kept, origin = np.where(np.isfinite(inverse), inverse, _F32(0)), base.copy()
    for step in range(steps.count + 1):
        inverse = (_F32(steps.first) + _F32(steps.step) * _F32(step) + top) / span()
        round_all(inverse, steps.weighed)
        one = total(np.multiply(weights, levels, out=product))
        two = total(np.multiply(product, levels, out=other))
        mixed = total(np.multiply(product, x, out=other))
        divisor = all_weights * two - one * one
        found = (all_weights * mixed - all_x * one) / divisor
        least = (two * all_x - one * mixed) / divisor
        above = least > 0
        np.copyto(found, mixed / two, where=above)
        least[above] = 0
        now = error(found, least)
        better = (divisor > 0) & (now < best)
        np.copyto(best, now, where=better)
        np.copyto(scale, found, where=better)
        np.copyto(kept, inverse, where=better)
        np.copyto(origin, base, where=better)
        np.copyto(base, least, where=better)
    scale[flat] = 0
    kept[flat] = 0
    base[flat] = at_first[flat]
    return Affine(scale, base, kept, origin, steps)


def scales_of_scales(x: NDArray[Any], weights: NDArray[Any], top: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """One scale for the scales of a block's groups, F32 [groups, blocks], and their levels: uint8 [groups, blocks]."""
    high = np.maximum(x.max(axis=0), _F32(0))
    empty = high < _TINY
    high = np.where(empty, _F32(1), high)
    inverse = _F32(top) / high
    difference = x - (_F32(1) / inverse) * nearest(inverse * x).astype("u1")
    best = total(weights * difference * difference)
    for step in range(-4, 5):
        if step == 0:
            continue
        tried = (_F32(0.1) * _F32(step) + _F32(top)) / high
        difference = x - (_F32(1) / tried) * np.minimum(nearest(tried * x), top).astype("<f4")
        now = total(weights * difference * difference)
        better = now < best
        np.copyto(best, now, where=better)
        np.copyto(inverse, tried, where=better)
    whole = np.minimum(nearest(inverse * x), top)
    levels = whole.astype("u1")
    values = whole.astype("<f4")
    cubes = weights * x
    mixed, energy = total(cubes * values), total(weights * values * values)
    for _ in range(_PASSES):
        changed = False
        for row, weight, cube, level in zip(x, weights, cubes, levels, strict=True):
            now = level.astype("<f4")
            less = mixed - cube * now
            rest = energy - weight * now * now
            new = np.minimum(nearest(row * rest / less), top)
            less_new = less + cube * new.astype("<f4")
            rest_new = rest + weight * new.astype("<f4") * new.astype("<f4")
            better = (less > 0) & (rest > 0) & (new != level)
            better &= less_new * less_new * energy > mixed * mixed * rest_new
            np.copyto(level, new.astype("u1"), where=better)
            np.copyto(mixed, less_new, where=better)
            np.copyto(energy, rest_new, where=better)
            changed |= bool(better.any())
        if not changed:
            break
    scale = np.where(energy > 0, mixed / energy, _F32(0))
    scale[empty] = 0
    levels[:, empty] = 0
    return scale, levels
