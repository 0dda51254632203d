"""Prints what `convert` and `extract` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter.cli.render import BOLD, Column, Screen
from converter.text import listed, more, nbytes_text, plural, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.conversion import ConversionReport, ExtractReport

_NAMES: Final = 6  # names that are shown for each reason why something is left behind


def show_conversion(report: ConversionReport) -> None:
    """Print what `convert` wrote, or would write."""
    out = Screen()
    weights = [file for file in report.files if file.tensors] or list(report.files)
    would = "" if report.written else " would be written"
    out.line((f"{safe_text(report.output)}: {report.format}, {nbytes_text(report.nbytes)}{would}", BOLD))
    model = f", shaped like {report.model}," if report.model else ""
    out.line(f"{plural(report.tensors, 'tensor')}{model} in {plural(len(weights), 'file')}", indent=2)
    _left_behind(report, out)
    _show_surgery(report, out)
    for name, kept in report.tied[:8]:
        out.line(f"{safe_name(name)} is tied to {safe_name(kept)}, and recorded as such", indent=2)
    for loss in report.losses:
        counts = (
            (loss.rounded, "rounded"),
            (loss.overflowed, "became infinite"),
            (loss.underflowed, "became zero"),
            (loss.nan, "NaN"),
        )
        lost = [f"{count:,} {what}" for count, what in counts if count]
        out.line(f"as {loss.dtype.lower()}: {', '.join(lost)}", indent=2)
    for note in report.notes:
        out.note(safe_text(note, 400))
    if not report.written:
        _plan_table(report, out)


def _left_behind(report: ConversionReport | ExtractReport, out: Screen) -> None:
    """Say what the output does not have: a line for each reason, and names."""
    if report.carried:
        carried = listed([safe_text(name, 60) for name in report.carried], _NAMES)
        out.line(f"{plural(len(report.carried), 'value')} carried along: {carried}", indent=2)
    masks = [left for left in report.dropped if left.kind == "mask"]
    if masks:
        out.line(f"{plural(len(masks), 'mask')} left out: they follow from the architecture", indent=2)
    excluded, others = set(report.excluded), dict[str, list[str]]()
    for left in report.dropped:
        if left.kind != "mask" and left.name not in excluded:
            held = f" ({plural(left.tensors, 'tensor')}, {nbytes_text(left.nbytes)})" if left.tensors else ""
            others.setdefault(left.reason, []).append(safe_text(left.name, 60) + held)
    for reason, names in others.items():
        unnamed = f"{more(len(names), _NAMES)} (--json lists them)" if len(names) > _NAMES else ""
        out.line(f"left behind: {', '.join(names[:_NAMES])}{unnamed}: {reason}", indent=2)


def _show_surgery(report: ConversionReport | ExtractReport, out: Screen) -> None:
    """What was left out or renamed as asked: the first names, and how many more."""
    if report.excluded:
        names = listed([safe_name(name) for name in report.excluded], 3)
        out.line(f"{plural(len(report.excluded), 'tensor')} left out, as asked: {names}", indent=2)
    if report.renamed:
        old, new = report.renamed[0]
        first = f"`{safe_name(old)}` is now `{safe_name(new)}`"
        out.line(f"{len(report.renamed):,} renamed: {first}{more(len(report.renamed), before=', and ')}", indent=2)


def _plan_table(report: ConversionReport, out: Screen) -> None:
    heads = (
        Column("tensor"),
        Column("dtype"),
        Column("offset", right=True, rank=1),
        Column("bytes", right=True),
    )
    for file in report.files:
        out.blank()
        out.line((safe_text(file.path), BOLD), f": {plural(file.nbytes, 'byte')}", indent=2)
        rows = [
            (safe_name(tensor.name), tensor.dtype, f"{tensor.offset:,}", f"{tensor.nbytes:,}")
            for tensor in file.tensors
        ]
        if rows:
            out.table(heads, rows, indent=4)


def show_extraction(report: ExtractReport) -> None:
    """Print what `extract` wrote."""
    out = Screen()
    out.line((f"{safe_text(report.folder)}: {plural(report.files, 'file')}, {nbytes_text(report.nbytes)}", BOLD))
    model = f", shaped like {report.model}" if report.model else ""
    out.line(f"{plural(report.tensors, 'tensor')}{model}, {report.form} form; manifest.json reads them back", indent=2)
    _show_surgery(report, out)
    if report.properties is not None:
        whose = "Java client; its newest build needs --form named" if report.form == "storages" else "Java client"
        out.line(f"{safe_text(report.properties)} names them for the {whose}", indent=2)
    _left_behind(report, out)
    for note in report.notes:
        out.note(safe_text(note, 400))
