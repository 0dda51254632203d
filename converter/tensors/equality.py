"""Whether two tensors hold the same elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits. Both are read up to the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    rest = memoryview(b"")
    others = other.tiles()
    for tile in one.tiles():
        left = tile
        while left:
            rest = rest or next(others)
            size = min(len(left), len(rest))
            if bytes(left[:size]) != bytes(rest[:size]):  # memoryviews would be compared byte by byte, which takes long
                return False
            left, rest = left[size:], rest[size:]
    return True
