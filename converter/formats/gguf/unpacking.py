"""Fields of GGUF's blocks: scales in half precision, and elements of one to four bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def half(blocks: NDArray[Any], position: int) -> NDArray[Any]:
    """The half-precision number at a byte of every block: F32 [blocks, 1]."""
    numbers: NDArray[Any] = blocks[:, position : position + 2].copy().view("<f2").astype("<f4")
    return numbers


def words(blocks: NDArray[Any], start: int, stop: int, kind: str) -> NDArray[Any]:
    """The bytes `start` to `stop` of every block as integers of more than a byte: [blocks, integers]."""
    return blocks[:, start:stop].copy().view(kind)


def nibbles(packed: NDArray[Any]) -> NDArray[Any]:
    """The lower four bits of all bytes, then the upper four: [..., n] becomes [..., 2, n]."""
    found = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), "u1")
    np.bitwise_and(packed, np.uint8(15), out=found[..., 0, :])
    np.right_shift(packed, np.uint8(4), out=found[..., 1, :])
    return found


def quarters(packed: NDArray[Any]) -> NDArray[Any]:
    """The lowest two bits of all bytes, then the next two, and so on: [..., n] becomes [..., 4, n]."""
    found = np.empty((*packed.shape[:-1], 4, packed.shape[-1]), "u1")
    for index, shift in enumerate((0, 2, 4, 6)):
        np.right_shift(packed, np.uint8(shift), out=found[..., index, :])
    found &= np.uint8(3)
    return found


def eighths(packed: NDArray[Any]) -> NDArray[Any]:
    """The lowest bit of all bytes, then the next, and so on: [..., n] becomes [..., 8, n]."""
    found = np.empty((*packed.shape[:-1], 8, packed.shape[-1]), "u1")
    for index in range(8):
        np.right_shift(packed, np.uint8(index), out=found[..., index, :])
    found &= np.uint8(1)
    return found
