"""Prints what `diff` found in a checkpoint and two that were made from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.cli.render import BAD, BOLD, GOOD, Column, Screen
from converter.cli.render.difference import ROOM, left_out, percent
from converter.text import plural, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.three_way import ThreeWayBeside, ThreeWayChange, ThreeWayReport

SAID: Final = {
    "conflict": "conflict", "apart": "both apart", "agree": "both alike", "after": "AFTER", "other": "OTHER",
}  # fmt: skip
_SHOWN: Final = 40  # changes that are shown without --all
_ASIDE: Final = 20  # differences beside the tensors that are shown without --all
_VALUE: Final = 40  # characters of a value


def show(report: ThreeWayReport, *, unfold: bool = False, out: Screen | None = None) -> None:
    """Print what each of the two changed, conflicts first."""
    out = out or Screen()
    out.line((f"{'same' if report.same else 'different'}", GOOD if report.same else BAD))
    places = (("before", report.before), ("after", report.after), ("other", report.other))
    for (label, location), format in zip(places, report.formats, strict=True):
        out.field(label, ROOM, f"{safe_text(location)} · {formats.named(format).title}")
    out.field("tensors", ROOM, "; ".join(counts(report)))
    left_out(report, out)
    if report.changes:
        out.blank()
        most = len(report.changes) if unfold else _SHOWN
        out.table(
            (
                Column("name"), Column("changed by"), Column("change", right=True, rank=1),
                Column("cosine", right=True, rank=2), Column("detail", wrap=True),
            ),
            [
                (
                    safe_name(change.name), SAID[change.by], _sizes(change),
                    "" if change.cosine is None else f"{change.cosine:.3f}", safe_text(change.detail, 400),
                )
                for change in report.changes[:most]
            ],
        )  # fmt: skip
        if len(report.changes) > most:
            out.line(f"and {plural(len(report.changes) - most, 'more change')}: give --all", indent=2)
    for part, found in groupby(report.beside, key=lambda one: one.part):
        _beside(part, list(found), out, unfold)


def counts(report: ThreeWayReport) -> Iterator[str]:
    """How many tensors all three have, how many of these are equal, and who changed the others."""
    kinds = Counter(change.by for change in report.changes)
    yield f"{report.compared:,} in all three, {report.identical:,} identical in every bit"
    words = (
        ("after", "changed by AFTER alone"), ("other", "by OTHER alone"), ("agree", "by both alike"),
        ("apart", "by both in different places"), ("conflict", "in conflict"),
    )  # fmt: skip
    said = [f"{kinds[by]:,} {word}" for by, word in words if kinds[by]]
    if said:
        yield ", ".join(said)


def _sizes(change: ThreeWayChange) -> str:
    """How much each of the two changed it."""
    found = [percent(one.relative) for one in (change.after, change.other) if one is not None]
    return ", ".join(size for size in found if size)


def _beside(part: str, found: Sequence[ThreeWayBeside], out: Screen, unfold: bool) -> None:
    out.blank()
    out.line((f"{part.capitalize()}:", BOLD))
    most = len(found) if unfold else _ASIDE
    heads = (
        Column("key"), Column("changed by"), Column("before"), Column("after"), Column("other"), Column("detail", wrap=True)
    )  # fmt: skip
    rows = [
        (
            safe_text(one.name),
            SAID[one.by],
            *map(_value, (one.before, one.after, one.other)),
            safe_text(one.detail, 400),
        )
        for one in found[:most]
    ]
    out.table(heads, rows)
    if len(found) > most:
        out.line(f"and {len(found) - most:,} more: give --all", indent=2)


def _value(text: str | None) -> str:
    return "" if text is None else safe_text(text, _VALUE)
