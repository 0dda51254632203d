"""What `diff` reports of a checkpoint and two others that were made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from converter.text import plural

if TYPE_CHECKING:
    from converter.reports.difference import Change, NotCompared


@dataclass(frozen=True, slots=True)
class ThreeWayChange:
    """A tensor that is not the same in all three. `after` and `other` are what happened to it in each; None for nothing.

    `by` is one of "after" and "other" (only that one changed it), "agree" (both made the same change), "apart" (both changed
    it, but no element twice, or one of them only renamed it) and "conflict" (both changed it in different ways). `detail`
    says it in words.

    `cosine` is the cosine of the angle between the two changes, as vectors: 1 if they go the same way, 0 if they have nothing to
    do with each other. `differing` counts the elements in which both results differ. They are None if there is no
    such number.
    """

    name: str
    by: str
    detail: str
    after: Change | None
    other: Change | None
    cosine: float | None = None
    differing: int | None = None


@dataclass(frozen=True, slots=True)
class ThreeWayLayer:
    """The tensors of a layer together: how many there are, how far both changed them, and in how many they conflict."""

    name: str
    tensors: int
    after: float | None
    other: float | None
    cosine: float | None
    conflicts: int


@dataclass(frozen=True, slots=True)
class ThreeWayBeside:
    """Something beside the tensors that is not the same in all three. `part`, `name` and values are as in Beside.

    `by` is one of "after", "other", "agree" and "conflict".
    """

    part: str
    name: str
    by: str
    before: str | None
    after: str | None
    other: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ThreeWayReport:
    """What `diff` found in three checkpoints. `compared` counts tensors that all have, `identical` those equal in every bit.

    `changes` have conflicts first, and of each kind the largest change first. `formats` are those of `before`, `after` and
    `other`. `left_out`, `not_compared` and `aside` are as in DiffReport.

    `filter` and `filtered` are as in DiffReport.
    """

    schema: ClassVar = "cerebras-tool/diff-three-way/v1"

    before: str
    after: str
    other: str
    formats: tuple[str, str, str]
    same: bool
    compared: int
    identical: int
    changes: tuple[ThreeWayChange, ...]
    layers: tuple[ThreeWayLayer, ...]
    beside: tuple[ThreeWayBeside, ...]
    left_out: tuple[str, ...]
    not_compared: tuple[str, ...]
    aside: tuple[NotCompared, ...] = ()
    filter: tuple[str, ...] = ()
    filtered: int = 0

    def __repr__(self) -> str:
        verdict = "same" if self.same else f"different, {plural(len(self.changes), 'changed tensor')}"
        return f"<ThreeWayReport {self.before!r}, {self.after!r}, {self.other!r}: {verdict}>"
