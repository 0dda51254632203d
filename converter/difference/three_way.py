"""Compares two checkpoints with the one that both were made from: what each changed, and where they agree or conflict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from converter.difference import aside
from converter.difference.beside import MOST, Part, beside
from converter.difference.comparing import Comparison, by_layer, order
from converter.difference.diff import ignored, not_compared
from converter.difference.measures import SIZES
from converter.difference.pairing import Side, chosen, sides, unnamed
from converter.difference.sums import cosine
from converter.difference.wording import EVERY_BIT, was_called
from converter.formats import uncollected
from converter.reports.difference import Beside, Change
from converter.reports.three_way import ThreeWayBeside, ThreeWayChange, ThreeWayLayer, ThreeWayReport
from converter.text import plural
from converter.verification.walk import Workspace

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

# Changes are reported in this order.
BY: Final = ("conflict", "apart", "agree", "after", "other")
_ELEMENTS: Final = {"changed", "moved"}  # what happened where only elements differ
_RATIO: Final = 1000  # ratio of two changes' norms: beyond it, rounding hides the angle between them


@dataclass(frozen=True, slots=True)
class _Row:
    """What happened to a tensor on one side, and its bare name there; None if that side no longer has it."""

    name: str | None
    change: Change


@uncollected()
def three_way(
    before: Catalogue,
    after: Catalogue,
    other: Catalogue,
    *,
    rank: bool = False,
    filter: str | Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    starting: Callable[[int], None] | None = None,
) -> ThreeWayReport:
    """Compare two checkpoints with the one that both were made from. Parameters are as in `diff`."""
    base, one, two = sides(before, after, other)
    globs = (filter,) if isinstance(filter, str) else tuple(filter)
    only = chosen((base, one, two), globs) if globs else None
    if starting is not None:
        starting(2 * base.nbytes_of(only))
    told, workspace = progress or ignored, Workspace(SIZES)
    first, second = (Comparison(base, side, workspace, told) for side in (one, two))
    for comparison in (first, second):
        comparison.pair_all()
    if only is not None:  # a tensor has another name where it was renamed
        only = {*first.partners({*second.partners(only)}), *second.partners({*first.partners(only)})}
    for comparison in (first, second):
        comparison.compare_pairs(rank=rank, only=only)
    ours, theirs = _rows(first), _rows(second)
    met = {
        place: (ours[place].name, theirs[place].name)
        for place in ours
        if place in theirs and ours[place].name is not None and theirs[place].name is not None
    }
    results = Comparison(
        _named(one, {place: names[0] for place, names in met.items()}),
        _named(two, {place: names[1] for place, names in met.items()}),
        workspace,
        ignored,
    )
    for place in met:
        results.compare(place)
    for side in (base, one, two):
        side.finish()
    found = _Found(first, second, results, ours, theirs)
    changes = {place: found.change(place) for place in dict.fromkeys((*ours, *theirs))}
    around = [] if globs else aside.arounds((base, one, two))
    different = tuple(_different(*around)) if around else ()
    everywhere = [name for name in first.common if name in two.tensors]
    return ThreeWayReport(
        before=before.location,
        after=after.location,
        other=other.location,
        formats=(before.format, after.format, other.format),
        same=not changes and not different,
        compared=len(everywhere),
        identical=sum(name not in changes for name in everywhere),
        changes=tuple(sorted(changes.values(), key=_order)),
        layers=tuple(found.layers(changes)),
        beside=different,
        left_out=tuple(dict.fromkeys((*first.left_out, *second.left_out))),
        not_compared=() if globs else not_compared(before, after, other),
        aside=tuple(aside.not_compared(dict(zip(("before", "after", "other"), around, strict=False)))),
        filter=globs,
        filtered=unnamed((base, one, two), only),
    )


def _rows(comparison: Comparison) -> dict[str, _Row]:
    """What happened to each tensor, by its name in the base, or by its new name if it was added."""
    return {old or new or "": _Row(new, change) for (old, new), change in comparison.changes.items()}


def _named(side: Side, names: Mapping[str, str | None]) -> Side:
    """A side with only some tensors, under other names."""
    kept = {place: name for place, name in names.items() if name is not None}
    return replace(
        side,
        tensors={place: side.tensors[name] for place, name in kept.items()},
        names={place: side.names[name] for place, name in kept.items()},
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Three comparisons: each side with the base, and the two sides with each other, for tensors that both changed."""

    first: Comparison
    second: Comparison
    results: Comparison
    ours: Mapping[str, _Row]
    theirs: Mapping[str, _Row]

    def change(self, place: str) -> ThreeWayChange:
        """What the two sides made of a tensor."""
        ours, theirs = self.ours.get(place), self.theirs.get(place)
        if ours is None or theirs is None:
            one, two = (None if row is None else row.change for row in (ours, theirs))
            alone = one or self.theirs[place].change
            return ThreeWayChange(_name(alone), "other" if one is None else "after", _said(alone), one, two)
        one, two = ours.change, theirs.change
        result = self.results.changes.get((place, place))
        kept = ours.name is not None and theirs.name is not None
        differing = None if not kept else 0 if result is None else result.differing
        by, detail = self._verdict(ours, theirs, result)
        return ThreeWayChange(_name(one), by, detail, one, two, _angle(self._products(place)), differing)

    def _verdict(self, ours: _Row, theirs: _Row, result: Change | None) -> tuple[str, str]:
        """Whether the two changes agree, lie apart or conflict, and why."""
        one, two = ours.change, theirs.change
        if ours.name is None or theirs.name is None:
            return ("agree", _said(one)) if ours.name == theirs.name else ("conflict", _each(one.what, two.what))
        if result is None:
            if ours.name == theirs.name:
                return "agree", _said(one)
            return "conflict", _each(f"called {_called(one)}", f"called {_called(two)}")
        for change, name in ((one, "AFTER"), (two, "OTHER")):
            if change.what == "renamed" and _every_bit(change):
                return "apart", f"{name} only renamed it, to {_called(change)}"
        if {one.what, two.what} <= _ELEMENTS and None not in (one.differing, two.differing, result.differing):
            if result.differing == (one.differing or 0) + (two.differing or 0):
                return "apart", "no element was changed by both"
            of = plural(result.elements or 0, "element")
            return (
                "conflict",
                f"{result.differing:,} of {of} {'is' if result.differing == 1 else 'are'} not the same in both",
            )
        return "conflict", _each(*(_brief(change) for change in (one, two)))

    def _products(self, place: str) -> tuple[Fraction, Fraction, Fraction] | None:
        """The squares of the norms of the two changes of a tensor, and the product of the changes. None if they are not known."""
        one, two = (side.apart.get(place) for side in (self.first, self.second))
        before = None if one is None else one.squares
        after = None if two is None else two.squares
        if before is None or after is None:
            return None
        result = self.results.apart.get(place)
        if result is None:
            return (before[3], after[3], before[3]) if (place, place) not in self.results.changes else None
        if (between := result.squares) is None:
            return None
        # |a - b|^2 = |a|^2 + |b|^2 - 2 ab, with the changes a and b: the base is the same in both results.
        return before[3], after[3], (before[3] + after[3] - between[3]) / 2

    def layers(self, changes: Mapping[str, ThreeWayChange]) -> Iterator[ThreeWayLayer]:
        """The change of each layer on both sides."""
        members = by_layer(self.first.common)
        others = {layer.name: layer for layer in self.second.layers()}
        for layer in self.first.layers():
            names = members[layer.name]
            two = others.get(layer.name)
            conflicts = sum(name in changes and changes[name].by == "conflict" for name in names)
            relative = None if two is None else two.relative
            yield ThreeWayLayer(
                layer.name, layer.tensors, layer.relative, relative, self._layer_angle(names), conflicts
            )

    def _layer_angle(self, names: Iterable[str]) -> float | None:
        """The cosine of the angle between the two changes of several tensors."""
        one = two = both = Fraction(0)
        for name in names:
            found = [side.apart.get(name) for side in (self.first, self.second)]
            squares = [None if apart is None else apart.squares for apart in found]
            if any(apart is not None and known is None for apart, known in zip(found, squares, strict=True)):
                return None
            one, two = (total + (known[3] if known else 0) for total, known in zip((one, two), squares, strict=True))
            if None not in found:
                if (products := self._products(name)) is None:
                    return None
                both += products[2]
        return _angle((one, two, both))


