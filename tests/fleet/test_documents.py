"""A job's tasks as JUnit, SARIF and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from converter.fleet.documents import SARIF_RULES, suites, to_markdown, to_sarif
from converter.reports import junit
from converter.reports.batch import BatchReport, TaskReport

STEPS = ("scan", "check", "convert")
STATES = ("waiting", "running", "done", "failed", "refused", "broken")
ENDS = {  # state, step, reason: what each case of JUnit says, and the rule of SARIF
    ("done", "", ""): ("....", None),
    ("failed", "scan", "dangerous: `os.system`"): ("Fss.", "scan-failed"),
    ("failed", "check", "w: NaN"): (".Fs.", "check-failed"),
    ("refused", "convert", "`out/a` exists"): ("..E.", "refused"),
    ("refused", "", "`out/a` exists"): ("sssE", "refused"),
    ("broken", "", "3 attempts failed"): ("sssE", "broken"),
    ("broken", "check", "3 attempts failed"): (".Es.", "broken"),
    ("waiting", "", ""): ("sssE", "not-ended"),
    ("running", "", ""): ("sssE", "not-ended"),
}


def report(*ends: tuple[str, str, str]) -> BatchReport:
    tasks = tuple(
        TaskReport(f"in/{number} |<b>.bin", f"out/{number}", state, step, reason, 1, 100, 0, 1.5)
        for number, (state, step, reason) in enumerate(ends)
    )
    counts = {state: sum(task.state == state for task in tasks) for state in STATES}
    return BatchReport("job.toml", counts, 100, 0, 1.5, None, tasks, STEPS)


def marks(suite: Xml.Element) -> str:
    words = {"failure": "F", "error": "E", "skipped": "s"}
    return "".join(words[case[0].tag] if len(case) else "." for case in suite.iter("testcase"))


@pytest.mark.parametrize("end", ENDS)
def test_each_step_is_a_case_with_the_same_name_in_every_run(end: tuple[str, str, str]) -> None:
    (suite,) = Xml.fromstring(junit.document("t", suites(report(end)))).iter("testsuite")

    assert marks(suite) == ENDS[end][0]
    assert [case.get("name") for case in suite.iter("testcase")] == [*STEPS, "it could be done"]
    assert {case.get("classname") for case in suite.iter("testcase")} == {"in/0 |<b>.bin"}
    told = [found.text for case in suite.iter("testcase") for found in case if found.tag != "skipped"]
    assert told == ([end[2] or None] if end[0] != "done" else [])


@pytest.mark.parametrize("end", ENDS)
def test_what_is_not_done_is_a_result_of_a_rule(
    end: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run: dict[str, Any] = to_sarif(report(end), Path("jobs"))["runs"][0]

    assert [result["ruleId"] for result in run["results"]] == ([ENDS[end][1]] if ENDS[end][1] else [])
    assert run["artifacts"][0]["location"]["uri"] == "jobs/in/0%20%7C%3Cb%3E.bin"


def test_every_rule_has_an_end() -> None:
    assert {rule.id for rule in SARIF_RULES} - {rule for _, rule in ENDS.values()} == {
        "convert-failed",
        "verify-failed",
    }


@pytest.mark.parametrize(
    ("ends", "title"),
    [
        ([("done", "", "")], "### cerebras-tool batch: done"),
        ([("done", "", ""), ("failed", "check", "w: NaN")], "### cerebras-tool batch: failed"),
        ([("failed", "check", "w: NaN"), ("waiting", "", "")], "### cerebras-tool batch: not done"),
    ],
)
def test_the_summary_says_how_the_job_ended(ends: list[tuple[str, str, str]], title: str) -> None:
    assert to_markdown(report(*ends)).splitlines()[0] == title


def test_the_summary_names_what_is_not_done_without_markup() -> None:
    lines = to_markdown(report(("done", "", ""), ("failed", "check", "w: <img>"))).splitlines()

    assert lines[2:] == [
        "2 checkpoints of `job.toml`", "", "| state | checkpoints |", "|---|---|", "| done | 1 |", "| failed | 1 |", "",
        "#### `not done`", "", "* `in/1 |<b>.bin`: `failed at check: w: <img>`", "",
    ]  # fmt: skip
