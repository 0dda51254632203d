"""What was changed in a quantised file is found, and named, however little it is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.quantising import quantised
from converter.opening import open_checkpoint
from tests.build.depth import share
from tests.verification.test_derivation import DOWN, Made, importance, judged, made, place, source

__all__ = ("importance", "made", "source")  # fixtures
DOWN_NAME, UP_NAME = "h.1.mlp.c_proj.weight", "h.1.mlp.c_fc.weight"
UP, FIRST_UP, TOKENS = "blk.1.ffn_up.weight", "blk.0.ffn_up.weight", "token_embd.weight"
Change = Callable[[Path, bytearray], None]


# ---- changes --------------------------------------------------------------------------------------------------------


def flipped(word: str, block: int, byte: int, bits: int, name: str = DOWN) -> Change:
    """Some bits of a byte of a block."""

    def change(file: Path, data: bytearray) -> None:
        data[place(file, name)[0] + BY_NAME[word].nbytes * block + byte] ^= bits

    return change


def next_half(word: str, block: int, byte: int, name: str = DOWN) -> Change:
    """The next larger number in half precision: the scale of a block, or its minimum."""

    def change(file: Path, data: bytearray) -> None:
        at = place(file, name)[0] + BY_NAME[word].nbytes * block + byte
        struct.pack_into("<H", data, at, struct.unpack_from("<H", data, at)[0] + 1)

    return change


def moved(name: str, to: int, start: int, size: int, *, swap: bool = False) -> Change:
    """Bytes of a tensor that are copied to another place in it, or swapped with what is there."""

    def change(file: Path, data: bytearray) -> None:
        first = place(file, name)[0]
        one, other = slice(first + start, first + start + size), slice(first + to, first + to + size)
        before = data[other]
        data[other] = data[one]
        if swap:
            data[one] = before

    return change


def swapped(one: str, other: str) -> Change:
    def change(file: Path, data: bytearray) -> None:
        a, b = slice(*place(file, one)), slice(*place(file, other))
        data[a], data[b] = data[b], data[a]

    return change


def zeroed(file: Path, data: bytearray) -> None:
    start = place(file, DOWN)[0] + 144 * 9
    data[start : start + 144] = bytes(144)


def last_level(file: Path, data: bytearray) -> None:
    data[place(file, DOWN)[1] - 1] ^= 0x10


def scaled(first: int, last: int, factor: float) -> Change:
    """The scales and minima of blocks of Q4_K."""

    def change(file: Path, data: bytearray) -> None:
        for block in range(first, last):
            at = place(file, DOWN)[0] + 144 * block
            data[at : at + 4] = (np.frombuffer(data[at : at + 4], "<f2") * np.float16(factor)).astype("<f2").tobytes()

    return change


def requantised(by: Callable[[np.ndarray], np.ndarray], rows: slice = slice(None), word: str = "Q4_K") -> Change:
    """Rows of another source's tensor, quantised as the others were."""

    def change(file: Path, data: bytearray) -> None:
        start, _ = place(file, DOWN)
        values = by(open_checkpoint(file.with_name(f"{file.name.split('-')[1]}.gguf"))[DOWN].numpy().astype("<f4"))[
            rows
        ]
        raw = b"".join(bytes(some) for some in quantised(iter([memoryview(values.tobytes())]), BY_NAME[word], "w"))
        first = start + 2 * BY_NAME[word].nbytes * (rows.start or 0)
        data[first : first + len(raw)] = raw

    return change


def trained_further(values: np.ndarray) -> np.ndarray:
    changed: np.ndarray = values + np.random.default_rng(8).normal(0, 0.0015, values.shape).astype("<f4")
    return changed


def pruned(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < 0.012, np.float32(0), values)


def barely_pruned(values: np.ndarray) -> np.ndarray:
    """Only the smallest hundredth becomes zero, which changes the error by less than other rounding does."""
    return np.where(np.abs(values) < np.quantile(np.abs(values), 0.01), np.float32(0), values)


def clipped(values: np.ndarray) -> np.ndarray:
    changed: np.ndarray = np.clip(values, -0.04, 0.04)
    return changed


def called(name: str, number: int) -> Change:
    """Another number for a tensor's type; its blocks take as many bytes."""

    def change(file: Path, data: bytearray) -> None:
        at = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
        (dimensions,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at + 4 + 8 * dimensions, number)

    return change


def renamed(one: str, other: str) -> Change:
    """Two tensors that have each other's names."""

    def change(file: Path, data: bytearray) -> None:
        first, second = data.index(one.encode()), data.index(other.encode())
        data[first : first + len(one)], data[second : second + len(other)] = other.encode(), one.encode()

    return change


def float_moved(name: str) -> Change:
    """The last bit of an element that is not quantised."""

    def change(file: Path, data: bytearray) -> None:
        data[place(file, name)[0] + 4 * 7] ^= 1

    return change