def _angle(products: tuple[Fraction, Fraction, Fraction] | None) -> float | None:
    """The cosine, unless one change is so short that the rounding of the other hides it."""
    if products is None:
        return None
    one, two, both = products
    if min(one, two) * _RATIO**2 <= max(one, two):
        return None
    found = cosine(one, two, both)
    return None if found is None else round(found, 3)


def _name(change: Change) -> str:
    """Its name in the base, if it is there."""
    return change.before.name if change.before is not None else change.name


def _called(change: Change) -> str:
    return change.after.name if change.after is not None else change.name


def _every_bit(change: Change) -> bool:
    """Whether nothing happened to a tensor but another name."""
    same = change.before is not None and change.after is not None
    return same and change.detail == f"{was_called(_name(change))}{EVERY_BIT}"


def _said(change: Change) -> str:
    """What happened to a tensor that is called by its name in the base."""
    if change.what != "renamed":
        return change.detail
    return f"now called {_called(change)}; {change.detail.removeprefix(was_called(_name(change)))}"


def _each(one: str, two: str) -> str:
    return f"{one} in AFTER, {two} in OTHER"


def _brief(change: Change) -> str:
    """What a tensor became, in a few words."""
    side = change.after
    if side is None:
        return change.what
    shape = "×".join(map(str, side.shape)) or "scalar"
    return f"{side.dtype} {shape}" if change.what in {"retyped", "reshaped", "added"} else change.what


