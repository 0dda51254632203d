"""How far two tensors of the same shape are apart, from one or two passes over both. Memory does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from converter.difference.sums import Sum, cosine, product, root, total
from converter.verification.roundings import comparable, floats, rule
from converter.verification.walk import Pair, Sizes, Walk, Workspace

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

    from converter.dtypes import Dtype
    from converter.tensors.tensor import Tensor

Progress = Callable[[int], None]
_PART: Final = 1 << 18  # elements of a step that are worked on at a time, so that their numbers stay in the cache
# How far an element may be from the product, as a share of it: a few units in the last place.
_ROUNDING: Final = {"F64": 1e-6, "F32": 1e-6, "F16": 2.0**-9, "BF16": 2.0**-6}
# The same for the smallest numbers, whose last place is coarse: about two units in it.
_TINY: Final = {"F64": 1e-323, "F32": 3e-45, "F16": 1e-7, "BF16": 2e-40}
# Smaller squares lose digits in F32. If a sum is this small for each element, it is taken again in F64.
_LEAST: Final = 1e-30
# The same for F64, which can't hold much larger ones, either: then the sum is taken again with the numbers scaled.
_LEAST_LONG: Final = 1e-290
_MOST_LONG: Final = 1e290
NAN: Final = "NaN"
INF: Final = "Inf"
_WORD: Final = 0xFFFFFFFF
_LONG: Final = 8  # bytes of the longest integers
SIZES: Final = Sizes(panel=24 << 20)


class Some(NamedTuple):
    """How many elements, and the row-major place of the first."""

    number: int
    first: int

    def and_those(self, others: Some) -> Some:
        """These elements and those together."""
        return Some(self.number + others.number, min(self.first, others.first))


class Same(NamedTuple):
    """Whether two tensors are equal in every bit, and the square of their norm, if that was asked for.

    The norm is None if an element is not finite or is no number, or if the tensors are not equal. A tensor without numbers
    adds nothing to a norm.
    """

    equal: bool
    norm: Fraction | None


@dataclass(slots=True)
class Apart:
    """What was found in some elements. The sums are lists, and added exactly at the end, so the order of threads changes nothing.

    `before` and `after` are sums of squares, `both` of products, `apart` of squared differences. `index` is the row-major
    place of the largest difference, `values` are the elements there. `first` is the place of the first element that differs,
    and `pair` are its values; they are known if few elements differ, or if no difference can be measured.

    `became` counts the elements that became NaN or Inf, each with the place of the first; `was` those that no longer are
    one, and `stayed` those that are no number, or infinite, on both sides. `resigned` counts zeros with another sign, and
    `beyond` differences that are larger than F64 can hold.

    `balance` is the sum of all elements' bits before, as whole numbers, less that after. It is 0 if the elements are the
    same in another order, and hardly ever otherwise. It is None if dtypes differ, and where elements are longer than 8 bytes.
    `unrounded` counts elements that are not those before, rounded to the other dtype or encoding; None if not looked into.
    """

    elements: int = 0
    differing: int = 0
    before: list[Sum] = field(default_factory=list)
    after: list[Sum] = field(default_factory=list)
    both: list[Sum] = field(default_factory=list)
    apart: list[Sum] = field(default_factory=list)
    largest: float = 0.0
    index: int | None = None
    values: tuple[float, float] | None = None
    first: int | None = None
    pair: tuple[float, float] | None = None
    became: dict[str, Some] = field(default_factory=dict)
    was: dict[str, Some] = field(default_factory=dict)
    stayed: int = 0
    resigned: int = 0
    beyond: int = 0
    balance: int | None = None
    unrounded: int | None = None

    def join(self, other: Apart) -> None:
        """Add what was found in other elements."""
        self.elements += other.elements
        self.differing += other.differing
        for kept, sums in zip(self.sums(), other.sums(), strict=True):
            kept.extend(sums)
        if other.index is not None and (self.index is None or other._key() > self._key()):
            self.largest, self.index, self.values = other.largest, other.index, other.values
        for ours, theirs in ((self.became, other.became), (self.was, other.was)):
            for what, some in theirs.items():
                ours[what] = ours[what].and_those(some) if what in ours else some
        self.stayed, self.resigned = self.stayed + other.stayed, self.resigned + other.resigned
        self.beyond += other.beyond
        if other.unrounded is not None:
            self.unrounded = (self.unrounded or 0) + other.unrounded
        if other.balance is not None:
            self.balance = (self.balance or 0) + other.balance
        if other.first is not None:
            self.meet(other.first, other.pair)

    def meet(self, first: int, pair: tuple[float, float] | None) -> None:
        """Keep the first of the elements that differ."""
        if self.first is None or first < self.first:
            self.first, self.pair = first, pair

    def sums(self) -> tuple[list[Sum], ...]:
        """The four lists."""
        return self.before, self.after, self.both, self.apart

    def _key(self) -> tuple[float, int]:
        return self.largest, -(self.index or 0)

    @property
    def squares(self) -> tuple[Fraction, Fraction, Fraction, Fraction] | None:
        """The four sums; None if an element is not finite or is no number."""
        before, after, both, apart = map(total, self.sums())
        if not self.before or before is None or after is None or both is None or apart is None:
            return None
        return before, after, both, apart

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the two tensors, taken as vectors."""
        return None if (found := self.squares) is None else cosine(*found[:3])

    @property
    def relative(self) -> float | None:
        """The norm of the difference as a share of the norm before."""
        if (found := self.squares) is None or (not found[0] and found[3]):
            return None
        return root(found[3] / found[0]) if found[0] else 0.0

    @property
    def factor(self) -> float | None:
        """The number by which all elements may have been multiplied; None if they were not."""
        if (found := self.squares) is None or not found[0] or not found[3] or self.differing * 2 < self.elements:
            return None
        factor = found[2] / found[0]
        try:
            return float(factor) if 10_000 * (found[1] - factor * found[2]) <= found[1] else None
        except OverflowError:
            return None


