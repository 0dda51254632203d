"""Prints what `verify` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.cli.render import BAD, GOOD, Column, Screen
from converter.text import listed, numbered, plural, safe_name, safe_text, shortened, together
from converter.words import ACTIVATIONS

if TYPE_CHECKING:
    from converter.reports.verification import DerivedReport, Verification, VerifiedTensors

_ROOM: Final = 12  # columns of a verdict, and the indent of what stands below it
_SHOWN: Final = 40  # lines about what is wrong with one output


def show(report: Verification) -> None:
    """Print a line for each output, and what is wrong with it."""
    out = Screen()
    for output in report.outputs:
        tensors = output.tensors
        kind = f" · {formats.named(output.format).title}" if output.format else ""
        style = GOOD if output.verdict in ("identical", "equivalent") else BAD
        out.line((f"{output.verdict:<10}", style), f"  {safe_text(output.location)}{kind}", hang=_ROOM)
        counts = [f"{plural(tensors.compared, 'tensor')} compared"]
        counts += [f"{tensors.identical:,} identical in every bit"] if tensors.identical else []
        counts += [f"{tensors.converted:,} within what their dtype allows"] if tensors.converted else []
        if output.format:
            out.line(f"{', '.join(counts)}", indent=_ROOM)
        if output.derived:
            out.line(_derived(output.derived), indent=_ROOM)
        if output.agree:
            *others, last = output.agree
            agree = f"{', '.join(others)} and {last}" if others else last
            out.line(f"{agree} agree" if len(output.agree) > 1 else f"the {agree} agrees", indent=_ROOM)
        elif output.companions == "different":
            link = "and" if output.weights == "different" else "but"
            said = f"the weights are {output.weights}, {link} what lies beside them is not as it should be"
            out.line(said, indent=_ROOM)
        if output.left_out:
            names = [name for name, _, _ in _folded([(name, "", "") for name in output.left_out])]
            out.line(f"left out, because the rest determines them: {shortened(names, 4)}", indent=_ROOM)
        for note in output.notes:
            out.line(f"{safe_name(note.name)} {safe_text(note.what)}: {safe_text(note.detail, 400)}", indent=_ROOM)
        if output.lacks:
            out.line(f"it lacks {shortened(output.lacks, 6)}, which the source has besides its weights", indent=_ROOM)
        wrong = _wrong(tensors)
        if wrong:
            _wrong_table(wrong, out)
        if output.inference is not None:
            _inference(output.inference, out)


def _derived(tensors: Sequence[DerivedReport]) -> str:
    """How many tensors in blocks are what quantising the source gives, and how near to that the others are."""
    whole = [tensor for tensor in tensors if tensor.fit == tensor.blocks]
    rest = [tensor for tensor in tensors if tensor.fit < tensor.blocks]
    said = []
    if whole:
        origins = listed(sorted({tensor.origin or "" for tensor in whole}))
        said.append(
            f"{plural(len(whole), 'tensor is', 'tensors are')} what quantising the source gives, from {origins}"
        )
    if rest:
        most = max((tensor.ratio for tensor in rest if tensor.ratio is not None), default=None)
        by = f", with at most {most:.3g} times the error of quantising" if most is not None else ""
        what = "" if whole else " what quantising the source gives"
        said.append(f"{plural(len(rest), 'tensor is', 'tensors are')} not{what}{by}")
    return "; ".join(said)


def _wrong(tensors: VerifiedTensors) -> list[tuple[str, str, str]]:
    """What is wrong, as (name, what, detail)."""
    rows = [(name, what, "") for name, what in tensors.unexplained()]
    return _folded([*rows, *((found.name, found.what, found.sentence) for found in tensors.different)])


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
    shown = [(safe_name(name), what, safe_text(detail, 400)) for name, what, detail in rows[:_SHOWN]]
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
        f"{found['engine']}, {ACTIVATIONS[found['activation']]}, {found['tokens']:,} tokens: logits differ by "
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
