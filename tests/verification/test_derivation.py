"""Files in K-quants: honest ones are derived from the source or faithful to it, and what was changed is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.reports.verification import VerifiedOutput
from converter.verification.verify import Options, verify
from tests.build.damage import model, write_source
from tests.build.depth import share

TYPES = ("q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
SIMPLE = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
DOWN = "blk.1.ffn_down.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = model(n_layer=2, n_embd=256, n_inner=512, vocab_size=300, scale=0.02)
    return write_source(made, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def importance(source: Path) -> Path:
    """An importance matrix of real shape: most columns matter alike, and a few much more."""
    generator, path, entries = np.random.default_rng(1), source / "imatrix.dat", []
    for layer in range(2):
        for name, columns in {"attn_qkv": 256, "attn_output": 256, "ffn_up": 256, "ffn_down": 512}.items():
            full = f"blk.{layer}.{name}.weight".encode()
            weights = generator.lognormal(0, 1, columns).astype("<f4").tobytes()
            entries.append(struct.pack("<i", len(full)) + full + struct.pack("<ii", 1, columns) + weights)
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries))
    return path


class Made:
    """Files as llama-quantize makes them, each made once."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.folder = source, folder

    def full(self, through: str) -> Path:
        """A GGUF file in a dtype that has no blocks."""
        path = self.folder / f"{through}.gguf"
        if not path.exists():
            convert(open_checkpoint(self.source), path, dtype=through)
        return path

    def of(self, word: str, *, through: str = "f32", imatrix: Path | None = None) -> Path:
        """A file in blocks, from one in the dtype `through`."""
        path = self.folder / f"{word}-{through}-{imatrix is not None}.gguf"
        if not path.exists():
            convert(open_checkpoint(self.full(through)), path, dtype=word, pure=True, imatrix=imatrix)
        return path


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(source, tmp_path_factory.mktemp("made"))


def judged(source: Path, file: Path, imatrix: Path | None = None) -> VerifiedOutput:
    return verify(open_checkpoint(source), [file], Options(imatrix=imatrix)).outputs[0]


@pytest.mark.parametrize(
    ("through", "word"), share([(to, word) for to in ("f32", "f16", "bf16") for word in TYPES + SIMPLE], 0, 4)
)
def test_a_file_is_derived_from_the_dtype_that_it_was_made_from(
    word: str, through: str, source: Path, made: Made
) -> None:
    output = judged(source, made.of(word, through=through))

    assert (output.verdict, output.tensors.different) == ("equivalent", ())
    assert len(output.derived) == 9
    for tensor in output.derived:
        assert (tensor.dtype, tensor.origin, tensor.fit, tensor.worst) == (
            word.upper(),
            through.upper(),
            tensor.blocks,
            1,
        )


@pytest.mark.parametrize("word", share(TYPES, 0, 2))
def test_a_file_with_importance_is_derived_with_it_and_faithful_without(
    word: str, source: Path, importance: Path, made: Made
) -> None:
    file = made.of(word, imatrix=importance)

    known, unknown = judged(source, file, importance), judged(source, file)

    assert (known.verdict, unknown.verdict) == ("equivalent", "equivalent")
    assert all(tensor.fit == tensor.blocks for tensor in known.derived)
    assert {tensor.origin for tensor in unknown.derived} == {None, "F32"}
    weighed = [tensor for tensor in unknown.derived if tensor.origin is None]
    assert len(weighed) == 8
    assert all(0.5 < (tensor.ratio or 0) < 1.25 and (tensor.worst or 0) < 4 for tensor in weighed)


def test_a_changed_importance_matrix_is_found_out(source: Path, importance: Path, made: Made, tmp_path: Path) -> None:
    file = made.of("q4_k", imatrix=importance)
    data = importance.read_bytes()
    start = data.index(DOWN.encode()) + len(DOWN) + 8
    weights = np.frombuffer(data, "<f4", 512, start)[::-1].tobytes()
    other = tmp_path / "other.dat"
    other.write_bytes(data[:start] + weights + data[start + 2048 :])

    output = judged(source, file, other)

    [found] = output.tensors.different
    assert (output.verdict, found.name, found.what) == ("different", "h.1.mlp.c_proj.weight", "not from the source")
    assert "not what the source gives with this importance matrix" in found.detail


def place(file: Path, name: str) -> tuple[int, int]:
    [(_, start, end)] = open_checkpoint(file)[name].storage.spans()
    return start, end
