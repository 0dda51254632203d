"""What happened to a damaged tensor: it was transposed, swapped, zeroed, or a bit flipped.

Every kind of damage is found by trial: it is undone in a view of the tensor, which is then compared with the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import permutations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import BF16, F16, F32, F64
from converter.tensors.matrix import Area
from converter.tensors.tensor import Tensor, row_major
from converter.text import plural
from converter.verification.comparison import Outcome, equal, resembling
from converter.verification.roundings import floats, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEAD: Final = 16  # first elements, by which candidates are chosen before all elements are compared
_SAMPLE: Final = 256 << 10  # elements that are looked at for a shift, a factor or a rounding
_ROWS: Final = 100_000  # more rows, or elements of a vector, are not searched for another order
_MATRIX: Final = 64 << 20  # bytes; a larger matrix is not searched for another order
_FACTOR: Final = 1e-9  # share of the energy that may remain when a tensor is taken for a multiple of another


class Diagnosis:
    """Names damage, given the right tensors, and what the equal parts of some of them hold."""

    def __init__(self, expected: Mapping[str, Tensor], parts: Mapping[str, tuple[str, ...]]) -> None:
        self._expected, self._parts = expected, parts
        self._heads: dict[tuple[Any, ...], list[str]] = {}

    def name(self, name: str, found: Tensor, outcome: Outcome | None, others: Mapping[str, Tensor]) -> tuple[str, str]:
        """What happened, as a name and as a sentence. `outcome` is None if the shapes differ."""
        expected = self._expected[name]
        match = equal if found.dtype == expected.dtype and found.storage.encoding is None else resembling
        if outcome is None:
            return self._shape(name, found, match)
        if outcome.zeroed == outcome.differing and _zero(found):
            return "zeroed", "every element is zero"
        if any(match(expected, view) for view in transposed(found)) or _laid_out_transposed(expected, found):
            return "transposed", "its elements are those of the transposed matrix"
        said = self._permuted(name, found, match) or self._another(name, found, others, match)
        if said:
            return said
        return (
            self._elements(expected, found, outcome)
            or self._order(expected, found)
            or (
                _counted(outcome),
                "its elements differ",
            )
        )

    def _shape(self, name: str, found: Tensor, match: Callable[[Tensor, Tensor], bool]) -> tuple[str, str]:
        expected = self._expected[name]
        sizes = f"its shape is {list(found.shape)}: expected {list(expected.shape)}"
        if len(found.shape) == 2 and found.shape[::-1] == expected.shape and match(expected, found.t()):
            return "transposed", f"{sizes}; the elements are those of the transposed matrix"
        return "another shape", sizes

    def _permuted(self, name: str, found: Tensor, match: Callable[[Tensor, Tensor], bool]) -> tuple[str, str] | None:
        """Test whether the parts of a tensor, such as query, key and value, are in another order."""
        parts = self._parts.get(name)
        if parts is None:
            return None
        ours, theirs = cut(self._expected[name], len(parts)), cut(found, len(parts))
        order = [next((i for i, view in enumerate(ours) if match(view, other)), None) for other in theirs]
        if tuple(order) not in orders(len(parts)):
            return None
        return permuted(tuple(order), parts)  # type: ignore[arg-type]

    def _another(
        self, name: str, found: Tensor, others: Mapping[str, Tensor], match: Callable[[Tensor, Tensor], bool]
    ) -> tuple[str, str] | None:
        """Test whether the tensor holds the elements of another tensor of the source."""
        for other in self.candidates(found, exact=match is equal):
            if other != name and match(self._expected[other], found):
                mutual = other in others and match(self._expected[name], others[other])
                return exchanged(name, other, mutual=mutual)
        return None

    def candidates(self, found: Tensor, *, exact: bool) -> list[str]:
        """Names of the source's tensors that begin like `found`; those of its shape, unless `exact`."""
        if not self._heads:
            for name, tensor in self._expected.items():
                self._heads.setdefault((tensor.shape, tensor.dtype.name, _head(tensor)), []).append(name)
        if exact:
            return self._heads.get((found.shape, found.dtype.name, _head(found)), [])
        return [name for (shape, *_), names in self._heads.items() if shape == found.shape for name in names]

    def _elements(self, expected: Tensor, found: Tensor, outcome: Outcome) -> tuple[str, str] | None:
        """Test what happened to elements that are still in their places."""
        if outcome.differing == 1 and outcome.flipped == 1:
            return "one flipped bit", "one element differs in one bit"
        x, y = _sample(expected), _sample(found)
        if expected.dtype == found.dtype and expected.dtype.swapped > 1 and np.array_equal(x, y.byteswap()):
            return "byte order", "the bytes of every element are in reverse order"
        if outcome.nan:
            return "NaN", f"{plural(outcome.nan, 'element')} became NaN"
        if outcome.zeroed == outcome.differing:
            return "partly zeroed", "what differs became zero"
        if outcome.differing <= max(4, expected.size // 1000):
            return None
        if not (expected.dtype.floating and found.dtype.floating and expected.dtype.packed == 1):
            return None
        values, changed = floats(x, expected.dtype), floats(y, found.dtype)
        if expected.dtype == found.dtype and expected.dtype in (F32, F64):
            for target in (F32, F16, BF16):
                if target != expected.dtype and np.array_equal(floats(rounded(values, target), target), changed):
                    return f"rounded to {target.name}", f"its values are those that {target.name} can hold"
        return _scaled(values, changed) or _shifted(values, changed)

    def _order(self, expected: Tensor, found: Tensor) -> tuple[str, str] | None:
        """Test whether rows or columns, or the elements of a vector, are the right ones in another order."""
        if expected.dtype != found.dtype or not found.size or expected.nbytes > _MATRIX:
            return None
        if len(expected.shape) == 1 and expected.size <= _ROWS:
            if sorted(_sample(expected).tolist()) == sorted(_sample(found).tolist()):
                return "elements in another order", "it has the same elements in another order"
            return None
        if len(expected.shape) != 2:
            return None
        for what, ours, theirs in (("rows", expected, found), ("columns", expected.t(), found.t())):
            if ours.shape[0] <= _ROWS:
                was, is_now = _digests(ours), _digests(theirs)
                if sorted(was) == sorted(is_now):
                    moved = sum(a != b for a, b in zip(was, is_now, strict=True))
                    return f"{what} in another order", f"{moved:,} of {len(was):,} {what} are in other places"
        return None


def transposed(found: Tensor) -> Iterator[Tensor]:
    """Yield what the matrix would be if its elements were laid out in the other order."""
    if len(found.shape) == 2:
        rows, columns = found.shape
        if found.contiguous:
            yield replace(found, stride=(1, rows))
        elif found.t().contiguous:
            yield replace(found, stride=(columns, 1))


def cut(tensor: Tensor, count: int) -> list[Tensor]:
    """Equal parts of the last dimension."""
    part = tensor.shape[-1] // count
    step = part * tensor.stride[-1]
    shape = (*tensor.shape[:-1], part)
    return [replace(tensor, shape=shape, offset=tensor.offset + index * step) for index in range(count)]


def orders(count: int) -> list[tuple[int, ...]]:
    """All wrong orders of a number of parts."""
    return [order for order in permutations(range(count)) if order != tuple(range(count))]


def permuted(order: tuple[int, ...], parts: tuple[str, ...]) -> tuple[str, str]:
    """The name of an order of a tensor's parts; `order` says which part comes first, second and third."""
    moved = [name for index, name in enumerate(parts) if order[index] != index]
    stand = f"its parts are in the order {', '.join(parts[index] for index in order)}"
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} swapped", stand
    return f"{', '.join(parts[:-1])} and {parts[-1]} permuted", stand


