"""Summaries in Markdown, which GitHub shows below a run: what the reports of several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from converter.text import as_code, in_table

_ROWS: Final = 200  # rows of a table
_LINES: Final = 50  # about one thing
_SECTIONS: Final = 20  # things that have lines of their own; GitHub shows nothing of a summary beyond 1 MiB


def summary(
    title: str,
    facts: Sequence[str],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    sections: Iterable[tuple[str, Sequence[str]]],
) -> str:
    """A summary: a title, facts, a table, and lines about the things that need some. The cells and lines are Markdown."""
    table = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    table += [f"| {' | '.join(map(in_table, row))} |" for row in rows[:_ROWS]]
    parts = [f"### {title}", *facts, "\n".join(table)]
    if len(rows) > _ROWS:
        parts.append(f"and {len(rows) - _ROWS:,} more")
    shown = [(name, lines) for name, lines in sections if lines]
    for name, lines in shown[:_SECTIONS]:
        told = [f"* {line}" for line in lines[:_LINES]]
        told += [f"* and {len(lines) - _LINES:,} more"] if len(lines) > _LINES else []
        parts += [f"#### {as_code(name)}", "\n".join(told)]
    if len(shown) > _SECTIONS:
        parts.append(f"and {len(shown) - _SECTIONS:,} more with something to say")
    return "\n\n".join(parts) + "\n\n"


def failed(title: str, sentence: str) -> str:
    """The summary of something that could not be done."""
    return f"### {title}: no answer\n\n{as_code(sentence, 2000)}\n\n"
