"""Prints what `inspect` found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.cli.render import BAD, BOLD, GOOD, WARN, Column, Piece, Screen, listed, numbered, together
from converter.text import natural, nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from converter.reports.details import KeyReport, MemoryReport, TokenizerReport
    from converter.reports.inspection import (
        Inspection,
        OtherReport,
        TensorReport,
        TypeReport,
        WeightsReport,
    )

TABLES: Final = (  # the heading of a table, and the roles that it lists
    ("Besides the weights:", ("beside", "averaged", "attribute")),
    ("Settings of the module:", ("setting",)),
    ("Tensors that can't be carried over:", ("unsupported",)),
)
_KEYS: Final = 100  # keys of the metadata that are shown without --all
_SPECIAL: Final = 6  # special tokens that are named
_CONTENT: Final = 100  # characters of a value that are shown without --all
_SIZES: Final = {
    "n_head": "{:,} heads",
    "n_positions": "a context of {:,} tokens",
    "vocab_size": "a vocabulary of {:,}",
}
_VERDICTS: Final = {  # the word, what it means, and its colour
    "plain": ("plain", ": it asks for nothing but tensors", GOOD),
    "unknown-globals": ("unknown globals", ": it asks for more than tensors", WARN),
    "program": ("a program", ": it holds code, which was not run", WARN),
    "dangerous": ("DANGEROUS", ": loading it with pickle would run code", BAD),
}


def show(found: Inspection, *, unfold: bool = False, out: Screen | None = None) -> None:
    """Print what `inspect` found."""
    out = out or Screen()
    out.line((heading(found), BOLD))
    files = found.source.files
    total = sum(file.nbytes for file in files)
    shards = f"{len(files)} files, " if len(files) > 1 else ""
    kind = formats.named(found.source.format).title
    if found.source.writer is not None:
        kind = f"{kind}, written by {found.source.writer}"
    out.line(f"{safe_text(found.source.location)} · {kind} · {shards}{plural(total, 'byte')}")
    out.blank()
    rows = list(facts(found))
    room = max(len(label) for label, _ in rows)
    for label, said in rows:
        out.field(label, room, *said)
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
    for problem in (*found.notes, *found.problems, *found.safety.findings):
        out.blank()
        out.note(safe_text(problem, 400))


def heading(inspection: Inspection) -> str:
    """Say what a checkpoint is, in one line."""
    model = inspection.model
    if model is None:
        return "Unknown architecture" if inspection.tensors or inspection.totals.tensors else "No tensors"
    name = model.title
    if model.name is not None:
        name = model.name if model.proven else f"Shaped like {model.name}"
    if model.complete:
        return f"{name}, complete"
    lacking = [
        f"{plural(len(names), 'parameter')} {what}"
        for names, what in ((model.missing, "missing"), (model.mismatched, "of another shape"))
        if names
    ]
    return f"{name}, incomplete: {' and '.join(lacking)}"


def facts(found: Inspection) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """The facts above the table, each with its label."""
    for label, said in _facts(found):
        yield label, (said,)
    if formats.named(found.source.format).pickled:
        word, meaning, style = _VERDICTS[found.safety.verdict]
        yield "pickle", ((word, style), meaning)
        yield "asks for", (listed(found.safety.globals, 12),)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    totals = found.totals
    yield from _part(found.weights)
    sizes = found.model.sizes if found.model is not None else {}
    if said := [words.format(sizes[name]) for name, words in _SIZES.items() if name in sizes]:
        yield "sizes", ", ".join(said)
    yield "tensors", f"{totals.tensors:,}"
    yield "parameters", f"{totals.parameters:,}"
    if names := found.weights.buffers:
        which = listed(names, 3 if len(names) <= 3 else 1)
        yield "buffers", f"{totals.buffers:,} more in {plural(len(names), 'tensor')}: {which}"
    yield "data", _data(found)
    unsupported = sum(other.role == "unsupported" for other in found.others)
    if len(found.tensors) + unsupported < totals.tensors:
        shown = nbytes_text(sum(tensor.nbytes for tensor in found.tensors))
        yield (
            "shown",
            f"{len(found.tensors):,} of {plural(totals.tensors, 'tensor')}, {shown}: the others do not fit --filter",
        )
    if found.tokenizer is not None:
        yield "types", _types(found.types)
        yield "tokenizer", _tokenizer(found.tokenizer)
    if found.memory is not None:
        yield "memory", _memory(found.memory)
    if found.source.requests is not None and found.source.bytes_read is not None:
        yield "read", f"{nbytes_text(found.source.bytes_read)} in {plural(found.source.requests, 'request')}"
    views = sum(not tensor.contiguous for tensor in found.tensors)
    if views:
        what = "tensor is a view that doesn't lie" if views == 1 else "tensors are views that don't lie"
        yield "layout", f"{views:,} {what} row by row (transposed: see stride)"
    for names in found.tied[:8]:
        yield "tied", " = ".join(safe_text(name) for name in names[:6]) + ", counted once"
    if len(found.tied) > 8:
        yield "tied", f"and {plural(len(found.tied) - 8, 'more group')}"
    if found.model is not None:
        yield from (
            (what, listed(names, 6))
            for names, what in (
                (found.model.missing, "missing"),
                (found.model.mismatched, "other shape"),
                (found.model.unexpected, "unexpected"),
            )
            if names
        )


def _data(found: Inspection) -> str:
    """The bytes of all tensors, and of each dtype: these add up, as tied tensors count once in both."""
    total = nbytes_text(found.totals.nbytes)
    parts = [f"{nbytes_text(one.nbytes)} {one.dtype}" for one in found.types]
    rest = found.totals.nbytes - sum(one.nbytes for one in found.types)
    if rest:
        parts.append(f"{nbytes_text(rest)} that can't be carried over")
    return (
        f"{total} {found.types[0].dtype}"
        if len(parts) == 1 and not rest
        else f"{total} ({', '.join(parts)})"
        if parts
        else total
    )


def _types(types: Sequence[TypeReport]) -> str:
    """Dtypes by count, and how many bits a weight takes on average."""
    elements, nbytes = sum(one.elements for one in types), sum(one.nbytes for one in types)
    bits = f"; {8 * nbytes / elements:.2f} bits per weight" if elements else ""
    return ", ".join(f"{one.tensors:,} {one.dtype}" for one in types) + bits


def _tokenizer(found: TokenizerReport) -> str:
    kind = safe_text(found.kind, 40) + (f" ({safe_text(found.pre, 40)})" if found.pre else "")
    merges = [plural(found.merges, "merge")] if found.merges else []
    special = [f"{safe_text(name, 40)} {number}" for name, number in list(found.special.items())[:_SPECIAL]]
    more = [f"{len(found.special) - _SPECIAL} more special tokens"] if len(found.special) > _SPECIAL else []
    template = ["a chat template"] if found.template else []
    return ", ".join([kind, plural(found.tokens, "token"), *merges, *special, *more, *template])


def _memory(found: MemoryReport) -> str:
    cache = ("" if found.exact else "at most ") + nbytes_text(found.cache)
    total = nbytes_text(found.weights + found.cache)
    return (
        f"{total} in llama.cpp for {plural(found.context, 'token')}: {nbytes_text(found.weights)} of weights, {cache} of keys "
        "and values, plus its buffers"
    )


def value_text(key: KeyReport, width: int) -> str:
    """The value of a key: JSON on one line, of an array its first elements."""
    if key.length is None:
        return safe_text(key.value if isinstance(key.value, str) else json.dumps(key.value), width)
    first = ", ".join(json.dumps(value, ensure_ascii=False) for value in key.value)
    more = ", …" if key.length > len(key.value) else ""
    return safe_text(f"{key.length:,}: {first}{more}" if key.value else f"{key.length:,}", width)


def _metadata_table(keys: Sequence[KeyReport], out: Screen, unfold: bool) -> None:
    most = len(keys) if unfold else _KEYS
    out.line(("Metadata:", BOLD))
    rows = [(safe_text(key.key, 80), key.type, value_text(key, 1 << 30 if unfold else _CONTENT)) for key in keys[:most]]
    out.table((Column("key"), Column("type", rank=1), Column("value", wrap=True)), rows)
    if len(keys) > most:
        out.line(f"and {len(keys) - most:,} more: give --all", indent=2)


def _part(weights: WeightsReport) -> Iterator[tuple[str, str]]:
    """Which part of the file is shown, where that is not all of it."""
    what = f"{weights.program or 'a whole module'}, {safe_text(weights.module)}" if weights.module else ""
    where = f"below `{safe_text(weights.root)}`" if weights.root else ""
    names = f"`{safe_text(weights.prefix)}` is left out of every name" if weights.prefix else ""
    if said := "; ".join(filter(None, (what, where, names))):
        yield "weights", said
    if weights.averaged:
        way = "--ema" if len(weights.averaged) == 1 else "--root NAME"
        yield "averaged", f"beside them: {listed(weights.averaged, 4)}; {way} takes them instead"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: one tensor, or several that differ only by the numbers in their names."""

    name: str
    first: TensorReport
    count: int
    last: TensorReport
    members: tuple[TensorReport, ...]


