"""Blocks from other quantisers: how much they may lose, and what counts as more than that."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from converter.formats.gguf.encodings import BY_NAME, ENCODINGS
from converter.formats.gguf.reader import read
from converter.inference.evaluate import THRESHOLDS
from converter.io.source import Memory
from converter.tensors.tensor import Storage, Tensor
from converter.verification.comparison import compare, resembling
from tests.build.gguf_files import Bytes, Info, gguf
from tests.build.quants import block

WRITTEN = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # these have a bound for every element, which test_verify checks
LOSSY = tuple(encoding.name for encoding in ENCODINGS if encoding.block > 1 and encoding.name not in WRITTEN)
ROWS, COLUMNS = 3, 512


def quantised(name: str, raw: bytes) -> Tensor:
    return read(Bytes(gguf(infos=[Info("w", (COLUMNS, ROWS), BY_NAME[name].ggml)], data=raw)))["w"]


def blocks(name: str) -> list[bytes]:
    """Different blocks, each with another middle, and with the scales of `block`."""
    whole = block(name)
    count = ROWS * COLUMNS // BY_NAME[name].block
    at = len(whole) // 2
    return [whole[:at] + hashlib.sha256(bytes([n])).digest()[:2] + whole[at + 2 :] for n in range(count)]


def plain(values: np.ndarray) -> Tensor:
    raw = values.astype("<f4").tobytes()
    return Tensor(
        quantised("Q4_K", bytes(864)).dtype, (ROWS, COLUMNS), (COLUMNS, 1), 0, Storage(Memory(raw), 0, len(raw), "w")
    )


def near(values: np.ndarray, share: float) -> np.ndarray:
    """Other numbers; the squared distance is that share of every eight numbers' squares."""
    noise = np.random.default_rng(3).standard_normal(values.shape)
    eights, others = values.reshape(-1, 8), noise.reshape(-1, 8)
    others *= np.sqrt(share * np.square(eights).sum(1, keepdims=True) / np.square(others).sum(1, keepdims=True))
    return (eights + others).reshape(values.shape)


@pytest.mark.parametrize("name", LOSSY)
def test_a_little_loss_is_what_the_type_allows(name: str) -> None:
    found = quantised(name, b"".join(blocks(name)))
    source = plain(near(found.array(), 0.001))

    outcome = compare(source, found)

    assert (outcome.exact, outcome.differing) == (False, 0)
    assert resembling(source, found)


@pytest.mark.parametrize("name", LOSSY)
def test_a_block_of_zeros_is_a_difference(name: str) -> None:
    encoding, whole = BY_NAME[name], blocks(name)
    source = plain(near(quantised(name, b"".join(whole)).array(), 0.001))
    whole[1] = bytes(encoding.nbytes)

    outcome = compare(source, quantised(name, b"".join(whole)))

    assert (outcome.differing, outcome.first) == (encoding.block, encoding.block)


@pytest.mark.parametrize("name", LOSSY)
def test_another_tensor_is_a_difference_everywhere(name: str) -> None:
    found = quantised(name, b"".join(blocks(name)))
    source = plain(-found.array())

    assert compare(source, found).differing == ROWS * COLUMNS
    assert not resembling(source, found)


@pytest.mark.parametrize("name", [name for name in LOSSY if name not in ("Q8_K", "MXFP4")])  # whose scales go further
def test_numbers_below_the_smallest_scale_may_become_zero(name: str) -> None:
    source = plain(np.full((ROWS, COLUMNS), 1e-9))
    found = quantised(name, bytes(BY_NAME[name].size(ROWS * COLUMNS)))

    assert compare(source, found).differing == 0


def test_every_type_in_blocks_has_a_threshold_for_what_models_compute() -> None:
    assert {*LOSSY, *WRITTEN, "F16", "BF16"} == set(THRESHOLDS)