# The file, what is changed in it, and the names that must be said.
TAMPERED: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "a level by one": ("q4_k", flipped("Q4_K", 37, 60, 0x10), (DOWN_NAME,)),
    "the last level of a tensor": ("q4_k", last_level, (DOWN_NAME,)),
    "a block's scale by one ulp": ("q4_k", next_half("Q4_K", 37, 0), (DOWN_NAME,)),
    "a block's minimum by one ulp": ("q4_k", next_half("Q4_K", 37, 2), (DOWN_NAME,)),
    "the sign of a block's scale": ("q4_k", flipped("Q4_K", 37, 1, 0x80), (DOWN_NAME,)),
    "a group's scale by one": ("q4_k", flipped("Q4_K", 37, 4, 1), (DOWN_NAME,)),
    "a group's minimum by one": ("q4_k", flipped("Q4_K", 37, 8, 1), (DOWN_NAME,)),
    "a block that is another's copy": ("q4_k", moved(DOWN, 144 * 5, 144 * 6, 144), (DOWN_NAME,)),
    "two blocks swapped": ("q4_k", moved(DOWN, 144 * 5, 144 * 90, 144, swap=True), (DOWN_NAME,)),
    "a block of zeros": ("q4_k", zeroed, (DOWN_NAME,)),
    "two rows swapped": ("q4_k", moved(DOWN, 288 * 5, 288 * 6, 288, swap=True), (DOWN_NAME,)),
    "a row that is another's copy": ("q4_k", moved(DOWN, 288 * 5, 288 * 6, 288), (DOWN_NAME,)),
    "a row 3 % larger": ("q4_k", scaled(20, 22, 1.03), (DOWN_NAME,)),
    "a row 0.2 % larger": ("q4_k", scaled(20, 22, 1.002), (DOWN_NAME,)),
    "a tensor 10 % larger": ("q4_k", scaled(0, 512, 1.1), (DOWN_NAME,)),
    "two layers' matrices swapped": ("q4_k", swapped(UP, FIRST_UP), (UP_NAME, "h.0.mlp.c_fc.weight")),
    "two matrices with each other's names": ("q4_k", renamed(UP, FIRST_UP), (UP_NAME, "h.0.mlp.c_fc.weight")),
    "a tensor that was trained further": ("q4_k", requantised(trained_further), (DOWN_NAME,)),
    "a row that was trained further": ("q4_k", requantised(trained_further, slice(7, 8)), (DOWN_NAME,)),
    "small elements pruned": ("q4_k", requantised(pruned), (DOWN_NAME,)),
    # Q6_K and Q3_K have the same bytes then: zero is one of their levels.
    **{f"the smallest elements pruned in {word}": (word.lower(), requantised(barely_pruned, word=word), (DOWN_NAME,)) for word in ("Q5_K", "Q4_K", "Q2_K")},
    "large elements clipped": ("q4_k", requantised(clipped), (DOWN_NAME,)),
    "negated": ("q4_k", requantised(np.negative), (DOWN_NAME,)),
    "the columns in reverse": ("q4_k", requantised(lambda values: values[:, ::-1]), (DOWN_NAME,)),
    "a block from F32 where the rest is from F16": ("q4_k/f16", requantised(lambda values: values * np.float32(1.0001), slice(7, 9)), (DOWN_NAME,)),
    "two tokens swapped": ("q4_k", moved(TOKENS, 144 * 5, 144 * 6, 144, swap=True), ("wte.weight",)),
    "a token that is another's copy": ("q4_k", moved(TOKENS, 144 * 5, 144 * 6, 144), ("wte.weight",)),
    "a bias by one ulp": ("q4_k", float_moved("blk.1.ffn_up.bias"), ("h.1.mlp.c_fc.bias",)),
    "a norm by one ulp": ("q4_k", float_moved("output_norm.weight"), ("ln_f.weight",)),
    "a position by one ulp": ("q4_k", float_moved("position_embd.weight"), ("wpe.weight",)),
    "Q4_K that is called Q4_0": ("q4_k", called(DOWN, 2), (DOWN_NAME,)),
    "Q4_K that is called IQ4_NL": ("q4_k", called(DOWN, 20), (DOWN_NAME,)),
    "Q3_K that is called IQ3_S": ("q3_k", called(DOWN, 21), (DOWN_NAME,)),
    "Q4_0 that is called IQ4_NL": ("q4_0", called(DOWN, 20), (DOWN_NAME,)),
    "a block's scale in Q6_K": ("q6_k", next_half("Q6_K", 37, 208), (DOWN_NAME,)),
    "a group's scale in Q6_K": ("q6_k", flipped("Q6_K", 37, 192, 1), (DOWN_NAME,)),
    "a level in Q6_K": ("q6_k", flipped("Q6_K", 37, 5, 1), (DOWN_NAME,)),
    "a block's scale in Q5_K": ("q5_k", next_half("Q5_K", 37, 0), (DOWN_NAME,)),
    "a fifth bit in Q5_K": ("q5_k", flipped("Q5_K", 37, 20, 1), (DOWN_NAME,)),
    "a block's scale in Q3_K": ("q3_k", next_half("Q3_K", 37, 108), (DOWN_NAME,)),
    "a third bit in Q3_K": ("q3_k", flipped("Q3_K", 37, 5, 1), (DOWN_NAME,)),
    "a block's scale in Q2_K": ("q2_k", next_half("Q2_K", 37, 80), (DOWN_NAME,)),
    "a group's scale in Q2_K": ("q2_k", flipped("Q2_K", 37, 3, 1), (DOWN_NAME,)),
    "a block's scale in Q8_0": ("q8_0", next_half("Q8_0", 37, 0), (DOWN_NAME,)),
    "a level in Q8_0": ("q8_0", flipped("Q8_0", 37, 9, 1), (DOWN_NAME,)),
    "a block's minimum in Q5_1": ("q5_1", next_half("Q5_1", 37, 2), (DOWN_NAME,)),
    "a block's scale in Q5_0": ("q5_0", next_half("Q5_0", 37, 0), (DOWN_NAME,)),
    "a block's scale in Q4_1": ("q4_1", next_half("Q4_1", 37, 0), (DOWN_NAME,)),
    "a block's scale in Q4_0": ("q4_0", next_half("Q4_0", 37, 0), (DOWN_NAME,)),
}  # fmt: skip


