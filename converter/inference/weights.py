"""A model's tensors as float32, by their names in GGUF and as they lie there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from converter.dtypes import BF16, F16, F32, F64
from converter.tensors.cast_kernels import values

if TYPE_CHECKING:
    from converter.models.rows import Parameter
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

Floats = NDArray[np.float32]

# Elements. OpenBLAS has special kernels for products of up to 10⁶ multiplications (interface/gemm.c, SkylakeX), whose
# rounding depends on the layout. With two rows or more, only matrices below this size reach them. These are copied into
# one layout, which costs nothing at that size.
_SMALL: Final = 1 << 20


class Weights:
    """The tensors of a catalogue. `rows` are those that it has, with their names there.

    The first that are used stay in memory, up to `room` bytes.
    """

    def __init__(self, catalogue: Catalogue, rows: Mapping[str, tuple[str, Parameter]], *, room: int) -> None:
        self._catalogue, self._rows, self._room = catalogue, rows, room
        self._kept: dict[str, Floats] = {}
        self._lent = bytearray()

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Tensor:
        source, row = self._rows[name]
        return row.laid_out(self._catalogue[source])

    def array(self, name: str) -> Floats:
        """A vector."""
        return self.kept(name, self[name])

    def dense(self, x: Floats, name: str) -> Floats:
        """[rows, in] → [rows, out], by the matrix [out, in], and the bias if there is one."""
        y: Floats = np.matmul(x, self.kept(f"{name}.weight", self[f"{name}.weight"].t(), lent=True))
        if f"{name}.bias" in self._rows:
            y += self.array(f"{name}.bias")
        return y

    def kept(self, key: str, tensor: Tensor, *, lent: bool = False) -> Floats:
        """The tensor, which stays in memory if there is room. A `lent` one is valid until the next is asked for."""
        array = self._kept.get(key)
        if array is not None:
            return array
        nbytes = tensor.size * F32.itemsize
        if nbytes <= self._room:
            self._room -= nbytes
            self._kept[key] = array = floats(tensor)
            return array
        if not lent:
            return floats(tensor)
        if len(self._lent) < nbytes:
            self._lent = bytearray(nbytes)
        return floats(tensor, self._lent)


def floats(tensor: Tensor, buffer: bytearray | None = None) -> Floats:
    """Read a tensor as float32, into `buffer` if it fits. It keeps its strides unless it is small."""
    array = tensor.bits(buffer)
    if tensor.dtype == BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in {F64, F32, F16}:
        array = array.astype(np.float32, copy=False)
    else:
        array = values(tensor.dtype)[array]
    found: Floats = array.copy(order="C") if array.size < _SMALL and not array.flags.c_contiguous else array
    return found