def same_bits(before: Tensor, after: Tensor, workspace: Workspace, progress: Progress, *, norm: bool) -> Same:
    """Whether all bits are equal in two tensors of the same dtype, and with `norm` the squared norm, from the same pass.

    It stops at the first step that differs.
    """
    walk = Walk(before, after, workspace, in_blocks=False)
    norm = norm and numeric(before.dtype)

    def share(pairs: Generator[Pair]) -> list[Sum] | None:
        sums: list[Sum] = []
        for pair in pairs:
            progress(pair.expected.nbytes)
            if not np.array_equal(pair.expected, pair.found):
                walk.stop()
                return None
            if norm:
                sums.extend(_squares(pair.expected, before.dtype))
        return sums

    shares = walk.shared(share)
    found = [one for one in shares if one is not None]
    if len(found) < len(shares):
        return Same(equal=False, norm=None)
    return Same(equal=True, norm=total([one for share in found for one in share]))


def _squares(bits: NDArray[Any], dtype: Dtype) -> Iterator[Sum]:
    """The sums of the squares of a part of the elements at a time."""
    flat = bits.reshape(-1)
    for start in range(0, flat.size, _PART):
        found = as_numbers(flat[start : start + _PART], dtype)
        with np.errstate(all="ignore"):
            one = float(np.dot(found, found))
            if not _LEAST * found.size <= one < math.inf:
                found = found.astype(np.float64, copy=False)
                one = float(np.dot(found, found))
                if not _LEAST_LONG * found.size <= one <= _MOST_LONG and np.isfinite(found).all():
                    yield product(found, found)
                    continue
        yield one


def multiplied(before: Tensor, after: Tensor, factor: float, workspace: Workspace) -> bool:
    """Whether every element was multiplied by a number and rounded, and not just nearly."""
    allowed = _ROUNDING.get(after.dtype.name)
    if allowed is None or abs(factor - 1) < 8 * allowed:
        return False
    walk = Walk(before, after, workspace, in_blocks=False)

    def share(pairs: Generator[Pair]) -> bool:
        for pair in pairs:
            x, y = as_numbers(pair.expected, before.dtype), as_numbers(pair.found, after.dtype)
            with np.errstate(all="ignore"):
                if not (np.abs(y - x * factor) <= allowed * np.abs(y) + _TINY[after.dtype.name]).all():
                    walk.stop()
                    return False
        return True

    return all(walk.shared(share))


