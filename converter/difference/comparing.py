"""Compares the tensors of two checkpoints: which are equal, and what happened to each of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final, TypeAlias

from converter.difference import rank as ranks
from converter.difference.measures import INF, NAN, Apart, Some, apart, multiplied, squared, unequal
from converter.difference.pairing import Side, following, is_transposed, same_bytes, same_elements
from converter.difference.sums import root
from converter.reports.difference import Change, LayerChange, TensorSide
from converter.steps import at
from converter.text import numbered, plural
from converter.verification.comparison import compare
from converter.verification.roundings import comparable

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor
    from converter.verification.walk import Workspace

# Changes are reported in this order, and within a kind the largest one first.
KINDS: Final = ("removed", "added", "reshaped", "moved", "changed", "retyped", "renamed")
_LOW: Final = 4  # a change is of low rank if the matrix has at least this many times as many rows and columns

# A tensor's bare name before and after; None on the side that does not have it.
Key: TypeAlias = tuple[str | None, str | None]


class Comparison:
    """The tensors of two sides.

    `pair_all` and then `compare_pairs` fill `changes`, `identical`, `common` and `left_out`. A side is read meanwhile.
    """

    def __init__(self, ours: Side, theirs: Side, workspace: Workspace, progress: Callable[[int], None]) -> None:
        self._ours, self._theirs, self._workspace, self._progress = ours, theirs, workspace, progress
        self.apart: dict[str, Apart] = {}  # of tensors that differ and have numbers, by their bare names
        self._norms: dict[str, Fraction | None] = {}  # squared, of equal tensors in layers that changed
        self.changes: dict[Key, Change] = {}
        self.common: list[str] = []
        self._determined: list[tuple[str, str]] = []  # bare names, and those in the file

    @property
    def identical(self) -> int:
        """How many tensors of one name are equal in every bit."""
        return sum((name, name) not in self.changes for name in self.common)

    @property
    def left_out(self) -> list[str]:
        """Names in the file of what only one side has, and the rest determines."""
        return [name for _, name in self._determined]

    @property
    def ordered(self) -> list[Change]:
        """The changes in the order of KINDS, and within a kind the largest one first."""
        return sorted(self.changes.values(), key=order)

    def pair_all(self) -> None:
        """Find which tensor of one side is which of the other."""
        ours, theirs = self._ours, self._theirs
        recognition = ours.recognition or theirs.recognition
        family = None if recognition is None else recognition.family
        removed = {name: ours.tensors[name] for name in ours.tensors if name not in theirs.tensors}
        added = {name: theirs.tensors[name] for name in theirs.tensors if name not in ours.tensors}
        for side, alone in ((ours, removed), (theirs, added)):
            determined = following(side, alone, family)
            self._determined += [(name, side.names[name]) for name in alone if name in determined]
            for name in determined:
                del alone[name]
        self._find_renamed(removed, added)
        self.common = [name for name in ours.tensors if name in theirs.tensors]

    def partners(self, only: Set[str]) -> Iterator[str]:
        """Yield these bare names, and those that their tensors have on the other side."""
        yield from only
        for key in self.changes:
            if not only.isdisjoint(key):
                yield from (name for name in key if name is not None)

    def compare_pairs(self, *, rank: bool, only: Set[str] | None = None) -> None:
        """Compare the tensors that both have; `only` those of some bare names, on either side.

        `rank` also finds how many directions each change of a matrix has.
        """
        if only is not None:
            self.changes = {key: change for key, change in self.changes.items() if not only.isdisjoint(key)}
            self.common = [name for name in self.common if name in only]
            self._determined = [(name, file) for name, file in self._determined if name in only]
        for name in self.common:
            self.compare(name)
        self._find_moved()
        self._find_norms()
        if rank:
            self._find_ranks()

    def _find_renamed(self, removed: dict[str, Tensor], added: dict[str, Tensor]) -> None:
        for new, old in same_bytes(removed, added).items():
            detail = f"it was called {self._ours.names[old]}; every bit is equal"
            before, after = self._side(self._ours, old), self._side(self._theirs, new)
            self.changes[old, new] = Change(after.name, "renamed", detail, before, after, removed[old].size, 0)
            del removed[old], added[new]
        for name, tensor in removed.items():
            side = self._side(self._ours, name)
            self.changes[name, None] = Change(
                side.name, "removed", f"only before: {_said(side)}", side, None, tensor.size
            )
        for name, tensor in added.items():
            side = self._side(self._theirs, name)
            self.changes[None, name] = Change(side.name, "added", f"only after: {_said(side)}", None, side, tensor.size)

    def compare(self, name: str) -> None:
        """Compare the two tensors of a name."""
        at(name)
        ours, theirs = self._ours.tensors[name], self._theirs.tensors[name]
        before, after = self._side(self._ours, name), self._side(self._theirs, name)
        if ours.shape != theirs.shape:
            self._progress(ours.nbytes)
            self.changes[name, name] = self._reshaped(name, ours, theirs, before, after)
            return
        alike = ours.dtype == theirs.dtype and ours.storage.encoding == theirs.storage.encoding
        if alike and not unequal(ours, theirs, self._workspace, self._progress):
            return
        if not alike:
            self._progress(ours.nbytes)
        found = self.apart[name] = apart(ours, theirs, self._workspace)
        change = _measured(Change(before.name, "changed", "", before, after), found, ours.shape)
        if not alike:
            allowed = comparable(ours.dtype, theirs.dtype) and not compare(ours, theirs, self._workspace).differing
            how = f"{_rounded(found) if allowed else 'and the values changed'}{_lost(found, ours.shape)}"
            said = f"{before.dtype} to {after.dtype}, {how}"
            change = replace(change, what="retyped", rounding=allowed, detail=said)
        else:
            change = replace(change, detail=self._words(found, ours, theirs))
        self.changes[name, name] = change

    def _words(self, found: Apart, ours: Tensor, theirs: Tensor) -> str:
        """What happened to a tensor, as far as that can be told."""
        factor = found.factor
        if factor == 0 and multiplied(ours, theirs, factor, self._workspace):
            return "every element became 0"
        if factor is not None and multiplied(ours, theirs, factor, self._workspace):
            return f"multiplied by {factor:.4g}"
        if found.differing * 2 > found.elements and is_transposed(ours, theirs):
            return "transposed, every element is equal"
        of = plural(found.elements, "element")
        said = f"{found.differing:,} of {of} {'differs' if found.differing == 1 else 'differ'}"
        if found.differing == 1 and found.first is not None and found.pair is not None:
            said = f"{said}, at {list(_place(found.first, ours.shape))}: {_became(*found.pair)}"
            return said + _lost(found, ours.shape)
        return said + _lost(found, ours.shape)

    def _reshaped(self, name: str, ours: Tensor, theirs: Tensor, before: TensorSide, after: TensorSide) -> Change:
        """Name what can be told: the same elements in another shape, or rows of a matrix that both have."""
        detail = f"{_shape(before)} became {_shape(after)}"
        change = Change(before.name, "reshaped", detail, before, after)
        if same_elements(ours, theirs):
            return replace(change, detail=f"{detail}; the elements are equal, in the same order")
        if is_transposed(ours, theirs):
            return replace(change, detail=f"{detail}; transposed, every element is equal")
        if not ours.shape or ours.shape[1:] != theirs.shape[1:]:
            return change
        rows = min(ours.shape[0], theirs.shape[0])
        encoded = (ours.storage.encoding, theirs.storage.encoding) != (None, None)
        if not rows or encoded or not ours.size:
            return change
        found = apart(ours.rows(0, rows), theirs.rows(0, rows), self._workspace)
        equal = "are equal" if not found.differing else f"differ in {plural(found.differing, 'element')}"
        return replace(
            _measured(change, found, (rows, *ours.shape[1:])),
            detail=f"{detail}; the first {plural(rows, 'row')} {equal}",
        )

    def _find_moved(self) -> None:
        """Find tensors that hold what another one held before: two that were exchanged, layers in another order."""
        names = [
            name
            for name, found in self.apart.items()
            if self.changes[name, name].what == "changed" and found.differing * 2 > found.elements
        ]
        theirs = {name: self._theirs.tensors[name] for name in names}
        ours = {name: self._ours.tensors[name] for name in names}
        sources = same_bytes(ours, theirs)
        # A layer that was copied, or that took the place of a removed one, has its elements from one that is still there or gone.
        new = [name for old, name in self.changes if old is None and name is not None]
        rest = {name: self._theirs.tensors[name] for name in (*names, *new) if name not in sources}
        sources |= same_bytes(self._ours.tensors, rest, again=True)
        for name, source in sources.items():
            called = self._ours.names[source]
            said = f"it holds the elements that {called} had"
            if name in theirs:
                self.changes[name, name] = replace(self.changes[name, name], what="moved", source=called, detail=said)
            else:
                change = self.changes[None, name]
                self.changes[None, name] = replace(change, source=called, detail=f"{change.detail}; {said}")

    def _find_norms(self) -> None:
        """Read the equal tensors of layers that changed: they belong to the norm of their layer."""
        for names in by_layer(self.common).values():
            if not any(name in self.apart for name in names):
                continue
            for name in names:
                if (name, name) not in self.changes:
                    at(name)
                    self._norms[name] = squared(self._ours.tensors[name], self._workspace)

    def _find_ranks(self) -> None:
        for (name, _), change in list(self.changes.items()):
            if name is None or name not in self.apart or change.what not in ("changed", "retyped"):
                continue
            ours, theirs = self._ours.tensors[name], self._theirs.tensors[name]
            if not ranks.has_rank(ours) or not ranks.has_rank(theirs):
                continue
            at(name)
            energy, rank = ranks.energy(ours, theirs)
            found = self.apart[name]
            low = rank is not None and rank * _LOW <= min(ours.shape) and found.differing * 2 > found.elements
            said = f"; 99 % of the change has rank {rank}, as with LoRA" if low else ""
            self.changes[name, name] = replace(change, energy=energy, rank=rank, detail=change.detail + said)

    def layers(self) -> Iterator[LayerChange]:
        """The change of each layer, as a share of the norm of all its tensors that have the same shape on both sides."""
        for layer, names in by_layer(self.common).items():
            found = [self.apart[name].squares for name in names if name in self.apart]
            equal = [self._norms[name] for name in names if name in self._norms]
            known = [squares for squares in found if squares is not None]
            relative = None
            if len(known) == len(found) and None not in equal:
                before = sum((*(squares[0] for squares in known), *(norm for norm in equal if norm is not None)))
                relative = root(sum((squares[3] for squares in known), Fraction(0)) / before) if before else None
            if not found:
                relative = 0.0
            different = sum((name, name) in self.changes for name in names)
            yield LayerChange(layer, len(names), different, digits(relative))

    def _side(self, side: Side, name: str) -> TensorSide:
        tensor = side.tensors[name]
        return TensorSide(side.names[name], tensor.storage.encoding or tensor.dtype.name, tensor.shape)


def by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of the tensors of each layer."""
    found: dict[str, list[str]] = {}
    for name in names:
        number, around = numbered(name)
        if number is not None:
            found.setdefault(f"{around[0]}{number}", []).append(name)
    return found


