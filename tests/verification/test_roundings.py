"""The roundings and bounds that `verify` computes for itself, against the definitions of the formats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.verification.roundings import bounds, floats
from tests.tensors.test_numbers import SMALL, same, small


@pytest.mark.parametrize("name", SMALL)
def test_every_code_of_8_bits_has_its_value(name: str) -> None:
    dtype, mantissa_bits, bias, nan, infinite, *_ = SMALL[name]

    found = floats(np.arange(256, dtype="u1"), dtype).tolist()

    wrong = [code for code in range(256) if not same(found[code], small(code, mantissa_bits, bias, nan, infinite))]
    assert wrong == []
    assert sum(map(math.isnan, found)) == len(nan)


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
