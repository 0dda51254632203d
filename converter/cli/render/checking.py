"""Prints what `check` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter import formats
from converter.cli.render import BAD, GOOD, WARN, Screen
from converter.text import nbytes_text, plural, safe_name, safe_text

if TYPE_CHECKING:
    from converter.reports.checking import CheckedReport, CheckReport

_STYLES: Final = {"error": BAD, "warning": WARN}


def show(report: CheckReport, *, out: Screen | None = None) -> None:
    """Print a line for each checkpoint and one for each fault."""
    out = out or Screen()
    for one in report.checkpoints:
        style = next((_STYLES[level] for level in _STYLES if one.count(level)), GOOD)
        out.line((_verdict(one), style), f"  {safe_text(one.location)}")
        if one.format:
            parts = [one.title, formats.named(one.format).title, plural(one.tensors, "tensor"), nbytes_text(one.nbytes)]
            out.line(" · ".join(filter(None, parts)), indent=2)
        for fault in one.faults:
            said = f"{safe_name(fault.name)}: " if fault.name else ""
            words = f" {fault.rule}: {said}{safe_text(fault.message, 400)}"
            out.note((fault.level, _STYLES[fault.level]), words)


def _verdict(one: CheckedReport) -> str:
    errors, warnings = one.count("error"), one.count("warning")
    found = [plural(count, word) for count, word in ((errors, "error"), (warnings, "warning")) if count]
    return ", ".join(found) if found else "sound"
