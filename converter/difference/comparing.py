"""Compares the tensors of two checkpoints: which are equal, and what happened to each of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from converter.difference import rank as ranks
from converter.difference import rearranged
from converter.difference.measures import Apart, apart, multiplied, same_bits
from converter.difference.pairing import Side, along, following, same_bytes, same_elements
from converter.difference.parts import Leftover
from converter.difference.samples import alike
from converter.difference.sums import root
from converter.difference.wording import (
    EVERY_BIT,
    became,
    closed,
    described,
    digits,
    joined,
    lost,
    measured,
    place,
    rounded,
    sized,
    was_called,
)
from converter.reports.difference import Change, LayerChange, TensorSide
from converter.steps import at
from converter.text import numbered, plural
from converter.verification.comparison import compare
from converter.verification.roundings import comparable

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor
    from converter.verification.walk import Workspace

# Changes are reported in this order, and within a kind the largest one first.
KINDS: Final = ("removed", "added", "reshaped", "joined", "split", "moved", "changed", "retyped", "renamed")
_LOW: Final = 4  # a change is of low rank if the matrix has at least this many times as many rows and columns
_LIKE: Final = 0.9  # the least cosine of two tensors of different names that are taken for the same one

# A tensor's bare name before and after; None on the side that does not have it.
Key: TypeAlias = tuple[str | None, str | None]


class Comparison:
    """The tensors of two sides.

    `pair_all` and then `compare_pairs` fill `changes`, `identical`, `common` and `left_out`. A side is read meanwhile.
    """

    def __init__(self, ours: Side, theirs: Side, workspace: Workspace, progress: Callable[[int], None]) -> None:
        self._ours, self._theirs, self._workspace, self._progress = ours, theirs, workspace, progress
        self.apart: dict[str, Apart] = {}  # tensors that differ and have numbers, by their bare names
        self._norms: dict[str, Fraction | None] = {}  # squared norms of equal tensors in layers
        self.changes: dict[Key, Change] = {}
        self.common: list[str] = []
        self._determined: list[tuple[str, str]] = []  # bare names, and the names in the file
        self._wholes: dict[Key, tuple[Key, ...]] = {}  # what was joined or split, and its parts
        known = [side.recognition for side in (ours, theirs) if side.recognition is not None]
        sizes = (one.family.head_size(one.sizes) for one in known)
        self._head = next((size for size in sizes if size is not None), None)

    @property
    def identical(self) -> int:
        """How many tensors of one name are equal in every bit."""
        return sum((name, name) not in self.changes for name in self.common)

    @property
    def left_out(self) -> list[str]:
        """Names in the file of tensors that only one side has, and that follow from the rest."""
        return [name for _, name in self._determined]

    @property
    def ordered(self) -> list[Change]:
        """The changes in the order of KINDS, and within a kind the largest one first. Wholes stand for their parts."""
        parts = {part for parts in self._wholes.values() for part in parts}
        return sorted((change for key, change in self.changes.items() if key not in parts), key=order)

    def pair_all(self) -> None:
        """Find which tensors of the two sides correspond."""
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
        for whole, parts in self._wholes.items():
            names = [name for key in (whole, *parts) for name in key if name is not None]
            if not only.isdisjoint(names):
                yield from names

    def compare_pairs(self, *, rank: bool, only: Set[str] | None = None) -> None:
        """Compare the tensors that both have, or `only` those with some bare names, on either side.

        `rank` also finds how many directions each change of a matrix has.
        """
        if only is not None:
            self.changes = {key: change for key, change in self.changes.items() if not only.isdisjoint(key)}
            self.common = [name for name in self.common if name in only]
            self._determined = [(name, file) for name, file in self._determined if name in only]
        for name in self.common:
            self.compare(name)
        self._find_moved()
        if rank:
            self._find_ranks()

    def _find_renamed(self, removed: dict[str, Tensor], added: dict[str, Tensor]) -> None:
        """Find tensors of other names: by all their bytes, by some elements, by their rows, and by where they are."""
        for new, old in same_bytes(removed, added).items():
            self._renamed(old, new, EVERY_BIT, differing=0)
            del removed[old], added[new]
        for new, old, turned in list(alike(removed, added)):
            if self._alike(old, new, turned=turned):
                del removed[old], added[new]
        if removed and added:
            self._find_rearranged(removed, added)
        renamed = {new: old for old, new in self.changes if old is not None and new is not None}
        for new, old in along(renamed, removed, added).items():
            before, after = self._side(self._ours, old), self._side(self._theirs, new)
            cast = before.dtype != after.dtype
            how = closed("", before, after) if cast else EVERY_BIT
            self._renamed(old, new, how, differing=None if cast else 0, rounding=cast)
            del removed[old], added[new]
        parts = {
            name: whole for whole, parts in self._wholes.items() for part in parts for name in part if name is not None
        }
        for name, tensor in removed.items():
            side = self._side(self._ours, name)
            detail = f"only before: {described(side)}{self._inside(parts.get(name))}"
            self.changes.setdefault((name, None), Change(side.name, "removed", detail, side, None, tensor.size))
        for name, tensor in added.items():
            side = self._side(self._theirs, name)
            detail = f"only after: {described(side)}{self._inside(parts.get(name))}"
            self.changes.setdefault((None, name), Change(side.name, "added", detail, None, side, tensor.size))

    def _renamed(self, old: str, new: str, how: str, **figures: Any) -> None:
        before, after = self._side(self._ours, old), self._side(self._theirs, new)
        size = self._ours.tensors[old].size
        change = Change(after.name, "renamed", f"{was_called(before.name)}{how}", before, after, size)
        self.changes[old, new] = replace(change, **figures)

    def _alike(self, old: str, new: str, *, turned: bool) -> bool:
        """Compare two tensors of different names whose first elements are alike. False if the others are not."""
        at(new)
        ours, theirs = self._ours.tensors[old], self._theirs.tensors[new]
        found, change = self._difference(
            ours.t() if turned else ours, theirs, self._side(self._ours, old), self._side(self._theirs, new)
        )
        said = "transposed, " if turned else ""
        if change is None:
            self._renamed(old, new, f"{said}every element is equal", differing=0)
            return True
        if found is None or (abs(found.cosine or 0.0) < _LIKE and found.differing * 2 > found.elements):
            return False
        self.changes[old, new] = replace(
            change, name=self._theirs.names[new], what="renamed",
            detail=f"{was_called(self._ours.names[old])}{said}{change.detail}",
        )  # fmt: skip
        return True

    def _find_rearranged(self, removed: dict[str, Tensor], added: dict[str, Tensor]) -> None:
        """Find tensors with the same elements in another order, and those that were joined or split."""
        left = Leftover(removed, added)
        shapes = {name: tensor.shape for name, tensor in added.items()}
        for new, old, how in list(left.reordered(shapes, self._head)):
            before, after = self._side(self._ours, old), self._side(self._theirs, new)
            cast = before.dtype != after.dtype
            self._renamed(old, new, closed(how, before, after), differing=None if cast else 0, rounding=cast)
            del removed[old], added[new]
        for whole in left.wholes(set(shapes) - set(added), {old for old, _ in self.changes if old is not None}):
            outer, inner = (self._ours, self._theirs) if whole.split else (self._theirs, self._ours)
            side = self._side(outer, whole.name)
            parts = [self._side(inner, name) for name in whole.parts]
            key: Key = (whole.name, None) if whole.split else (None, whole.name)
            self._wholes[key] = tuple((None, name) if whole.split else (name, None) for name in whole.parts)
            self.changes[key] = Change(
                side.name,
                "split" if whole.split else "joined",
                joined(whole, side, parts),
                side if whole.split else None,
                None if whole.split else side,
                outer.tensors[whole.name].size,
                0 if {part.dtype for part in parts} == {side.dtype} else None,
                rounding={part.dtype for part in parts} != {side.dtype},
                parts=tuple(part.name for part in parts),
            )

    def _inside(self, whole: Key | None) -> str:
        """What a tensor is now part of, or was."""
        if whole is None:
            return ""
        old, new = whole
        if new is not None:
            return f"; it is now part of {self._theirs.names[new]}"
        return f"; it was part of {self._ours.names[old or '']}"

    def compare(self, name: str) -> None:
        """Compare the two tensors of a name."""
        at(name)
        ours, theirs = self._ours.tensors[name], self._theirs.tensors[name]
        before, after = self._side(self._ours, name), self._side(self._theirs, name)
        if ours.shape != theirs.shape:
            self._progress(ours.nbytes)
            self.changes[name, name] = self._reshaped(ours, theirs, before, after)
            return
        found, change = self._difference(ours, theirs, before, after, layered=name)
        if change is not None:
            self.changes[name, name] = change
        if found is not None:
            self.apart[name] = found

    def _difference(
        self, ours: Tensor, theirs: Tensor, before: TensorSide, after: TensorSide, layered: str | None = None
    ) -> tuple[Apart | None, Change | None]:
        """How far two tensors of one shape are apart, and what happened; None for both if every bit is equal.

        `layered` is the bare name of both, whose norm may count in their layer although they are equal.
        """
        same = ours.dtype == theirs.dtype and ours.storage.encoding == theirs.storage.encoding
        if same:
            layer = layered is not None and numbered(layered)[0] is not None
            bits = same_bits(ours, theirs, self._workspace, self._progress, norm=layer)
            if bits.equal and layer:
                self._norms[layered or ""] = bits.norm
            if bits.equal:
                return None, None
        if not same:
            self._progress(ours.nbytes)
        found = apart(ours, theirs, self._workspace)
        change = measured(Change(before.name, "changed", "", before, after), found, ours.shape)
        if same:
            return found, replace(change, detail=self._words(found, ours, theirs))
        # The rule for a whole tensor allows more than that for its elements, and takes another pass.
        allowed = found.unrounded == 0 or (
            comparable(ours.dtype, theirs.dtype) and not compare(ours, theirs, self._workspace).differing
        )
        if not allowed and (how := rearranged.within(found, ours, theirs, self._head)) is not None:
            return found, replace(change, what="retyped", rounding=True, detail=closed(how, before, after))
        how = rounded(found) if allowed else "and the values changed"
        said = f"{before.dtype} to {after.dtype}, {how}{lost(found, ours.shape)}"
        return found, replace(change, what="retyped", rounding=allowed, detail=said)

    def _words(self, found: Apart, ours: Tensor, theirs: Tensor) -> str:
        """What happened to a tensor, as far as that can be told."""
        factor = found.factor
        if factor == 0 and multiplied(ours, theirs, factor, self._workspace):
            return "every element became 0"
        if factor is not None and multiplied(ours, theirs, factor, self._workspace):
            return f"multiplied by {factor:.4g}"
        if (how := rearranged.within(found, ours, theirs, self._head)) is not None:
            return f"{how}, every element is equal"
        of = plural(found.elements, "element")
        said = f"{found.differing:,} of {of} {'differs' if found.differing == 1 else 'differ'}"
        if found.differing == 1 and found.first is not None and found.pair is not None:
            said = f"{said}, at {list(place(found.first, ours.shape))}: {became(*found.pair)}"
        return said + lost(found, ours.shape)

    def _reshaped(self, ours: Tensor, theirs: Tensor, before: TensorSide, after: TensorSide) -> Change:
        """Name what can be told: the same elements in another shape, or rows of a matrix that both have."""
        detail = f"{sized(before)} became {sized(after)}"
        change = Change(before.name, "reshaped", detail, before, after)
        if same_elements(ours, theirs):
            return replace(change, detail=f"{detail}; the elements are equal, in the same order")
        if (how := rearranged.turned(ours, theirs, self._head)) is not None:
            cast = before.dtype != after.dtype
            return replace(change, detail=f"{detail}; {closed(how, before, after)}", rounding=cast)
        if not ours.shape or ours.shape[1:] != theirs.shape[1:]:
            return change
        rows = min(ours.shape[0], theirs.shape[0])
        encoded = (ours.storage.encoding, theirs.storage.encoding) != (None, None)
        if not rows or encoded or not ours.size:
            return change
        found = apart(ours.rows(0, rows), theirs.rows(0, rows), self._workspace)
        equal = "are equal" if not found.differing else f"differ in {plural(found.differing, 'element')}"
        return replace(
            measured(change, found, (rows, *ours.shape[1:])),
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
        # A layer that was copied, or that moved into the place of a removed one, has the elements of another layer.
        parts = {part for parts in self._wholes.values() for part in parts}
        new = [
            name
            for key, change in self.changes.items()
            if change.what == "added" and key not in parts and (name := key[1]) is not None
        ]
        rest = {name: self._theirs.tensors[name] for name in (*names, *new) if name not in sources}
        sources |= same_bytes(self._ours.tensors, rest, again=True)
        for name, source in sources.items():
            self._moved(name, source)
        self._find_moved_and_cast()

    def _find_moved_and_cast(self) -> None:
        """Find tensors that hold what another one held before, in another dtype."""
        theirs = {
            name: self._theirs.tensors[name]
            for name in self.apart
            if (change := self.changes[name, name]).what == "retyped" and not change.rounding
        }
        shapes = {tensor.shape for tensor in theirs.values()}
        ours = {name: tensor for name, tensor in self._ours.tensors.items() if tensor.shape in shapes}
        for name, source, turned in list(alike(ours, theirs)):
            before, after = self._ours.tensors[source], theirs[name]
            before = before.t() if turned else before
            if name == source or compare(before, after, self._workspace).differing:
                continue
            one, other = self._side(self._ours, source), self._side(self._theirs, name)
            self._moved(name, source, f"; {closed('transposed' if turned else '', one, other)}", rounding=True)

    def _moved(self, name: str, source: str, how: str = "", *, rounding: bool = False) -> None:
        called = self._ours.names[source]
        said = f"it holds the elements that {called} had{how}"
        if name in self._ours.tensors:
            change = self.changes[name, name]
            self.changes[name, name] = replace(change, what="moved", source=called, detail=said, rounding=rounding)
        else:
            change = self.changes[None, name]
            self.changes[None, name] = replace(change, source=called, detail=f"{change.detail}; {said}")

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


def order(change: Change) -> tuple[int, float]:
    """A sort key: the order of KINDS, and within a kind the largest change first."""
    size = math.inf if change.relative is None else change.relative
    return KINDS.index(change.what), -size
