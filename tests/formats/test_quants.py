"""Block quantisation. The expected bytes are gguf-py's (0.19.0); tests/peers compares more of them."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import UnsupportedError
from converter.formats.gguf.blocks import BLOCK, KERNELS
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.quantising import quantised

RAMP = np.array([(i * 7 % 32 - 15) / 4 for i in range(32)], "<f4")
TIED = np.array([3.0, -3.0] * 16, "<f4")
SCRAMBLED = ((np.arange(8192, dtype=np.int64) * 2654435761 % 2**32) / 2**31 - 1).astype("<f4")

# gguf.quants.quantize of RAMP, TIED, zeros and negative zeros; sha256 of that of SCRAMBLED and of what is decoded from it;
# of negative zeros ggml's C code, whose scale has another sign than gguf-py's for Q5_0 and Q4_0
EXPECTED = {
    "Q8_0": (
        "082889c0f83067a1d810477fb9f0285f99d0084077b1e8205791c800386fa9e0184f",
        "0c267f817f817f817f817f817f817f817f817f817f817f817f817f817f817f817f81",
        "00000000000000000000000000000000000000000000000000000000000000000000",
        "00000000000000000000000000000000000000000000000000000000000000000000",
        "33f3fc3179900a32a726edec85020ad763b308023481dbad80055f6b435ec1ff",
        "f0b8275a0ff47388b331316db56f9ded7bbe61eaa3dc22e6505f6c7b5d2eaf2f",
    ),
    "Q5_1": (
        "003480c3983367cc0077ee55cc33aa1188ff66dd44bb2299",
        "323200c255555555ff00ff00ff00ff00ff00ff00ff00ff00",
        "000000000000000000000000000000000000000000000000",
        "000000800000000000000000000000000000000000000000",
        "f80555454e5e4ac15b1fee56083640513b3d885bffdfef2f6c1232f3795e8a69",
        "d27519958b947118e62078bee964d722a83924eae65ef9cb2effbb14475c5d14",
    ),
    "Q5_0": (
        "00b467cc9833ff8811aa33cc55ee77009922bb44dd66",
        "00b2aaaaaaaa00ff00ff00ff00ff00ff00ff00ff00ff",
        "0080ffffffff00000000000000000000000000000000",
        "0080ffffffff00000000000000000000000000000000",
        "76d9319b6d562a1a0e969cb6bc26a39ea1252fecbceb68d6cb81c3c9cd1c88fa",
        "4f52b5917bc5d3969f80b7360928119c99b30ece34c779b56493c6fb7df04314",
    ),
    "Q4_1": (
        "223880c380b3f72a6e91d5084c7fb3e62a5d91c4",
        "663600c2ff00ff00ff00ff00ff00ff00ff00ff00",
        "0000000000000000000000000000000000000000",
        "0000008000000000000000000000000000000000",
        "fe3422bb3b881369853d17e7615dc818d822a0c017647e636bdcc18428e2b86b",
        "55fb0fc9737c1e20b5192a5ce4e04b425ced8f0f5cb458b0ab828c7118f1a2ec",
    ),
    "Q4_0": (
        "00b88f4c19d5a26e3bf7c4805d19e6a27f3b",
        "00b600ff00ff00ff00ff00ff00ff00ff00ff",
        "008088888888888888888888888888888888",
        "008088888888888888888888888888888888",
        "bad24ba63f93d74d2cad4994eaa786c0949022a16897d8923feffcb5bf2b3515",
        "e270ac6ff91bcefb970cfd503f01a4fe8524dfe2707bd1a0344a37a069216e0f",
    ),
}


def encode(values: np.ndarray, name: str, tile: int = 1 << 20) -> bytes:
    raw = memoryview(np.ascontiguousarray(values, "<f4").tobytes())
    tiles = (raw[start : start + tile] for start in range(0, len(raw), tile))
    return b"".join(bytes(piece) for piece in quantised(tiles, BY_NAME[name], "w"))


def decode(encoded: bytes, name: str) -> np.ndarray:
    values = np.empty(len(encoded) // BY_NAME[name].nbytes * 32, "<f4")
    dequantise(np.frombuffer(encoded, "u1"), BY_NAME[name], values)
    return values


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("tile", [128, 1280, 1 << 20])
def test_blocks_are_those_of_the_reference(name: str, tile: int) -> None:
    ramp, tied, zeros, negative, scrambled, decoded = EXPECTED[name]

    assert encode(RAMP, name, tile).hex() == ramp
    assert encode(TIED, name, tile).hex() == tied
    assert encode(np.zeros(32), name, tile).hex() == zeros
    assert encode(-np.zeros(32), name, tile).hex() == negative
    found = encode(SCRAMBLED, name, tile)
    assert hashlib.sha256(found).hexdigest() == scrambled
    assert hashlib.sha256(decode(found, name).tobytes()).hexdigest() == decoded


@pytest.mark.parametrize("name", KERNELS)
def test_a_large_tile_is_the_sum_of_its_blocks(name: str) -> None:
    values = np.resize(SCRAMBLED, 32 * 5000) * np.repeat(np.arange(5000, dtype="f4"), 32)

    assert encode(values, name) == b"".join(encode(part, name) for part in np.split(values, 625))


def test_q8_rounds_halves_away_from_zero_and_nothing_else() -> None:
    values = np.zeros(32, "<f4")
    values[:9] = 127, 0.5, -0.5, 0.49999997, -0.49999997, 2.5, -2.5, 1.4999999, 126.5

    levels = np.frombuffer(encode(values, "Q8_0"), "i1")[2:]

    assert levels[:9].tolist() == [127, 1, -1, 0, 0, 3, -3, 1, 127]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38], ids=str)
def test_refuses_what_a_block_cannot_hold(name: str, wrong: float) -> None:
    values = np.array(RAMP)
    values[7] = wrong

    found = f"a value too large for {name}" if np.isfinite(wrong) else "NaN or infinity"
    with pytest.raises(UnsupportedError, match=f"`w` holds {found}: choose f32 or bf16"):
        encode(np.tile(values, 3), name)


@pytest.mark.parametrize("name", KERNELS)
def test_blocks_too_small_for_a_half_become_zero(name: str) -> None:
    values = np.full(32, 1e-44, "<f4")

    assert not decode(encode(values, name), name).any()


@pytest.mark.parametrize("name", KERNELS)
@given(st.binary(min_size=24, max_size=24), st.integers(0, 1))
def test_any_block_is_decoded(name: str, data: bytes, repeat: int) -> None:
    block = (data * 2)[: BY_NAME[name].nbytes] * (repeat + 1)

    assert decode(block, name).size == 32 * (repeat + 1)


@pytest.mark.parametrize("name", KERNELS)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=32, max_size=32))
def test_errors_stay_within_a_step(name: str, numbers: list[float]) -> None:
    values = np.array(numbers, "<f4")
    steps = {"Q8_0": 254, "Q5_1": 31, "Q5_0": 31, "Q4_1": 15, "Q4_0": 15}[name]
    span = values.max() - values.min() if name.endswith("1") else 2 * np.abs(values).max()

    error = np.abs(decode(encode(values, name), name) - values).max()

    # half a step, or a whole one where the far end of the symmetric kinds has no level; and the scale is a half
    assert error <= (1.1 if name in ("Q4_0", "Q5_0") else 0.55) * span / steps + np.abs(values).max() / 500 + 1e-5


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
@pytest.mark.parametrize("scale", [0x7EAA, 0xFE55, 0x7C00])
@pytest.mark.parametrize("least", [0x7EFB, 0xFC00])
def test_nan_does_not_depend_on_how_many_blocks_are_decoded_at_once(name: str, scale: int, least: int) -> None:
    encoding = BY_NAME[name]
    block = struct.pack("<HH", scale, least) + bytes(range(encoding.nbytes - 4))
    many = np.empty(64 * BLOCK, "<f4")
    dequantise(np.frombuffer(block * 64, "u1"), encoding, many)
    one = np.empty(BLOCK, "<f4")
    dequantise(np.frombuffer(block, "u1"), encoding, one)

    assert many.tobytes() == one.tobytes() * 64
    assert np.isnan(one).any()
    if scale != 0x7C00:  # a NaN, to which the minimum is added: the sum is that NaN, made quiet
        product = (scale & 0x8000) << 16 | 0x7FC00000 | (scale & 0x3FF) << 13
        assert set(one.view("<u4").tolist()) == {product}
