"""Number formats: every code of the small ones, and every edge where F32 and F64 round."""

from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest

from converter.dtypes import (
    BF16,
    BOOL,
    DTYPES,
    F4,
    F8_E4M3,
    F8_E4M3FNUZ,
    F8_E5M2,
    F8_E5M2FNUZ,
    F8_E8M0,
    F16,
    F32,
    F64,
    I32,
    Dtype,
)
from converter.errors import UnsupportedError
from converter.tensors.cast_kernels import BLOCK
from converter.tensors.casting import TARGETS, can_convert, converted
from converter.tensors.losses import Loss

WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
FORMATS = {"F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}  # bits of exponent and mantissa


def convert(data: bytes, source: Dtype, target: Dtype) -> tuple[bytes, Loss]:
    loss = Loss()
    pieces = [bytes(piece) for piece in converted(iter([memoryview(data)]), source, target, loss)]
    return b"".join(pieces), loss


def packed(codes: list[int], dtype: Dtype) -> bytes:
    return struct.pack(f"<{len(codes)}{WIDTHS[dtype.itemsize]}", *codes)


def unpacked(data: bytes, dtype: Dtype) -> list[int]:
    return list(struct.unpack(f"<{len(data) // dtype.itemsize}{WIDTHS[dtype.itemsize]}", data))


def value(code: int, dtype: Dtype) -> float:
    """The value of a code of an IEEE format, by the definition."""
    exponent_bits, mantissa_bits = FORMATS[dtype.name]
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent, mantissa = code >> mantissa_bits & (1 << exponent_bits) - 1, code & (1 << mantissa_bits) - 1
    bias = (1 << exponent_bits - 1) - 1
    if exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    whole = mantissa | (1 << mantissa_bits if exponent else 0)
    return sign * math.ldexp(whole, max(exponent, 1) - bias - mantissa_bits)


def same(left: float, right: float) -> bool:
    return (left == right and math.copysign(1, left) == math.copysign(1, right)) or (left != left and right != right)


@pytest.mark.parametrize("target", [F32, F64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("source", [F16, BF16], ids=lambda dtype: dtype.name)
def test_every_code_of_16_bits_widens_exactly(source: Dtype, target: Dtype) -> None:
    codes = list(range(1 << 16))

    data, loss = convert(packed(codes, source), source, target)

    found = struct.unpack(f"<{len(codes)}{'f' if target is F32 else 'd'}", data)
    assert [code for code in codes if not same(found[code], value(code, source))] == []
    assert loss == Loss()


@pytest.mark.parametrize("wide", [F32, F64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("narrow", [F16, BF16], ids=lambda dtype: dtype.name)
def test_every_code_of_16_bits_comes_back(narrow: Dtype, wide: Dtype) -> None:
    codes = [code for code in range(1 << 16) if not math.isnan(value(code, narrow))]
    floats = struct.pack(f"<{len(codes)}{'f' if wide is F32 else 'd'}", *(value(code, narrow) for code in codes))

    data, loss = convert(floats, wide, narrow)

    assert unpacked(data, narrow) == codes
    assert loss == Loss()


@pytest.mark.parametrize("target", [F16, BF16], ids=lambda dtype: dtype.name)
def test_ties_go_to_even_and_neighbours_to_the_nearest(target: Dtype) -> None:
    """Between each finite code and the next: the middle, and the F32 on either side of it."""
    largest = 0x7BFF if target is F16 else 0x7F7F
    codes = range(largest)
    middles = [(value(code, target) + value(code + 1, target)) / 2 for code in codes]
    bits = struct.unpack(f"<{largest}I", struct.pack(f"<{largest}f", *middles))
    inputs = [bit + step for bit in bits for step in (-1, 0, 1)]
    expected = [to for code in codes for to in (code, code + code % 2, code + 1)]

    data, loss = convert(packed([*inputs, *(bit | 1 << 31 for bit in inputs)], F32), F32, target)

    assert unpacked(data, target) == [*expected, *(code | 1 << 15 for code in expected)]
    # Code 0's middle and what is below it become zero.
    assert loss == Loss(underflowed=4, rounded=2 * len(inputs) - 4)


# F32 bits, what they become, and the loss
EDGES: dict[str, tuple[Dtype, int, int, Loss]] = {
    "zero": (F16, 0, 0, Loss()),
    "minus zero": (F16, 0x80000000, 0x8000, Loss()),
    "the largest F16": (F16, 0x477FE000, 0x7BFF, Loss()),
    "below 65520": (F16, 0x477FEFFF, 0x7BFF, Loss(rounded=1)),
    "65520": (F16, 0x477FF000, 0x7C00, Loss(overflowed=1)),
    "65536": (F16, 0x47800000, 0x7C00, Loss(overflowed=1)),
    "the largest F32": (F16, 0x7F7FFFFF, 0x7C00, Loss(overflowed=1)),
    "minus the largest F32": (F16, 0xFF7FFFFF, 0xFC00, Loss(overflowed=1)),
    "infinity": (F16, 0x7F800000, 0x7C00, Loss()),
    "minus infinity": (F16, 0xFF800000, 0xFC00, Loss()),
    "NaN": (F16, 0x7FC00000, 0x7E00, Loss(nan=1)),
    "minus NaN": (F16, 0xFFC00000, 0xFE00, Loss(nan=1)),
    "a signalling NaN": (F16, 0x7F800001, 0x7E00, Loss(nan=1)),
    "a NaN's bits": (F16, 0x7FC12000, 0x7E09, Loss(nan=1)),
    "half the smallest F16": (F16, 0x33000000, 0x0000, Loss(underflowed=1)),
    "above half the smallest F16": (F16, 0x33000001, 0x0001, Loss(rounded=1)),
    "the smallest F32": (F16, 0x00000001, 0x0000, Loss(underflowed=1)),
    "bf16: the largest": (BF16, 0x7F7F0000, 0x7F7F, Loss()),
    "bf16: below overflow": (BF16, 0x7F7F7FFF, 0x7F7F, Loss(rounded=1)),
    "bf16: overflow": (BF16, 0x7F7F8000, 0x7F80, Loss(overflowed=1)),
    "bf16: minus overflow": (BF16, 0xFF7FFFFF, 0xFF80, Loss(overflowed=1)),
    "bf16: infinity": (BF16, 0x7F800000, 0x7F80, Loss()),
    "bf16: NaN": (BF16, 0x7FC00000, 0x7FC0, Loss(nan=1)),
    "bf16: minus NaN": (BF16, 0xFFFFFFFF, 0xFFFF, Loss(nan=1)),
    "bf16: a NaN whose bits are cut": (BF16, 0x7F800001, 0x7FC0, Loss(nan=1)),
    "bf16: half the smallest": (BF16, 0x00008000, 0x0000, Loss(underflowed=1)),
    "bf16: above half the smallest": (BF16, 0x00008001, 0x0001, Loss(rounded=1)),
    "bf16: minus zero": (BF16, 0x80000000, 0x8000, Loss()),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str) -> None:
    target, bits, expected, loss = EDGES[name]

    assert convert(packed([bits], F32), F32, target) == (packed([expected], target), loss)


@pytest.mark.parametrize(
    ("number", "target", "expected", "loss"),
    [
        (1.0, F32, 0x3F800000, Loss()),
        (0.1, F32, 0x3DCCCCCD, Loss(rounded=1)),
        (1e39, F32, 0x7F800000, Loss(overflowed=1)),
        (-1e-46, F32, 0x80000000, Loss(underflowed=1)),
        (math.nan, F32, 0x7FC00000, Loss(nan=1)),
        (math.inf, F32, 0x7F800000, Loss()),
        (0.1, F16, 0x2E66, Loss(rounded=1)),
        (1e39, F16, 0x7C00, Loss(overflowed=1)),
        (0.1, BF16, 0x3DCD, Loss(rounded=1)),
        (1e-300, BF16, 0x0000, Loss(underflowed=1)),
        # F32 rounds it to the tie between 1 and the next number; the second rounding goes to even.
        (1 + 2**-11 + 2**-40, F16, 0x3C00, Loss(rounded=1)),
    ],
)
def test_f64_goes_through_f32(number: float, target: Dtype, expected: int, loss: Loss) -> None:
    assert convert(struct.pack("<d", number), F64, target) == (packed([expected], target), loss)


def small(code: int, mantissa_bits: int, bias: int, nan: set[int], infinite: set[int]) -> float:
    if code in nan:
        return math.nan
    sign = -1.0 if code & 0x80 else 1.0
    if code in infinite:
        return sign * math.inf
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code % (1 << mantissa_bits)
    if not exponent:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)


# The tables of the specifications: codes that stand for no number, and the largest and smallest that do.
SMALL = {
    "F8_E4M3": (F8_E4M3, 3, 7, {0x7F, 0xFF}, set(), 448.0, 2**-9),
    "F8_E5M2": (F8_E5M2, 2, 15, {0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}, {0x7C, 0xFC}, 57344.0, 2**-16),
    "F8_E4M3FNUZ": (F8_E4M3FNUZ, 3, 8, {0x80}, set(), 240.0, 2**-10),
    "F8_E5M2FNUZ": (F8_E5M2FNUZ, 2, 16, {0x80}, set(), 57344.0, 2**-17),
}


@pytest.mark.parametrize("target", [F32, F64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", SMALL)
def test_every_code_of_8_bits_widens_exactly(name: str, target: Dtype) -> None:
    source, mantissa_bits, bias, nan, infinite, largest, smallest = SMALL[name]

    data, loss = convert(bytes(range(256)), source, target)

    found = struct.unpack(f"<256{'f' if target is F32 else 'd'}", data)
    assert all(same(found[code], small(code, mantissa_bits, bias, nan, infinite)) for code in range(256))
    finite = [abs(number) for number in found if math.isfinite(number) and number]
    assert (max(finite), min(finite)) == (largest, smallest)
    assert loss == Loss()


@pytest.mark.parametrize("target", [F16, BF16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", SMALL)
def test_16_bits_hold_every_code_of_8(name: str, target: Dtype) -> None:
    source, _, _, nan, *_ = SMALL[name]

    data, loss = convert(bytes(range(256)), source, target)

    wide, _ = convert(bytes(range(256)), source, F64)
    numbers = struct.unpack("<256d", wide)
    assert all(same(value(code, target), number) for code, number in zip(unpacked(data, target), numbers, strict=True))
    assert not loss
    assert loss.nan == len(nan)


def test_e8m0_has_powers_of_two_and_one_nan() -> None:
    data, loss = convert(bytes(range(256)), F8_E8M0, F32)

    found = struct.unpack("<256f", data)
    assert found[:255] == tuple(2.0**exponent for exponent in range(-127, 128))
    assert math.isnan(found[255])
    assert loss == Loss()
    # F16 has 2^-24 to 2^15.
    assert convert(bytes(range(256)), F8_E8M0, F16)[1] == Loss(nan=1, overflowed=112, underflowed=103)


@pytest.mark.parametrize("target", TARGETS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("source", [F64, F32, F16, BF16, F8_E5M2], ids=lambda dtype: dtype.name)
def test_the_tiles_cuts_do_not_show(source: Dtype, target: Dtype) -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes((2 * BLOCK + 77) * source.itemsize)
    cuts = sorted({0, 1, 1000, BLOCK, BLOCK + 3, 2 * BLOCK + 77})
    tiles = [data[at * source.itemsize : to * source.itemsize] for at, to in itertools.pairwise(cuts)]

    loss = Loss()
    pieces = [bytes(piece) for piece in converted((memoryview(tile) for tile in tiles), source, target, loss)]

    assert (b"".join(pieces), loss) == convert(data, source, target)


def test_pieces_are_bounded() -> None:
    pieces = [len(piece) for piece in converted(iter([memoryview(bytes(3 << 20))]), F8_E4M3, F64, Loss())]

    assert max(pieces) == 2 << 20
    assert sum(pieces) == 24 << 20


def test_the_same_dtype_passes_untouched() -> None:
    signalling = packed([0x7F800001], F32)

    assert convert(signalling, F32, F32) == (signalling, Loss())


def test_nothing_but_floating_point_is_converted() -> None:
    pairs = {(source.name, target.name) for source in DTYPES for target in DTYPES if can_convert(source, target)}
    floats = {"F64", "F32", "F16", "BF16"}
    eights = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"}
    assert pairs == {(a, b) for a in floats | eights for b in floats} | {(dtype.name, dtype.name) for dtype in DTYPES}
    for source, target in ((I32, F32), (F32, I32), (BOOL, F16), (F4, F32), (F32, F8_E4M3)):
        with pytest.raises(UnsupportedError, match=f"{source.name} can't be converted to {target.name}"):
            converted(iter([]), source, target, Loss())
