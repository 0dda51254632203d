"""Values that no trained or freshly initialised model has: what `check` calls a fault, and `inspect --stats` marks with a `!`.

Zeros and ones can be meant: biases start at zero, scales of normalisation at one, and some matrices at zero. So a tensor that
is all one value is a fault only if the tensors at the same place of other layers are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from converter.text import plural

if TYPE_CHECKING:
    from converter.reports.details import StatisticsReport
    from converter.tensors.tensor import Tensor

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
# Parts of the names of matrices that start at zero. Such a matrix stays zero if it never gets a gradient.
_FROM_ZERO: Final = re.compile(r"lora|zero|adapter|hada_w|oft_|ia3", re.IGNORECASE)
_SCALES: Final = re.compile(r"(?:^|\.)(?:weight|gamma|scale|g)$")
_NORMS: Final = re.compile(r"(?:norm|(?:^|[._])ln)[^.]*\.(?:weight|gamma|scale|g)$", re.IGNORECASE)
_PEERS: Final = 2  # tensors of other layers that must be sound before one is called a fault
_SMALLEST: Final = 256  # elements of a matrix that can't all have one value by chance or by design
_ABSURD: Final = 1e30  # no product of two such numbers fits into F32
_FAR: Final = 1000.0  # an element is far out beyond this many times the 99.9 % quantile of the elements' sizes
_TAIL: Final = 1024  # elements that a tensor must have for its 99.9 % quantile to mean something
_APART: Final = (
    100.0  # a matrix is of another size if it is this many times as large as those of other layers, or as small
)
_ALIKE: Final = 10.0  # the others are a measure only if the largest is at most this many times as large as the smallest
_FEWEST: Final = 4  # layers that show what all have in common
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
    def usual(self) -> float:
        """The largest size in the middle half of its elements. A single element changes it little, unlike the deviation."""
        return max(abs(self.stats.quantiles.get(share, 0.0)) for share in ("0.25", "0.75"))

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
    yield from _last_norm(tensors)
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
    # A mask holds only infinity and zero, and a tensor of one element can be a bound, so neither is a fault.
    if stats.inf and size > 1 and (stats.l2 or (one.matrix and not stats.zeros)):
        verb = "is" if stats.inf == 1 else "are"
        yield Fault("infinite", one.name, f"{stats.inf:,} of {plural(size, 'element')} {verb} infinite")


def _impossible(one: Measured) -> Iterator[Fault]:
    stats = one.stats
    if stats.min is not None and stats.min < 0 and one.name.rpartition(".")[2] == "running_var":
        yield Fault("negative-variance", one.name, f"a variance is {stats.min:.4g}, and none can be negative")


def _far(one: Measured) -> Iterator[Fault]:
    """Elements far from all others. A mask has none, because more than one in a thousand of its elements is large."""
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


def _last_norm(tensors: Sequence[Measured]) -> Iterator[Fault]:
    """A normalisation outside of the layers, such as the last one, that is zero where those of the layers are not.

    Some architectures add one to the stored scale. There all of them are zero before the training.
    """
    norms = [one for one in tensors if one.scale and _NORMS.search(one.name)]
    inside: dict[tuple[int, ...], list[Measured]] = {}
    for one in norms:
        if len(place(one.name)) > 1:
            inside.setdefault(one.tensor.shape, []).append(one)
    for one in norms:
        peers = inside.get(one.tensor.shape, [])
        if len(place(one.name)) == 1 and one.zero and len(peers) >= _PEERS and not any(peer.zero for peer in peers):
            said = f"all {one.tensor.size:,} elements are zero; in {len(peers):,} normalisations of layers they are not"
            yield Fault("dead", one.name, said)


def _twins(peers: Sequence[Measured]) -> Iterator[Fault]:
    """Matrices of several layers with the same numbers. Different matrices never have equal statistics throughout.

    If most layers hold the same numbers, they were initialised that way and never trained, so none of them is a fault.
    """
    alike: dict[str, list[Measured]] = {}
    for one in peers:
        if one.matrix and not one.constant and one.stats.min is not None:
            alike.setdefault(repr(replace(one.stats, sha256=None)), []).append(one)
    if len(alike) <= len(peers) // 2:
        return
    for first, *others in alike.values():
        for one in others:
            if first.tensor != one.tensor:
                yield Fault("twin", one.name, f"it holds the same numbers as {first.name}")


def _other_scale(peers: Sequence[Measured]) -> Iterator[Fault]:
    """The one matrix whose numbers are far larger or smaller than those of all other layers, which are alike."""
    if len(peers) < _FEWEST:
        return
    smallest, *others, largest = sorted(peers, key=lambda one: one.usual)
    for one, low, high in ((largest, smallest, others[-1]), (smallest, others[0], largest)):
        far = one.usual > _APART * high.usual or one.usual < low.usual / _APART
        if far and high.usual <= _ALIKE * low.usual:
            said = f"the middle half of its elements is at most {one.usual:.3g} in size"
            yield Fault(
                "odd-scale",
                one.name,
                f"{said}, and in {len(peers) - 1:,} other layers {low.usual:.3g} to {high.usual:.3g}",
            )


def _unlike(peers: Sequence[Measured]) -> Iterator[Fault]:
    """What is wrong with tensors of the same place and shape if most of them are right."""
    yield from _twins(peers)
    yield from _other_scale([one for one in peers if one.matrix and one.usual > 0])
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
