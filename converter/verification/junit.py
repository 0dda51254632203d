"""What `verify` found as a JUnit report, which CI systems show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from converter.reports.junit import Case, Suite
from converter.reports.verification import Difference, Verification, VerifiedOutput

FILE: Final = "the file"  # the names of the cases that are not about a tensor
BESIDE: Final = "the files beside the weights"
COMPUTED: Final = "what it computes"
NOT_COMPARED: Final = "not compared"
_FIGURES: Final = (
    *("engine", "activation", "tokens", "positions", "kl_divergence", "top1_agreement", "greedy_difference"),
    *("max_difference", "mean_difference", "perplexity", "other_perplexity"),
)


def suites(report: Verification) -> list[Suite]:
    """A suite for each output: a case for each tensor of the source, and for the file, what lies beside it and what it computes.

    A tensor that the source does not have is a case of its own, which failed.
    """
    return [Suite(one.location, [*_cases(one)], one.seconds, _properties(one)) for one in report.outputs]


def _cases(output: VerifiedOutput) -> Iterator[Case]:
    tensors = output.tensors
    known = {*output.expected, *tensors.unexpected}
    apart = {*output.beside, *output.computes}
    wrong: dict[str, list[Difference]] = {}
    for found in tensors.different:
        if found not in apart:
            wrong.setdefault(found.name if found.name in known else FILE, []).append(found)
    for name in tensors.missing:
        wrong.setdefault(name, []).append(Difference(name, "missing", "the output does not have it"))
    for name in tensors.unexpected:
        wrong.setdefault(name, []).append(Difference(name, "unexpected", "the source does not have it"))
    for name in tensors.not_compared:
        wrong.setdefault(name, []).append(Difference(name, NOT_COMPARED, "the manifest has no digest in its dtype"))
    place, broken = output.location, output.format is None or (FILE in wrong and not tensors.compared)
    yield _case(place, FILE, wrong.get(FILE, ()))
    compared = output.beside or output.companions == "equal"
    yield _case(place, BESIDE, output.beside, None if compared else output.companions)
    asked = output.computes or output.inference is not None
    yield _case(place, COMPUTED, output.computes, None if asked else "not asked for, or not reached")
    absent = dict.fromkeys(output.left_out, "left out, because the rest determines it")
    for name in output.expected:
        yield _case(place, name, wrong.get(name, ()), "not reached" if broken else absent.get(name))
    expected = {FILE, *output.expected}
    for name, differences in wrong.items():
        if name not in expected:
            yield _case(place, name, differences)


def _case(place: str, name: str, wrong: Sequence[Difference], skipped: str | None = None) -> Case:
    if not wrong:
        return Case(place, name, skipped=skipped)
    what = ", ".join(dict.fromkeys(found.what for found in wrong))
    unanswered = all(found.what == NOT_COMPARED for found in wrong)
    lines = (found.sentence if found.name == name else f"{found.name}: {found.sentence}" for found in wrong)
    return Case(place, name, what, "different", "\n".join(lines), error=unanswered)


def _properties(output: VerifiedOutput) -> dict[str, str]:
    tensors = output.tensors
    found = {
        "verdict": output.verdict,
        "format": output.format or "",
        "compared": str(tensors.compared),
        "identical": str(tensors.identical),
        "converted": str(tensors.converted),
    }
    if output.inference is not None:
        found |= {f"inference.{key}": str(output.inference[key]) for key in _FIGURES}
    return found
