"""The core on the public files of `tests.corpus`, compared with their labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.errors import ConverterError
from converter.io.local import LocalFile
from converter.io.zip_records import Archive
from converter.opening import open_checkpoint
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from tests.build.ends import ends
from tests.corpus import CASES, FOLDERS, Case, audited

# Sound or harmless in spite of their label: the checker of their folder looks at something that no reader here looks at.
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
    with ends():
        try:
            for tensor in open_checkpoint(case.path).values():
                for _ in tensor.tiles():
                    pass
        except ConverterError as error:
            assert 10 < len(str(error)) < 1500


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


@each("benign-torchscript")
def test_the_weights_of_torchscript_are_read_or_refused_in_a_sentence(case: Case) -> None:
    try:
        assert open_checkpoint(case.path).facts["program"]
    except ConverterError as error:
        assert str(error)


@each("benign-legacy(refuse", "benign-zip", "benign-foreign", "malformed", "malicious")
def test_what_is_no_checkpoint_is_refused(case: Case) -> None:
    if case.name in ARRAYS:
        assert len(open_checkpoint(case.path)) >= 1
        return
    with pytest.raises(ConverterError):
        open_checkpoint(case.path)


# Files of numpy, which are not checkpoints of torch and are read as what they are.
ARRAYS = {
    case.name
    for case in CASES
    if case.path.suffix in (".npy", ".npz") and case.expected.startswith("benign-") and "object" not in case.path.name
}


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
    """The bytes that a loader would read as a pickle: the file, or the records of a zip that end in `.pkl`."""
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


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_nothing_is_run_imported_or_looked_up(folder: Path, tmp_path: Path) -> None:
    assert audited(_READ, tmp_path) == {"opened": len(CASES), "events": []}


_READ = """
from converter.errors import ConverterError
from converter.models.families import families
from converter.opening import open_checkpoint

list(families())  # our own tables, which are read once

def read(path):
    try:
        for tensor in open_checkpoint(path).values():
            next(tensor.tiles(64), None)
    except ConverterError as error:
        str(error)
"""
