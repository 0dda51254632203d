"""A folder of public files, malicious, broken and sound, that `CEREBRAS_TOOL_CORPUS` names; its MANIFEST.tsv says which is
which. Nothing of it is ever unpickled. Without the variable there is nothing to parametrise, and nothing runs.
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

from converter.archive import Archive
from converter.errors import ConverterError
from converter.formats import open_checkpoint
from converter.machine import run
from converter.rebuild import TABLE
from converter.sources import LocalFile
from tests.checkpoints import floats, view, write_checkpoint


@dataclass(frozen=True)
class Case:
    path: Path
    name: str
    expected: str
    what: str


def _cases() -> list[Case]:
    folder = os.environ.get("CEREBRAS_TOOL_CORPUS")
    if not folder:
        return []
    with open(Path(folder, "MANIFEST.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Case(Path(folder, r["file"]), r["file"], r["expected outcome"], r["what it is"]) for r in rows]


CASES = _cases()
# Sound or harmless in spite of their label: the checker of their folder looks at something that no reader here does.
HARMLESS = {
    "crc_collision_empty_nonempty.zip", "crc_collision_two_nonempty.zip", "crc_zero_nonempty.zip", "nosubdir.zip", "encrypt-none.zip",
    "incons-central-date.zip", "incons-ef-local-id.zip", "stored-no-eos.zip", "symlink.zip", "006_line1745.zip",
}  # fmt: skip


def cases(*starts: str) -> list[Case]:
    return [case for case in CASES if case.expected.startswith(starts)]


def each(*starts: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(*starts), ids=lambda case: case.name)


def is_zip(case: Case) -> bool:
    return case.path.read_bytes()[:4] == b"PK\3\4"


@each("")
def test_ends_in_a_catalogue_or_a_sentence(case: Case) -> None:
    start = time.process_time()
    try:
        for tensor in open_checkpoint(case.path).values():
            for _ in tensor.tiles():
                pass
    except ConverterError as error:
        assert 10 < len(str(error)) < 1500
    assert time.process_time() - start < 2


@each("benign-legacy(read")
def test_legacy_streams_are_read(case: Case) -> None:
    assert open_checkpoint(case.path).format == "torch-legacy"


@pytest.mark.parametrize(
    "case", [case for case in cases("benign") if case.expected == "benign" and is_zip(case)], ids=lambda case: case.name
)
def test_torch_zips_are_read(case: Case) -> None:
    catalogue = open_checkpoint(case.path)

    assert catalogue.format == "torch-zip"
    assert [storage.nbytes for storage in catalogue.storages] or not catalogue


@each("benign-torchscript", "benign-legacy(refuse", "benign-zip", "benign-foreign", "malformed", "malicious")
def test_what_is_no_checkpoint_is_refused(case: Case) -> None:
    with pytest.raises(ConverterError):
        open_checkpoint(case.path)


@pytest.mark.parametrize(
    "case",
    [case for case in cases("malformed") if case.path.name not in HARMLESS and is_zip(case)],
    ids=lambda case: case.name,
)
def test_malformed_zips_are_refused_by_the_archive_itself(case: Case) -> None:
    with pytest.raises(ConverterError):
        _read_everything(case.path)


def _read_everything(path: Path) -> None:
    archive = Archive(LocalFile(path))
    for name in archive.records:
        archive.read(name, 1 << 24)


def _pickles(case: Case) -> list[bytes]:
    """The bytes that a loader would take for a pickle: the file, or the records of a zip that end in `.pkl`."""
    if not is_zip(case):
        return [case.path.read_bytes()]
    try:
        archive = Archive(LocalFile(case.path))
        return [archive.read(name, 1 << 24) for name in archive.records if name.endswith(".pkl")]
    except ConverterError:
        return []


@each("malicious")
def test_payloads_are_named_or_refused(case: Case) -> None:
    for data in _pickles(case):
        used: dict[tuple[str, str], int] = {}
        position = 0
        try:
            while position < len(data):  # some hide the payload in a second pickle
                position = run(data, TABLE, position=position, used=used).end
        except ConverterError:
            continue
        assert set(used) - set(TABLE), "a payload that names nothing unknown"


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
from converter.errors import ConverterError
from converter.formats import open_checkpoint

warm, names = sys.argv[1:]
paths = json.loads(open(names).read())

def read(path):
    try:
        for tensor in open_checkpoint(path).values():
            next(tensor.tiles(64), None)
    except ConverterError as error:
        str(error)

read(warm)
read(os.devnull)
for path in (path for path in paths if path.endswith((".safetensors", ".gguf"))):
    read(path)
events, reading = [], ""
# What opening a file and looking into its folder is made of.
harmless = {"open", "os.listdir", "os.scandir", "object.__getattr__", "builtins.id", "tempfile.mkstemp", "array.__new__", "sys._getframe"}

def hook(event, arguments):
    if event == "open" and reading:
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        if path in (reading, os.path.join(os.path.dirname(reading), "config.json")) or not path:
            return
    elif event in harmless or not reading:
        return
    events.append([event, repr(arguments)[:200], reading])

sys.addaudithook(hook)
for path in paths:
    reading = path
    read(path)
reading = ""
print(json.dumps({"opened": len(paths), "events": events}))
"""