def fold(tensors: Sequence[TensorReport], *, unfold: bool = False) -> list[Line]:
    """Put tensors that differ only by the first number in their names into one line each, in the place of the first one.

    With `unfold` each has a line of its own.
    """
    if unfold:
        return [Line(tensor.name, tensor, 1, tensor, (tensor,)) for tensor in tensors]
    groups: dict[tuple[Any, ...], list[tuple[int, TensorReport]]] = {}
    for tensor in tensors:
        number, around = numbered(tensor.name)
        key = (around, tensor.dtype, f"{tensor.shape}{tensor.stride}", tensor.contiguous)
        groups.setdefault(key, []).append((number or 0, tensor))
    lines = []
    for (around, *_), members in groups.items():
        if len(members) == 1 or len(around) == 1:
            lines += [Line(tensor.name, tensor, 1, tensor, (tensor,)) for _, tensor in members]
        else:
            name = together(around, (number for number, _ in members))
            lines.append(Line(name, members[0][1], len(members), members[-1][1], tuple(one for _, one in members)))
    return lines


def in_order(found: Inspection) -> Sequence[TensorReport]:
    """The tensors as they are shown: where every file has them by the alphabet, h.2 comes before h.10."""
    shards = [[one.name for one in members] for _, members in groupby(found.tensors, key=lambda one: one.shard or "")]
    alphabetical = all(names == sorted(names) for names in shards)
    return sorted(found.tensors, key=lambda one: natural(one.name)) if alphabetical else found.tensors


