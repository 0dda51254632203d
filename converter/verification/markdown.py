"""What `verify` found as a summary in Markdown, which GitHub shows below a run."""

from __future__ import annotations

from typing import Final

from converter.reports.verification import Verification, VerifiedOutput
from converter.text import as_code

_LISTED: Final = 50  # lines about one output


def markdown(report: Verification) -> str:
    """The summary: a table of the outputs, then what is wrong with each."""
    lines = [
        f"### cerebras-tool verify: {'equal' if report.ok else 'different'}",
        "",
        f"Source: {as_code(report.source)}",
        "",
        "| output | verdict | tensors | identical | converted | wrong |",
        "|---|---|---|---|---|---|",
        *map(_row, report.outputs),
    ]
    for output in report.outputs:
        wrong = _wrong(output)
        if wrong:
            lines += ["", f"#### {as_code(output.location)}", "", *wrong[:_LISTED]]
        if len(wrong) > _LISTED:
            lines.append(f"* and {len(wrong) - _LISTED:,} more")
    return "\n".join(lines) + "\n\n"


def _row(output: VerifiedOutput) -> str:
    tensors = output.tensors
    counts = f"{tensors.compared:,} | {tensors.identical:,} | {tensors.converted:,} | {len(_wrong(output)):,}"
    return f"| {as_code(output.location)} | {output.verdict} | {counts} |"


def _wrong(output: VerifiedOutput) -> list[str]:
    tensors = output.tensors
    return [
        *(f"* {as_code(found.name)}: {as_code(found.what)}, {as_code(found.detail)}" for found in tensors.different),
        *(f"* {as_code(name)}: missing" for name in tensors.missing),
        *(f"* {as_code(name)}: unexpected" for name in tensors.unexpected),
    ]
