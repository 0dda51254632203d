"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.sample import write_sample


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which `odd` is a checkpoint."""
    write_sample(tmp_path / "odd", "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path