def apart(before: Tensor, after: Tensor, workspace: Workspace) -> Apart:
    """How far two tensors of the same shape are apart."""
    if before.storage.encoding is not None and after.storage.encoding is None:
        found = apart(after, before, workspace)  # blocks are read whole in the order of the second tensor
        found.before, found.after = found.after, found.before
        found.became, found.was = found.was, found.became
        found.unrounded = None
        found.values, found.pair = found.values and found.values[::-1], found.pair and found.pair[::-1]
        return found
    allowed = rule(before, after, bounded=False)
    rounds = not allowed.exact and comparable(before.dtype, after.dtype)
    walk = Walk(before, after, workspace, in_blocks=allowed.in_blocks)

    def share(pairs: Generator[Pair]) -> Apart:
        counted = Apart(unrounded=0 if rounds else None)
        with np.errstate(all="ignore"):
            for pair in pairs:
                _count(counted, pair, before.dtype, after.dtype)
                if rounds:
                    counted.unrounded = (counted.unrounded or 0) + int(
                        np.count_nonzero(allowed.unequal(pair.expected, pair.found))
                    )
        return counted

    whole, *others = walk.shared(share)
    for other in others:
        whole.join(other)
    return whole


def _count(counted: Apart, pair: Pair, before: Dtype, after: Dtype) -> None:
    counted.elements += pair.expected.size
    mask = None
    if before == after:
        mask = pair.expected != pair.found
        if pair.expected.dtype.names is not None:  # elements of 16 bytes
            mask = np.asarray([one != other for one, other in zip(pair.expected.flat, pair.found.flat, strict=True)])
        mask = mask.reshape(-1)
        differing = int(np.count_nonzero(mask))
        counted.differing += differing
        if pair.expected.dtype.kind == "u":
            counted.balance = (counted.balance or 0) + (_total(pair.expected) - _total(pair.found) if differing else 0)
    if not (numeric(before) and numeric(after)):
        if before != after:
            counted.differing += pair.expected.size
        return
    for start in range(0, pair.expected.size, _PART):
        part = _Part(pair, start, before, after)
        part.count(counted, None if mask is None else mask[start : start + _PART])


