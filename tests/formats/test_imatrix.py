"""Importance matrices: both of llama.cpp's forms, and what is wrong with them. tests/peers compares what is made with them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.errors import CutOffError, FormatError, OutputError, UnsupportedError
from converter.formats.gguf.imatrix import about, read
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.gguf_files import F32, Info, gguf

NAME = "blk.0.attn_qkv.weight"


def entry(name: str, weights: list[float], calls: int = 1) -> bytes:
    numbers = np.array(weights, "<f4").tobytes()
    return struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(weights)) + numbers


def older(*entries: bytes, end: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries)) + b"".join(entries) + end


def test_reads_the_older_form(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    end = struct.pack("<ii", 7, 4) + b"wiki"
    path.write_bytes(older(entry("a", [2, 4], calls=2), entry("b", [3, 5, 7], calls=0), end=end))

    found = read(path)

    assert (list(found.entries), found.chunks, found.dataset) == (["a", "b"], 7, "wiki")
    assert [found.entries[name].read().tolist() for name in "ab"] == [[1, 2], [3, 5, 7]]


def test_reads_the_older_form_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(older(entry("a", [1])))

    assert (read(path).chunks, read(path).dataset) == (0, None)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (b"", {"file": "imatrix.dat", "entries_count": 2}),
        (struct.pack("<ii", 7, 4) + b"wiki", {"file": "imatrix.dat", "dataset": "wiki", "entries_count": 2, "chunks_count": 7}),
    ],
    ids=["unknown", "known"],
)  # fmt: skip
def test_a_file_says_which_matrix_it_was_made_with(end: bytes, said: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(older(entry("a", [1]), entry("b", [1]), end=end))
    (tmp_path / "x.gguf").write_bytes(gguf([packed for _, packed in about(read(path))], [], b""))

    found = open_checkpoint(tmp_path / "x.gguf").metadata

    assert {key: value for key, value in found.items() if "imatrix" in key} == {
        f"quantize.imatrix.{key}": value for key, value in said.items()
    }


def test_reads_gguf(tmp_path: Path) -> None:
    """Three experts with two columns each, of which one was never used."""
    path, sums, counts = tmp_path / "x.gguf", np.array([2, 4, 3, 9, 5, 6], "<f4"), np.array([2, 3, 0], "<f4")
    infos = [Info("a.in_sum2", (2, 3), F32), Info("a.counts", (1, 3), F32, 32)]
    path.write_bytes(gguf([], infos, sums.tobytes() + bytes(8) + counts.tobytes() + bytes(20)))

    assert read(path).entries["a"].read().tolist() == [1, 2, 1, 3, 1, 1]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", CutOffError, "ends inside"),
        (struct.pack("<i", 0), FormatError, "has 0 for the number of entries"),
        (older(entry("a", [])), FormatError, "has 0 for a number of columns"),
        (older(entry("a", [1]))[:-1], CutOffError, "ends inside"),
        (struct.pack("<ii", 1, 1 << 20), FormatError, "a name of 1,048,576 bytes"),
        (older(entry("a", [float("nan")])), FormatError, "holds NaN or infinity for `a`"),
        (older(entry("a", [float("inf")])), FormatError, "holds NaN or infinity for `a`"),
        (gguf([], [Info("a", (2,), F32)], bytes(32)), FormatError, "has no entries"),
        (gguf([], [Info("a.in_sum2", (2,), F32)], bytes(32)), FormatError, "sums for `a` without counts"),
        (b"\x80\x02}q\x00." + bytes(100), FormatError, "a name of 11,776 bytes"),
    ],
)
def test_refuses_what_is_none(data: bytes, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "imatrix"
    path.write_bytes(data)

    with pytest.raises(error, match=message):
        read(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_sample(tmp_path / "source")
    return tmp_path / "source"


def test_importance_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(older(entry(NAME, [1, 2])))

    with pytest.raises(FormatError, match=r"has 2 numbers for `blk.0.attn_qkv.weight`, which has 64 columns"):
        convert(open_checkpoint(source), tmp_path / "x.gguf", dtype="q4_0", imatrix=path)
    path.write_bytes(older(entry("h.0.attn", [1, 2])))
    with pytest.raises(FormatError, match="no entry for any matrix that is quantised here"):
        convert(open_checkpoint(source), tmp_path / "x.gguf", dtype="q4_0", imatrix=path)
    path.write_bytes(older(entry(NAME, [1] * 64)))
    with pytest.raises(FormatError, match="no entry for any matrix that is quantised here"):
        convert(open_checkpoint(source), tmp_path / "x.gguf", dtype="f16", imatrix=path)
    assert not (tmp_path / "x.gguf").exists()


def test_matrices_without_importance_are_named(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(older(entry(NAME, [1] * 64), entry("token_embd.weight", [1])))

    report = convert(open_checkpoint(source), tmp_path / "x.gguf", dtype="q4_0", imatrix=path)

    [note] = [note for note in report.notes if "importance" in note]
    assert "matrices are not in the importance matrix, and are quantised without: `blk.0.attn_output.weight`" in note
    keys = open_checkpoint(tmp_path / "x.gguf").metadata
    assert keys["quantize.imatrix.file"] == "imatrix.dat"
    assert keys["quantize.imatrix.entries_count"] == 2


@pytest.mark.parametrize("options", [{"imatrix": Path("x.dat")}, {"pure": True}, {"pure": False}])
def test_only_gguf_has_blocks(options: dict[str, Any], source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is for the blocks of GGUF, and safetensors has none"):
        convert(open_checkpoint(source), tmp_path / "x.safetensors", **options)


def test_the_importance_matrix_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(data := older(entry(NAME, [1] * 64)))

    with pytest.raises(OutputError, match="is the input itself"):
        convert(open_checkpoint(source), path, dtype="q4_0", imatrix=path, force=True)
    assert path.read_bytes() == data
