"""The sound files of `tests.corpus`, and those of many versions of torch, changed as `tests.test_mutations` changes ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from converter.formats import open_source
from tests.build.gguf_files import Bytes
from tests.build.layouts import zip_fields
from tests.corpus import CASES
from tests.test_mutations import FEW, ZIPS, as_told, attempt, mutations

LARGEST = 40_000  # bytes of one


def _outside() -> list[Path]:
    folder = os.environ.get("CEREBRAS_TOOL_TORCH_VERSIONS")
    old = [path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".md"] if folder else []
    benign = [
        case.path for case in CASES if case.expected == "benign" or case.expected.startswith("benign-legacy(read")
    ]
    return [path for path in [*benign, *old] if path.stat().st_size <= LARGEST]


@pytest.mark.parametrize("path", _outside(), ids=lambda path: "/".join(path.parts[-2:]))
def test_a_changed_file_from_outside_is_refused_or_the_same(path: Path) -> None:
    """One that is refused as it is, such as TorchScript or a bare pickle, stays refused."""
    data = path.read_bytes()
    found = attempt(data)
    control = as_told(found)
    is_zip = data.startswith(b"PK")
    fields = zip_fields(data)[0] if is_zip else []
    has_checksums = is_zip and (found is None or not open_source(Bytes(data)).unchecked)

    for changed in mutations(data, fields, ZIPS["2.7 two"], FEW):
        result = as_told(attempt(changed))
        assert result in (None, control) or not has_checksums
    for end in range(0, len(data), max(1, len(data) // 200)):
        assert attempt(data[:end]) is None or not is_zip
