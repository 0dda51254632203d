"""What `scan` says about the public files of `tests.corpus`, compared with their labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.io.local import LocalFile
from converter.scanning.rules import VERDICTS
from converter.scanning.scan import scan_file
from tests.build.ends import ends
from tests.corpus import CASES, FOLDERS, Case, audited


def each(*labels: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if not labels or case.expected in labels]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


@each()
def test_every_file_gets_a_verdict_in_two_seconds(case: Case) -> None:
    with ends():
        found = scan_file(LocalFile(case.path), explain=True, fickling=False)

        assert found.verdict in VERDICTS


@each("malicious")
def test_malicious_files_are_never_plain(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    assert found.verdict in ("dangerous", "unknown-globals", "malformed")
    assert found.findings
    assert all(len(finding.message) > 20 for finding in found.findings)


@each(
    "benign",
    "benign-legacy(read or refuse clearly)",
    "benign-structure(suspicious metadata strings: must be shown escaped)",
)
def test_benign_files_are_plain(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "plain"


@each(
    "benign-torchscript(read or refuse clearly)", "benign-foreign", "benign-foreign(refuse)",
    "benign-foreign(refuse unknown global)", "benign-zip(not a checkpoint -> refuse clearly)", "benign-legacy(refuse clearly)",
    "benign(big-endian: refuse clearly)",
)  # fmt: skip
def test_harmless_files_are_never_called_dangerous(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    assert found.verdict != "dangerous"
    assert (found.verdict == "plain") == (not any(finding.rule in ALARMING for finding in found.findings))


ALARMING = {"dangerous-global", "unknown-global", "program", "malformed", "not-looked-into"}


@each("benign-torchscript(read or refuse clearly)")
def test_a_program_of_torchscript_is_called_one(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "program"


@each("benign-legacy(refuse clearly)")
def test_an_honest_tar_has_the_verdict_of_its_pickles(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "plain"


@each("benign-zip(not a checkpoint -> refuse clearly)", "benign(big-endian: refuse clearly)")
def test_what_is_no_checkpoint_for_this_program_is_malformed_with_a_reason(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    assert found.verdict == "malformed"
    reasons = [finding for finding in found.findings if finding.rule in ("malformed", "not-looked-into")]
    assert all(len(finding.message) > 20 for finding in reasons)
    assert reasons


@each("benign-foreign", "benign-foreign(refuse)", "benign-foreign(refuse unknown global)")
def test_what_is_foreign_is_unknown_only_where_something_unknown_is_named(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    unknown = any(finding.rule == "unknown-global" for finding in found.findings)
    assert (found.verdict == "unknown-globals") == (unknown and found.verdict != "malformed")


@each("malformed(frame straddle)", "malformed(traversal -> refuse)")
def test_what_two_readers_would_read_differently_is_malformed(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "malformed"


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_nothing_is_run_imported_or_looked_up(folder: Path, tmp_path: Path) -> None:
    assert audited(_READ, tmp_path) == {"opened": len(CASES), "events": []}


_READ = """
from converter.pickles import decompile
from converter.scanning.rules import VERDICTS
from converter.scanning.scan import scan_file
from converter.io.local import LocalFile

def read(path):
    if path != os.devnull:
        scan_file(LocalFile(path), explain=True, fickling=False)
"""
