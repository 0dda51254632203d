"""The JUnit report counts what is equal, and has a case for each thing that is wrong."""

from xml.etree import ElementTree

from converter.reports.verification import Difference, Verification, VerifiedOutput, VerifiedTensors
from converter.verification.junit import junit


def test_equal_tensors_are_counted_and_each_wrong_thing_is_a_case() -> None:
    wrong = Difference("a.weight", "other values", "8 of 16 elements differ")
    some = VerifiedTensors(9, 3, 2, (wrong,), missing=("b.weight", "b.bias"), unexpected=("c",))
    fine = VerifiedTensors(7, 0, 7, (), (), ())

    document = junit(
        Verification(
            "source.bin",
            (
                VerifiedOutput("one.gguf", "gguf", "different", some, None),
                VerifiedOutput("two.gguf", "gguf", "equivalent", fine, None),
            ),
        )
    )

    suites = ElementTree.fromstring(document).findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["one.gguf", "two.gguf"]
    assert [[case.get("name") for case in suite.findall("testcase")] for suite in suites] == [
        ["5 tensors are equal", "a.weight", "b.weight", "b.bias", "c"],
        ["7 tensors are equal"],
    ]
    failures = [case.find("failure") for case in suites[0].findall("testcase")]
    assert [None if one is None else (one.get("message"), one.text) for one in failures] == [
        None,
        ("other values", "8 of 16 elements differ"),
        ("missing", "the output does not have it"),
        ("missing", "the output does not have it"),
        ("unexpected", "the source does not have it"),
    ]
    assert suites[1].findall("testcase/failure") == []
