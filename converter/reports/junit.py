"""JUnit, which CI systems show: what the reports of several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as Xml

from converter.text import safe_text


class Case(NamedTuple):
    """A test case. It passed unless it has a `failure`: what is wrong in a few words, of a `type`, and in a sentence."""

    classname: str
    name: str
    failure: str | None = None
    type: str = ""
    detail: str = ""


def document(title: str, suites: Iterable[tuple[str, Sequence[Case]]]) -> bytes:
    """The document, with suites by name."""
    root = Xml.Element("testsuites", name=title)
    for name, cases in suites:
        failures = sum(case.failure is not None for case in cases)
        counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
        suite = Xml.SubElement(root, "testsuite", {"name": safe_text(name, 400), **counts})
        for case in cases:
            element = Xml.SubElement(suite, "testcase", classname=case.classname, name=safe_text(case.name))
            if case.failure is not None:
                failure = Xml.SubElement(element, "failure", message=safe_text(case.failure), type=case.type)
                failure.text = safe_text(case.detail, 400)
    return bytes(Xml.tostring(root, encoding="utf-8", xml_declaration=True))
