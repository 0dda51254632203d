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

    `lacks` names what the source has beside its weights and the output lacks; that does not count as a difference.
    """

    location: str
    format: str | None
    verdict: str
    tensors: VerifiedTensors
    inference: Mapping[str, Any] | None
    lacks: tuple[str, ...] = ()


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
