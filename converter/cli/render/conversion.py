"""Prints what `convert` and `extract` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from converter.cli.render import console, empty_table, indented
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from converter.reports.conversion import ConversionReport, ExtractReport


def show_conversion(report: ConversionReport) -> None:
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
    model = f" of {report.model}" if report.model else ""
    out.print(Text(f"  {report.tensors:,} tensors{model}, {report.form} form; manifest.json reads them back"))
    if report.properties is not None:
        out.print(Text(f"  {safe_text(report.properties)} names them for the Java client"))
    for note in report.notes:
        out.print(Text(f"  ! {safe_text(note, 400)}", style="yellow"))
