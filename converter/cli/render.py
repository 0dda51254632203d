"""Reports and progress on a terminal: the only importer of rich. Nothing here needs colour to be understood."""

from __future__ import annotations

import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from converter import formats
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from pathlib import Path

    from converter.models import declared as models
    from converter.reports.conversion import ConversionReport, ExtractReport
    from converter.reports.inspection import Inspection, OtherReport, TensorReport
    from converter.reports.verification import Verification, VerifiedTensors

_NARROW: Final = 80
_WIDE: Final = 110  # columns from which storages are shown
_PIPED: Final = 160
_WORDS: Final = re.compile(r"(?:[A-Za-z_]+\.)+")
_SHOWN: Final = 40  # lines of what is wrong with one output
_PADDING: Final = re.compile(r"(?<! ) ++(?=\n)")
_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
_VERDICTS: Final = {"plain": "green", "unknown-globals": "yellow", "dangerous": "bold red", "malformed": "bold red"}


def console() -> Console:
    """Give stdout: as wide as the terminal, at least 80 columns, wider where nobody's terminal would cut it."""
    found = _Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        return _Console(file=_Trimmed(sys.stdout), markup=False, emoji=False, highlight=False, width=_PIPED)
    if found.width < _NARROW:
        return _Console(markup=False, emoji=False, highlight=False, width=_NARROW)
    return found


class _Console(Console):
    """A console whose reader may go away; the command still ends with its own exit code."""

    def on_broken_pipe(self) -> None:
        """Write nothing from now on."""
        self.quiet = True


class _Trimmed(io.StringIO):
    """A file without the blanks that rich pads its lines with."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def write(self, text: str) -> int:
        """Write without blanks before line ends."""
        return self._file.write(_PADDING.sub("", text))

    def flush(self) -> None:
        """Flush what is below."""
        self._file.flush()


class Progress:
    """Bytes gone by, told to whoever watches; `start` says how many there will be."""

    def __init__(
        self, advance: Callable[[int], None] | None = None, total: Callable[[int], None] | None = None
    ) -> None:
        self._advance, self._total = advance, total

    def __call__(self, nbytes: int) -> None:
        """Say that so many bytes more went by."""
        if self._advance is not None:
            self._advance(nbytes)

    def start(self, total: int) -> None:
        """Say how many bytes there will be."""
        if self._total is not None:
            self._total(total)


@contextmanager
def progress(what: str, total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Show bytes, speed and time left on stderr while the work runs; nothing where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:
        task = bar.add_task(safe_text(what), total=total or None)
        yield Progress(lambda nbytes: bar.advance(task, nbytes), lambda known: bar.update(task, total=known))


def heading(inspection: Inspection) -> str:
    """Say in a line what a checkpoint is."""
    model = inspection.model
    if model is None:
        return "Unknown architecture" if inspection.tensors or inspection.totals.tensors else "No tensors"
    name = model.name if model.name is not None else f"{model.title}, no declared model"
    if model.complete:
        return f"{name}, complete"
    lacking = [
        f"{len(names):,} parameters {what}"
        for names, what in ((model.missing, "missing"), (model.mismatched, "of another shape"))
        if names
    ]
    return f"{name}, incomplete: {' and '.join(lacking)}"


def inspection(found: Inspection, *, unfold: bool = False, out: Console | None = None) -> None:
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
    for label, text in _facts(found):
        grid.add_row(label, text)
    out.print(Padding(grid, (0, 0, 0, 2), expand=False))
    out.print()
    if found.tensors:
        _tensor_table(found, out, unfold)
    if any(tensor.stats for tensor in found.tensors):
        out.print()
        _statistics_table(found, out)
    if found.others:
        out.print()
        _others_table(found.others, out, unfold)
    for problem in (*found.problems, *found.safety.findings):
        out.print()
        out.print(Text(f"! {safe_text(problem, 400)}", style="yellow"))


def _facts(found: Inspection) -> Iterator[tuple[str, Text]]:
    """Give what is worth knowing before the table, each with its label."""
    totals = found.totals
    yield "tensors", Text(f"{totals.tensors:,}")
    yield "parameters", Text(f"{totals.parameters:,}")
    sizes: Counter[str] = Counter()
    for tensor in found.tensors:
        sizes[tensor.dtype] += tensor.nbytes
    listed = ", ".join(f"{nbytes_text(n)} {dtype}" for dtype, n in sizes.most_common())
    yield "data", Text(nbytes_text(totals.nbytes) + (f" ({listed})" if len(sizes) > 1 else f" {''.join(sizes)}"))
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
            (what, Text(_listed(names, 6)))
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
            "dangerous": "DANGEROUS: loading it with pickle would run code",
        }[said.verdict]
        yield "pickle", Text(words, style=_VERDICTS[said.verdict])
        yield "asks for", Text(_listed(said.globals, 12))


def _listed(names: Sequence[str], most: int) -> str:
    shown = ", ".join(safe_text(name) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the table: one tensor, or several that differ only by the numbers in their names."""

    name: str
    first: TensorReport
    count: int
    last: TensorReport


