"""What the tests of verification share."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.opening import open_checkpoint
from converter.verification.expected import expect
from converter.verification.verify import examine


@pytest.fixture(scope="module")
def manifest(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the `source` of a test file."""
    path = tmp_path_factory.mktemp("manifest") / "golden.json"
    path.write_text(examine(expect(open_checkpoint(source)), [source]).golden().text())
    return path
