"""What the tests of GGUF's blocks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from tests.build.damage import model, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows are long enough for every type of block."""
    made = model(n_layer=2, n_embd=256, n_inner=512, vocab_size=300, scale=0.02)
    return write_source(made, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a GGUF of F32."""
    path = tmp_path_factory.mktemp("plain") / "x.gguf"
    convert(open_checkpoint(source), path, dtype="f32")
    return path
