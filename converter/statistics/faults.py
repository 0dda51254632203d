"""Values that no trained or freshly initialised model has: what `check` calls a fault, and `inspect --stats` says with a `!`.

Zeros and ones can be meant: biases start at zero, scales of normalisation at one, and some matrices at zero. So a tensor that
is all one value is a fault only if the tensors at the same place of other layers are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from converter.text import plural

if TYPE_CHECKING:
    from converter.reports.details import StatisticsReport
    from converter.tensors.tensor import Tensor

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
# Parts of names of matrices that start at zero; one that never gets a gradient stays there.
_FROM_ZERO: Final = re.compile(r"lora|zero|adapter|hada_w|oft_|ia3", re.IGNORECASE)
_SCALES: Final = re.compile(r"(?:^|\.)(?:weight|gamma|scale|g)$")
_PEERS: Final = 2  # tensors of other layers that must be sound before one is called a fault
_SMALLEST: Final = 256  # elements of a matrix that can't be one value by chance or by design
_ABSURD: Final = 1e30  # no product of two such numbers fits into F32
_FAR: Final = 1000.0  # times the 99.9 % quantile of the sizes
_TAIL: Final = 1024  # elements of a tensor whose 99.9 % quantile says something
_HOLE: Final = 0.1  # share of zeros that points to a hole in the file
_SOUND: Final = 0.01  # share of zeros that the same tensors of other layers have at most


class Fault(NamedTuple):
    """Something wrong: a key of the rules of `check`, the tensor or file, and a sentence that starts with its name."""

    rule: str
    name: str
    said: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A tensor with its statistics. `buffer`: it is not trained."""

    name: str
    tensor: Tensor
    stats: StatisticsReport
    buffer: bool

    @property
    def matrix(self) -> bool:
        """Whether it is a trained matrix of some size."""
        wide = sum(length > 1 for length in self.tensor.shape) > 1
        return wide and self.tensor.dtype.floating and not self.buffer and self.tensor.size >= _SMALLEST

    @property
    def scale(self) -> bool:
        """Whether it scales the outputs of a layer, as the weight of a normalisation does."""
        floating = self.tensor.dtype.floating and not self.buffer
        return floating and len(self.tensor.shape) == 1 and self.tensor.size > 1 and bool(_SCALES.search(self.name))

    @property
    def constant(self) -> bool:
        """Whether all its elements are finite and equal."""
        return self.stats.min is not None and self.stats.min == self.stats.max and not self.stats.nan + self.stats.inf

    @property
    def zero(self) -> bool:
        """Whether all its elements are zero."""
        return self.constant and self.stats.min == 0

    @property
    def zeros(self) -> float:
        """The share of zeros."""
        return self.stats.zeros / max(self.tensor.size, 1)


def faults(tensors: Sequence[Measured]) -> Iterator[Fault]:
    """Yield what is wrong with the values of the tensors of a checkpoint."""
    matrices = [one for one in tensors if one.matrix]
    if len(matrices) > 1 and all(one.zero for one in matrices):
        yield Fault(
            "all-zero", "", f"all {plural(len(matrices), 'matrix', 'matrices')} are zero: nothing was ever written"
        )
        return
    groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[Measured]] = {}
    for one in tensors:
        groups.setdefault((place(one.name), one.tensor.shape), []).append(one)
        yield from _not_finite(one)
        yield from _impossible(one)
        yield from _far(one)
    for peers in groups.values():
        if len(peers) > _PEERS and not _FROM_ZERO.search(peers[0].name):
            yield from _unlike(peers)


def place(name: str) -> tuple[str, ...]:
    """A name without the numbers in it: tensors of several layers at the same place have the same one."""
    return tuple(_NUMBER.split(name))


def _not_finite(one: Measured) -> Iterator[Fault]:
    stats, size = one.stats, one.tensor.size
    if stats.nan:
        yield Fault(
            "nan", one.name, f"{stats.nan:,} of {plural(size, 'element')} {'is' if stats.nan == 1 else 'are'} NaN"
        )
    # A mask holds infinity and zero, and a single element can be a bound.
    if stats.inf and size > 1 and stats.l2:
        verb = "is" if stats.inf == 1 else "are"
        yield Fault("infinite", one.name, f"{stats.inf:,} of {plural(size, 'element')} {verb} infinite")


def _impossible(one: Measured) -> Iterator[Fault]:
    stats = one.stats
    if stats.min is not None and stats.min < 0 and one.name.rpartition(".")[2] == "running_var":
        yield Fault("negative-variance", one.name, f"a variance is {stats.min:.4g}, and none can be negative")


def _far(one: Measured) -> Iterator[Fault]:
    """Elements far from all others. Of a mask, more than one element in a thousand is large."""
    stats = one.stats
    if stats.min is None or stats.max is None or not one.tensor.dtype.floating or one.tensor.size < 2:
        return
    largest = stats.max if stats.max >= -stats.min else stats.min
    usual = max(abs(stats.quantiles["0.001"]), abs(stats.quantiles["0.999"]))
    if one.tensor.size < _TAIL:
        usual = max(abs(stats.quantiles["0.25"]), abs(stats.quantiles["0.75"]))
    if abs(largest) >= _ABSURD and abs(largest) > _FAR * usual and not one.buffer:
        yield Fault(
            "absurd", one.name, f"an element is {largest:.4g}, where nearly all are at most {usual:.3g} in size"
        )
    elif one.matrix and one.tensor.size >= _TAIL and abs(largest) > _FAR * usual > 0:
        yield Fault("outlier", one.name, f"an element is {largest:.4g}, where 99.8 % are at most {usual:.3g} in size")


def _unlike(peers: Sequence[Measured]) -> Iterator[Fault]:
    """What is wrong with tensors of one place and shape if most of them are right."""
    varied = sum(not one.constant for one in peers)
    where = f"in {plural(varied, 'other layer')}"
    holed = [one for one in peers if one.zeros >= _SOUND]
    for one in peers:
        size = one.tensor.size
        if one.constant and varied >= max(_PEERS, len(peers) // 2) and (one.matrix or (one.zero and one.scale)):
            if one.zero:
                yield Fault("dead", one.name, f"all {size:,} elements are zero; {where} they are not")
            else:
                yield Fault("constant", one.name, f"all {size:,} elements are {one.stats.min:.4g}; {where} they differ")
        elif one.matrix and one.zeros > _HOLE and holed == [one]:
            said = f"{one.zeros:.0%} of its elements are zero, and less than {_SOUND:.0%} in other layers"
            yield Fault("hole", one.name, said)