def test_there_are_as_many_as_there_should_be() -> None:
    assert len(TAMPERED) >= 45


@pytest.mark.parametrize("case", share(list(TAMPERED), 0, 5))
def test_what_was_changed_is_named(case: str, source: Path, made: Made, tmp_path: Path) -> None:
    word, change, names = TAMPERED[case]
    type, _, through = word.partition("/")
    whole = made.of(type, through=through or "f32")
    data = bytearray(whole.read_bytes())
    change(whole, data)
    assert data != whole.read_bytes()
    file = tmp_path / "x.gguf"
    file.write_bytes(data)

    output = judged(source, file)

    assert output.verdict == "different"
    assert sorted(found.name for found in output.tensors.different) == sorted(names)


def test_every_changed_block_is_counted_and_the_place_of_the_first_is_said(
    source: Path, made: Made, tmp_path: Path
) -> None:
    """Two of the three lose no more than other blocks do. A row of the file, two blocks of 256, is a column of the source."""
    whole = made.of("q4_k")
    data = bytearray(whole.read_bytes())
    for block in (9, 90, 300):
        flipped("Q4_K", block, 60, 0x10)(whole, data)
    (tmp_path / "x.gguf").write_bytes(data)

    [found] = judged(source, tmp_path / "x.gguf").tensors.different

    assert (found.name, found.detail) == (
        DOWN_NAME,
        "3 of its 512 blocks of Q4_K are not what the source gives, while the others are, at [256, 4]",
    )


@pytest.mark.parametrize("word", ["Q5_K", "Q4_K"])
def test_a_pruned_tensor_is_found_where_an_unknown_importance_made_the_file(
    word: str, source: Path, importance: Path, made: Made, tmp_path: Path
) -> None:
    """No block is what the source gives, so only the levels tell; those of the other types are nearest for zero, too."""
    full, honest = made.full("f32"), made.of(word.lower(), imatrix=importance)
    changed = bytearray(full.read_bytes())
    values = np.frombuffer(changed, "<f4", 256 * 512, place(full, DOWN)[0])
    values[:] = barely_pruned(values)
    (tmp_path / "full.gguf").write_bytes(changed)
    convert(open_checkpoint(tmp_path / "full.gguf"), tmp_path / "x.gguf", dtype=word.lower(), imatrix=importance)

    [found] = judged(source, tmp_path / "x.gguf").tensors.different

    assert judged(source, honest).tensors.different == ()
    assert (found.name, found.what) == (DOWN_NAME, "not from the source")
    assert f"are not at the level of {word} that is nearest to the source's element" in found.detail


@pytest.mark.parametrize("start", ["q8_0", "q6_k", "q5_0"])
def test_a_quantised_copy_is_an_honest_start(start: str, source: Path, made: Made, tmp_path: Path) -> None:
    convert(open_checkpoint(made.of(start)), tmp_path / "x.gguf", dtype="q4_k", pure=True)

    output = judged(source, tmp_path / "x.gguf")

    assert (output.verdict, output.tensors.different) == ("equivalent", ())


@pytest.mark.parametrize("word", ["q4_k", "q8_0"])
def test_another_importance_than_the_one_named_is_found_out(
    word: str, source: Path, importance: Path, made: Made
) -> None:
    """A file that was made without importance, and is said to be made with it. Q8_0 makes no use of importance."""
    output = judged(source, made.of(word), importance)

    assert output.verdict == ("equivalent" if word == "q8_0" else "different")
    assert len(output.tensors.different) == (0 if word == "q8_0" else 8)