def exchanged(name: str, other: str, *, mutual: bool) -> tuple[str, str]:
    """The name for a tensor that holds the elements of `other`. `mutual`: the other one holds the elements of this one."""
    if not mutual:
        return f"a copy of {other}", f"its elements are those of `{other}`"
    here, there = name.split("."), other.split(".")
    apart = [(a, b) for a, b in zip(here, there, strict=False) if a != b]
    if len(here) == len(there) and len(apart) == 1 and not apart[0][0].isdigit():
        one, two = sorted(apart[0])
        return f"{one} and {two} swapped", f"its elements are those of `{other}`, and the other way round"
    return f"swapped with {other}", f"its elements are those of `{other}`, and the other way round"


def _laid_out_transposed(expected: Tensor, found: Tensor) -> bool:
    """Whether a sample of the elements, read row by row, equals the expected ones read column by column."""
    if len(found.shape) != 2 or expected.dtype != found.dtype or 1 in found.shape:
        return False
    for ours, theirs in ((expected.t(), found), (expected, found.t())):
        x, y = _sample(ours), _sample(theirs)
        common = min(len(x), len(y))
        if np.array_equal(x[:common], y[:common]):
            return True
    return False


def _counted(outcome: Outcome) -> str:
    return "one element changed" if outcome.differing == 1 else "changed"


