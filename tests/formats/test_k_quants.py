"""K-quants, and blocks with weights of importance. The digests are of what ggml makes; tests/peers compares many more blocks."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import numpy as np
import pytest

from converter.errors import UnsupportedError
from converter.formats.gguf import kernel, quantising
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.k_blocks import K_KERNELS
from converter.formats.gguf.quantising import quantised, quantiser

# SHA-256 of the blocks of values() without importance, and with importance()
EXPECTED = {
    "Q2_K": (
        "8417449ae9973b796c2a818b9d721e38c80a2520fb16f71cff739ddaf380d1e3",
        "8056cd7434ed3db3a682a8b28cbaff9e12400fe80956710c80c8e559c8569787",
    ),
    "Q3_K": (
        "142c3b404f2b7fcdf0aedc9d2285b83bd47ebfca87784f6becc1b1f9988f3438",
        "c2d598ac3f8ebbe785bdb16c7961a2cdab01cdd0e875b24ee20aca94a4520a0b",
    ),
    "Q4_K": (
        "2f46476ec0a279efa7cf096d7d43a187898b05d2ddb85d3ff9a08f4eff20f3f5",
        "919353064ee7c4640eff7aa21612b8f2d314ccefea31c1df00a2235fb0acc227",
    ),
    "Q5_K": (
        "0e03367d57a4d182f1ad09246480c8e2ff6db0de2ac2217a9a4125e310677eab",
        "601c35c3947065213c0b5627159562c632390bdf18233f74c05f2156f0b681e4",
    ),
    "Q6_K": (
        "36aa064466d0edb776e701797a987d246eac939047b110f4023907d86afef042",
        "6a5ef599146a18bd80aa935ed6b4d787b3572895e42503ca3458e3315cf7a4b2",
    ),
    "Q4_0": (
        "defee0fb8ac9754012709c38ca4fa8817fe7eae09b8d5d8059cbebda0a3abe49",
        "293b5ebf26787a6aab4b83749c48bf485e9378a8f0f3029d90708c8271b6b95e",
    ),
    "Q4_1": (
        "afae12cd96bd84a5c8f01c1453ca55de8a6c02097a22b65fcffbe95e03911299",
        "0a85fb8f701cb70a696acc18d53ebab2cd3fb02a3125d0de1f871c56c6b49d43",
    ),
    "Q5_0": (
        "fc55448f2e5d515f0b576766c095f1a5143f5f3fb9fc01090ed0a917e656c451",
        "b577c58c907f1ed916da1d611d716c70b0b67a543c07ee3a5022625064682d8a",
    ),
    "Q5_1": (
        "00ce19077c8cb4c244468a9b9d2cf7e36e10c4691f402634ed396a9a461212d7",
        "ff8c73907c7b578c01d490186e48b90fcd0d152021b751405781a5c9fe9582fa",
    ),
    "Q8_0": (
        "d7866d1358332aeb96367ad900a8c4c467dbd35041d8a3bae385e4368df45529",
        "d7866d1358332aeb96367ad900a8c4c467dbd35041d8a3bae385e4368df45529",
    ),
}


def scrambled(count: int) -> np.ndarray:
    return ((np.arange(count, dtype=np.int64) * 2654435761 % 2**32) / 2**31 - 1).astype("<f4")


def values() -> Any:
    """Rows of heavy tails; one of zeros, one of one sign, a constant block, and a row of numbers smaller than a half can hold."""
    numbers = scrambled(65536)
    rows = (numbers**3 * np.exp2(numbers[::-1] * 6)).astype("<f4").reshape(64, 1024)
    rows[3] = 0
    rows[4] = np.abs(rows[4])
    rows[5, :256] = -1
    rows[6] *= np.float32(1e-38)
    return rows


def importance() -> Any:
    weights = np.exp2(scrambled(1024) * 8).astype("<f4")
    weights[::7] = 0
    return weights


def encode(rows: np.ndarray, name: str, weights: np.ndarray | None = None, tile: int = 1 << 20) -> bytes:
    raw = memoryview(np.ascontiguousarray(rows, "<f4").tobytes())
    tiles = (raw[start : start + tile] for start in range(0, len(raw), tile))
    return b"".join(bytes(piece) for piece in quantised(tiles, BY_NAME[name], "w", weights))


@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_are_those_of_ggml(name: str) -> None:
    plain, weighed = EXPECTED[name]

    assert hashlib.sha256(encode(values(), name)).hexdigest() == plain
    assert hashlib.sha256(encode(values(), name, importance())).hexdigest() == weighed


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("tile", [1024, 3 << 10])
def test_tiles_of_any_size_give_the_same_blocks(name: str, tile: int) -> None:
    rows = values()[:8]

    assert encode(rows, name, tile=tile) == encode(rows, name)
    assert encode(rows, name, importance(), tile=tile) == encode(rows, name, importance())


@pytest.mark.parametrize("name", K_KERNELS)
@pytest.mark.parametrize("weighed", [False, True])
def test_one_block_is_what_it_is_among_others(name: str, weighed: bool) -> None:
    """numpy adds a single column in another order than many."""
    rows, weights = values()[:8, :256], importance()[:256] if weighed else None

    assert encode(rows, name, weights) == b"".join(encode(row, name, weights) for row in rows)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_one_weighed_block_is_what_it_is_among_others(name: str) -> None:
    rows, weights = values()[:8, :32], importance()[:32]

    assert encode(rows, name, weights) == b"".join(encode(row, name, weights) for row in rows)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38], ids=str)
def test_refuses_what_a_block_cannot_hold(name: str, weighed: bool, wrong: float) -> None:
    rows = values()[7:9]
    rows[1, 900] = wrong

    found = f"a value too large for {name}" if np.isfinite(wrong) else "NaN or infinity"
    with pytest.raises(UnsupportedError, match=f"`w` holds {found}: choose f32 or bf16"):
        encode(rows, name, importance() if weighed else None)


@pytest.mark.parametrize(
    ("name", "share"), [("Q6_K", 0.0004), ("Q5_K", 0.002), ("Q4_K", 0.008), ("Q3_K", 0.04), ("Q2_K", 0.15)]
)
def test_little_is_lost_of_ordinary_weights(name: str, share: float) -> None:
    weights = np.random.default_rng(3).normal(0, 0.02, (16, 512)).astype("<f4")
    decoded = np.empty(weights.size, "<f4")
    dequantise(np.frombuffer(encode(weights, name), "u1"), BY_NAME[name], decoded)

    lost = np.square(decoded - weights.ravel()).sum() / np.square(weights).sum()

    assert share / 4 < lost < share


def test_a_library_is_given_whole_rows_and_its_blocks_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    values, calls = scrambled(256) * np.float32(2000), []  # of smaller numbers no scale can be too large
    right = encode(values, "Q4_1")
    answer = bytearray(right)

    def quantise(kind: int, numbers: int, out: int, start: int, rows: int, columns: int, weights: int | None) -> int:
        calls.append((kind, start, rows, columns, ctypes.string_at(weights, 8) if weights else None))
        return len(ctypes.memmove(out, bytes(answer), len(answer)).to_bytes(8, "little"))

    monkeypatch.setattr(kernel, "function_of_library", lambda: quantise)
    run = kernel.kernel(BY_NAME["Q4_1"], None)
    weighed = kernel.kernel(BY_NAME["Q4_1"], importance()[:128])
    assert run is not None
    assert weighed is not None
    out = np.zeros(len(right), "u1")

    assert run(values, out) is True
    assert out.tobytes() == right
    assert weighed(values, out) is True
    assert calls == [(3, 0, 8, 32, None), (3, 0, 2, 128, importance()[:2].tobytes())]
    for place in (0, 2):  # the scale and the minimum of the sixth block
        answer[:] = right
        answer[5 * 20 + place : 5 * 20 + place + 2] = b"\0\x7c"
        assert run(values, out) is False
    for large in (1e9, -1e9, np.inf):
        assert run(np.append(values[:-1], np.float32(large)), out) is None
    assert run(values[:0], out) is None
    assert len(calls) == 4
    assert kernel.kernel(BY_NAME["F16"], None) is None
    assert kernel.kernel(BY_NAME["IQ2_XXS"], None) is None  # it is made with importance only


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q5_1"])
def test_a_library_does_the_work_only_if_its_blocks_are_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = BY_NAME[name]
    wrong: list[bool] = []

    def quantise(kind: int, numbers: int, out: int, start: int, rows: int, columns: int, weights: int | None) -> int:
        values = np.frombuffer(ctypes.string_at(numbers, 4 * rows * columns), "<f4")
        weighed = np.frombuffer(ctypes.string_at(weights, 4 * columns), "<f4") if weights else None
        blocks = np.zeros(encoding.size(values.size), "u1")
        with np.errstate(all="ignore"):
            assert quantising.by_numpy(encoding, weighed)(values, blocks)
        if (weights is not None) in wrong:
            blocks[-1] ^= 1
        ctypes.memmove(out, blocks.tobytes(), blocks.size)
        return blocks.size

    monkeypatch.setattr(kernel, "function_of_library", lambda: quantise)
    monkeypatch.setattr(kernel, "title", lambda: "a library")
    found = {}
    for case in ([], [False], [True]):
        wrong[:] = case
        quantising.agrees.cache_clear()
        found[str(case)] = quantiser([name])
    quantising.agrees.cache_clear()

    assert found == {"[]": "a library", "[False]": "numpy", "[True]": "numpy"}


def test_numpy_does_the_work_where_no_library_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "function_of_library", lambda: None)
    quantising.agrees.cache_clear()

    assert quantiser(["Q4_K", "Q8_0"]) == "numpy"
    quantising.agrees.cache_clear()
