"""What `verify` reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is wrong: a tensor, a tie, a file beside the weights, what the model computes.

    `index` is where the first differing element stands; `expected` and `found` are its values, `largest` the largest
    difference; None where there is no such number.
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
    """Counts of tensors; names of those that are missing or unexpected. `converted`: equal but for the change of dtype."""

    compared: int
    identical: int
    converted: int
    different: tuple[Difference, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedOutput:
    """The verdict on an output. `format` is None where it can't be read, `inference` where nothing was computed."""

    location: str
    format: str | None
    verdict: str
    tensors: VerifiedTensors
    inference: Mapping[str, Any] | None


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
