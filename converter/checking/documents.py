"""What `check` found as SARIF, as JUnit, and as a summary in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from converter.checking.rules import ERROR, RULES, WARNING
from converter.reports import markdown, sarif
from converter.reports.junit import DONE, Case, Suite
from converter.text import as_code, plural
from converter.words import FAULTS

if TYPE_CHECKING:
    from converter.reports.checking import CheckedReport, CheckReport, FaultReport

_PAGE: Final = "check.md#what-is-a-fault"
_DANGER: Final = {"dangerous": 9.8}  # how bad a rule is for security, if it matters there
SARIF_RULES: Final = tuple(
    sarif.Rule(id, rule.level, rule.title, rule.meaning, _PAGE, _DANGER.get(id)) for id, rule in RULES.items()
)


def to_sarif(report: CheckReport) -> dict[str, Any]:
    """The report as a SARIF log with one run: a result for each fault."""
    results = [
        sarif.Result(fault.rule, fault.level, _said(fault), index, place=fault.name)
        for index, one in enumerate(report.checkpoints)
        for fault in one.faults
    ]
    return sarif.log(
        SARIF_RULES,
        [(one.location, one.nbytes) for one in report.checkpoints],
        results,
        unread=[(one.error["message"], one.error["class"]) for one in report.unread or ()],
    )


def suites(report: CheckReport, *, warnings: bool = False) -> list[Suite]:
    """A suite for each checkpoint, with a case for each kind of fault. A case fails if one of its faults fails the check.

    What could not be checked has a suite with one case, which is an error.
    """
    judged = {"fail-on": FAULTS[-1] if warnings else FAULTS[0]}
    checked = [
        Suite(one.location, _cases(one, warnings), one.seconds, {"format": one.format, "model": one.title} | judged)
        for one in report.checkpoints
    ]
    return checked + [
        Suite(one.location, [Case(one.location, DONE, "error", one.error["class"], one.error["message"], error=True)])
        for one in report.unread or ()
    ]


def to_markdown(report: CheckReport, *, failed: bool) -> str:
    """The summary: a table of the checkpoints, then the faults of each."""
    return markdown.summary(
        f"cerebras-tool check: {_outcome(report, failed)}",
        [f"{plural(report.counts[ERROR], 'error')}, {plural(report.counts[WARNING], 'warning')}"],
        ("checkpoint", "model", "tensors", "errors", "warnings"),
        [
            [
                as_code(one.location),
                as_code(one.title) if one.title else "",
                *(f"{count:,}" for count in (one.tensors, one.count(ERROR), one.count(WARNING))),
            ]
            for one in report.checkpoints
        ],
        [
            *(
                (one.location, [f"could not be checked: {as_code(one.error['message'], 2000)}"])
                for one in report.unread or ()
            ),
            *(
                (one.location, [f"{fault.level}: {fault.rule}, {as_code(_said(fault), 500)}" for fault in one.faults])
                for one in report.checkpoints
            ),
        ],
    )


def _outcome(report: CheckReport, failed: bool) -> str:
    found = "faults" if failed else "sound"
    return f"{found}, and {len(report.unread):,} could not be checked" if report.unread else found


def _said(fault: FaultReport) -> str:
    return f"{fault.name}: {fault.message}" if fault.name else fault.message


def _cases(one: CheckedReport, warnings: bool) -> list[Case]:
    """A case for each kind of fault, so that their names stay the same."""
    found: dict[str, list[FaultReport]] = {}
    for fault in one.faults:
        found.setdefault(fault.rule, []).append(fault)
    cases = []
    for id, rule in RULES.items():
        faults = found.get(id, [])
        if faults and (warnings or rule.level == ERROR):
            cases.append(Case(one.location, id, rule.title, rule.level, "\n".join(map(_said, faults))))
        else:
            cases.append(Case(one.location, id))
    return cases