def _tensor_table(found: Inspection, out: Screen, unfold: bool) -> None:
    measured = any(tensor.stats for tensor in found.tensors)
    hashed = measured and any(tensor.stats.sha256 for tensor in found.tensors if tensor.stats)
    lines = fold(in_order(found), unfold=unfold or hashed)
    # In other formats a storage is the tensor itself.
    pickled = formats.named(found.source.format).pickled
    rank = 1 if measured else 0  # statistics were asked for, so they go before what is always shown
    heads = [
        Column("name"),
        Column("dtype", rank=4 * rank),
        Column("shape", rank=6 * rank),
        Column("stride", rank=8),
        *([Column("storage", rank=9)] if pickled else []),
        Column("size", right=True, rank=5 * rank),
    ]
    rows: list[list[str]] = []
    for line in lines:
        one = line.first
        row = [
            safe_text(line.name),
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


def other_text(other: OtherReport, unfold: bool) -> str:
    """What something is: how many tensors it holds, a small value, or a few words."""
    if other.tensor_count and other.tensors != ("",):
        held = f"{plural(other.tensor_count, 'tensor')}, {nbytes_text(other.nbytes)}"
        return f"{held}: {listed(other.tensors, 3)}"
    if other.content is None:
        return safe_text(other.value)
    text = json.dumps(other.content)
    return safe_text(text, len(text) if unfold else _CONTENT)
