"""What `verify` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

PASSING: Final = ("identical", "equivalent")  # the verdicts of a copy that is right
_UNPRINTED: Final = {"unprinted": "it is for other documents than the JSON"}


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

    @property
    def sentence(self) -> str:
        """The detail, and how many elements differ, where the first is, and by how much."""
        said = self.detail
        if self.index is not None and self.differing is not None:
            said += f"; {self.differing:,} of {self.elements:,} differ, the first at {list(self.index)}"
            if self.found is not None and self.expected is not None:
                said += f": {self.found:.6g}, expected {self.expected:.6g}"
            if self.largest:
                said += f"; by {self.largest:.3g} at most"
        return said


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a file beside the weights that is no difference: it is absent, or can't be compared."""

    name: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Loss:
    """How much a change of dtype changed a tensor, or all tensors of a layer.

    `relative` is the root of the sum of the squared errors, as a share of the same root for the elements; `largest` is the
    largest error. Both are None if an element is not finite.
    """

    name: str
    dtype: str
    elements: int
    relative: float | None
    largest: float | None


@dataclass(frozen=True, slots=True)
class DerivedReport:
    """How a tensor in blocks of GGUF relates to the source.

    `origin` is the dtype from which quantising gives most of its blocks; None if none does. `fit` counts those of its
    `blocks` that are what that gives. `ratio` is its error as a multiple of the error that quantising the source makes, and
    `worst` that of the worst block, which begins at `index`. Each is None if it is not finite.
    """

    name: str
    dtype: str
    origin: str | None
    blocks: int
    fit: int
    ratio: float | None
    worst: float | None
    index: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class VerifiedTensors:
    """Counts of tensors, and names of missing and unexpected ones. `converted`: equal except for the change of dtype.

    `not_compared` names those in a dtype that a manifest has no digests of.
    """

    compared: int
    identical: int
    converted: int
    different: tuple[Difference, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    not_compared: tuple[str, ...] = ()

    def unexplained(self) -> list[tuple[str, str]]:
        """The names that are missing or unexpected, and which of the two, without those that `different` says more about."""
        said = {found.name for found in self.different}
        names = [*((name, "missing") for name in self.missing), *((name, "unexpected") for name in self.unexpected)]
        return [(name, what) for name, what in names if name not in said]


@dataclass(frozen=True, slots=True)
class VerifiedOutput:
    """The verdict on an output. `format` is None if it can't be read, and `inference` is None if nothing was computed.

    `verdict` and `weights` are "identical", "equivalent", "different" or "not compared". `weights` is the verdict on the
    tensors alone. `companions` is the verdict on what lies beside them: "equal", "different",
    "absent" or "not compared". There, only what changes what is computed or how text is split counts. `agree` names the parts
    that were compared and are as they should be: "configuration", "tokenizer", "attestation". `verdict` is different if
    either is. `notes` is what does not count. `lacks` names what the source has besides its weights and the output lacks.
    `left_out` names what the output may lack: masks, and tensors that follow from others. `losses` is how much the change of
    dtype changed each tensor, and `layer_losses` how much it changed the tensors of each layer together. `derived` is how
    tensors in K-quants relate to what quantising the source gives.

    For other documents than the JSON: `expected` names the tensors that the output should have, `beside` and `computes` are
    those of the differences that are about what lies beside the weights and about what is computed, and `seconds` is how
    long the output took.
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
    derived: tuple[DerivedReport, ...] = ()
    agree: tuple[str, ...] = ()
    expected: tuple[str, ...] = field(default=(), metadata=_UNPRINTED)
    beside: tuple[Difference, ...] = field(default=(), metadata=_UNPRINTED)
    computes: tuple[Difference, ...] = field(default=(), metadata=_UNPRINTED)
    seconds: float | None = field(default=None, compare=False, metadata=_UNPRINTED)


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    schema: ClassVar = "cerebras-tool/verification/v1"

    source: str
    outputs: tuple[VerifiedOutput, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is identical or equivalent."""
        return all(output.verdict in PASSING for output in self.outputs)

    @property
    def differs(self) -> bool:
        """Whether an output is different. If none is, and not all are right, one could not be compared."""
        return any(output.verdict == "different" for output in self.outputs)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{output.location!r} {output.verdict}" for output in self.outputs)
        return f"<Verification of {self.source!r}: {outputs}>"
