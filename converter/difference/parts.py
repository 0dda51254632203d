"""Tensors that others were joined into, such as query, key and value, or that were split into others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from converter.difference.orders import Lines, as_matrix, castable, lines, order, said
from converter.verification.comparison import equal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.dtypes import Dtype
    from converter.tensors.tensor import Tensor

_MOST: Final = 4_000_000  # rows and columns that are kept in memory as numbers, with 8 bytes each
_TRIES: Final = 64  # tensors that are tried as the next part
_TURNS: Final = 8  # tensors whose rows take turns


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor that holds others, in this order. With `split`, it is a tensor before.

    `turns` is how many rows of one part stand together if the parts take turns, and None if each part stands whole.
    `turned` says of each part whether it is transposed in it, and `across` that parts lie side by side, not below each other.
    """

    name: str
    parts: tuple[str, ...]
    split: bool
    turns: int | None
    turned: tuple[bool, ...]
    across: bool


class _Part(NamedTuple):
    """The rows of a tensor that may be a part: their numbers."""

    name: str
    turned: bool
    rows: NDArray[Any]


class Leftover:
    """Tensors that only one side has, and that resemble no other tensor, known by the numbers of their rows and columns.

    All of them are read once, if their shapes leave a chance.
    """

    def __init__(self, removed: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> None:
        self._before, self._after = _matrices(removed), _matrices(added)
        dtypes = list(dict.fromkeys(tensor.dtype for tensor in self._after.values()))
        chosen = _promising(self._before, self._after)
        room = _MOST
        self._ours: dict[Dtype, dict[str, Lines]] = {dtype: {} for dtype in dtypes}
        self._theirs: dict[str, Lines] = {}
        for name in chosen[1]:
            tensor = self._after[name]
            if (room := room - sum(tensor.shape)) >= 0:
                self._theirs[name] = lines(tensor, tensor.dtype)
        for name in chosen[0]:
            tensor = self._before[name]
            for dtype in dtypes:
                if castable(tensor.dtype, dtype) and (room := room - sum(tensor.shape)) >= 0:
                    self._ours[dtype][name] = lines(tensor, dtype)

    def reordered(self, shapes: Mapping[str, tuple[int, ...]], head: int | None) -> Iterator[tuple[str, str, str]]:
        """Yield a name after, one before, and what happened to the order of the elements. `shapes` are those after."""
        known: dict[tuple[Dtype, int, int], list[str]] = {}
        for dtype, found in self._ours.items():
            for name, one in found.items():
                known.setdefault((dtype, self._before[name].size, one.whole), []).append(name)
        for name, one in self._theirs.items():
            after = self._after[name]
            names = [] if one.plain else known.get((after.dtype, after.size, one.whole), [])
            for old in names[:_TRIES]:
                how = order(self._before[old], after, self._ours[after.dtype][old], one)
                if how is not None:
                    names.remove(old)
                    yield name, old, said(how, shapes[name], head)
                    break

    def wholes(self, taken: Iterable[str], given: Iterable[str]) -> Iterator[Whole]:
        """Yield tensors that others were joined into or split into; not those `given` before and `taken` after."""
        gone, used = set(given), set(taken)
        for name, one in self._theirs.items():
            dtype = self._after[name].dtype
            parts = {old: found for old, found in self._ours[dtype].items() if old not in gone}
            if name not in used and (whole := self._whole(name, one, parts, split=False)) is not None:
                gone.update(whole.parts)
                yield whole
        for dtype, found in self._ours.items():
            for name, one in found.items():
                parts = {
                    new: lines
                    for new, lines in self._theirs.items()
                    if new not in used and self._after[new].dtype == dtype
                }
                if name not in gone and (whole := self._whole(name, one, parts, split=True)) is not None:
                    gone.add(name)
                    used.update(whole.parts)
                    yield whole

    def _whole(self, name: str, one: Lines, parts: Mapping[str, Lines], *, split: bool) -> Whole | None:
        for across, rows, width in ((False, one.rows, len(one.columns)), (True, one.columns, len(one.rows))):
            if (rows == rows[0]).all():  # rows that are all alike say nothing about where they come from
                continue
            starts: dict[int, list[_Part]] = {}
            for part, found in parts.items():
                for flipped, theirs in ((False, found), (True, found.t())):
                    if len(theirs.columns) == width and 0 < len(theirs.rows) < len(rows):
                        starts.setdefault(int(theirs.rows[0]), []).append(_Part(part, flipped != across, theirs.rows))
            for turns, found_parts in _compositions(rows, starts):
                whole = Whole(
                    name,
                    tuple(part.name for part in found_parts),
                    split,
                    turns,
                    tuple(part.turned for part in found_parts),
                    across,
                )
                if self._holds(whole):
                    return whole
        return None

    def _holds(self, whole: Whole) -> bool:
        """Whether each part has the elements that stand in its place. All are read again."""
        outer, inner = (self._before, self._after) if whole.split else (self._after, self._before)
        tensor = outer[whole.name].t() if whole.across else outer[whole.name]
        top = 0
        for at, (name, turned) in enumerate(zip(whole.parts, whole.turned, strict=True)):
            part = inner[name].t() if turned != whole.across else inner[name]
            deep = whole.turns or part.shape[0]
            for start in range(0, part.shape[0], deep):
                place = top if whole.turns is None else (start * len(whole.parts)) + at * deep
                one, other = part.rows(start, start + deep), tensor.rows(place, place + deep)
                if not (equal(other, one) if whole.split else equal(one, other)):
                    return False
            top += part.shape[0]
        return True


def _matrices(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose elements can be told by their bits, as matrices."""
    found = {name: as_matrix(tensor) for name, tensor in tensors.items() if tensor.storage.encoding is None}
    return {
        name: matrix
        for name, matrix in found.items()
        if matrix is not None and matrix.size > 1 and castable(matrix.dtype, matrix.dtype)
    }


def _promising(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The names on both sides whose shapes leave a chance: one of the other side has as many rows or columns."""
    sizes = [{length for tensor in side.values() for length in tensor.shape} for side in (ours, theirs)]
    return (
        [name for name, tensor in ours.items() if not sizes[1].isdisjoint(tensor.shape)],
        [name for name, tensor in theirs.items() if not sizes[0].isdisjoint(tensor.shape)],
    )


def _compositions(
    rows: NDArray[Any], starts: Mapping[int, Sequence[_Part]]
) -> Iterator[tuple[int | None, list[_Part]]]:
    """Yield ways to put rows together from the rows of parts: one part after the other, or a few rows of each in turns."""
    found: list[_Part] = []
    at = 0
    while at < len(rows):
        part = _next(rows[at:], starts, found)
        if part is None:
            break
        found.append(part)
        at += len(part.rows)
    else:
        if len(found) > 1:
            yield None, found
    lengths = {len(part.rows) for parts in starts.values() for part in parts}
    for length in sorted(lengths):
        count = len(rows) // length
        if len(rows) % length or not 2 <= count <= _TURNS or int(rows[0]) not in starts:
            continue
        for turns in range(1, length):
            if length % turns:
                continue
            cut = rows.reshape(length // turns, count, turns)
            found = []
            for place in range(count):
                part = _next(cut[:, place].reshape(-1), starts, found)
                if part is None or len(part.rows) != length:
                    break
                found.append(part)
            else:
                yield turns, found


def _next(rows: NDArray[Any], starts: Mapping[int, Sequence[_Part]], used: Sequence[_Part]) -> _Part | None:
    """A part that is not used yet and has the first of these rows."""
    names = {part.name for part in used}
    tried = starts.get(int(rows[0]), ())[:_TRIES]
    fitting = (part for part in tried if part.name not in names and np.array_equal(part.rows, rows[: len(part.rows)]))
    return next(fitting, None)