def _zero(tensor: Tensor) -> bool:
    return tensor.size > 0 and not any(np.frombuffer(tile, "u1").any() for tile in tensor.tiles())


def _sample(tensor: Tensor, most: int = _SAMPLE) -> NDArray[Any]:
    """The first elements in row-major order, as raw bits."""
    if tensor.contiguous:
        line = replace(tensor, shape=(1, tensor.size), stride=row_major((1, tensor.size)))
        return Area(line, 0, 1, 0, min(most, tensor.size)).read().reshape(-1)
    if len(tensor.shape) == 2:
        rows = max(1, min(tensor.shape[0], most // tensor.shape[1]))
        return Area(tensor, 0, rows, 0, min(tensor.shape[1], most)).read().reshape(-1)
    first = bytes(next(tensor.tiles(most * tensor.dtype.itemsize)))
    some: NDArray[Any] = np.frombuffer(first, f"<u{tensor.dtype.itemsize}")
    return some


def _head(tensor: Tensor) -> bytes:
    return _sample(tensor, _HEAD)[:_HEAD].tobytes() if tensor.size else b""


def _digests(matrix: Tensor) -> list[bytes]:
    array = matrix.bits()
    return [blake2b(np.ascontiguousarray(row).view("u1").data, digest_size=8).digest() for row in array]


def _scaled(values: NDArray[Any], changed: NDArray[Any]) -> tuple[str, str] | None:
    x, y = values.astype("<f8"), changed.astype("<f8")
    with np.errstate(all="ignore"):
        xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    if not (np.isfinite(xx) and np.isfinite(yy)) or not xx or not yy:
        return None
    factor = xy / xx
    if yy - factor * xy > _FACTOR * yy or abs(factor - 1) < 1e-6:
        return None
    if abs(factor + 1) < 1e-6:
        return "negated", "every element has the other sign"
    return "scaled", f"every element is multiplied by {factor:.6g}"


def _shifted(values: NDArray[Any], changed: NDArray[Any]) -> tuple[str, str] | None:
    if len(values) < 2 * _HEAD:
        return None
    for one, other, word in ((values, changed, "late"), (changed, values, "early")):
        head, width = one[:_HEAD].tobytes(), one.itemsize
        if head == head[:width] * _HEAD:
            continue
        at = other.tobytes().find(head)
        if at > 0 and at % width == 0:
            shift = at // width
            if shift <= len(one) // 2 and np.array_equal(one[: len(one) - shift], other[shift:]):
                return "shifted", f"the elements are {plural(shift, 'place')} too {word}"
    return None
