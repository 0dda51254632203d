"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from converter.sample import write_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, "tiny")
    return folder


@pytest.fixture
def odd(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which `odd` is a checkpoint."""
    shutil.copytree(sample, tmp_path / "odd")
    monkeypatch.chdir(tmp_path)
    return tmp_path
