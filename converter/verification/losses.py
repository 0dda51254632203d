"""How much a change of dtype changed a tensor, or the tensors of a layer together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.reports.verification import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _layer(name: str) -> str | None:
    """The part of a tensor's name up to the first number between dots, as in `h.3`."""
    words = name.split(".")
    at = next((at for at, word in enumerate(words[:-1]) if word.isascii() and word.isdigit()), None)
    return None if at is None else ".".join(words[: at + 1])


@dataclass(slots=True)
class Errors:
    """Squares of errors and of expected elements, a sum for each step of the walk; and the largest error.

    The sums are added exactly at the end, so the result does not depend on which thread took which step.
    """

    squares: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    largest: float = 0.0

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> None:
        """Take in the elements of a step: floating-point numbers, in any shape."""
        with np.errstate(all="ignore"):
            error = np.subtract(found, expected, dtype="<f8" if expected.dtype.itemsize == 8 else "<f4").ravel()
            x = expected.ravel()
            self.squares.append(float(np.dot(error, error)))
            self.energy.append(float(np.dot(x, x)))
            self.largest = max(self.largest, float(np.abs(error, out=error).max(initial=0)))

    def extend(self, other: Errors) -> None:
        """Take in what another one has."""
        self.squares += other.squares
        self.energy += other.energy
        self.largest = max(self.largest, other.largest)

    @property
    def relative(self) -> float | None:
        """The root of the squared errors' share; None if an element is not finite. Zeros alone can lose nothing."""
        if not all(map(math.isfinite, (*self.squares, *self.energy))):
            return None
        lost, energy = math.fsum(self.squares), math.fsum(self.energy)
        return math.sqrt(lost / energy) if energy else 0.0 if not lost else None

    def loss(self, name: str, dtype: str, elements: int) -> Loss:
        """The entry of the report."""
        relative = self.relative
        largest = self.largest if relative is not None and math.isfinite(self.largest) else None
        # Other processors add in another order, so the last digits are not the same everywhere.
        rounded = relative if relative is None else float(f"{relative:.4g}")
        return Loss(name, dtype, elements, rounded, largest)


def by_layer(tensors: Mapping[str, tuple[str, int, Errors]]) -> Iterator[Loss]:
    """Yield the losses of layers, each with all its tensors: dtype, elements and errors by their names."""
    layers: dict[str, list[tuple[str, int, Errors]]] = {}
    for name, entry in tensors.items():
        if (layer := _layer(name)) is not None:
            layers.setdefault(layer, []).append(entry)
    for within, members in layers.items():
        together = Errors()
        for _, _, errors in members:
            together.extend(errors)
        dtypes = dict.fromkeys(dtype for dtype, _, _ in members)
        yield together.loss(within, ", ".join(dtypes), sum(elements for _, elements, _ in members))
