"""Which of some tensors are most like which of others, by a few elements of each.

Two tensors whose elements were rounded, quantised, trained further or multiplied still go up and down together, so the
correlation of their first rows and columns is near 1. That of unrelated ones is near 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from converter.difference.measures import as_numbers, numeric
from converter.difference.orders import as_matrix
from converter.tensors.matrix import Area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor

_SIDE: Final = 16  # rows and columns of the corner of a matrix
_LEAST: Final = 16  # fewer elements are alike by chance
_LIKE: Final = 0.95  # the least correlation of two tensors that belong together
_APART: Final = 4  # the correlation with any other tensor must be this many times as far from 1
_MOST: Final = 400_000_000  # pairs of one shape that are tried
_ROWS: Final = 1024  # tensors that are compared with all others at a time


def alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[tuple[str, str, bool]]:
    """Yield a name of `theirs`, the name of the one in `ours` that is like it, and whether that must be transposed first.

    Each name is given at most once. Only tensors of the same shape, or matrices of the transposed shape, are compared.
    """
    groups: dict[tuple[int, ...], tuple[list[str], list[str]]] = {}
    for at, side in enumerate((ours, theirs)):
        for name, tensor in side.items():
            groups.setdefault(tuple(sorted(tensor.shape)), ([], []))[at].append(name)
    for before, after in groups.values():
        if before and after and len(before) * len(after) <= _MOST:
            yield from _pairs({name: ours[name] for name in before}, {name: theirs[name] for name in after})


def _pairs(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[tuple[str, str, bool]]:
    """The pairs of tensors that are most like each other, of those with the same dimensions in any order."""
    for shape in dict.fromkeys(tensor.shape for tensor in theirs.values()):
        after = _corners({(name, False): tensor for name, tensor in theirs.items() if tensor.shape == shape})
        before = _corners(
            {
                (name, turned): tensor.t() if turned else tensor
                for name, tensor in ours.items()
                for turned in ((False, True) if _turns(tensor) else (False,))
                if shape == (tensor.shape[::-1] if turned else tensor.shape)
            }
        )
        if not before or not after:
            continue
        for one, other in _mutual([found.corner for found in before], [found.corner for found in after]):
            for (old, turned), (new, _) in zip(before[one].ways, after[other].ways, strict=False):
                yield new, old, turned


def _turns(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and min(tensor.shape) > 1


class _Alike(NamedTuple):
    """Tensors with the same first elements: their names, and whether they were transposed first."""

    corner: NDArray[Any]
    ways: list[tuple[str, bool]]


def _corners(tensors: Mapping[tuple[str, bool], Tensor]) -> list[_Alike]:
    found: dict[bytes, _Alike] = {}
    for way, tensor in tensors.items():
        corner = _corner(tensor)
        if corner is not None:
            found.setdefault(corner.tobytes(), _Alike(corner, [])).ways.append(way)
    return list(found.values())


def _corner(tensor: Tensor) -> NDArray[Any] | None:
    """The first elements, with a mean of 0 and a norm of 1. None if they do not tell a tensor from others."""
    matrix = as_matrix(tensor)
    if matrix is None or not numeric(tensor.dtype) or tensor.size < _LEAST:
        return None
    height, width = matrix.shape
    rows = min(height, max(_SIDE, _SIDE**2 // width))
    raw = Area(matrix, 0, rows, 0, min(width, _SIDE**2 // rows)).read()
    found = as_numbers(raw.reshape(-1), tensor.dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        found -= found.mean()
        norm = float(np.linalg.norm(found))
    if not np.isfinite(norm) or not norm:
        return None
    corner: NDArray[Any] = (found / norm).astype(np.float32)
    return corner


def _mutual(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> Iterator[tuple[int, int]]:
    """Yield the places of two corners that are the best for each other, and clearly better than all others."""
    one, other = np.stack(ours), np.stack(theirs)
    forwards, backwards = _best(one, other), _best(other, one)
    for at, best in enumerate(forwards):
        if best is not None and backwards[best] == at:
            yield at, best


def _best(ours: NDArray[Any], theirs: NDArray[Any]) -> list[int | None]:
    """For each of `ours` the one of `theirs` that is clearly more like it than all others."""
    result: list[int | None] = []
    for top in range(0, len(ours), _ROWS):
        # A tensor that was multiplied by a negative number is like the other one, too.
        found = np.abs(ours[top : top + _ROWS] @ theirs.T)
        every = np.arange(len(found))
        best = found.argmax(axis=1)
        first = found[every, best]
        found[every, best] = 0
        clear = (first >= _LIKE) & ((1 - found.max(axis=1)) >= _APART * (1 - first))
        result += [int(place) if sure else None for place, sure in zip(best, clear, strict=True)]
    return result
