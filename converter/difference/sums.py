"""Sums of products of numbers of any size: squares of F64 beyond 1e154 have no place in F64, so they are added as fractions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sum: TypeAlias = float | Fraction


def product(one: NDArray[Any], other: NDArray[Any], doubled: int = 0) -> Fraction:
    """The sum of the products of two arrays of finite numbers of any size, times two to the power of `doubled`."""
    scaled, shift = _near_one(one)
    again, more = (scaled, shift) if other is one else _near_one(other)
    return Fraction(float(np.dot(scaled, again))) * Fraction(2) ** (shift + more + doubled)


def _near_one(numbers: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The numbers divided by a power of two, so that the largest is between 0.5 and 1, and its exponent."""
    largest = float(max(numbers.max(initial=0), -numbers.min(initial=0)))
    shift = math.frexp(largest)[1]
    half = shift // 2  # 2 to the power of the whole exponent may have no place in F64
    return np.ldexp(np.ldexp(numbers, -half), half - shift), shift


def total(sums: Iterable[Sum]) -> Fraction | None:
    """The exact sum, whatever the order; None if one is not finite."""
    found = Fraction(0)
    plain = []
    for one in sums:
        if type(one) is Fraction:
            found += one
        elif math.isfinite(one):
            plain.append(float(one))
        else:
            return None
    return found + Fraction(math.fsum(plain))


def root(ratio: Fraction) -> float | None:
    """The square root of a number that is not negative; None if F64 has no place for it."""
    half = (ratio.numerator.bit_length() - ratio.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(ratio / Fraction(4) ** half), half)
    except OverflowError:
        return None


def cosine(one: Fraction, other: Fraction, both: Fraction) -> float | None:
    """The cosine of the angle between two vectors, from the squares of their norms and their product; None if one is 0."""
    if not one or not other:
        return None
    found = math.sqrt(min(Fraction(1), both * both / (one * other)))
    return found if both > 0 else -found
