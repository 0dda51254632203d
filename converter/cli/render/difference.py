"""Prints what `diff` found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.cli.render import BAD, BOLD, GOOD, Column, Screen
from converter.text import plural, safe_name, safe_text, shortened

if TYPE_CHECKING:
    from converter.reports.difference import Beside, Change, DiffReport, NotCompared
    from converter.reports.three_way import ThreeWayReport

ROOM: Final = 8  # columns of the longest label, `left out`
_SHOWN: Final = 40  # changes that are shown without --all
_ASIDE: Final = 20  # differences beside the tensors that are shown without --all


def show(report: DiffReport, *, unfold: bool = False, out: Screen | None = None) -> None:
    """Print what changed, the largest changes first."""
    out = out or Screen()
    out.line((f"{'same' if report.same else 'different'}", GOOD if report.same else BAD))
    for label, location, format in zip(("before", "after"), (report.before, report.after), report.formats, strict=True):
        out.field(label, ROOM, f"{safe_text(location)} · {formats.named(format).title}")
    out.field("tensors", ROOM, "; ".join(counts(report)))
    left_out(report, out)
    if report.changes:
        out.blank()
        most = len(report.changes) if unfold else _SHOWN
        out.table(
            (
                Column("name"), Column("what"), Column("change", right=True, rank=1), Column("cosine", right=True, rank=3),
                Column("largest", right=True, rank=4), Column("differ", right=True, rank=2), Column("detail", wrap=True),
            ),
            [_row(change) for change in report.changes[:most]],
        )  # fmt: skip
        if len(report.changes) > most:
            out.line(f"and {plural(len(report.changes) - most, 'more change')}: give --all", indent=2)
    for part, found in groupby(report.beside, key=lambda one: one.part):
        _beside(part, list(found), out, unfold)


def left_out(report: DiffReport | ThreeWayReport, out: Screen) -> None:
    """Name what was not compared, and say why."""
    if report.filter:
        globs = ", ".join(f"`{safe_text(glob, 200)}`" for glob in report.filter)
        out.field(
            "filter",
            ROOM,
            f"{globs}; neither {plural(report.filtered, 'other tensor')} nor what lies beside was compared",
        )
    for label, names in (("left out", report.left_out), ("unread", report.not_compared)):
        if names:
            why = "the rest determines them" if names is report.left_out else "this program does not decode them"
            out.field(label, ROOM, f"{shortened(names, 3)}: {why}")
    if report.aside:
        out.field("beside", ROOM, "; ".join(_aside(one) for one in report.aside))


def _aside(one: NotCompared) -> str:
    are = "is" if len(one.names) == 1 else "are"
    return f"{shortened(one.names, 3)} {are} not compared: {safe_text(one.why, 400)}"


def counts(report: DiffReport) -> Iterator[str]:
    """How many tensors are on both sides, how many of these are equal, and what happened to the others."""
    kinds = Counter(change.what for change in report.changes)
    yield f"{report.compared:,} on both sides, {report.identical:,} identical in every bit"
    if kinds:
        yield ", ".join(f"{count:,} {what}" for what, count in kinds.items())


def _row(change: Change) -> tuple[str, ...]:
    share = change.differing / change.elements if change.differing and change.elements else None
    return (
        safe_name(change.name),
        change.what,
        percent(change.relative),
        "" if change.cosine is None else f"{change.cosine:.6f}",
        "" if change.largest is None else f"{change.largest:.3g}",
        percent(share),
        safe_text(change.detail, 400),
    )


def percent(share: float | None) -> str:
    """A share with three digits; nothing for None."""
    return "" if share is None else f"{share * 100:.3g} %"


def _beside(part: str, found: Sequence[Beside], out: Screen, unfold: bool) -> None:
    out.blank()
    out.line((f"{part.capitalize()}:", BOLD))
    most = len(found) if unfold else _ASIDE
    rows = [(safe_text(one.name), _value(one.before), _value(one.after), safe_text(one.detail)) for one in found[:most]]
    out.table((Column("key"), Column("before"), Column("after"), Column("detail", wrap=True)), rows)
    if len(found) > most:
        out.line(f"and {len(found) - most:,} more: give --all", indent=2)


def _value(text: str | None) -> str:
    return "" if text is None else safe_text(text, 60)
