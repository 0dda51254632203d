"""What `inspect` found as Markdown, for an issue or a model's page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from converter import formats
from converter.cli.render import plain
from converter.inspection.said import TABLES, facts, fold, heading, in_order, other_text, value_text
from converter.text import as_code, in_table, nbytes_text, plural

if TYPE_CHECKING:
    from converter.inspection.said import Line
    from converter.reports.inspection import Inspection

_VALUE: Final = 300  # characters of a value


def inspection(found: Inspection, *, unfold: bool = False) -> str:
    """The report: the facts, then tables of the metadata and the tensors. With `unfold` every tensor has a row of its own."""
    lines = [f"### {as_code(heading(found))}", ""]
    files = found.source.files
    total = sum(file.nbytes for file in files)
    several = f", {plural(len(files), 'file')}" if len(files) > 1 else ""
    lines += [
        f"{as_code(found.source.location)}: {formats.named(found.source.format).title}{several}, {plural(total, 'byte')}",
        "",
    ]
    lines += _table(("what", "is"), ((label, as_code(plain(said))) for label, said in facts(found)))
    if found.metadata:
        rows = ((as_code(key.key), key.type, as_code(value_text(key, _VALUE), _VALUE)) for key in found.metadata)
        lines += ["", "#### Metadata", "", *_table(("key", "type", "value"), rows)]
    if found.tensors:
        lines += ["", "#### Tensors", "", *_tensors(found, unfold)]
    for title, roles in TABLES:
        others = [other for other in found.others if other.role in roles]
        if others:
            rows = ((as_code(other.name), as_code(other.kind), as_code(other_text(other, unfold))) for other in others)
            lines += ["", f"#### {title.removesuffix(':')}", "", *_table(("name", "is", "value"), rows)]
    problems = (*found.notes, *found.problems, *found.safety.findings)
    if problems:
        lines += ["", "#### Problems", "", *(f"* {as_code(problem, 400)}" for problem in problems)]
    return "\n".join(lines) + "\n"


def _tensors(found: Inspection, unfold: bool) -> Iterator[str]:
    measured = [tensor.stats for tensor in found.tensors if tensor.stats is not None]
    hashed = any(stats.sha256 for stats in measured)
    lines = fold(in_order(found), unfold=unfold or hashed)
    head: tuple[str, ...] = ("name", "dtype", "shape", "size")
    rows = [_tensor(line) for line in lines]
    if measured:
        from converter.cli.render.statistics import columns  # most reports have no statistics

        more, cells = columns(lines, "utf-8")
        filled = [at for at in range(len(more)) if any(row[at] for row in cells)]
        head += tuple(more[at].head for at in filled)
        rows = [(*row, *(added[at] for at in filled)) for row, added in zip(rows, cells, strict=True)]
    yield from _table(head, rows)


def _tensor(line: Line) -> tuple[str, ...]:
    tensor = line.first
    shape = "×".join(map(str, tensor.shape)) or "scalar"
    times = f"{line.count:,}×" if line.count > 1 else ""
    return as_code(line.name), as_code(tensor.dtype), shape, times + nbytes_text(tensor.nbytes)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(in_table, row))} |" for row in rows)
