"""A source that was closed can't be read any more, whatever of it lies in memory or in a temporary file."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.errors import SourceError
from converter.io.local import Descriptors, LocalFile
from converter.io.source import Joined, Source, Window
from converter.io.standard_input import StandardInput


def local(path: Path) -> Source:
    return LocalFile(path)


KINDS: dict[str, Callable[[Path], Source]] = {
    "a file": local,
    "one of many files": lambda path: LocalFile(path, Descriptors()),
    "a part of a file": lambda path: Window(local(path), 1, 2),
    "files in a row": lambda path: Joined([local(path), local(path)]),
}


@pytest.mark.parametrize("opened", KINDS.values(), ids=KINDS)
def test_a_closed_source_is_not_read(opened: Callable[[Path], Source], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcd")
    source = opened(tmp_path / "x")
    source.check_open()
    assert source.read(0, 1)

    source.close()

    with pytest.raises(SourceError, match="was closed"):
        source.read(0, 1)
    with pytest.raises(SourceError, match="was closed"):
        source.check_open()


def test_closed_standard_input_is_not_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abcd")))
    source = StandardInput()
    assert bytes(source.read(0, 4)) == b"abcd"

    source.close()

    with pytest.raises(SourceError, match="standard input was closed"):
        source.read(0, 4)
    with pytest.raises(SourceError, match="standard input was closed"):
        source.check_open()


def test_an_inflated_record_of_a_closed_archive_is_not_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", w=np.ones(4, "f4"))
    with converter.open(tmp_path / "x.npz") as catalogue:
        kept = catalogue["w"]
        assert kept.numpy().tolist() == [1, 1, 1, 1]

    with pytest.raises(SourceError, match=r"x\.npz` was closed"):
        kept.numpy()
