"""Multiplies the rows of a tensor by a power of two, in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converter.dtypes import BF16, Dtype
from converter.errors import UnsupportedError
from converter.io.source import STEP

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor


def fill(tensor: Tensor, factor: float, rows: int | None, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` from byte `offset` of the tensor, whose first `rows` are multiplied.

    Raises UnsupportedError for an element whose product can't be undone.
    """
    width = tensor.nbytes // tensor.shape[0]  # bytes of a row
    done = 0
    while done < len(buffer):
        row, inside = divmod(offset + done, width)
        stop = min(tensor.shape[0], row + max(1, min(-(-(inside + len(buffer) - done) // width), STEP // width)))
        found = np.ascontiguousarray(tensor.rows(row, stop).bits()).reshape(stop - row, -1)
        until = stop if rows is None else min(rows, stop)
        if factor != 1 and until > row:
            found = np.concatenate([_times(found[: until - row], tensor.dtype, factor), found[until - row :]])
        piece = found.reshape(-1).view("u1").data[inside : inside + len(buffer) - done]
        buffer[done : done + len(piece)] = piece
        done += len(piece)


def packed(values: list[float], dtype: Dtype) -> bytes:
    """Numbers as elements of a dtype. They were of this dtype, or of a smaller one, so nothing is rounded."""
    return _narrowed(np.array(values, np.float32), dtype).tobytes()


def floats(tensor: Tensor) -> list[float]:
    """The elements of a tensor, in order."""
    found: list[float] = _widened(np.ascontiguousarray(tensor.bits()).reshape(-1), tensor.dtype).tolist()
    return found


def _times(found: NDArray[Any], dtype: Dtype, factor: float) -> NDArray[Any]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = _widened(found, dtype)
        made = _narrowed(values * values.dtype.type(factor), dtype)
        back = _narrowed(_widened(made, dtype) / values.dtype.type(factor), dtype)
    if not np.array_equal(back.view(f"u{back.itemsize}"), found.view(f"u{found.itemsize}")):
        raise UnsupportedError(
            f"an element times {factor:.6g} is too large or too small for {dtype.name}: choose safetensors"
        )
    return made


def _widened(found: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    return (found.astype(np.uint32) << 16).view(np.float32) if dtype is BF16 else found


def _narrowed(values: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    if dtype is BF16:
        return (values.view(np.uint32) >> 16).astype("<u2")
    return values.astype(dtype.numpy, copy=False)
