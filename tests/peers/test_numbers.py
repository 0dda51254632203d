"""Number conversion against torch: the same bits for every code, and the same NaNs."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from converter.dtypes import BF16, F8_E4M3, F8_E4M3FNUZ, F8_E5M2, F8_E5M2FNUZ, F8_E8M0, F16, F32, F64, Dtype
from converter.tensors.casting import TARGETS, converted
from converter.tensors.losses import Loss

UNSIGNED = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def of_torch(data: bytes, dtype: Dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype.torch))


def check(data: bytes, source: Dtype, target: Dtype) -> None:
    ours = b"".join(bytes(piece) for piece in converted(iter([memoryview(data)]), source, target, Loss()))
    theirs = of_torch(data, source).to(getattr(torch, target.torch))

    nan = theirs.double().isnan().numpy()
    assert (of_torch(ours, target).double().isnan().numpy() == nan).all()
    found = np.frombuffer(ours, UNSIGNED[target.itemsize])
    expected = np.frombuffer(theirs.view(torch.uint8).numpy().tobytes(), UNSIGNED[target.itemsize])
    assert (found[~nan] == expected[~nan]).all()


@pytest.mark.parametrize("target", TARGETS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(
    "source", [F16, BF16, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0], ids=lambda dtype: dtype.name
)
def test_every_code(source: Dtype, target: Dtype) -> None:
    codes = np.arange(1 << 8 * source.itemsize).astype(UNSIGNED[source.itemsize])

    check(codes.tobytes(), source, target)


def around() -> np.ndarray:
    """F32 bits: each upper half with lower halves about the ties of BF16 and F16, and a million of any kind."""
    low = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "<u4")
    edges = (np.arange(1 << 16, dtype="<u4")[:, None] << 16) + low
    return np.concatenate([edges.reshape(-1), np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype="<u4")])


@pytest.mark.parametrize("target", [F64, F16, BF16], ids=lambda dtype: dtype.name)
def test_f32(target: Dtype) -> None:
    check(around().tobytes(), F32, target)


@pytest.mark.parametrize("target", [F32, F16, BF16], ids=lambda dtype: dtype.name)
def test_f64(target: Dtype) -> None:
    with np.errstate(invalid="ignore"):
        singles = around().view("<f4").astype("<f8")
    rng = np.random.default_rng(1)
    others = rng.standard_normal(1 << 18) * 10.0 ** rng.integers(-50, 45, 1 << 18)
    numbers = np.concatenate([singles, np.nextafter(singles, np.inf), np.nextafter(singles, -np.inf), others])

    check(numbers.tobytes(), F64, target)
    check(struct.pack("<3d", 1 + 2**-11 + 2**-40, 1e-320, -1e308), F64, target)