def _order(change: ThreeWayChange) -> tuple[int, int, float]:
    first = min(order(one) for one in (change.after, change.other) if one is not None)
    return BY.index(change.by), *first


def _different(before: aside.Around, after: aside.Around, other: aside.Around) -> Iterator[ThreeWayBeside]:
    """What is not the same beside the tensors."""
    ours, theirs, between = beside(before, after), beside(before, other), beside(after, other)
    for part in dict.fromkeys((*ours, *theirs)):
        one, two, apart = (
            _by_name(found[part].differences if part in found else ()) for found in (ours, theirs, between)
        )
        names = list(dict.fromkeys((*one, *two)))
        for name in names[:MOST]:
            compared = _compared(ours.get(part), name), _compared(theirs.get(part), name)
            whole = part in ours and part in theirs
            yield _beside(part, name, one.get(name), two.get(name), compared, whole=whole, apart=name in apart)
        if len(names) > MOST:
            yield ThreeWayBeside(part, "", "conflict", None, None, None, f"{len(names) - MOST:,} more keys differ")


def _compared(part: Part | None, name: str) -> bool:
    """Whether a key of a part was compared."""
    return part is not None and (part.names is None or name in part.names)


def _by_name(found: Iterable[Beside]) -> dict[str, Beside]:
    """Differences by name; those with the same name become one."""
    kept: dict[str, Beside] = {}
    for one in found:
        before = kept.get(one.name)
        kept[one.name] = one if before is None else replace(before, detail=f"{before.detail}; {one.detail}")
    return kept


def _beside(
    part: str,
    name: str,
    one: Beside | None,
    two: Beside | None,
    compared: tuple[bool, bool],
    *,
    whole: bool,
    apart: bool,
) -> ThreeWayBeside:
    """A key on all three sides. `compared`: on which sides it was compared. `whole`: whether both have the part that it is in."""
    before = next(found.before for found in (one, two) if found is not None)
    values = [
        found.after if found is not None else before if known else None
        for found, known in zip((one, two), compared, strict=True)
    ]
    if one is not None and two is not None:
        by = "conflict" if apart else "agree"
        detail = one.detail if one.detail == two.detail else _each(one.detail, two.detail)
    else:
        by = "after" if two is None else "other"
        detail = next(found.detail for found in (one, two) if found is not None)
        if not all(compared):
            names = ("AFTER", "OTHER") if two is not None else ("OTHER", "AFTER")
            detail = f"{names[0]} has none" if whole else f"only {names[1]} can be compared"
    return ThreeWayBeside(part, name, by, before, values[0], values[1], detail)