def fold(tensors: Sequence[TensorReport]) -> list[_Line]:
    """Put tensors that differ only by the first number in their names into one line each, where the first one stands."""
    groups: dict[tuple[Any, ...], list[tuple[int, TensorReport]]] = {}
    for tensor in tensors:
        match = _NUMBER.search(tensor.name)
        number, pattern = (
            (int(match[0]), (tensor.name[: match.start()], tensor.name[match.end() :]))
            if match and len(match[0]) < 9
            else (0, (tensor.name,))
        )
        key = (pattern, tensor.dtype, f"{tensor.shape}{tensor.stride}", tensor.contiguous)
        groups.setdefault(key, []).append((number, tensor))
    lines = []
    for (pattern, *_), members in groups.items():
        if len(members) == 1 or len(pattern) == 1:
            lines += [_Line(tensor.name, tensor, 1, tensor) for _, tensor in members]
        else:
            lines.append(
                _Line(
                    f"{pattern[0]}{{{_ranges([n for n, _ in members])}}}{pattern[1]}",
                    members[0][1],
                    len(members),
                    members[-1][1],
                )
            )
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}..{b}" if b > a + 1 else f"{a},{b}" if b > a else f"{a}" for a, b in runs)


def _tensor_table(found: Inspection, out: Console, unfold: bool) -> None:
    lines = [_Line(t.name, t, 1, t) for t in found.tensors] if unfold else fold(found.tensors)
    strided = any(not line.first.contiguous for line in lines)
    # Elsewhere a storage is the tensor itself.
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
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
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
    out.print(Padding(table, (0, 0, 0, 2), expand=False))


def _common(names: Iterable[str]) -> str:
    """Give the plain words up to a dot that all names start with, so that a narrow table can leave them out."""
    prefix = os.path.commonprefix(list(names))  # noqa: RUF071 (cut at a dot below)
    prefix = prefix[: prefix.rfind(".") + 1]
    return prefix if _WORDS.fullmatch(prefix) else ""


def _storage(line: _Line) -> str:
    ends = [line.first] if line.count == 1 else [line.first, line.last]
    named = [(f"{end.shard}/" if end.shard is not None else "") + safe_text(end.storage, 24) for end in ends]
    return " … ".join(named)


def _statistics_table(found: Inspection, out: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("name", "min", "max", "mean", "std", "zeros", "NaN", "Inf", "sha256"):
        table.add_column(
            name,
            overflow="fold" if name == "name" else "ellipsis",
            no_wrap=name != "name",
            justify="left" if name in ("name", "sha256") else "right",
        )
    for tensor in found.tensors:
        stats = tensor.stats
        if stats is not None:
            numbers = [
                "" if value is None else f"{value:.4g}" for value in (stats.min, stats.max, stats.mean, stats.std)
            ]
            counts = [f"{value:,}" for value in (stats.zeros, stats.nan, stats.inf)]
            table.add_row(*(Text(cell) for cell in (safe_text(tensor.name), *numbers, *counts, stats.sha256[:12])))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))


