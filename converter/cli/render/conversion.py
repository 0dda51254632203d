"""Prints what `convert` and `extract` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from converter.cli.render import console, empty_table, indented
from converter.text import listed, nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from converter.reports.conversion import ConversionReport, ExtractReport

_NAMES: Final = 6  # names that are shown for each reason why something is left behind


def show_conversion(report: ConversionReport) -> None:
    """Print what `convert` wrote, or would write."""
    out = console()
    weights = [file for file in report.files if file.tensors] or list(report.files)
    would = "" if report.written else " would be written"
    out.print(Text(f"{safe_text(report.output)}: {report.format}, {nbytes_text(report.nbytes)}{would}", style="bold"))
    model = f", shaped like {report.model}," if report.model else ""
    out.print(Text(f"  {plural(report.tensors, 'tensor')}{model} in {plural(len(weights), 'file')}"))
    _left_behind(report, out)
    _show_surgery(report, out)
    for name, kept in report.tied[:8]:
        out.print(Text(f"  {safe_text(name)} is tied to {safe_text(kept)}, and recorded as such"))
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
        cast = f"as {report.dtype}" if report.dtype != "keep" else "by --tensor-type"
        out.print(Text(f"  {cast}: {', '.join(lost)}"))
    for note in report.notes:
        out.print(Text(f"  ! {safe_text(note, 400)}", style="yellow"))
    if not report.written:
        _plan_table(report, out)


def _left_behind(report: ConversionReport | ExtractReport, out: Console) -> None:
    """Say what the output does not have: a line for each reason, and names."""
    if report.carried:
        carried = listed([safe_text(name, 60) for name in report.carried], _NAMES)
        out.print(Text(f"  {plural(len(report.carried), 'value')} carried along: {carried}"))
    masks = [left for left in report.dropped if left.kind == "mask"]
    if masks:
        out.print(Text(f"  {len(masks):,} masks left out: they follow from the architecture"))
    excluded, others = set(report.excluded), dict[str, list[str]]()
    for left in report.dropped:
        if left.kind != "mask" and left.name not in excluded:
            held = f" ({plural(left.tensors, 'tensor')}, {nbytes_text(left.nbytes)})" if left.tensors else ""
            others.setdefault(left.reason, []).append(safe_text(left.name, 60) + held)
    for reason, names in others.items():
        more = f" and {len(names) - _NAMES:,} more (--json lists them)" if len(names) > _NAMES else ""
        out.print(Text(f"  left behind: {', '.join(names[:_NAMES])}{more}: {reason}"))


def _show_surgery(report: ConversionReport | ExtractReport, out: Console) -> None:
    """What was left out or renamed as asked: the first names, and how many more."""
    if report.excluded:
        names = listed([safe_text(name) for name in report.excluded], 3)
        out.print(Text(f"  {plural(len(report.excluded), 'tensor')} left out, as asked: {names}"))
    if report.renamed:
        (old, new), more = report.renamed[0], len(report.renamed) - 1
        first = f"`{safe_text(old)}` is now `{safe_text(new)}`"
        out.print(Text(f"  {len(report.renamed):,} renamed: {first}{f', and {more:,} more' if more else ''}"))


def _plan_table(report: ConversionReport, out: Console) -> None:
    table = empty_table()
    for name in ("file", "tensor", "dtype", "offset", "bytes"):
        table.add_column(name, overflow="fold", justify="right" if name in ("offset", "bytes") else "left")
    for file in report.files:
        for tensor in file.tensors:
            numbers = (f"{tensor.offset:,}", f"{tensor.nbytes:,}")
            cells = (safe_text(file.path), safe_text(tensor.name), tensor.dtype, *numbers)
            table.add_row(*(Text(cell) for cell in cells))
        if not file.tensors:
            table.add_row(Text(safe_text(file.path)), "", "", "", Text(f"{file.nbytes:,}"))
    out.print(indented(table))


def show_extraction(report: ExtractReport) -> None:
    """Print what `extract` wrote."""
    out = console()
    out.print(Text(f"{safe_text(report.folder)}: {report.files:,} files, {nbytes_text(report.nbytes)}", style="bold"))
    model = f", shaped like {report.model}" if report.model else ""
    out.print(Text(f"  {plural(report.tensors, 'tensor')}{model}, {report.form} form; manifest.json reads them back"))
    _show_surgery(report, out)
    if report.properties is not None:
        whose = "Java client; its newest build needs --form named" if report.form == "storages" else "Java client"
        out.print(Text(f"  {safe_text(report.properties)} names them for the {whose}"))
    _left_behind(report, out)
    for note in report.notes:
        out.print(Text(f"  ! {safe_text(note, 400)}", style="yellow"))
