"""What `verify` found as a JUnit report, which CI systems show."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from converter.reports.verification import Verification
from converter.text import safe_text


def junit(report: Verification) -> bytes:
    """The document: one suite for each output, with one case for each thing that is wrong and one for all that is right."""
    suites = Xml.Element("testsuites", name="cerebras-tool verify")
    for output in report.outputs:
        wrong = [(found.name, found.what, found.detail) for found in output.tensors.different]
        wrong += [(name, "missing", "the output does not have it") for name in output.tensors.missing]
        wrong += [(name, "unexpected", "the source does not have it") for name in output.tensors.unexpected]
        counts = {"tests": str(len(wrong) + 1), "failures": str(len(wrong)), "errors": "0", "skipped": "0"}
        suite = Xml.SubElement(suites, "testsuite", {"name": safe_text(output.location, 400), **counts})
        same = output.tensors.identical + output.tensors.converted
        Xml.SubElement(suite, "testcase", classname=output.verdict, name=f"{same} tensors are equal")
        for name, what, detail in wrong:
            case = Xml.SubElement(suite, "testcase", classname=output.verdict, name=safe_text(name))
            failure = Xml.SubElement(case, "failure", message=safe_text(what), type="different")
            failure.text = safe_text(detail, 400)
    return bytes(Xml.tostring(suites, encoding="utf-8", xml_declaration=True))
