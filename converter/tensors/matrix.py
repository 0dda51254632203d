"""Rectangles of a matrix, read by its strides.

`verify` and the second reader of safetensors read with this module and no writer does, so they share no code with what
they check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.tensors.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.dtypes import Dtype

GAP: Final = 16 << 10  # a gap of at most this many bytes between two rows is read, too: a second call takes longer


@dataclass(frozen=True, slots=True)
class Area:
    """Rows `top` to `bottom` - 1 and columns `left` to `right` - 1 of a matrix."""

    matrix: Tensor
    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return self.bottom - self.top

    @property
    def columns(self) -> int:
        """The number of its columns."""
        return self.right - self.left

    def extent(self, gap: int = GAP) -> int:
        """The number of elements that `read` reads. It includes the gaps between rows if a call for each row would cost more.

        A gap that is read is at most as long as a row, so at most twice the area is read.
        """
        step, stride = self.matrix.stride
        itemsize = self.matrix.dtype.itemsize
        between = step - self.columns
        joined = stride == 1 and 0 < between * itemsize <= min(gap, self.columns * itemsize)
        return self.rows * self.columns + ((self.rows - 1) * between if joined else 0)

    def read(self, buffer: NDArray[Any] | None = None, *, gap: int = GAP) -> NDArray[Any]:
        """Return its raw bits, [rows, columns]. They are read into `buffer` (a flat array of such bits) if it is given."""
        step, stride = self.matrix.stride
        extent = self.extent(gap)
        flat = np.empty(extent, bits(self.matrix.dtype)) if buffer is None else buffer[:extent]
        if stride == 1 or self.columns == 1:
            out = self._read_rows(flat)
        elif step > stride:
            out = self._read_spread_rows(flat)
        else:
            out = self._read_columns(flat)
        swapped = self.matrix.dtype.swapped
        if self.matrix.storage.byteorder == "big" and swapped > 1:
            flat.view(f"u{swapped}").byteswap(inplace=True)
        return out

    @property
    def _start(self) -> int:
        """The byte of the storage at which its first element lies."""
        step, stride = self.matrix.stride
        return (self.matrix.offset + self.top * step + self.left * stride) * self.matrix.dtype.itemsize

    def _read_rows(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Read rows whose elements are neighbours: all at once if they are one range of bytes, else row by row."""
        storage, itemsize, step = self.matrix.storage, self.matrix.dtype.itemsize, self.matrix.stride[0]
        raw = memoryview(flat.view("u1"))  # type: ignore[arg-type]
        if len(flat) > self.rows * self.columns or step == self.columns or self.rows == 1:
            storage.readinto(self._start, raw)
            between = (step if self.rows > 1 else self.columns) * itemsize
            return np.ndarray((self.rows, self.columns), flat.dtype, flat, 0, (between, itemsize))
        nbytes = self.columns * itemsize
        for row in range(self.rows):
            storage.readinto(self._start + row * step * itemsize, raw[row * nbytes : (row + 1) * nbytes])
        return flat.reshape(self.rows, self.columns)

    def _read_spread_rows(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Read rows whose elements are not neighbours. Each is read with the bytes between its elements."""
        step, stride = self.matrix.stride
        itemsize = self.matrix.dtype.itemsize
        out = flat.reshape(self.rows, self.columns)
        span = memoryview(bytearray(((self.columns - 1) * stride + 1) * itemsize))
        for row in range(self.rows):
            self.matrix.storage.readinto(self._start + row * step * itemsize, span)
            out[row] = np.ndarray((self.columns,), flat.dtype, span, 0, (stride * itemsize,))
        return out

    def _read_columns(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Read column by column. A column is one range of bytes if its elements are neighbours."""
        step, stride = self.matrix.stride
        storage, itemsize = self.matrix.storage, self.matrix.dtype.itemsize
        out = flat.reshape(self.columns, self.rows)
        raw = memoryview(out.reshape(-1).view("u1"))  # type: ignore[arg-type]
        nbytes = self.rows * itemsize
        for column in range(self.columns):
            start = self._start + column * stride * itemsize
            if step == 1 or self.rows == 1:
                storage.readinto(start, raw[column * nbytes : (column + 1) * nbytes])
            else:
                span = memoryview(bytearray(((self.rows - 1) * step + 1) * itemsize))
                storage.readinto(start, span)
                out[column] = np.ndarray((self.rows,), flat.dtype, span, 0, (step * itemsize,))
        return out.T


def bits(dtype: Dtype) -> np.dtype[Any]:
    """The numpy dtype of an element's raw bits."""
    return np.dtype(f"<u{dtype.itemsize}" if dtype.itemsize <= 8 else "<u8,<u8")
