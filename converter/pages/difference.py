"""The page of `diff`: what changed between two checkpoints, by how much, and where along the depth."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.pages import page, rounded
from converter.text import plural, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.difference import Change, DiffReport, TensorSide
    from converter.reports.three_way import ThreeWayReport

_VALUE: Final = 2000  # characters of a value that are shown


def difference(report: DiffReport) -> bytes:
    """The page, in UTF-8."""
    kinds = Counter(change.what for change in report.changes)
    sides = [
        (label, safe_text(location, _VALUE), formats.named(format).title)
        for label, location, format in zip(
            ("before", "after"), (report.before, report.after), report.formats, strict=True
        )
    ]
    return page(
        "difference",
        {
            "kind": "difference",
            "changes": [change_data(change) for change in report.changes],
            "layers": [(safe_name(one.name), one.tensors, one.differing, one.relative) for one in report.layers],
        },
        kind="difference",
        title="The same" if report.same else "Different",
        sides=sides,
        cards=[("on both sides", report.compared), ("identical in every bit", report.identical), *kinds.items()],
        changes=bool(report.changes),
        layers=bool(report.layers) and any(one.differing for one in report.layers),
        beside=[
            (one.part, safe_text(one.name), *(_text(value) for value in (one.before, one.after)), _text(one.detail))
            for one in report.beside
        ],
        **left_out(report),
    )


def left_out(report: DiffReport | ThreeWayReport) -> dict[str, Any]:
    """What was not compared: names of tensors, and what lies beside them."""
    return {
        "filter": [safe_text(glob, _VALUE) for glob in report.filter],
        "filtered": plural(report.filtered, "other tensor"),
        "aside": [
            (one.part, [safe_name(name) for name in one.names], " and ".join(one.sides), safe_text(one.why, _VALUE))
            for one in report.aside
        ],
        "left_out": [safe_name(name) for name in report.left_out],
        "not_compared": [safe_name(name) for name in report.not_compared],
    }


def _text(value: str | None) -> str:
    return "" if value is None else safe_text(value, _VALUE)


def change_data(change: Change) -> list[Any]:
    """What the script of a page shows of a change."""
    share = change.differing / change.elements if change.differing is not None and change.elements else None
    return [
        change.name,
        safe_name(change.name),
        change.what,
        change.relative,
        change.cosine,
        change.largest,
        rounded(share),
        safe_text(change.detail, _VALUE),
        _side(change.before),
        _side(change.after),
        change.index,
        change.elements,
        change.differing,
        change.energy,
    ]


def _side(side: TensorSide | None) -> str | None:
    if side is None:
        return None
    return f"{safe_name(side.name)} · {side.dtype} · {'×'.join(map(str, side.shape)) or 'scalar'}"
