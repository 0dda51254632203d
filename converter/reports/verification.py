"""What `verify` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is wrong: a tensor, a tie, a file beside the weights, or what the model computes.

    `index` is the position of the first element that differs, and `expected` and `found` are its values. `largest` is
    the largest difference. Each is None if there is no such number.
    """

    name: str
    what: str
    detail: str
    elements: int | None = None
    differing: int | None = None
    index: tuple[int, ...] | None = None
    expected: float | None = None
    found: float | None = None
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a file beside the weights that is no difference: it is absent, or can't be compared."""

    name: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Loss:
    """How much a change of dtype changed a tensor, or all tensors of a layer.

    `relative` is the root of the sum of the squared errors, as a share of that of the squared elements; `largest` is the
    largest error. Both are None if an element is not finite.
    """

    name: str
    dtype: str
    elements: int
    relative: float | None
    largest: float | None


@dataclass(frozen=True, slots=True)
class VerifiedTensors:
    """Counts of tensors, and names of missing and unexpected ones. `converted`: equal except for the change of dtype."""

    compared: int
    identical: int
    converted: int
    different: tuple[Difference, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedOutput:
    """The verdict on an output. `format` is None if it can't be read, and `inference` is None if nothing was computed.

    `weights` is the verdict on the tensors alone, and `companions` that on what lies beside them, where only what changes
    what is computed or how text is split counts: "equal", "different", "absent" or "not compared". `verdict` is different
    if either is. `notes` is what does not count, and `lacks` names what the source has besides its weights and the output
    lacks. `left_out` names what the output may lack: masks, and tensors that follow from others. `losses` is how much the
    change of dtype changed each tensor, and `layer_losses` the tensors of each layer together.
    """

    location: str
    format: str | None
    verdict: str
    tensors: VerifiedTensors
    inference: Mapping[str, Any] | None
    lacks: tuple[str, ...] = ()
    weights: str = "different"
    companions: str = "not compared"
    notes: tuple[Note, ...] = ()
    left_out: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = ()
    layer_losses: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    schema: ClassVar = "cerebras-tool/verification/v1"

    source: str
    outputs: tuple[VerifiedOutput, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is identical or equivalent."""
        return all(output.verdict != "different" for output in self.outputs)
