"""The statistics of tensors as columns of the table of tensors, in which layers share a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from converter.cli.render import Column

if TYPE_CHECKING:
    from converter.inspection.said import Line
    from converter.reports.details import HistogramReport, StatisticsReport

_BARS: Final = " ▁▂▃▄▅▆▇█"
_PLAIN: Final = " .:-=+*#@"  # characters for a terminal that has no blocks
_COLUMNS: Final = 16  # columns of a picture of a distribution


def columns(lines: Sequence[Line], encoding: str) -> tuple[list[Column], list[list[str]]]:
    """Columns of the table of tensors, and their cells for each of its lines. A narrow terminal keeps the first ones."""
    heads = [
        Column("min", right=True),
        Column("max", right=True),
        Column("mean", right=True, rank=7),
        Column("std", right=True, rank=3),
        Column("zeros", right=True, rank=7),
        Column("NaN", right=True, rank=1),
        Column("Inf", right=True, rank=1),
        Column("sha256", rank=10),
        Column("distribution", rank=2),
    ]
    return heads, [_cells([one.stats for one in line.members if one.stats is not None], encoding) for line in lines]


def _cells(found: Sequence[StatisticsReport], encoding: str) -> list[str]:
    return [
        number(min((one.min for one in found if one.min is not None), default=None)),
        number(max((one.max for one in found if one.max is not None), default=None)),
        band(one.mean for one in found),
        band(one.std for one in found),
        _count(one.zeros for one in found),
        _count(one.nan for one in found),
        _count(one.inf for one in found),
        (found[0].sha256 or "")[:12] if len(found) == 1 else "",
        picture(found, encoding),
    ]


def _count(counts: Iterable[int]) -> str:
    """A sum; nothing for none."""
    total = sum(counts)
    return f"{total:,}" if total else ""


def number(value: float | None) -> str:
    """A number with three digits; nothing for None."""
    return "" if value is None else f"{value:.3g}"


def band(values: Iterable[float | None]) -> str:
    """The smallest and the largest of some numbers, once if they look the same."""
    known = [value for value in values if value is not None]
    ends = [number(min(known)), number(max(known))] if known else [""]
    return " … ".join(dict.fromkeys(ends))


def picture(found: Sequence[StatisticsReport], encoding: str) -> str:
    """How the elements of one or more tensors are distributed, from the 0.1 % quantile to the 99.9 % one, in bars."""
    histograms = [one.histogram for one in found if one.histogram is not None]
    if not histograms:
        return ""
    low, high = min(one.low for one in histograms), max(one.high for one in histograms)
    columns = [0.0] * _COLUMNS
    if high <= low:
        return "all equal" if not any(one.below or one.above for one in histograms) else "nearly all equal"
    for one in histograms:
        _spread(one, low, high, columns)
    bars = _BARS
    try:
        bars.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        bars = _PLAIN
    most, steps = max(columns), len(bars) - 1
    # A column shows a bar if it has any element at all.
    return "".join(bars[min(steps, int(count / most * steps) + 1) if count else 0] for count in columns)


def _spread(one: HistogramReport, low: float, high: float, columns: list[float]) -> None:
    """Add a histogram to columns from `low` to `high`. A bar counts where its middle lies."""
    width = (one.high - one.low) / len(one.counts)
    for bar, count in enumerate(one.counts):
        middle = one.low + (bar + 0.5) * width
        columns[min(_COLUMNS - 1, int((middle - low) / (high - low) * _COLUMNS))] += count
