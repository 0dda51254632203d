"""The roundings and bounds that `verify` computes for itself, against the definitions of the formats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.dtypes import BF16
from converter.verification import roundings
from converter.verification.roundings import _LOSSES, _lossy, bounds, floats, rounded
from tests.tensors.test_numbers import SMALL, same, small


@pytest.mark.parametrize("name", SMALL)
def test_every_code_of_8_bits_has_its_value(name: str) -> None:
    dtype, mantissa_bits, bias, nan, infinite, *_ = SMALL[name]

    found = floats(np.arange(256, dtype="u1"), dtype).tolist()

    wrong = [code for code in range(256) if not same(found[code], small(code, mantissa_bits, bias, nan, infinite))]
    assert wrong == []
    assert sum(map(math.isnan, found)) == len(nan)


@pytest.mark.parametrize(
    ("single", "wanted"),
    [
        (0x3F80_8000, 0x3F80), (0x3F81_8000, 0x3F82), (0x3F80_8001, 0x3F81), (0x3F81_7FFF, 0x3F81),
        (0xBF81_8000, 0xBF82), (0x7F7F_8000, 0x7F80), (0x7F80_0001, 0x7FC0), (0x0000_8000, 0), (0x0001_8000, 2),
    ],
)  # fmt: skip
def test_the_middle_of_two_bf16_becomes_the_even_one(single: int, wanted: int) -> None:
    assert rounded(np.array([single], "u4").view("f4"), BF16).tolist() == [wanted]


# Half a step, or a whole one where the last level is missing; and the last digits of a scale in half precision: 2^-11 of a
# step for each level that the value has reached, one more than its own height in steps.
@pytest.mark.parametrize(
    ("encoding", "furthest", "value", "steps"),
    [
        ("Q4_0", -8, 7, 0.5),
        ("Q4_0", -8, 7.25, 0.5),
        ("Q4_0", -8, 7.4999, 0.5),  # up to here, the last level is half a step away
        ("Q4_0", -8, 7.51, 1),
        ("Q4_0", -8, 8, 1),
        ("Q4_0", -8, -7.75, 0.5),  # the side that has all its levels
        ("Q4_0", 8, -7.75, 1),
        ("Q5_0", -16, 15.25, 0.5),
        ("Q5_0", -16, 15.75, 1),
        ("Q5_0", 16, 15.75, 0.5),
        ("Q8_0", -127, 126.9, 0.5),  # as many levels on one side as on the other
    ],
)
def test_only_where_a_level_is_missing_a_value_may_move_by_a_whole_step(
    encoding: str, furthest: float, value: float, steps: float
) -> None:
    block = np.zeros((1, 32), "<f4")
    block[0, :2] = furthest, value
    levels = min(abs(value) + 1, abs(furthest))

    assert bounds(block, encoding)[0, 1] == pytest.approx(steps + levels * 2**-11, abs=2e-4)


# For each encoding: the elements of a block, the share of a block's squares that it may lose, and how many steps of its
# smallest scale the largest element is.
LOSSES = {
    "Q8_1": (32, 0.002, 127), "Q8_K": (256, 0.002, 0), "Q6_K": (256, 0.04, 4096), "Q5_K": (256, 0.015, 1953), "Q4_K": (256, 0.04, 945),
    "Q3_K": (256, 0.16, 128), "Q2_K": (256, 0.7, 45), "IQ4_NL": (32, 0.12, 127), "IQ4_XS": (256, 0.05, 4064), "MXFP4": (32, 0.12, 0),
    "NVFP4": (64, 0.07, 196_608), "IQ3_S": (256, 0.8, 465), "IQ3_XXS": (256, 0.7, 496), "IQ2_S": (256, 1, 172), "IQ2_XS": (256, 1, 172),
    "IQ2_XXS": (256, 1.5, 172), "IQ1_M": (256, 1.3, 17), "IQ1_S": (256, 1.3, 17), "TQ1_0": (256, 1.3, 1), "TQ2_0": (256, 1.3, 1),
    "Q2_0": (64, 1.3, 2), "Q1_0": (128, 1.3, 1),
}  # fmt: skip


def test_every_encoding_in_blocks_has_its_losses() -> None:
    assert LOSSES.keys() == _LOSSES.keys()


@pytest.mark.parametrize("encoding", LOSSES)
def test_a_block_may_lose_a_share_and_the_last_digit_of_its_scale(encoding: str) -> None:
    size, share, reach = LOSSES[encoding]

    def wrong(block: list[float], found: list[float]) -> list[bool]:
        values, others = np.zeros((2, 2, size))
        values[1, : len(block)], others[1, : len(found)] = block, found
        return [bool(one.any()) for one in _lossy(values, others, _LOSSES[encoding])]

    lost = math.sqrt(share)
    assert wrong([1000], [1000 - 999 * lost or 1e-6]) == [False, False]
    assert wrong([1000], [1000 - 1001 * lost]) == [False, True]
    digit = reach * 2.0**-25 * math.sqrt(size)
    if digit:
        assert wrong([0], [0.9999 * digit]) == [False, False]
        assert wrong([0.9999 * digit], [0]) == [False, False]
    assert wrong([0], [1.0001 * digit or 1e-20]) == [False, True]
    assert wrong([1.0001 * digit or 1e-20], [0]) == [False, True]


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-3, 1.0, 1e12, 1e20, 1e36])
@pytest.mark.parametrize("encoding", ["Q4_K", "Q8_K", "IQ2_S"])
def test_a_block_may_lose_the_same_share_whatever_its_size(encoding: str, scale: float) -> None:
    loss = roundings._LOSSES[encoding]
    least = loss.block * (loss.reach * 2.0**-25) ** 2  # what the scale's last digit may lose
    values = (np.random.default_rng(1).standard_normal((8, loss.block)) * scale).astype("<f4")
    energy = np.square(values.astype("<f8")).sum(axis=1)
    lost = np.sqrt(loss.share) * np.asarray([0, 0.5, 0.99, 1.01, 2, 10, 1, 1])[:, None]
    others = (values * (1 + lost)).astype("<f4")
    others[6:] = 0

    found = roundings._lossy(values, others, loss)[:, 0]

    error = np.square(values.astype("<f8") - others.astype("<f8")).sum(axis=1)
    right = (error <= loss.share * energy + least) & ((energy <= least) | others.any(axis=1))
    assert found.tolist() == (~right).tolist()
