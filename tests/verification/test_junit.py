"""The JUnit report of `verify` has the same cases in every run, and says in full what is wrong."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from converter.reports.junit import Case, Suite, document
from converter.reports.verification import Difference, Verification, VerifiedOutput, VerifiedTensors
from converter.verification.junit import suites

NAMES = ("a.weight", "b.weight", "b.bias", "mask")
CHECKS = ["the file", "the files beside the weights", "what it computes"]


def cases(output: VerifiedOutput) -> dict[str, tuple[str, str | None, str | None]]:
    """Each case of the one suite: how it ended, its message and its text."""
    (suite,) = ElementTree.fromstring(document("t", suites(Verification("source", (output,)))))
    found: dict[str, tuple[str, str | None, str | None]] = {}
    for case in suite.findall("testcase"):
        assert case.get("classname") == output.location
        ends = [(end.tag, end.get("message"), end.text) for end in case]
        name = case.get("name")
        assert name is not None
        assert name not in found
        (found[name],) = ends or [("passed", None, None)]
    return found


def test_the_cases_are_the_tensors_of_the_source_and_three_checks_however_it_ends() -> None:
    fine = VerifiedOutput(
        "x.gguf", "gguf", "equivalent", VerifiedTensors(3, 1, 2, (), (), ()), None,
        companions="equal", left_out=("mask",), expected=NAMES,
    )  # fmt: skip
    unread = Difference("x.gguf", "truncated", "it ends too early")
    broken = VerifiedOutput(
        "x.gguf", None, "different", VerifiedTensors(0, 0, 0, (unread,), (), ()), None, expected=NAMES
    )

    passed, failed = cases(fine), cases(broken)

    assert [*passed] == [*failed] == [*CHECKS, *NAMES]
    assert [end for end, _, _ in passed.values()] == [
        "passed",
        "passed",
        "skipped",
        "passed",
        "passed",
        "passed",
        "skipped",
    ]
    assert passed["mask"][1] == "left out, because the rest determines it"
    assert failed["the file"] == ("failure", "truncated", "x.gguf: it ends too early")
    assert {end for name, (end, _, _) in failed.items() if name != "the file"} == {"skipped"}


def test_a_failure_says_all_that_the_terminal_says() -> None:
    wrong = Difference(
        "a.weight", "other sign", "every element has the other sign", 36864, 36864, (0, 0), 0.211734, -0.211734, 1.81
    )
    damage = Difference("a.weight", "checksum", "its CRC is wrong")
    beside, computes = (
        Difference("config.json", "n_head is wrong", "`n_head` is 3"),
        Difference("inference", "computes otherwise", "KL"),
    )
    tensors = VerifiedTensors(3, 1, 1, (wrong, damage, beside, computes), ("b.weight",), ("c",))
    output = VerifiedOutput(
        "x", "gguf", "different", tensors, None, expected=NAMES, beside=(beside,), computes=(computes,)
    )

    found = cases(output)

    assert [*found] == [*CHECKS, *NAMES, "c"]
    assert found["a.weight"] == (
        "failure",
        "other sign, checksum",
        "every element has the other sign; 36,864 of 36,864 differ, the first at [0, 0]: -0.211734, expected 0.211734; by 1.81 at most\n"
        "its CRC is wrong",
    )
    assert found["the files beside the weights"] == ("failure", "n_head is wrong", "config.json: `n_head` is 3")
    assert found["what it computes"] == ("failure", "computes otherwise", "inference: KL")
    assert found["b.weight"] == ("failure", "missing", "the output does not have it")
    assert found["c"] == ("failure", "unexpected", "the source does not have it")
    assert found["b.bias"][0] == "passed"


def test_figures_of_inference_are_properties_and_totals_are_added_up() -> None:
    computed = {
        "engine": "numpy", "activation": "erf", "tokens": 32, "positions": 63, "kl_divergence": 0.25, "top1_agreement": 0.5,
        "greedy_difference": None, "max_difference": 0.1, "mean_difference": 0.01, "perplexity": 3.0, "other_perplexity": 4.0,
    }  # fmt: skip
    output = VerifiedOutput(
        "x", "gguf", "equivalent", VerifiedTensors(4, 4, 0, (), (), ()), computed, expected=NAMES, seconds=1.5
    )
    other = VerifiedOutput(
        "y", None, "different", VerifiedTensors(0, 0, 0, (Difference("y", "unreadable", "junk"),), (), ()), None
    )

    root = ElementTree.fromstring(document("t", suites(Verification("s", (output, other))), seconds=2.0))

    properties = {one.get("name"): one.get("value") for one in root[0].iter("property")}
    assert properties["inference.kl_divergence"] == "0.25"
    assert properties["inference.greedy_difference"] == "None"
    assert properties["verdict"] == "equivalent"
    assert (root[0].get("time"), root.get("time")) == ("1.500", "2.000")
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "10", "failures": "1", "errors": "0", "skipped": "3",
    }  # fmt: skip


def test_a_report_is_the_same_in_every_run_if_the_time_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    made = document("t", [Suite("x", [Case("x", "a")], seconds=3.0)], seconds=4.0)

    assert b' time="' not in made
    assert made.count(b'timestamp="2023-11-14T22:13:20Z"') == 2


def test_the_document_is_ascii_and_keeps_the_lines_of_a_text() -> None:
    case = Case("k", "n\x1b[31m", "m\nn", "t", "ü\n##vso[x]\n::error::y\nlast")

    made = document("t", [Suite("s", [case])])

    assert made.isascii()
    failure = ElementTree.fromstring(made)[0][0][0]
    assert failure.get("message") == r"m\x0an"
    assert failure.text == "ü\n\\x23#vso[x]\n\\x3a:error::y\nlast"


def test_a_tensor_that_could_not_be_compared_is_an_error_and_no_failure() -> None:
    tensors = VerifiedTensors(2, 2, 0, (), (), (), not_compared=("a.weight",))

    found = cases(VerifiedOutput("x", "gguf", "not compared", tensors, None, expected=NAMES))

    assert found["a.weight"] == ("error", "not compared", "the manifest has no digest in its dtype")
