"""Honest files in blocks that other programs made are what quantising the source gives, or faithful to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, ReaderTensor
from gguf.quants import dequantize, quantize

from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.k_blocks import K_KERNELS
from converter.formats.gguf.quantising import QUANTISED
from tests.peers import ggml
from tests.verification.test_derivation import Made, importance, judged, made, source

__all__ = ("importance", "made", "source")  # fixtures
THROUGH = ("f32", "f16", "bf16")


def requantised(full: Path, target: Path, name: str, weights: dict[str, np.ndarray], by: str) -> Path:
    """Each matrix but the positions in a type, by ggml's C code or by gguf-py."""
    number = GGMLQuantizationType(BY_NAME[name].ggml)

    def blocks(tensor: ReaderTensor) -> np.ndarray:
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        return quantize(values, number) if by == "gguf-py" else ggml.quantised(number, values, weights.get(tensor.name))

    return ggml.rewritten(full, target, number, blocks)


def weights_in(path: Path) -> dict[str, np.ndarray]:
    data, at, found = path.read_bytes(), 4, {}
    for _ in range(int.from_bytes(data[:4], "little")):
        size = int.from_bytes(data[at : at + 4], "little")
        name, at = data[at + 4 : at + 4 + size].decode(), at + 4 + size
        columns = int.from_bytes(data[at + 4 : at + 8], "little")
        found[name] = np.frombuffer(data, "<f4", columns, at + 8)
        at += 8 + 4 * columns
    return found


# Type, dtype on the way, program; with importance, and whether verify is told of it.
HONEST = [
    *((name, through, "ggml", "") for name in QUANTISED for through in THROUGH),
    *((name, "f32", "gguf-py", "") for name in QUANTISED if name not in K_KERNELS),
    *((name, through, "ggml", "known") for name in K_KERNELS for through in ("f32", "f16")),
    *((name, "f32", "ggml", "unknown") for name in QUANTISED),
]


def test_there_are_as_many_as_there_should_be() -> None:
    assert len(HONEST) == 55


@pytest.mark.parametrize(("name", "through", "by", "weighed"), HONEST)
def test_an_honest_file_is_equivalent(
    name: str, through: str, by: str, weighed: str, source: Path, importance: Path, made: Made, tmp_path: Path
) -> None:
    weights = weights_in(importance) if weighed else {}
    file = requantised(made.full(through), tmp_path / "x.gguf", name, weights, by)

    output = judged(source, file, importance if weighed == "known" else None)

    assert (output.verdict, output.tensors.different) == ("equivalent", ())
    assert len(output.derived) == 9
    unfit = [tensor.name for tensor in output.derived if tensor.fit < tensor.blocks]
    assert len(unfit) == (8 if weighed == "unknown" and name != "Q8_0" else 0)
    assert {tensor.origin for tensor in output.derived} - {None} == {through.upper()}
