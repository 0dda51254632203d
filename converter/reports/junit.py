"""JUnit, which CI systems show: what the reports of several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from xml.etree import ElementTree as Xml

from converter.reports import maker
from converter.text import safe_text

HEAD: Final = b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites"  # how our documents begin
DONE: Final = "it could be done"  # the case of a test suite that could not be run
_NAME: Final = 400  # characters of a name
_LINE: Final = 2000  # characters of a line of a failure's text


class Case(NamedTuple):
    """A test case, whose class and name are the same in every run.

    It passed, unless it has a `failure`: what is wrong in a few words, of a `type`, and in the lines of `detail`. An
    `error` is no answer, because the test could not be made. `skipped` says why nothing was tested.
    """

    classname: str
    name: str
    failure: str | None = None
    type: str = ""
    detail: str = ""
    error: bool = False
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Test cases that belong together, how many seconds they took, and figures that are no tests."""

    name: str
    cases: Sequence[Case]
    seconds: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many cases there are, and how many failed, could not be made, or were skipped."""
        errors = sum(case.error for case in self.cases)
        failures = sum(case.failure is not None for case in self.cases) - errors
        skipped = sum(case.skipped is not None for case in self.cases)
        return {"tests": len(self.cases), "failures": failures, "errors": errors, "skipped": skipped}


def document(title: str, suites: Sequence[Suite], seconds: float | None = None) -> bytes:
    """The document: suites by name, with totals. It is ASCII, and has no durations if reports should be reproducible."""
    timed = None if maker.reproducible() else seconds
    totals = {
        key: str(sum(suite.counts[key] for suite in suites)) for key in ("tests", "failures", "errors", "skipped")
    }
    root = Xml.Element("testsuites", {"name": title, **totals, **_time(timed), "timestamp": maker.stamp()})
    for suite in suites:
        took = None if maker.reproducible() else suite.seconds
        counts = {key: str(count) for key, count in suite.counts.items()}
        own = {"name": safe_text(suite.name, _NAME), **counts, **_time(took), "timestamp": maker.stamp()}
        element = Xml.SubElement(root, "testsuite", own)
        if suite.properties:
            inner = Xml.SubElement(element, "properties")
            for name, value in suite.properties.items():
                Xml.SubElement(inner, "property", name=name, value=safe_text(value, _NAME))
        for case in suite.cases:
            _case(case, element)
    Xml.indent(root)
    body: bytes = Xml.tostring(root, encoding="us-ascii", xml_declaration=False)
    return HEAD.removesuffix(b"<testsuites") + body + b"\n"


def _time(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"time": f"{seconds:.3f}"}


def _case(case: Case, suite: Xml.Element) -> None:
    names = {"classname": safe_text(case.classname, _NAME), "name": safe_text(case.name, _NAME)}
    element = Xml.SubElement(suite, "testcase", names)
    if case.failure is not None:
        kind = "error" if case.error else "failure"
        failure = Xml.SubElement(element, kind, message=safe_text(case.failure, _NAME), type=case.type)
        failure.text = "\n".join(safe_text(line, _LINE) for line in case.detail.splitlines())
    elif case.skipped is not None:
        Xml.SubElement(element, "skipped", message=safe_text(case.skipped, _NAME))
