"""What `verify` found as a JUnit report, which CI systems show."""

from __future__ import annotations

from converter.reports.junit import Case, document
from converter.reports.verification import Verification


def junit(report: Verification) -> bytes:
    """The document: one suite for each output, with one case for each thing that is wrong and one for all that is right."""
    suites = []
    for output in report.outputs:
        wrong = [(found.name, found.what, found.detail) for found in output.tensors.different]
        wrong += [(name, "missing", "the output does not have it") for name in output.tensors.missing]
        wrong += [(name, "unexpected", "the source does not have it") for name in output.tensors.unexpected]
        same = output.tensors.identical + output.tensors.converted
        cases = [Case(output.verdict, f"{same} tensors are equal")]
        cases += [Case(output.verdict, name, what, "different", detail) for name, what, detail in wrong]
        suites.append((output.location, cases))
    return document("cerebras-tool verify", suites)
