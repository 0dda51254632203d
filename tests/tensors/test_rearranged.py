"""Rows in another order, held against numpy's reshape and swapaxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converter.dtypes import BF16, BOOL, F16, F32, F64, Dtype
from converter.errors import LayoutError
from converter.io.source import Memory
from converter.tensors.parts import tensor_parts
from converter.tensors.rearranged import Move, rearranged
from converter.tensors.tensor import Storage, Tensor, row_major


def made(*shape: int, dtype: Dtype = F32, transposed: bool = False) -> Tensor:
    """A tensor whose elements are all different, as far as the dtype allows."""
    array = np.arange(np.prod(shape)).astype(dtype.numpy).reshape(shape)
    data = (array.T if transposed else array).tobytes()
    stride = tuple(reversed(row_major(shape[::-1]))) if transposed else row_major(shape)
    return Tensor(dtype, shape, stride, 0, Storage(Memory(data), 0, len(data), "0"))


def neox(array: Any, heads: int) -> Any:
    """[heads, 3, size] becomes [3, heads, size]."""
    return array.reshape(heads, 3, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def llama(array: Any, heads: int) -> Any:
    """In each head, halves become neighbours."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def gptj(array: Any, heads: int, turned: int) -> Any:
    """In each head, the neighbours among the first rows become halves."""
    out = array.reshape(heads, -1, *array.shape[1:]).copy()
    for head in out:
        head[:turned] = np.concatenate([head[0:turned:2], head[1:turned:2]])
    return out.reshape(array.shape)


NEOX, LLAMA = (Move(one=4, other=3),), (Move(groups=4, one=2, other=6),)
GPTJ = (Move(groups=4, first=8, one=4, other=2),)
CASES = [(NEOX, lambda a: neox(a, 4)), (LLAMA, lambda a: llama(a, 4)), (GPTJ, lambda a: gptj(a, 4, 8))]


@pytest.mark.parametrize(("moves", "expected"), CASES, ids=["NeoX", "LLaMA", "GPT-J"])
@pytest.mark.parametrize("shape", [(48, 5), (48,), (48, 1), (48, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64, BOOL], ids=lambda dtype: dtype.name)
def test_the_rows_are_in_the_order_that_numpy_gives(moves: Any, expected: Any, shape: Any, dtype: Dtype) -> None:
    tensor = made(*shape, dtype=dtype)

    found = rearranged(tensor, moves)

    np.testing.assert_array_equal(found.bits(), expected(tensor.bits()))
    assert b"".join(map(bytes, found.tiles(7 * dtype.itemsize))) == expected(tensor.bits()).tobytes()


@pytest.mark.parametrize(("moves", "expected"), CASES, ids=["NeoX", "LLaMA", "GPT-J"])
def test_a_matrix_that_lies_column_by_column(moves: Any, expected: Any) -> None:
    tensor = made(48, 5, transposed=True)

    np.testing.assert_array_equal(rearranged(tensor, moves).bits(), expected(tensor.bits()))


def test_back_is_the_inverse_and_gives_the_first_tensor() -> None:
    for moves, _ in CASES:
        tensor = made(48, 5)

        assert rearranged(rearranged(tensor, moves), moves, back=True) is tensor
        assert rearranged(rearranged(tensor, moves, back=True), moves) is tensor
        again = rearranged(rearranged(tensor, moves).rows(0, 48), moves, back=True)
        np.testing.assert_array_equal(again.bits(), tensor.bits())


def test_only_some_groups_and_an_order_of_parts() -> None:
    tensor = made(12, 1)

    only = rearranged(tensor, [Move(groups=3, only=2, one=2, other=2)])
    order = rearranged(tensor, [Move(order=(0, 2, 1)), Move(groups=3, only=1, one=2, other=2)])

    assert only.bits().reshape(-1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7, 8, 9, 10, 11]
    assert order.bits().reshape(-1).tolist() == [0, 2, 1, 3, 8, 9, 10, 11, 4, 5, 6, 7]


def test_rows_that_are_longer_than_what_is_read_at_once() -> None:
    tensor = made(6, 1 << 20)

    found = rearranged(tensor, [Move(one=2, other=3)])

    assert [row[0] >> 20 for row in found.bits().astype(int)] == [0, 3, 1, 4, 2, 5]
    parts = tensor_parts(found)
    assert sum(part.nbytes for part in parts) == found.nbytes


@pytest.mark.parametrize(
    "move",
    [Move(groups=5), Move(groups=0), Move(one=5, other=2), Move(groups=4, first=13), Move(groups=2, only=3),
     Move(order=(0, 1, 2, 3, 4)), Move(one=0)],
    ids=str,
)  # fmt: skip
def test_rows_that_can_not_be_cut_are_refused(move: Move) -> None:
    with pytest.raises(LayoutError, match="rows"):
        rearranged(made(48, 2), [move])
