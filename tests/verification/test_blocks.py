"""Blocks from other quantisers: how much they may lose, and what counts as more than that."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from converter.formats.gguf.encodings import BY_NAME, ENCODINGS
from converter.formats.gguf.reader import read
from converter.inference.evaluate import THRESHOLDS
from converter.io.source import Memory
from converter.tensors.tensor import Storage, Tensor
from converter.verification.comparison import compare, resembling
from converter.verification.roundings import bounds
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
    source = plain(near(found.bits(), 0.001))

    outcome = compare(source, found)

    assert (outcome.exact, outcome.differing) == (False, 0)
    assert resembling(source, found)


@pytest.mark.parametrize("name", LOSSY)
def test_a_block_of_zeros_is_a_difference(name: str) -> None:
    encoding, whole = BY_NAME[name], blocks(name)
    source = plain(near(quantised(name, b"".join(whole)).bits(), 0.001))
    whole[1] = bytes(encoding.nbytes)

    outcome = compare(source, quantised(name, b"".join(whole)))

    assert (outcome.differing, outcome.first) == (encoding.block, encoding.block)


@pytest.mark.parametrize("name", LOSSY)
def test_another_tensor_is_a_difference_everywhere(name: str) -> None:
    found = quantised(name, b"".join(blocks(name)))
    source = plain(-found.bits())

    assert compare(source, found).differing == ROWS * COLUMNS
    assert not resembling(source, found)


@pytest.mark.parametrize("name", [name for name in LOSSY if name not in ("Q8_K", "MXFP4")])  # whose scales go further
def test_numbers_below_the_smallest_scale_may_become_zero(name: str) -> None:
    source = plain(np.full((ROWS, COLUMNS), 1e-9))
    found = quantised(name, bytes(BY_NAME[name].size(ROWS * COLUMNS)))

    assert compare(source, found).differing == 0


def test_every_type_in_blocks_has_a_threshold_for_what_models_compute() -> None:
    assert {*LOSSY, *WRITTEN, "F16", "BF16"} == set(THRESHOLDS)


SIMPLE = {
    "Q4_0": (8, 0),
    "Q4_1": (0, 15),
    "Q5_0": (16, 0),
    "Q5_1": (0, 31),
}  # levels of either sign, and above a minimum


def weighed(values: np.ndarray, name: str) -> np.ndarray:
    """What a quantiser makes of numbers if only every second one is important: the range of those, into which it clips the others."""
    halves, steps = SIMPLE[name]
    groups = values.reshape(-1, 32)
    important = groups[:, ::2]
    if halves:
        scale = (np.abs(important).max(1, keepdims=True) / halves).astype("<f2").astype("<f4")
        made: np.ndarray = np.clip(np.rint(groups / scale), -halves, halves - 1) * scale
        return made.reshape(values.shape)
    least = important.min(1, keepdims=True).astype("<f2").astype("<f4")
    scale = ((important.max(1, keepdims=True) - least) / steps).astype("<f2").astype("<f4")
    made = np.clip(np.rint((groups - least) / scale), 0, steps) * scale + least
    return made.reshape(values.shape)


def as_blocks(values: np.ndarray, name: str) -> Tensor:
    """A tensor of numbers, as if a file held them in blocks."""
    return replace(plain(values), storage=replace(plain(values).storage, encoding=name))


@pytest.mark.parametrize("name", SIMPLE)
def test_blocks_that_were_made_with_weights_of_importance_are_right(name: str) -> None:
    values = np.random.default_rng(7).normal(size=(ROWS, COLUMNS)).astype("<f4")
    found = as_blocks(weighed(values, name), name)
    moved = np.abs(found.bits() - values) > bounds(values.reshape(-1, 32), name).reshape(values.shape)

    outcome = compare(plain(values), found)

    assert moved.mean() > 0.01  # by the bounds without weights they would be wrong
    assert (outcome.exact, outcome.differing) == (False, 0)


@pytest.mark.parametrize("name", SIMPLE)
def test_damage_is_no_weighing(name: str) -> None:
    """One wrong element, blocks of another tensor, a part of zeros, and a scale that is wrong everywhere."""
    values = np.random.default_rng(7).normal(size=(ROWS, COLUMNS)).astype("<f4")
    right = weighed(values, name)
    one = values.copy()
    one[1, 5] = one[1, 5] + 2
    swapped, emptied = right.copy(), right.copy()
    swapped[:, :64] = right[:, 64:128]
    emptied[:, 96:128] = 0

    damaged = {
        "one": compare(plain(values), as_blocks(one, name)).differing,
        "swapped": compare(plain(values), as_blocks(swapped, name)).differing,
        "emptied": compare(plain(values), as_blocks(emptied, name)).differing,
        "halved": compare(plain(values), as_blocks(right / 2, name)).differing,
    }

    assert damaged["one"] == 1
    assert all(count > 32 for what, count in damaged.items() if what != "one"), damaged
