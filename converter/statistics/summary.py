"""What a person or a program is told about a tensor: the statistics that follow from its counts."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import F4
from converter.reports.details import HistogramReport, StatisticsReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.dtypes import Dtype
    from converter.statistics.counting import Counts, Kind

QUANTILES: Final = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
_NAMES: Final = tuple(f"{share:g}" for share in QUANTILES)
BARS: Final = 32  # bars of a histogram
TINY: Final = 64  # elements that Python counts faster than numpy
_SOME: Final = 16  # elements: with fewer, a histogram would say less than the quantiles do
_MANY: Final = 16 << 10  # keys from which on it is faster to add them up in a table than to sort them
ERROR: Final = 2.0**-8  # how far a counted value can lie from the element's, as a share of it
_CANCELLED: Final = 2.0**-20  # share of a sum's parts that is left: F64 then still gives it to 2^-30
# The values of a 4-bit float, E2M1. Source: OCP Microscaling Formats 1.0.
_NIBBLES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values in ascending order, and how many elements have each; only finite ones.

    `error` is 0, or how far an element can lie from its value, as a share of it.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    error: float = 0.0

    @property
    def size(self) -> int:
        """Elements."""
        return int(self.counts.sum())


def summary(dtype: Dtype, kind: Kind, counts: Counts, sha256: str | None = None) -> StatisticsReport:
    """The statistics of a tensor, all of whose parts are counted."""
    values, numbers = _values(dtype, kind, counts)
    finite = np.isfinite(values)
    if kind.exact:
        nan = np.isnan(values)
        counts.nan = int(numbers[nan].sum())
        counts.inf = int(numbers[~finite & ~nan].sum())
    found = _ascending(values[finite], numbers[finite], 0.0 if kind.exact else ERROR)
    return _report(found, counts, kind.exact, sha256)


def of_few(elements: NDArray[Any], sha256: str | None = None) -> StatisticsReport:
    """The statistics of a few real numbers, all of which are at hand."""
    from converter.statistics.counting import Counts

    finite = np.isfinite(elements)
    counts = Counts(nan=int(np.count_nonzero(np.isnan(elements))))
    counts.inf = elements.size - int(np.count_nonzero(finite)) - counts.nan
    values = np.sort(elements[finite].astype(np.float64))
    return _report(Distribution(values, np.ones(values.size, np.int64)), counts, True, sha256)


def of_tiny(elements: list[float], sha256: str | None = None) -> StatisticsReport:
    """The same for a handful: calls of numpy would take longer than the work, and a file can hold many such tensors."""
    found = sorted(filter(math.isfinite, elements))
    nan = sum(map(math.isnan, elements))
    inf = len(elements) - len(found) - nan
    if not found:
        return StatisticsReport(None, None, None, None, 0, nan, inf, sha256)
    size = len(found)
    mean = _sum(found) / size
    points = {}
    for name, share in zip(_NAMES, QUANTILES, strict=True):
        place = share * (size - 1)
        below = int(place)
        lower, upper, apart = found[below], found[min(below + 1, size - 1)], place - below
        points[name] = lower if lower == upper else lower * (1 - apart) + upper * apart
    return StatisticsReport(
        found[0],
        found[-1],
        _finite(mean),
        _finite(math.sqrt(_sum([(value - mean) * (value - mean) for value in found]) / size)),
        found.count(0.0),
        nan,
        inf,
        sha256,
        _finite(math.sqrt(_sum([value * value for value in found]))),
        points,
        _bars(found, points["0.001"], points["0.999"]) if size > _SOME else None,
    )


def _bars(found: list[float], low: float, high: float) -> HistogramReport:
    below, above, width = bisect_left(found, low), len(found) - bisect_right(found, high), high - low
    if not 0 < width < math.inf:
        return HistogramReport(low, high, (len(found) - below - above,), below, above)
    counts = [0] * BARS
    for value in found[below : len(found) - above]:
        bar = int((value - low) / width * BARS)
        counts[bar if bar < BARS else BARS - 1] += 1
    return HistogramReport(low, high, tuple(counts), below, above)


def of_complex(zeros: int, nan: int, inf: int, square: float | None, sha256: str | None = None) -> StatisticsReport:
    """The statistics of elements without an order. `square` is the sum of the squares of finite complex numbers."""
    l2 = None if square is None else _finite(math.sqrt(square))
    return StatisticsReport(None, None, None, None, zeros, nan, inf, sha256, l2)


def _values(dtype: Dtype, kind: Kind, counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if not counts.keys:
        return np.empty(0), np.empty(0, np.int64)
    keys, numbers = np.concatenate(counts.keys), np.concatenate(counts.counts)
    if keys.size > _MANY:
        table = np.bincount(keys, weights=numbers)
        keys = np.flatnonzero(table)
        numbers = table[keys].astype(np.int64)
    if dtype == F4:
        bits = np.concatenate((keys & 15, keys >> 4))
        return np.array((*_NIBBLES, *(-value for value in _NIBBLES)))[bits], np.concatenate((numbers, numbers))
    return kind.values(dtype, keys), numbers


def _ascending(values: NDArray[np.float64], numbers: NDArray[np.int64], error: float) -> Distribution:
    """The values in order, and those that are equal as one. Pieces of a table are sorted: a stable sort only joins them."""
    order = np.argsort(values, kind="stable")
    found, counts = values[order], numbers[order]
    first = np.ones(found.size, np.bool_)
    np.not_equal(found[1:], found[:-1], out=first[1:])
    if not first.all():
        counts = np.add.reduceat(counts, np.flatnonzero(first))
        found = found[first]
    return Distribution(found[counts > 0], counts[counts > 0], error)


def _report(found: Distribution, counts: Counts, exact: bool, sha256: str | None) -> StatisticsReport:
    size = found.size
    if not size:
        return StatisticsReport(None, None, None, None, 0, counts.nan, counts.inf, sha256)
    values, numbers = found.values, found.counts
    with np.errstate(over="ignore", invalid="ignore"):
        if exact:
            low, high = float(values[0]), float(values[-1])
            zeros = int(numbers[values == 0].sum())
            mean = _total(values * numbers) / size
            squares = float(np.dot(np.square(values - mean), numbers))
            l2 = math.sqrt(float(np.dot(np.square(values), numbers)))
        else:
            low, high, zeros, mean, squares = counts.low, counts.high, counts.zeros, counts.mean, counts.squares
            l2 = math.sqrt(squares + mean * mean * size)
            found = Distribution(np.clip(values, low, high), numbers, found.error)
    points = quantiles(found)
    return StatisticsReport(
        low,
        high,
        _finite(mean),
        _finite(math.sqrt(squares / size)),
        zeros,
        counts.nan,
        counts.inf,
        sha256,
        _finite(l2),
        points,
        histogram(found, points["0.001"], points["0.999"]),
        found.error,
    )


def quantiles(found: Distribution) -> dict[str, float]:
    """The quantiles by their shares. Between two elements they are interpolated, as numpy and torch do."""
    ends = np.cumsum(found.counts)
    last = int(ends[-1]) - 1
    places = [share * last for share in QUANTILES]
    ranks = [min(int(place) + up, last) for up in (0, 1) for place in places]
    near = found.values[np.searchsorted(ends, ranks, side="right")].tolist()
    points = {}
    for name, place, lower, upper in zip(_NAMES, places, near, near[len(places) :], strict=False):
        apart = place - int(place)
        points[name] = lower if lower == upper else lower * (1 - apart) + upper * apart
    return points


def histogram(found: Distribution, low: float, high: float) -> HistogramReport:
    """The elements in equally wide bars from `low` to `high`, and those beyond."""
    first, end = np.searchsorted(found.values, low).item(), np.searchsorted(found.values, high, side="right").item()
    below, above = int(found.counts[:first].sum()), int(found.counts[end:].sum())
    values, numbers = found.values[first:end], found.counts[first:end]
    if not high > low or not math.isfinite(high - low):
        return HistogramReport(low, high, (int(numbers.sum()),), below, above)
    bars = np.minimum(((values - low) / (high - low) * BARS).astype(np.int64), BARS - 1)
    counts = np.bincount(bars, weights=numbers, minlength=BARS).astype(np.int64)
    return HistogramReport(low, high, tuple(counts.tolist()), below, above)


def _sum(numbers: list[float]) -> float:
    """The sum, rounded once; NaN if it is too large."""
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        return math.nan


def _total(numbers: NDArray[np.float64]) -> float:
    """The sum. Where nearly all of it cancels out, it is rounded only once, which takes longer."""
    total = float(np.add.reduce(numbers))
    if abs(total) > _CANCELLED * float(np.add.reduce(np.abs(numbers))):
        return total
    return _sum(numbers.tolist())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
