"""Prints what `inspect` found."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from converter import formats
from converter.cli.render import console, empty_table, indented, listed, numbered, together
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from converter.reports.details import KeyReport, MemoryReport, TokenizerReport
    from converter.reports.inspection import (
        Inspection,
        OtherReport,
        TensorReport,
        TypeReport,
        WeightsReport,
    )

_WIDE: Final = 110  # columns; a table this wide also shows storages
_WORDS: Final = re.compile(r"(?:[A-Za-z_]+\.)+")
TABLES: Final = (  # the heading of a table, and the roles that it lists
    ("Besides the weights:", ("beside", "averaged", "attribute")),
    ("Settings of the module:", ("setting",)),
    ("Tensors that can't be carried over:", ("unsupported",)),
)
_KEYS: Final = 100  # keys of the metadata that are shown without --all
_SPECIAL: Final = 6  # special tokens that are named
_CONTENT: Final = 100  # characters of a value that are shown without --all
_VERDICTS: Final = {
    "plain": "green",
    "unknown-globals": "yellow",
    "program": "yellow",
    "dangerous": "bold red",
    "malformed": "bold red",
}


def show(found: Inspection, *, unfold: bool = False, out: Console | None = None) -> None:
    """Print what `inspect` found."""
    out = out or console()
    out.print(Text(heading(found), style="bold"))
    files = found.source.files
    total = sum(file.nbytes for file in files)
    shards = f"{len(files)} files, " if len(files) > 1 else ""
    kind = formats.named(found.source.format).title
    if found.source.writer is not None:
        kind = f"{kind}, written by {found.source.writer}"
    out.print(Text(f"{safe_text(found.source.location)} · {kind} · {shards}{total:,} bytes"))
    out.print()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts(found):
        grid.add_row(label, text)
    out.print(Padding(grid, (0, 0, 0, 2), expand=False))
    out.print()
    if found.tensors:
        _tensor_table(found, out, unfold)
    if any(tensor.stats for tensor in found.tensors):
        from converter.cli.render.statistics import statistics_table  # most reports have no statistics

        out.print()
        hashed = any(tensor.stats.sha256 for tensor in found.tensors if tensor.stats)
        statistics_table(fold(found.tensors, unfold=unfold or hashed), out)
    if found.metadata:
        out.print()
        _metadata_table(found.metadata, out, unfold)
    for title, roles in TABLES:
        others = [other for other in found.others if other.role in roles]
        if others:
            out.print()
            _others_table(title, others, out, unfold)
    for problem in (*found.notes, *found.problems, *found.safety.findings):
        out.print()
        out.print(Text(f"! {safe_text(problem, 400)}", style="yellow"))


def heading(inspection: Inspection) -> str:
    """Say what a checkpoint is, in one line."""
    model = inspection.model
    if model is None:
        return "Unknown architecture" if inspection.tensors or inspection.totals.tensors else "No tensors"
    name = f"{model.title}, no declared model"
    if model.name is not None:
        name = model.name if model.proven else f"Shaped like {model.name}"
    if model.complete:
        return f"{name}, complete"
    lacking = [
        f"{len(names):,} parameters {what}"
        for names, what in ((model.missing, "missing"), (model.mismatched, "of another shape"))
        if names
    ]
    return f"{name}, incomplete: {' and '.join(lacking)}"


def facts(found: Inspection) -> Iterator[tuple[str, Text]]:
    """The facts above the table, each with its label."""
    totals = found.totals
    yield from _part(found.weights)
    yield "tensors", Text(f"{totals.tensors:,}")
    yield "parameters", Text(f"{totals.parameters:,}")
    if names := found.weights.buffers:
        yield (
            "buffers",
            Text(
                f"{totals.buffers:,} more in {plural(len(names), 'tensor')}: {listed(names, 3 if len(names) <= 3 else 1)}"
            ),
        )
    sizes: Counter[str] = Counter()
    for tensor in found.tensors:
        sizes[tensor.dtype] += tensor.nbytes
    by_dtype = ", ".join(f"{nbytes_text(n)} {dtype}" for dtype, n in sizes.most_common())
    yield "data", Text(nbytes_text(totals.nbytes) + (f" ({by_dtype})" if len(sizes) > 1 else f" {''.join(sizes)}"))
    if found.tokenizer is not None:
        yield "types", Text(_types(found.types))
        yield "tokenizer", Text(_tokenizer(found.tokenizer))
    if found.memory is not None:
        yield "memory", Text(_memory(found.memory))
    if found.source.requests is not None and found.source.bytes_read is not None:
        yield "read", Text(f"{nbytes_text(found.source.bytes_read)} in {found.source.requests:,} requests")
    views = sum(not tensor.contiguous for tensor in found.tensors)
    if views:
        yield "layout", Text(f"{views:,} tensors are views that don't lie row by row (transposed: see stride)")
    for names in found.tied[:8]:
        yield "tied", Text(" = ".join(safe_text(name) for name in names[:6]))
    if len(found.tied) > 8:
        yield "tied", Text(f"and {len(found.tied) - 8:,} more groups")
    if found.model is not None:
        yield from (
            (what, Text(listed(names, 6)))
            for names, what in (
                (found.model.missing, "missing"),
                (found.model.mismatched, "other shape"),
                (found.model.unexpected, "unexpected"),
            )
            if names
        )
    if formats.named(found.source.format).pickled:
        said = found.safety
        words = {
            "plain": "plain: it asks for nothing but tensors",
            "unknown-globals": "unknown globals: it asks for more than tensors",
            "program": "a program: it holds code, which was not run",
            "dangerous": "DANGEROUS: loading it with pickle would run code",
        }[said.verdict]
        yield "pickle", Text(words, style=_VERDICTS[said.verdict])
        yield "asks for", Text(listed(said.globals, 12))


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


def _metadata_table(keys: Sequence[KeyReport], out: Console, unfold: bool) -> None:
    most = len(keys) if unfold else _KEYS
    out.print(Text("Metadata:", style="bold"))
    table = empty_table()
    for name in ("key", "type", "value"):
        table.add_column(name, overflow="fold")
    for key in keys[:most]:
        table.add_row(*map(Text, (safe_text(key.key, 80), key.type, value_text(key, 1 << 30 if unfold else _CONTENT))))
    out.print(indented(table))
    if len(keys) > most:
        out.print(Text(f"  and {len(keys) - most:,} more: give --all"))


def _part(weights: WeightsReport) -> Iterator[tuple[str, Text]]:
    """Which part of the file is shown, where that is not all of it."""
    what = f"{weights.program or 'a whole module'}, {safe_text(weights.module)}" if weights.module else ""
    where = f"below `{safe_text(weights.root)}`" if weights.root else ""
    names = f"`{safe_text(weights.prefix)}` is left out of every name" if weights.prefix else ""
    if said := "; ".join(filter(None, (what, where, names))):
        yield "weights", Text(said)
    if weights.averaged:
        way = "--ema" if len(weights.averaged) == 1 else "--root NAME"
        yield "averaged", Text(f"beside them: {listed(weights.averaged, 4)}; {way} takes them instead")


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


def _tensor_table(found: Inspection, out: Console, unfold: bool) -> None:
    lines = fold(found.tensors, unfold=unfold)
    strided = any(not line.first.contiguous for line in lines)
    # In other formats a storage is the tensor itself.
    wide = out.width >= _WIDE and formats.named(found.source.format).pickled
    rows = []
    for line in lines:
        tensor = line.first
        row = [safe_text(line.name), tensor.dtype, "×".join(map(str, tensor.shape)) or "scalar"]
        if strided:
            row.append("" if tensor.contiguous else ",".join(map(str, tensor.stride)))
        if wide:
            row.append(_storage(line))
        rows.append([*row, (f"{line.count}×" if line.count > 1 else "") + nbytes_text(tensor.nbytes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    prefix = _common(line.name for line in lines) if sum(widths) + 2 * len(widths) > out.width else ""
    table = empty_table()
    table.add_column(f"name below {prefix.rstrip('.')}" if prefix else "name", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape", overflow="fold")
    if strided:
        table.add_column("stride", overflow="fold")
    if wide:
        table.add_column("storage", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for name, *rest in rows:
        table.add_row(*(Text(cell) for cell in (name.removeprefix(prefix), *rest)))
    out.print(indented(table))


def _common(names: Iterable[str]) -> str:
    """The plain words, up to a dot, that all names start with. A narrow table can leave them out."""
    prefix = os.path.commonprefix(list(names))  # noqa: RUF071 (cut at a dot below)
    prefix = prefix[: prefix.rfind(".") + 1]
    return prefix if _WORDS.fullmatch(prefix) else ""


def _storage(line: Line) -> str:
    ends = [line.first] if line.count == 1 else [line.first, line.last]
    named = [(f"{end.shard}/" if end.shard is not None else "") + safe_text(end.storage, 24) for end in ends]
    return " … ".join(named)


def _others_table(title: str, others: Sequence[OtherReport], out: Console, unfold: bool) -> None:
    most = len(others) if unfold else 20
    out.print(Text(title, style="bold"))
    table = empty_table()
    for name in ("name", "is", "value"):
        table.add_column(name, overflow="fold")
    for other in others[:most]:
        table.add_row(*map(Text, (safe_text(other.name), safe_text(other.kind), other_text(other, unfold))))
    out.print(indented(table))
    if len(others) > most:
        out.print(Text(f"  and {len(others) - most:,} more: give --all"))


def other_text(other: OtherReport, unfold: bool) -> str:
    """What something is: how many tensors it holds, a small value, or a few words."""
    if other.tensor_count and other.tensors != ("",):
        held = f"{plural(other.tensor_count, 'tensor')}, {nbytes_text(other.nbytes)}"
        return f"{held}: {listed(other.tensors, 3)}"
    if other.content is None:
        return safe_text(other.value)
    text = json.dumps(other.content)
    return safe_text(text, len(text) if unfold else _CONTENT)
