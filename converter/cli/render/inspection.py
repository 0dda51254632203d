"""Prints what `inspect` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.cli.render import BAD, BOLD, GOOD, WARN, Column, Screen
from converter.inspection.said import (
    CONTENT,
    TABLES,
    Line,
    facts,
    fold,
    heading,
    in_order,
    other_text,
    place,
    value_text,
)
from converter.text import LONGEST, nbytes_text, plural, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.details import KeyReport
    from converter.reports.inspection import Inspection, OtherReport

_LINES: Final = 300  # lines about tensors that are shown without --all
_KEYS: Final = 100  # keys of the metadata that are shown without --all
_STYLES: Final[Mapping[str, str]] = {"good": GOOD, "warn": WARN, "bad": BAD}


@formats.uncollected()
def show(found: Inspection, *, unfold: bool = False, out: Screen | None = None) -> None:
    """Print what `inspect` found."""
    out = out or Screen()
    out.line((heading(found), BOLD))
    out.line(f"{safe_text(found.source.location)} · {place(found)}")
    out.blank()
    rows = list(facts(found))
    room = max(len(label) for label, _ in rows)
    for label, said in rows:
        out.field(label, room, *((one if isinstance(one, str) else (one[0], _STYLES[one[1]])) for one in said))
    if found.tensors:
        out.blank()
        _tensor_table(found, out, unfold)
    if found.metadata:
        out.blank()
        _metadata_table(found.metadata, out, unfold)
    for title, roles in TABLES:
        others = [other for other in found.others if other.role in roles]
        if others:
            out.blank()
            _others_table(title, others, out, unfold)
    noticed = (*found.notes, *found.problems, *found.safety.findings)
    if noticed:
        out.blank()
    for problem in noticed:
        out.note(safe_text(problem, 400))


def _metadata_table(keys: Sequence[KeyReport], out: Screen, unfold: bool) -> None:
    most = len(keys) if unfold else _KEYS
    out.line(("Metadata:", BOLD))
    rows = [(safe_text(key.key, 80), key.type, value_text(key, 1 << 30 if unfold else CONTENT)) for key in keys[:most]]
    out.table((Column("key"), Column("type", rank=1), Column("value", wrap=True)), rows)
    if len(keys) > most:
        out.line(f"and {len(keys) - most:,} more: give --all", indent=2)


def _tensor_table(found: Inspection, out: Screen, unfold: bool) -> None:
    measured = any(tensor.stats for tensor in found.tensors)
    hashed = measured and any(tensor.stats.sha256 for tensor in found.tensors if tensor.stats)
    lines = fold(in_order(found), unfold=unfold or hashed)
    # In other formats a storage is the tensor itself.
    pickled = formats.named(found.source.format).pickled
    rank = 1 if measured else 0  # statistics were asked for, so they outlast columns that are otherwise always shown
    heads = [
        Column("name"),
        Column("dtype", rank=4 * rank),
        Column("shape", rank=6 * rank),
        Column("stride", rank=8),
        *([Column("storage", rank=9)] if pickled else []),
        Column("size", right=True, rank=5 * rank),
    ]
    rest = [] if unfold else lines[_LINES:]
    lines = lines[: len(lines) - len(rest)]
    rows: list[list[str]] = []
    for line in lines:
        one = line.first
        row = [
            safe_name(line.name),
            one.dtype,
            "×".join(map(str, one.shape)) or "scalar",
            "" if one.contiguous else ",".join(map(str, one.stride)),
            *([_storage(line)] if pickled else []),
            (f"{line.count}×" if line.count > 1 else "") + nbytes_text(one.nbytes),
        ]
        rows.append(row)
    if measured:
        from converter.cli.render.statistics import columns  # most reports have no statistics

        more, cells = columns(lines, out.encoding)
        heads += more
        rows = [row + added for row, added in zip(rows, cells, strict=True)]
    out.table(heads, rows)
    if cut := sum(len(line.name) > LONGEST for line in lines):
        out.line(f"{plural(cut, 'name')} of more than {LONGEST:,} characters cut at the end", indent=2)
    if rest:
        out.line(f"and {plural(sum(line.count for line in rest), 'more tensor')}: give --all, or --filter", indent=2)


def _storage(line: Line) -> str:
    ends = [line.first] if line.count == 1 else [line.first, line.last]
    named = [(f"{end.shard}/" if end.shard is not None else "") + safe_text(end.storage, 24) for end in ends]
    return " … ".join(named)


def _others_table(title: str, others: Sequence[OtherReport], out: Screen, unfold: bool) -> None:
    most = len(others) if unfold else 20
    out.line((title, BOLD))
    rows = [(safe_text(other.name), safe_text(other.kind), other_text(other, unfold)) for other in others[:most]]
    out.table((Column("name"), Column("is"), Column("value", wrap=True)), rows)
    if len(others) > most:
        out.line(f"and {len(others) - most:,} more: give --all", indent=2)