class _Part:
    """The numbers of some elements of a pair: `x` before, `y` after, and the `error`, which is y - x."""

    def __init__(self, pair: Pair, start: int, before: Dtype, after: Dtype) -> None:
        self._pair, self._start = pair, start
        ours, theirs = (one.reshape(-1)[start : start + _PART] for one in (pair.expected, pair.found))
        self.x, self.y = as_numbers(ours, before), as_numbers(theirs, after)
        self._shown = (
            self.x if before.floating else ours.view(before.numpy),
            self.y if after.floating else theirs.view(after.numpy),
        )
        if before == after and not before.floating and before.itemsize == _LONG:
            self.error = _long_error(*self._shown)  # F64 has not all of their digits
        else:
            self.error = self.y - self.x

    def _unlike(self, *, finite: bool) -> NDArray[Any]:
        """Which elements are other numbers; two NaN are alike."""
        unlike: NDArray[Any] = self.x != self.y
        return unlike if finite else unlike & ~(np.isnan(self.x) & np.isnan(self.y))

    def count(self, counted: Apart, unlike: NDArray[Any] | None) -> None:
        """Add what is found in these elements. Those in the mask differ.

        Without a mask, those differ that are other numbers, and they are counted, too.
        """
        sums: tuple[Sum, ...] = (plain := self._sums())
        if unlike is None:
            unlike = self._unlike(finite=math.isfinite(plain[0]))  # a sum of squares with a NaN is one
            counted.differing += int(np.count_nonzero(unlike))
        if not self._sound(plain, _LEAST, math.inf):
            self.x, self.y = self.x.astype(np.float64), self.y.astype(np.float64)
            if self.error.dtype != np.float64:
                self.error = self.y - self.x
            sums = plain = self._sums()
            if not self._sound(plain, _LEAST_LONG, _MOST_LONG):
                sums = self._scaled(plain)
            self._count_lost(counted)
        for kept, one in zip(counted.sums(), sums, strict=True):
            kept.append(one)
        size = np.abs(self.error)
        at = int(size.argmax())
        if not math.isfinite(size[at]):
            size[~np.isfinite(size)] = 0
            at = int(size.argmax())
        largest = float(size[at])
        if largest > counted.largest:
            counted.largest, counted.index, counted.values = largest, self._place(at), self._values(at)
        differing = int(np.count_nonzero(unlike))
        if differing == 1 or (differing and not largest):
            counted.resigned += int(np.count_nonzero(unlike & (self.x == 0) & (self.y == 0)))
            at = int(unlike.argmax())
            counted.meet(self._place(at), self._values(at))

    def _sums(self) -> tuple[float, float, float, float]:
        x, y, error = self.x, self.y, self.error
        return float(np.dot(x, x)), float(np.dot(y, y)), float(np.dot(x, y)), float(np.dot(error, error))

    def _sound(self, sums: tuple[float, float, float, float], least: float, most: float) -> bool:
        """Whether no sum of squares lost digits, because its numbers are too small or too large for their dtype."""
        before, after, both, apart = sums
        if not all(map(math.isfinite, sums)) or max(before, after, abs(both), apart) > most:
            return False
        least *= self.x.size
        found = ((before, self.x), (after, self.y), (apart, self.error))
        return all(one >= least or not numbers.any() for one, numbers in found)

    def _scaled(self, sums: tuple[float, float, float, float]) -> tuple[Sum, ...]:
        """The sums of numbers that were scaled first. Those of elements that are not finite stay as they are."""
        x, y, error, doubled = self.x, self.y, self.error, 0
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return sums
        if not np.isfinite(error).all():
            error, doubled = y / 2 - x / 2, 2
        return product(x, x), product(y, y), product(x, y), product(error, error, doubled)

    def _count_lost(self, counted: Apart) -> None:
        """Count elements about which no figure says anything."""
        for what, test in ((NAN, np.isnan), (INF, np.isinf)):
            ours, theirs = test(self.x), test(self.y)
            counted.stayed += int(np.count_nonzero(ours & theirs))
            for kept, found in ((counted.became, theirs & ~ours), (counted.was, ours & ~theirs)):
                if count := int(np.count_nonzero(found)):
                    some = Some(count, self._place(int(found.argmax())))
                    kept[what] = kept[what].and_those(some) if what in kept else some
        counted.beyond += int(np.count_nonzero(np.isinf(self.error) & np.isfinite(self.x) & np.isfinite(self.y)))

    def _place(self, at: int) -> int:
        """The row-major place in the tensor of the element `at`."""
        mark = np.zeros(self._pair.expected.size, bool)
        mark[self._start + at] = True
        return int(self._pair.where(mark.reshape(self._pair.expected.shape))[0])

    def _values(self, at: int) -> tuple[float, float]:
        before, after = (numbers[at].item() for numbers in self._shown)
        return before, after


def _total(bits: NDArray[Any]) -> int:
    """The sum of elements as whole numbers: the lower 32 bits of it. More of them would take twice the time."""
    return int(bits.sum(dtype=np.uint32 if bits.itemsize < _LONG else np.uint64))


def _long_error(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """The difference of integers of 64 bits in F64, which is not 0 unless they are equal."""
    high = (after >> 32).astype(np.int64) - (before >> 32).astype(np.int64)
    low = (after & _WORD).astype(np.int64) - (before & _WORD).astype(np.int64)
    found: NDArray[Any] = high * 2.0**32 + low
    return found


def numeric(dtype: Dtype) -> bool:
    """Whether elements are single real numbers."""
    return dtype.packed == 1 and (dtype.floating or (dtype.safetensors is not None and not dtype.component))


def as_numbers(bits: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    """The values of raw bits as floating-point numbers that subtract well: F64 for integers and F64, else F32."""
    found = floats(bits, dtype)
    return found if found.dtype.kind == "f" else found.astype(np.float64)
