"""A tensor's elements as numbers of a dtype that numpy has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.dtypes import BOOL, C32, F32
from converter.errors import UnsupportedError
from converter.tensors.casting import can_convert, converted
from converter.tensors.losses import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor


def numbers(tensor: Tensor) -> NDArray[Any]:
    """A read-only array of the tensor's shape. Dtypes that numpy lacks are widened to float32 or complex64, exactly.

    Raises UnsupportedError for packed dtypes.
    """
    dtype = tensor.dtype
    if dtype.packed > 1:
        raise UnsupportedError(
            f"{dtype.name} packs {dtype.packed} elements into one: `bits()` gives the bytes as they are"
        )
    found: NDArray[Any]
    if dtype is BOOL:
        found = tensor.bits() != 0
    elif dtype is C32:
        halves = np.frombuffer(b"".join(bytes(tile) for tile in tensor.tiles()), "<f2").astype("<f4")
        found = halves.view("<c8").reshape(tensor.shape)
    elif dtype.floating and np.dtype(dtype.numpy).kind != "f" and can_convert(dtype, F32):
        data = b"".join(bytes(tile) for tile in converted(tensor.tiles(), dtype, F32, Loss()))
        found = np.frombuffer(data, "<f4").reshape(tensor.shape)
    else:
        found = tensor.bits()
    found.flags.writeable = False
    return found
