"""What the browser lists of two checkpoints: a row for each tensor of either, and what happened to it, once that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from converter.browsing.rows import Row
from converter.difference.comparing import order
from converter.text import safe_text

if TYPE_CHECKING:
    from converter.difference.comparing import Key
    from converter.difference.pairing import Side
    from converter.reports.difference import Change
    from converter.tensors.tensor import Tensor

_LAST: Final = (1000.0, 0.0)  # behind every change


@dataclass(slots=True, eq=False)
class PairRow(Row):
    """A tensor on both sides, or on one. `name` is its name in the file, and `tensor` the first side's, or else the other's.

    `change` is what happened to it; where there is none, `state` says why.
    """

    before: Tensor | None = None
    after: Tensor | None = None
    change: Change | None = None
    state: str = "…"

    WIDTHS: ClassVar = (10, 10, 16)
    DISPENSABLE: ClassVar = (2, 1)

    @property
    def cells(self) -> tuple[str, ...]:
        """What happened to it, how much, and its shape."""
        size = None if self.change is None else self.change.relative
        what = self.state if self.change is None else self.change.what
        return what, "" if size is None else f"{size * 100:.3g} %", self.shape

    @property
    def sides(self) -> tuple[tuple[str, Tensor], ...]:
        """The tensors, each with what it is called."""
        both = (("before", self.before), ("after", self.after))
        return tuple((label, tensor) for label, tensor in both if tensor is not None)

    @property
    def said(self) -> str:
        """What happened to it, in words."""
        return "" if self.change is None else f"{self.change.what}: {safe_text(self.change.detail, 400)}"

    @property
    def rank(self) -> tuple[float, ...]:
        """Where it stands among changes, as `diff` prints them; what did not change comes last."""
        return _LAST if self.change is None else order(self.change)


def pairs(ours: Side, theirs: Side) -> list[PairRow]:
    """A row for each tensor: those of the first side in its order, and then those that only the other has."""
    return [
        _row(ours, theirs, name, name)
        for name in (*ours.tensors, *(n for n in theirs.tensors if n not in ours.tensors))
    ]


def changed(ours: Side, theirs: Side, changes: Mapping[Key, Change], left_out: Iterable[str]) -> list[PairRow]:
    """The rows once everything is compared: those with changes first in their order, and a renamed tensor in one row."""
    renamed = {old: new for old, new in changes if old is not None and new is not None and old != new}
    taken = set(renamed.values())
    silent = set(left_out)
    found = []
    for name in (*ours.tensors, *(n for n in theirs.tensors if n not in ours.tensors and n not in taken)):
        new = renamed.get(name, name)
        row = _row(ours, theirs, name, new)
        row.change = changes.get((name if row.before is not None else None, new if row.after is not None else None))
        row.state = "left out" if row.name in silent else "equal"
        found.append(row)
    return found


def _row(ours: Side, theirs: Side, old: str, new: str) -> PairRow:
    before, after = ours.tensors.get(old), theirs.tensors.get(new)
    name = theirs.names[new] if before is None else ours.names[old]
    tensor = before or after
    assert tensor is not None  # noqa: S101 (a name comes from one of the two sides)
    return PairRow(name, tensor, before, after)
