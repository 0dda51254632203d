"""Prints what `check` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from converter import formats
from converter.cli.render import console, indented
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from converter.reports.checking import CheckedReport, CheckReport

_STYLES: Final = {"error": "bold red", "warning": "yellow"}


def show(report: CheckReport, *, out: Console | None = None) -> None:
    """Print a line for each checkpoint and one for each fault."""
    out = out or console()
    for one in report.checkpoints:
        out.print(Text.assemble((_verdict(one), "bold"), f"  {safe_text(one.location)}"))
        if one.format:
            parts = [one.title, formats.named(one.format).title, plural(one.tensors, "tensor"), nbytes_text(one.nbytes)]
            out.print(Text("  " + " · ".join(filter(None, parts))))
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column(overflow="fold")  # a long sentence goes on below its beginning
        for fault in one.faults:
            said = f"{safe_text(fault.name)}: " if fault.name else ""
            found = f" {fault.rule}: {said}{safe_text(fault.message, 400)}"
            lines.add_row("!", Text.assemble((fault.level, _STYLES[fault.level]), found))
        if one.faults:
            out.print(indented(lines))


def _verdict(one: CheckedReport) -> str:
    errors, warnings = one.count("error"), one.count("warning")
    found = [plural(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    return ", ".join(found) if found else "sound"