def _others_table(others: Sequence[OtherReport], out: Console, unfold: bool) -> None:
    most = len(others) if unfold else 20
    out.print(Text("Besides tensors that can be carried over:", style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("name", "is", "value"):
        table.add_column(name, overflow="fold")
    for other in others[:most]:
        inside = f"holds {len(other.tensors):,} tensors: {_listed(other.tensors, 3)}" if other.tensors else ""
        table.add_row(
            *(Text(cell) for cell in (safe_text(other.name), safe_text(other.kind), inside or safe_text(other.value)))
        )
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    if len(others) > most:
        out.print(Text(f"  and {len(others) - most:,} more: give --all"))


def extraction(report: ExtractReport) -> None:
    """Print what `extract` wrote."""
    out = console()
    out.print(Text(f"{safe_text(report.folder)}: {report.files:,} files, {nbytes_text(report.nbytes)}", style="bold"))
    model = f" of {report.model}" if report.model else ""
    out.print(Text(f"  {report.tensors:,} tensors{model}, {report.form} form; manifest.json reads them back"))
    if report.properties is not None:
        out.print(Text(f"  {safe_text(report.properties)} names them for the Java client"))
    for note in report.notes:
        out.print(Text(f"  ! {safe_text(note, 400)}", style="yellow"))


def conversion(report: ConversionReport) -> None:
    """Print what `convert` wrote, or would write."""
    out = console()
    weights = [file for file in report.files if file.tensors] or list(report.files)
    would = "" if report.written else " would be written"
    out.print(Text(f"{safe_text(report.output)}: {report.format}, {nbytes_text(report.nbytes)}{would}", style="bold"))
    model = f" of {report.model}" if report.model else ""
    out.print(Text(f"  {report.tensors:,} tensors{model} in {plural(len(weights), 'file')}"))
    if report.dropped:
        out.print(Text(f"  {len(report.dropped):,} masks left out: they follow from the architecture"))
    for name, kept in report.tied[:8]:
        out.print(Text(f"  {safe_text(name)} is {safe_text(kept)}, and recorded as such"))
    loss = report.loss
    lost = [
        f"{count:,} {what}"
        for count, what in (
            (loss.rounded, "rounded"),
            (loss.overflowed, "became infinite"),
            (loss.underflowed, "became zero"),
            (loss.nan, "NaN"),
        )
        if count
    ]
    if lost:
        out.print(Text(f"  as {report.dtype}: {', '.join(lost)}"))
    for note in report.notes:
        out.print(Text(f"  ! {safe_text(note, 400)}", style="yellow"))
    if not report.written:
        _plan_table(report, out)


def _plan_table(report: ConversionReport, out: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("file", "tensor", "dtype", "offset", "bytes"):
        table.add_column(name, overflow="fold", justify="right" if name in ("offset", "bytes") else "left")
    for file in report.files:
        for tensor in file.tensors:
            numbers = (f"{tensor.offset:,}", f"{tensor.nbytes:,}")
            cells = (safe_text(file.path), safe_text(tensor.name), tensor.dtype, *numbers)
            table.add_row(*(Text(cell) for cell in cells))
        if not file.tensors:
            table.add_row(Text(safe_text(file.path)), "", "", "", Text(f"{file.nbytes:,}"))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))


def verification(report: Verification) -> None:
    """Print what `verify` found: a line an output, and what is wrong with each."""
    out = console()
    for output in report.outputs:
        tensors = output.tensors
        kind = f" · {formats.named(output.format).title}" if output.format else ""
        style = "bold red" if output.verdict == "different" else "green"
        line = Text.assemble((f"{output.verdict:<10}", style), f"  {safe_text(output.location)}{kind}")
        out.print(line, soft_wrap=True)
        counts = [f"{tensors.compared:,} tensors compared"]
        counts += [f"{tensors.identical:,} identical in every bit"] if tensors.identical else []
        counts += [f"{tensors.converted:,} within what their dtype allows"] if tensors.converted else []
        if output.format:
            out.print(Text(f"            {', '.join(counts)}"))
        wrong = _wrong(tensors)
        if wrong:
            _wrong_table(wrong, out)
        if output.inference is not None:
            _inference(output.inference, out)


def _wrong(tensors: VerifiedTensors) -> list[tuple[str, str, str]]:
    """Give what is wrong as (name, what, detail); names that differ by a number alone share a line."""
    rows: list[tuple[str, str, str]] = []
    for names, what in ((tensors.missing, "missing"), (tensors.unexpected, "unexpected")):
        rows += [(name, what, "") for name in names]
    for found in tensors.different:
        detail = found.detail
        if found.index is not None and found.differing is not None:
            detail += f"; {found.differing:,} of {found.elements:,} differ, the first at {list(found.index)}"
            if found.found is not None and found.expected is not None:
                detail += f": {found.found:.6g}, expected {found.expected:.6g}"
            if found.largest:
                detail += f"; by {found.largest:.3g} at most"
        rows.append((found.name, found.what, detail))
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, *said in rows:
        match = _NUMBER.search(name)
        pattern = (name[: match.start()], name[match.end() :]) if match and len(match[0]) < 9 else (name,)
        groups.setdefault((*pattern, "", *said), []).append(name)
    folded = []
    for key, members in groups.items():
        numbers = [int(match[0]) for member in members if (match := _NUMBER.search(member))]
        name = members[0] if len(members) == 1 or len(key) == 4 else f"{key[0]}{{{_ranges(numbers)}}}{key[1]}"
        folded.append((name, key[-2], key[-1]))
    return folded


def _wrong_table(rows: Sequence[tuple[str, str, str]], out: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("name", "what", "detail"):
        table.add_column(name, overflow="fold")
    for row in rows[:_SHOWN]:
        table.add_row(*(Text(safe_text(cell, 400)) for cell in row))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
    if len(rows) > _SHOWN:
        out.print(Text(f"  and {len(rows) - _SHOWN:,} more: see --json"))


def _inference(found: Mapping[str, Any], out: Console) -> None:
    """Print how far what an output computes is from what the source does."""

    def number(key: str, of: Mapping[str, Any] = found) -> str:
        return "no number" if of[key] is None else f"{of[key]:.3g}"

    greedy = found["greedy_difference"]
    same = f"{len(found['greedy']):,} greedy tokens equal" if greedy is None else f"greedy token {greedy + 1} differs"
    lines = [
        f"{found['engine']}, {found['activation']} GELU, {found['tokens']:,} tokens: logits differ by "
        f"{number('max_difference')} at most, {number('mean_difference')} on average; KL divergence "
        f"{number('kl_divergence')}",
        f"likeliest token equal at {found['top1_agreement']:.1%} of {found['positions']:,} positions; {same}; perplexity "
        f"{number('other_perplexity')}, source {number('perplexity')}",
    ]
    effect = found["activation_effect"]
    if effect is not None:
        moved = number("max_difference", effect)
        lines.append(f"apart from that, the tanh GELU of what runs this form moves logits by {moved} at most")
    for line in lines:
        out.print(Text(f"            {line}"), soft_wrap=True)


def model_table(declared: Sequence[models.Model], cached: Mapping[str, Mapping[str, Path]]) -> None:
    """Print the declared models, a line each; those whose files are in the local cache are marked."""
    out = console()
    here = {model.name for model in declared if len(cached[model.name]) == len(model.files)}
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for name in ("model", "parameters", "layers", "hidden", "heads", "files", "size", *([""] if here else [])):
        table.add_column(name, justify="left" if name in ("model", "files", "") else "right", no_wrap=True)
    for model in declared:
        sizes = [file.nbytes for file in model.files]
        known = [size for size in sizes if size is not None]
        size = (
            nbytes_text(sum(known))
            if len(known) == len(sizes)
            else " + ".join(file.listed_size for file in model.files)
        )
        table.add_row(
            *(
                Text(str(cell))
                for cell in (
                    model.name,
                    f"{model.parameters:,}",
                    *model.dimensions,
                    len(model.files),
                    size,
                    *(["in the cache" if model.name in here else ""] if here else []),
                )
            )
        )
    out.print(table)


def model_page(model: models.Model, cached: Mapping[str, Path]) -> None:
    """Print what is known of one declared model, and where in the local cache its files are."""
    out = console()
    out.print(Text(model.name, style="bold"))
    layers, width, heads = model.dimensions
    shape = f"{layers} layers of {width}, {heads} heads"
    out.print(Text(f"  {model.parameters:,} parameters, {shape}, {model.licence}"))
    out.print(Text(f"  https://huggingface.co/{model.repository}"))
    for file in model.files:
        size = f"{file.nbytes:,} bytes ({file.nbytes_is})" if file.nbytes is not None else file.listed_size
        out.print()
        out.print(Text(f"  {file.name}: {size}, {file.storages} storages"))
        out.print(Text(f"  {file.url}"), soft_wrap=True)
        if file.sha256:
            out.print(Text(f"  sha256 {file.sha256}"))
        if file.superseded_sha256:
            out.print(Text(f"  an older file of the same size has sha256 {file.superseded_sha256}"))
        if file.name in cached:
            out.print(Text(f"  in the cache: {safe_text(str(cached[file.name]), 400)}"), soft_wrap=True)
