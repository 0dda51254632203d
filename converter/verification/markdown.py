"""What `verify` found as a summary in Markdown, which GitHub shows below a run."""

from __future__ import annotations

from converter.reports.markdown import summary
from converter.reports.verification import Verification, VerifiedOutput
from converter.text import as_code


def markdown(report: Verification) -> str:
    """The summary: a table of the outputs, then what is wrong with each, and what it computes."""
    return summary(
        f"cerebras-tool verify: {'equal' if report.ok else 'different' if report.differs else 'not compared'}",
        [f"Source: {as_code(report.source)}"],
        ("output", "verdict", "tensors", "identical", "converted", "wrong"),
        [_row(output) for output in report.outputs],
        [(output.location, [*_computed(output), *_wrong(output)]) for output in report.outputs],
    )


def _row(output: VerifiedOutput) -> list[str]:
    tensors = output.tensors
    wrong = len(tensors.different) + len(tensors.unexplained())
    counts = (tensors.compared, tensors.identical, tensors.converted, wrong)
    return [as_code(output.location), output.verdict, *(f"{count:,}" for count in counts)]


def _wrong(output: VerifiedOutput) -> list[str]:
    tensors = output.tensors
    return [
        *(f"{as_code(found.name)}: {as_code(found.what)}, {as_code(found.sentence)}" for found in tensors.different),
        *(f"{as_code(name)}: {what}" for name, what in tensors.unexplained()),
        *(f"{as_code(name)}: not compared" for name in tensors.not_compared),
    ]


def _computed(output: VerifiedOutput) -> list[str]:
    """What inference found, on one line."""
    found = output.inference
    if found is None:
        return []
    greedy = found["greedy_difference"]
    same = f"{len(found['greedy']):,} greedy tokens equal" if greedy is None else f"greedy token {greedy + 1} differs"
    return [
        f"{as_code(found['engine'])}, {found['tokens']:,} tokens: KL divergence {_number(found['kl_divergence'])}; "
        f"likeliest token equal at {found['top1_agreement']:.1%} of {found['positions']:,} positions; {same}; perplexity "
        f"{_number(found['other_perplexity'])}, source {_number(found['perplexity'])}"
    ]


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.3g}"
