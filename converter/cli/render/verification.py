"""Prints what `verify` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.cli.render import BAD, GOOD, Column, Screen, listed, numbered, together
from converter.text import plural, safe_text

if TYPE_CHECKING:
    from converter.reports.verification import Verification, VerifiedTensors

_ROOM: Final = 12  # columns of a verdict, and the indent of what stands below it
_SHOWN: Final = 40  # lines about what is wrong with one output


def show(report: Verification) -> None:
    """Print a line for each output, and what is wrong with it."""
    out = Screen()
    for output in report.outputs:
        tensors = output.tensors
        kind = f" · {formats.named(output.format).title}" if output.format else ""
        style = BAD if output.verdict == "different" else GOOD
        out.line((f"{output.verdict:<10}", style), f"  {safe_text(output.location)}{kind}", hang=_ROOM)
        counts = [f"{plural(tensors.compared, 'tensor')} compared"]
        counts += [f"{tensors.identical:,} identical in every bit"] if tensors.identical else []
        counts += [f"{tensors.converted:,} within what their dtype allows"] if tensors.converted else []
        if output.format:
            out.line(f"{', '.join(counts)}", indent=_ROOM)
        if output.companions == "equal":
            out.line("configuration and tokenizer agree", indent=_ROOM)
        elif output.companions == "different":
            said = f"the weights are {output.weights}, what lies beside them is not as it should be"
            out.line(said, indent=_ROOM)
        if output.left_out:
            names = [name for name, _, _ in _folded([(name, "", "") for name in output.left_out])]
            out.line(f"left out, because the rest determines them: {listed(names, 4)}", indent=_ROOM)
        for note in output.notes:
            out.line(f"{safe_text(note.name)} {safe_text(note.what)}: {safe_text(note.detail, 400)}", indent=_ROOM)
        if output.lacks:
            out.line(f"it lacks {listed(output.lacks, 6)}, which the source has besides its weights", indent=_ROOM)
        wrong = _wrong(tensors)
        if wrong:
            _wrong_table(wrong, out)
        if output.inference is not None:
            _inference(output.inference, out)


def _wrong(tensors: VerifiedTensors) -> list[tuple[str, str, str]]:
    """What is wrong, as (name, what, detail)."""
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
    return _folded(rows)


def _folded(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Put rows that differ only in a number of their names into one."""
    groups: dict[tuple[tuple[str, ...], str, str], list[tuple[str, int | None]]] = {}
    for name, what, detail in rows:
        number, around = numbered(name)
        groups.setdefault((around, what, detail), []).append((name, number))
    folded = []
    for (around, what, detail), members in groups.items():
        numbers = [number for _, number in members if number is not None]
        name = together(around, numbers) if len(numbers) > 1 else members[0][0]
        folded.append((name, what, detail))
    return folded


def _wrong_table(rows: Sequence[tuple[str, str, str]], out: Screen) -> None:
    shown = [tuple(safe_text(cell, 400) for cell in row) for row in rows[:_SHOWN]]
    out.table((Column("name"), Column("what"), Column("detail", wrap=True)), shown)
    if len(rows) > _SHOWN:
        out.line(f"and {len(rows) - _SHOWN:,} more: see --json", indent=2)


def _inference(found: Mapping[str, Any], out: Screen) -> None:
    """Print how far the results of an output differ from those of the source."""

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
        lines.append(
            f"apart from that, programs that run this format compute the tanh GELU, which moves logits by {moved} at most"
        )
    for line in lines:
        out.line(line, indent=_ROOM)
