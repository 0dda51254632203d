"""What `verify` found as SARIF: a result for each difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converter.reports import sarif
from converter.reports.sarif import Result
from converter.reports.verification import Verification, VerifiedOutput
from converter.verification.rules import NOT_COMPARED, RULES


def to_sarif(report: Verification) -> dict[str, Any]:
    """The log. The files are the outputs, as they were named."""
    results = [result for number, output in enumerate(report.outputs) for result in _results(number, output)]
    return sarif.log(RULES, [(output.location, None) for output in report.outputs], results)


def _results(number: int, output: VerifiedOutput) -> Iterator[Result]:
    known, beside, computes = {*output.expected, *output.tensors.unexpected}, set(output.beside), set(output.computes)
    for found in output.tensors.different:
        if found in beside:
            rule = "different-companion"
        elif found in computes:
            rule = "different-computation"
        else:
            rule = "different-tensor" if found.name in known else "unreadable-copy"
        said = f"{found.name}: {found.what}, {found.sentence}"
        yield Result(rule, "error", said, number, place=found.name, subject=found.what)
    for name in output.tensors.missing:
        yield Result("missing-tensor", "error", f"{name}: the output does not have it", number, place=name)
    for name in output.tensors.unexpected:
        yield Result("unexpected-tensor", "error", f"{name}: the source does not have it", number, place=name)
    for name in output.tensors.not_compared:
        said = f"{name}: the manifest has no digest in its dtype"
        yield Result(NOT_COMPARED.id, NOT_COMPARED.level, said, number, place=name)
