"""The quantisation to Q4_0, Q4_1, Q5_0 and Q5_1 with an importance for each element. Q8_0 makes no use of one.

Source: ggml-quants.c `quantize_row_q4_0_impl` …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.formats.gguf.blocks import BLOCK, fifth_bits, nibbles, put_half
from converter.formats.gguf.k_search import Steps, affine, symmetric, total

if TYPE_CHECKING:
    from numpy.typing import NDArray


def weights_of(rows: NDArray[Any], importance: NDArray[Any]) -> NDArray[Any]:
    """How much each of the elements [rows, columns] counts: its importance, times the root of its square and its row's mean."""
    squares: NDArray[Any] = rows * rows
    energy = total(np.ascontiguousarray(squares.T)) / np.float32(rows.shape[1])
    squares += energy[:, None]
    np.sqrt(squares, out=squares)
    squares *= importance
    return squares


# ---- values [blocks, 32], how much each counts → encoded [blocks, bytes] --------------------------------------------


def _q4_0(values: NDArray[Any], weights: NDArray[Any], out: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, weights, 8)
    out[:, 2:] = nibbles(levels)
    return put_half(out, 0, scale)


def _q4_1(values: NDArray[Any], weights: NDArray[Any], out: NDArray[Any]) -> bool:
    scale, least, levels = _affine(values, weights, 15)
    out[:, 4:] = nibbles(levels)
    return put_half(out, 0, scale) and put_half(out, 2, least)


def _q5_0(values: NDArray[Any], weights: NDArray[Any], out: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, weights, 16)
    out[:, 2:6] = fifth_bits(levels)
    out[:, 6:] = nibbles(levels)
    return put_half(out, 0, scale)


def _q5_1(values: NDArray[Any], weights: NDArray[Any], out: NDArray[Any]) -> bool:
    scale, least, levels = _affine(values, weights, 31)
    out[:, 4:8] = fifth_bits(levels)
    out[:, 8:] = nibbles(levels)
    return put_half(out, 0, scale) and put_half(out, 2, least)


def _symmetric(values: NDArray[Any], weights: NDArray[Any], half: int) -> tuple[NDArray[Any], NDArray[Any]]:
    x, w = _columns(values), _columns(weights)
    found = symmetric(x, w, half, np.empty((4, *x.shape), "<f4"))
    return found.scale, _rows(found.levels(x))


def _affine(values: NDArray[Any], weights: NDArray[Any], top: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    x, w = _columns(values), _columns(weights)
    found = affine(x, w, Steps(top, -0.9, 0.05, 36, weighed=True), np.empty((3, *x.shape), "<f4"))
    return found.scale, found.least, _rows(found.levels(x))


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """The blocks side by side."""
    return np.ascontiguousarray(values.T)


def _rows(levels: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(levels.T, "u1").reshape(-1, BLOCK)


WEIGHED: Final[dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], bool]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
}