def _became(before: float, after: float) -> str:
    """Two values, with as many digits as they need to look different."""
    if type(before) is int or type(after) is int:
        return f"{before} became {after}"
    for places in (6, 9, 17):
        one, other = (f"{value:.{places}g}" for value in (before, after))
        if one != other:
            break
    return f"{one} became {other}"


def _lost(found: Apart, shape: tuple[int, ...]) -> str:
    """What happened to elements that no figure shows."""
    kinds = ((found.became, "became {}"), (found.was, "were {} before"))
    said = [
        f"{all[what].number:,} {word.format(what)}{_first(all[what], shape)}"
        for all, word in kinds
        for what in (NAN, INF)
        if what in all and found.differing != 1
    ]
    if found.stayed:
        said.append(f"{found.stayed:,} stayed NaN or Inf")
    if found.beyond:
        said.append(f"{found.beyond:,} by more than F64 can hold")
    if found.resigned == found.differing > 1:
        said.append("in nothing but the sign of zero")
    return "".join(f"; {one}" for one in said)


def _first(some: Some, shape: tuple[int, ...]) -> str:
    return f", {'at' if some.number == 1 else 'the first at'} {list(_place(some.first, shape))}"


def _rounded(found: Apart) -> str:
    return "rounded" if found.differing else "every number equal"


def _measured(change: Change, found: Apart, shape: tuple[int, ...]) -> Change:
    known = found.index is not None and not found.beyond
    return replace(
        change,
        elements=found.elements,
        differing=found.differing,
        cosine=digits(found.cosine, 8),
        relative=digits(found.relative),
        largest=digits(found.largest) if known else None,
        index=_place(found.index, shape) if known and found.index is not None else None,
    )


def _place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A row-major index as one for each dimension."""
    found = []
    for length in reversed(shape):
        index, place = divmod(index, length)
        found.append(place)
    return tuple(reversed(found))


def _shape(side: TensorSide) -> str:
    return "×".join(map(str, side.shape)) or "scalar"


def _said(side: TensorSide) -> str:
    return f"{side.dtype} {_shape(side)}"


def digits(value: float | None, digits: int = 4) -> float | None:
    """Rounded, because the last digits depend on the processor."""
    return None if value is None else float(f"{value:.{digits}g}")


def order(change: Change) -> tuple[int, float]:
    """A sort key: the order of KINDS, and within a kind the largest change first."""
    size = math.inf if change.relative is None else change.relative
    return KINDS.index(change.what), -size
