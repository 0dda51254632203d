"""The page of `diff` with three checkpoints: what each of two changed in the one that they were made from."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.pages import page
from converter.pages.difference import change_data, left_out
from converter.text import safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.three_way import ThreeWayChange, ThreeWayReport

SAID: Final = {
    "conflict": "conflict", "apart": "both apart", "agree": "both alike", "after": "AFTER", "other": "OTHER",
}  # fmt: skip
CARDS: Final = SAID | {
    "conflict": "in conflict", "apart": "changed by both in different places", "agree": "changed by both alike",
    "after": "changed by AFTER alone", "other": "changed by OTHER alone",
}  # fmt: skip
_VALUE: Final = 2000  # characters of a value that are shown


def three_way(report: ThreeWayReport) -> bytes:
    """The page, in UTF-8."""
    kinds = Counter(change.by for change in report.changes)
    places = (("BEFORE", report.before), ("AFTER", report.after), ("OTHER", report.other))
    return page(
        "three_way",
        {
            "kind": "three_way",
            "changes": [_change(change) for change in report.changes],
            "layers": [
                (safe_name(one.name), one.tensors, one.after, one.other, one.cosine, one.conflicts)
                for one in report.layers
            ],
        },
        kind="three-way difference",
        title="The same" if report.same else "Different",
        sides=[
            (label, safe_text(location, _VALUE), formats.named(format).title)
            for (label, location), format in zip(places, report.formats, strict=True)
        ],
        cards=[
            ("in all three", report.compared),
            ("identical in every bit", report.identical),
            *((CARDS[by], kinds[by]) for by in SAID if kinds[by]),
        ],
        changes=bool(report.changes),
        layers=any(one.after or one.other for one in report.layers),
        beside=[
            (one.part, safe_text(one.name), SAID[one.by], *map(_text, (one.before, one.after, one.other, one.detail)))
            for one in report.beside
        ],
        **left_out(report),
    )


def _text(value: str | None) -> str:
    return "" if value is None else safe_text(value, _VALUE)


def _change(change: ThreeWayChange) -> list[Any]:
    sides = [None if one is None else change_data(one) for one in (change.after, change.other)]
    return [
        change.name, safe_name(change.name), SAID[change.by], change.cosine, safe_text(change.detail, _VALUE), *sides,
        change.differing,
    ]  # fmt: skip
