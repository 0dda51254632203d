"""What `scan` says of the public files that `CEREBRAS_TOOL_CORPUS` names, held against the labels in its MANIFEST.tsv.

Nothing of it is ever unpickled. Without the variable there is nothing to parametrise, and nothing runs.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from converter.scan import scan_file
from converter.sources import LocalFile
from tests.checkpoints import floats, view, write_checkpoint


@dataclass(frozen=True)
class Case:
    path: Path
    name: str
    expected: str


def _cases() -> list[Case]:
    folder = os.environ.get("CEREBRAS_TOOL_CORPUS")
    if not folder:
        return []
    with open(Path(folder, "MANIFEST.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Case(Path(folder, row["file"]), row["file"], row["expected outcome"]) for row in rows]


CASES = _cases()


def each(*labels: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if not labels or case.expected in labels]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


@each()
def test_every_file_gets_a_verdict_in_two_seconds(case: Case) -> None:
    start = time.process_time()

    found = scan_file(LocalFile(case.path), explain=True, fickling=False)

    assert found.verdict in ("plain", "unknown-globals", "dangerous", "malformed")
    assert time.process_time() - start < 2


@each("malicious")
def test_what_is_malicious_is_never_plain(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    assert found.verdict in ("dangerous", "unknown-globals", "malformed")
    assert found.findings
    assert all(len(finding.message) > 20 for finding in found.findings)


@each(
    "benign",
    "benign-legacy(read or refuse clearly)",
    "benign-structure(suspicious metadata strings: must be shown escaped)",
)
def test_what_is_benign_is_plain(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "plain"


@each(
    "benign-torchscript(read or refuse clearly)", "benign-foreign", "benign-foreign(refuse)",
    "benign-foreign(refuse unknown global)", "benign-zip(not a checkpoint -> refuse clearly)", "benign-legacy(refuse clearly)",
    "benign(big-endian: refuse clearly)",
)  # fmt: skip
def test_what_is_harmless_is_never_called_dangerous(case: Case) -> None:
    found = scan_file(LocalFile(case.path), fickling=False)

    assert found.verdict != "dangerous"
    assert (found.verdict == "plain") == (not any(finding.rule in ALARMING for finding in found.findings))


ALARMING = {"dangerous-global", "unknown-global", "malformed", "not-looked-into"}


@each("malformed(frame straddle)", "malformed(traversal -> refuse)")
def test_what_two_readers_would_read_differently_is_malformed(case: Case) -> None:
    assert scan_file(LocalFile(case.path), fickling=False).verdict == "malformed"


@pytest.mark.parametrize(
    "corpus", sorted({case.path.parents[len(Path(case.name).parents) - 1] for case in CASES}), ids=str
)
def test_nothing_is_run_imported_or_looked_up(corpus: Path, tmp_path: Path) -> None:
    warm = write_checkpoint(tmp_path / "warm.bin", {"w": view("0", (2, 2), (1, 2))}, {"0": floats(1, 2, 3, 4)})
    names = tmp_path / "names.json"
    names.write_text(json.dumps([str(case.path) for case in CASES]))

    found = subprocess.run(
        [sys.executable, "-c", _AUDITED, str(warm), str(names)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout) == {"opened": len(CASES), "events": []}


# Runs in a process of its own: an audit hook stays.
_AUDITED = """
import json, os, sys
from converter import decompile
from converter.scan import scan_file
from converter.sources import LocalFile

warm, names = sys.argv[1:]
paths = json.loads(open(names).read())

def read(path):
    scan_file(LocalFile(path), explain=True, fickling=False)

read(warm)
b"x".decode("raw-unicode-escape")  # Python fetches this codec when it is first needed
for path in (path for path in paths if path.endswith((".safetensors", ".gguf"))):
    read(path)
events, reading = [], ""
harmless = {"object.__getattr__", "builtins.id", "array.__new__", "sys._getframe"}

def hook(event, arguments):
    if not reading or event in harmless or (event == "open" and arguments[0] == reading):
        return
    events.append([event, repr(arguments)[:200], reading])

sys.addaudithook(hook)
for path in paths:
    reading = path
    read(path)
reading = ""
print(json.dumps({"opened": len(paths), "events": events}))
"""
