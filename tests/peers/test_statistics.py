"""Statistics against torch in float64: thirty tensors of every dtype, and GGUF's blocks against gguf-py's own decoder."""

from __future__ import annotations

import math

import gguf
import numpy as np
import pytest
import torch

from converter.dtypes import BY_NAME, Dtype
from converter.formats.gguf.encodings import BY_NAME as ENCODINGS
from converter.formats.gguf.reader import read
from converter.io.source import Memory
from converter.reports.details import StatisticsReport
from converter.statistics.counting import FEW
from converter.statistics.measuring import measured
from converter.tensors.tensor import Storage, Tensor, row_major
from tests.build.gguf_files import Info
from tests.build.gguf_files import gguf as gguf_bytes
from tests.build.quants import block

SHARES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "U32", "U64")


def made(kind: str, count: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(count)
    normal = torch.randn(count, generator=rng, dtype=torch.float64)
    return {
        "weights": normal * 0.02,
        "norm": 1 + normal * 1e-3,
        "heavy": normal**5 * 10,
        "holes": torch.where(torch.rand(count, generator=rng) < 0.4, 0.0, normal),
        "whole": (normal * 40).abs().floor(),
    }[kind]


KINDS = ("weights", "norm", "heavy", "holes", "whole")
COUNTS = (7, 64, 500, 16_384, 40_001, 70_001)  # each is counted in another way: by Python, by sorting, in a table
LARGE = [("F32", "weights", 2_500_000), ("BF16", "weights", 5_000_000), ("F64", "heavy", 1_100_000)]


def statistics(tensor: Tensor) -> StatisticsReport:
    (found,) = measured([tensor])
    assert isinstance(found, StatisticsReport)
    return found


def check(found: StatisticsReport, expected: torch.Tensor) -> None:
    """Compare with torch in float64, to a millionth."""
    assert found.min == expected.min().item()
    assert found.max == expected.max().item()
    assert found.mean == pytest.approx(expected.mean().item(), rel=1e-6)
    assert found.std == pytest.approx(expected.std(correction=0).item(), rel=1e-6)
    assert found.l2 == pytest.approx(torch.linalg.vector_norm(expected).item(), rel=1e-6)
    assert found.zeros == int((expected == 0).sum())
    for share in SHARES:
        exact = np.quantile(expected.numpy(), share).item()  # torch.quantile takes no more than 16 million
        assert found.quantiles[f"{share:g}"] == pytest.approx(exact, rel=found.error or 1e-12, abs=1e-300)
    if found.histogram is None:
        assert expected.numel() <= 16
        return
    assert sum(found.histogram.counts) + found.histogram.below + found.histogram.above == expected.numel()


def compare(name: str, kind: str, count: int) -> None:
    dtype: Dtype = BY_NAME[name]
    values = made(kind, count).to(getattr(torch, dtype.torch))
    data = values.view(torch.uint8).numpy().tobytes()

    found = statistics(Tensor(dtype, (count,), (1,), 0, Storage(Memory(data), 0, len(data), "0")))

    numbers = values.to(torch.float64)
    check(found, numbers[torch.isfinite(numbers)])
    assert found.nan + found.inf == int((~torch.isfinite(numbers)).sum())
    assert found.error == (0 if dtype.itemsize <= 2 or count <= FEW else 2**-8)


@pytest.mark.parametrize("name", FLOATS)
def test_thirty_tensors_of_floats_are_those_of_torch(name: str) -> None:
    for kind in KINDS:
        for count in COUNTS:
            compare(name, kind, count)


@pytest.mark.parametrize("name", INTEGERS)
def test_thirty_tensors_of_integers_are_those_of_torch(name: str) -> None:
    for count in (*range(65, 89), *COUNTS):
        compare(name, "whole", count)


@pytest.mark.parametrize(("name", "kind", "count"), LARGE)
def test_large_tensors_are_those_of_torch(name: str, kind: str, count: int) -> None:
    compare(name, kind, count)


def test_thirty_tensors_of_complex_numbers() -> None:
    for count in (*range(1, 28), 1000, 65_537, 300_001):
        rng = torch.Generator().manual_seed(count)
        values = torch.randn(count, dtype=torch.complex64, generator=rng)
        values[torch.rand(count, generator=rng) < 0.1] = 0
        data = values.numpy().tobytes()

        found = statistics(Tensor(BY_NAME["C64"], (count,), (1,), 0, Storage(Memory(data), 0, len(data), "0")))

        assert found.l2 == pytest.approx(torch.linalg.vector_norm(values.to(torch.complex128)).item(), rel=1e-6)
        assert found.zeros == int((values == 0).sum())


# gguf-py has no decoder for the others.
DECODED = [
    name
    for name in ENCODINGS
    if name in gguf.GGMLQuantizationType.__members__ and gguf.GGMLQuantizationType[name] in gguf.quants._type_traits
]


@pytest.mark.parametrize("name", DECODED)
def test_thirty_tensors_of_blocks_are_those_of_gguf(name: str) -> None:
    encoding = ENCODINGS[name]
    for number in range(30):
        rows = 5 if number else 600
        data = b"".join(block(name, rows * number + row) for row in range(rows))
        elements = rows * encoding.block
        expected = gguf.quants.dequantize(np.frombuffer(data, "u1").reshape(rows, -1), gguf.GGMLQuantizationType[name])
        catalogue = read(Memory(gguf_bytes([], [Info("w", (encoding.block, rows), encoding.ggml)], data), "x.gguf"))

        found = statistics(catalogue["w"])

        finite = expected.reshape(-1).astype(np.float64)
        finite = finite[np.isfinite(finite)]
        assert found.nan + found.inf == elements - finite.size
        assert found.min == finite.min()
        assert found.max == finite.max()
        assert found.mean == pytest.approx(finite.mean(), rel=1e-6)
        assert found.std == pytest.approx(finite.std(), rel=1e-6)
        assert found.l2 == pytest.approx(math.sqrt(float(np.dot(finite, finite))), rel=1e-6)


def test_a_view_has_the_statistics_of_its_own_elements() -> None:
    base = torch.randn(300, 200, generator=torch.Generator().manual_seed(2))
    for view in (base.t(), base[::3, 5:90], base.t()[10:50:2], base[:, :1].expand(300, 50)):
        data = base.numpy().tobytes()
        storage = Storage(Memory(data), 0, len(data), "0")
        ours = Tensor(BY_NAME["F32"], tuple(view.shape), tuple(view.stride()), view.storage_offset(), storage)
        assert row_major(ours.shape) != ours.stride

        check(statistics(ours), view.contiguous().to(torch.float64))
