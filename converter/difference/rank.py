"""How many directions a change of a matrix has: its largest singular values, by a randomised method in bounded memory.

Source: Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithm 4.3 with one power iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import F32
from converter.tensors.casting import can_convert

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

LOOKED_FOR: Final = 64  # singular values
SHARE: Final = 0.99  # the share of the energy that the singular values must have together
RANKS: Final = (1, 2, 4, 8, 16, 32, 64)  # the ranks whose shares of the energy are reported
_MORE: Final = 8  # directions that are sampled beyond those that are looked for
_TILE: Final = 4 << 20  # bytes of rows that are read at a time
_SEED: Final = 20110501


def has_rank(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix whose rank says something."""
    return len(tensor.shape) == 2 and min(tensor.shape) > 1 and can_convert(tensor.dtype, F32)


def energy(before: Tensor, after: Tensor) -> tuple[tuple[float, ...], int | None]:
    """The shares of the difference's energy in the first 1, 2, 4 … directions, and how many hold 99 % of it.

    None if that needs more directions than are looked for, or if an element is not finite.
    """
    if before.transposed:
        before, after = before.t(), after.t()  # the transposed matrix has the same singular values
    rows, columns = before.shape
    count = min(LOOKED_FOR + _MORE, rows, columns)
    random = np.random.default_rng(_SEED)
    basis = random.standard_normal((columns, count)).astype(np.float32)
    whole = 0.0
    for _ in range(2):  # the second pass starts from the directions that the first one found
        sketch, whole = np.empty((rows, count), np.float32), 0.0
        for top, difference in _tiles(before, after):
            np.matmul(difference, basis, out=sketch[top : top + len(difference)])
            whole += float(np.square(difference, dtype=np.float64).sum())
        if not np.isfinite(whole) or not whole:
            return (), None
        ours = np.linalg.qr(sketch)[0]
        back = np.zeros((columns, count), np.float64)
        for top, difference in _tiles(before, after):
            back += difference.T @ ours[top : top + len(difference)]
        basis = np.linalg.qr(back)[0].astype(np.float32)
    squares = np.square(np.linalg.svd(back, compute_uv=False))[:LOOKED_FOR]
    shares = np.minimum(np.cumsum(squares) / whole, 1.0)
    enough = int(np.searchsorted(shares, SHARE)) + 1
    points = tuple(round(float(shares[rank - 1]), 4) for rank in RANKS if rank <= len(shares))
    return points, enough if enough <= len(shares) else None


def _tiles(before: Tensor, after: Tensor) -> Iterator[tuple[int, NDArray[Any]]]:
    """The difference of two matrices in bands of rows, each with the number of its first row."""
    rows, columns = before.shape
    high = max(1, _TILE // (4 * columns))
    for top in range(0, rows, high):
        stop = min(rows, top + high)
        with np.errstate(all="ignore"):
            yield top, np.subtract(after.rows(top, stop).numpy(), before.rows(top, stop).numpy(), dtype=np.float32)
