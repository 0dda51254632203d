"""What `diff` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from converter.text import plural


@dataclass(frozen=True, slots=True)
class TensorSide:
    """A tensor on one side: its name in the file, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that is not the same on both sides. `before` is None if it was added, and `after` if it was removed.

    `what` is one of "removed", "added", "reshaped", "joined" (it holds `parts`, which are gone), "split" (it is gone, and
    `parts` hold it), "moved" (it holds the elements of the tensor called `source`), "changed", "retyped" (another dtype) and
    "renamed". `rounding` says that values changed only as the other dtype makes them. `detail` says it in words.

    `differing` of the `elements` differ. `cosine` is the cosine of the angle between the two sides; `relative` is the norm of the
    difference as a share of the norm before; `largest` is the largest difference, at `index`. They are None if there is no
    such number. `rank` is how many singular values hold 99 % of the energy of the difference, if that was asked for; None
    if more than were looked for.
    """

    name: str
    what: str
    detail: str
    before: TensorSide | None
    after: TensorSide | None
    elements: int | None = None
    differing: int | None = None
    cosine: float | None = None
    relative: float | None = None
    largest: float | None = None
    index: tuple[int, ...] | None = None
    source: str | None = None
    rounding: bool = False
    rank: int | None = None
    energy: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerChange:
    """The tensors of a layer together: how many there are, and how many differ. `relative` is as in Change, over all of them.

    Tensors of another shape are left out of it.
    """

    name: str
    tensors: int
    differing: int
    relative: float | None


@dataclass(frozen=True, slots=True)
class Beside:
    """Something beside the tensors that differs: a key of the "configuration", the "metadata" or the "tokenizer".

    It may also be a setting of "generation", which is generation_config.json, or one of the "values" in both checkpoints.

    `before` and `after` are its values as texts; None where it is absent.
    """

    part: str
    name: str
    before: str | None
    after: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NotCompared:
    """Something beside the tensors that is not compared, and no difference: some sides lack it, or it can't be read.

    `part` is as in Beside. `names` are of a file, of keys or of values. `sides` are "before", "after" or "other": those that
    have it, or the one where it can't be read. `why` is the reason in words.
    """

    part: str
    names: tuple[str, ...]
    sides: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What `diff` found. `compared` counts tensors that are on both sides, `identical` those that are equal in every bit.

    `changes` have the largest first. `left_out` names what is on one side only and follows from the rest: masks, and second
    names of a tensor. `not_compared` names tensors that this program does not decode, and `aside` what lies beside the tensors
    and is not compared.

    `filter` are the globs on names of tensors that were asked for. Then nothing else was compared: neither the `filtered` other
    tensors, nor what lies beside them.
    """

    schema: ClassVar = "cerebras-tool/diff/v1"

    before: str
    after: str
    formats: tuple[str, str]
    same: bool
    compared: int
    identical: int
    changes: tuple[Change, ...]
    layers: tuple[LayerChange, ...]
    beside: tuple[Beside, ...]
    left_out: tuple[str, ...]
    not_compared: tuple[str, ...]
    aside: tuple[NotCompared, ...] = ()
    filter: tuple[str, ...] = ()
    filtered: int = 0

    def __repr__(self) -> str:
        verdict = "same" if self.same else f"different, {plural(len(self.changes), 'changed tensor')}"
        return f"<DiffReport {self.before!r}, {self.after!r}: {verdict}>"
