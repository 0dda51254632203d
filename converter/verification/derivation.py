"""Whether blocks of GGUF are what quantising the source gives, and if not, whether they are as near to it as such blocks are.

A quantiser starts from F32, or from what a copy in F16 or BF16 kept of it. So the source is quantised again, from each of these.
If the result fits, the tensor is derived from the source; and if nearly all blocks fit, one that does not was changed later. If
nothing fits (another program made the blocks, or an importance matrix that nobody named), the errors of K-quants are compared
with ours, and each element must be at the level of its block that is nearest to the source's: whatever a quantiser of K-quants
weighs to find scales, it takes the nearest levels in the end. Other types have bounds for each element, which decide then.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import BF16, F16, F32, F64
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME
from converter.formats.gguf.k_blocks import K_KERNELS
from converter.formats.gguf.quantising import QUANTISED, runner
from converter.verification.roundings import floats, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors.tensor import Tensor
    from converter.verification.walk import Pair

_FROM: Final = (F32, F16, BF16)
_TRIED: Final = 256  # blocks that decide from which of these a tensor was made
_MOSTLY: Final = 0.5  # share of blocks that fit: from here on, the others were changed
_CHANGED: Final = 1.01  # times our error: a block that does not fit, and lost more, was changed
_FAITHFUL: Final = 1.25  # times our error: a tensor may lose this much
_WORST: Final = 4.0  # and a block this much
# Another version of a quantiser, or another processor, rounds another way: that moves one block in 200 of K-quants, where sums
# decide between scales. The types without a search differ only where two values are equally large. A file in which fewer than
# this share of the blocks do not fit was made by the same quantiser, and changed later.
_STRAY_OF_SEARCHED: Final = 1e-3
_STRAY: Final = 1e-4
# If all blocks of this many tensors of a type fit, and they have this share of the type's blocks, then the same quantiser made
# the other tensors of that type.
_SOME: Final = 4
_NEARLY_ALL: Final = 0.75
# How many elements of a K-quant share a scale.
_GROUPS: Final = {"Q6_K": 16, "Q5_K": 32, "Q4_K": 32, "Q3_K": 16, "Q2_K": 16}
_LOOKED: Final = (
    256  # blocks of a step whose elements are compared with the levels beside them; sorting more takes too long
)
_HALF: Final = 0.501  # share of a step: an element further from its level than this is nearer to another
_FAR: Final = 2e-5  # share of elements: so few may be nearer to another level by chance
_FEW_FAR: Final = 4


@dataclass(slots=True)
class Derived:
    """How a tensor's blocks relate to the source. `origin` is the dtype from which most of them follow; None if from none.

    `blocks` are counted, and those that `fit`. `ratio` is the error relative to ours, `worst` the largest of a block, at the
    row-major index `at`. `claimed`: somebody named an importance matrix. `changed` are blocks that do not fit although most do,
    and lose more, the first at `first_changed`; the first that does not fit is at `first_unlike`. Of the elements that were
    `looked` at, `far` counts those that are nearer to another level of their block, by what the blocks may have been made from.
    """

    encoding: str
    origin: str | None
    claimed: bool = False
    blocks: int = 0
    fit: int = 0
    lost: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    worst: float = 0.0
    at: int | None = None
    changed: int = 0
    first_changed: int | None = None
    first_unlike: int | None = None
    looked: int = 0
    far: dict[str, int] = field(default_factory=dict)

    @property
    def searched(self) -> bool:
        """Whether the type is a K-quant, whose quantiser searches for scales, so that only errors tell good blocks from bad."""
        return self.encoding in K_KERNELS

    @property
    def stray(self) -> float:
        """The most blocks that may fail to fit and still count as changed later, if all others of the file fit."""
        return self.blocks * (_STRAY_OF_SEARCHED if self.searched else _STRAY)

    @property
    def fits(self) -> bool:
        """Whether nearly all blocks fit."""
        return self.blocks - self.fit <= self.stray

    @property
    def ratio(self) -> float:
        """The error of the tensor, relative to ours."""
        lost, ours = math.fsum(self.lost), math.fsum(self.ours)
        return math.sqrt(lost / ours) if ours else 1.0 if not lost else math.inf

    @property
    def whole(self) -> bool:
        """Whether all blocks fit."""
        return self.fit == self.blocks

    @property
    def wrong(self) -> tuple[int, str] | None:
        """Where the tensor is not what it should be, and why; None if it is derived from the source, or faithful to it."""
        if self.whole or not self.searched:
            return None
        if self.fit >= _MOSTLY * self.blocks:
            if self.first_changed is not None:
                return self.first_changed, self._few(self.changed)
        elif self.claimed:
            return self.at or 0, "its blocks are not what the source gives with this importance matrix"
        elif self.ratio > _FAITHFUL or self.worst > _WORST:
            return self.at or 0, (
                f"its error is {self.ratio:.3g} times that of {self.encoding} from the source, and {self.worst:.3g} times in the "
                "worst block"
            )
        far = min(self.far.values(), default=0)
        if far > max(_FEW_FAR, _FAR * self.looked):
            return self.first_unlike or 0, (
                f"{far:,} of the {self.looked:,} elements that were looked at are not at the level of {self.encoding} that is "
                "nearest to the source's element"
            )
        return None

    def _few(self, blocks: int) -> str:
        return f"{blocks:,} of its {self.blocks:,} blocks of {self.encoding} are not what the source gives, while the others are"

    @property
    def unlike(self) -> tuple[int, str] | None:
        """Where the first block lies that does not fit although most do, and how many there are; None if there is none."""
        if self.origin is None or self.first_unlike is None:
            return None
        return self.first_unlike, self._few(self.blocks - self.fit)


def wrong(tensors: Mapping[str, Derived]) -> dict[str, tuple[int, str]]:
    """The tensors of a file that are not what they should be: where, and why.

    If nearly all blocks of the whole file fit, those that don't were changed, however little that changed them. If those of
    nearly all tensors of a type fit, the other tensors of that type were changed.
    """
    fitting = [tensor for tensor in tensors.values() if tensor.origin is not None]
    strays = sum(tensor.blocks - tensor.fit for tensor in fitting)
    few = strays <= sum(tensor.stray for tensor in fitting)
    same = _made_alike(tensors.values())
    found = {
        # Where few blocks don't fit, all of them are counted, even those that lose no more than others.
        name: (tensor.unlike if few or (tensor.encoding in same and not tensor.fits) else None) or tensor.wrong
        for name, tensor in tensors.items()
    }
    return {name: reason for name, reason in found.items() if reason is not None}


def _made_alike(tensors: Collection[Derived]) -> frozenset[str]:
    """The types whose blocks the same quantiser made as here, as most tensors of the type show.

    Another one moves blocks in all tensors. A type is judged by itself, as a new version may change the quantiser of only one.
    """
    found = set()
    for encoding in {tensor.encoding for tensor in tensors}:
        every = [tensor for tensor in tensors if tensor.encoding == encoding]
        whole = [tensor for tensor in every if tensor.fits]
        blocks = sum(tensor.blocks for tensor in every)
        if len(whole) >= _SOME and sum(tensor.blocks for tensor in whole) >= _NEARLY_ALL * blocks:
            found.add(encoding)
    return frozenset(found)


class Derivation:
    """Quantises the elements of a tensor again, step by step; several threads take steps."""

    def __init__(self, expected: Tensor, found: Tensor, importance: NDArray[Any] | None) -> None:
        self._dtype, self._columns = expected.dtype, expected.shape[-1]
        self._transposed = found.transposed
        self._encoding = BY_NAME[found.storage.encoding or ""]
        self._importance, self._lock = importance, Lock()
        self._origin = F32
        self._decided = False
        self.result = Derived(self._encoding.name, None, importance is not None)

    def take(self, pair: Pair) -> None:
        """Compare the elements of a step, which are whole blocks of rows."""
        x = floats(pair.expected, self._dtype)
        x = x.astype("<f4", copy=False)
        found = pair.found.view("<f4")
        first = np.zeros(x.shape, "?")
        first[0, 0] = True
        start = int(pair.where(first)[0])
        weights = self._weights(start, x.shape[1])
        with self._lock:
            if not self._decided:
                self._origin, self._decided = self._best(x, found, weights), True
        ours = self._made(x, self._origin, weights)
        self._add(pair, x, found, ours)

    def _weights(self, start: int, width: int) -> NDArray[Any] | None:
        if self._importance is None:
            return None
        column = start // self._columns if self._transposed else start % self._columns
        return self._importance[column : column + width]

    def _best(self, x: NDArray[Any], found: NDArray[Any], weights: NDArray[Any] | None) -> Any:
        rows = max(1, _TRIED * self._encoding.block // x.shape[1])
        x, found = x[:rows], found[:rows]
        return max(_FROM, key=lambda dtype: np.count_nonzero(self._made(x, dtype, weights) == found))

    def _made(self, x: NDArray[Any], origin: Any, weights: NDArray[Any] | None) -> NDArray[Any]:
        """The elements as they are after quantisation from a dtype. Where nothing can be made, NaN."""
        values = np.ascontiguousarray(floats(rounded(x, origin), origin), "<f4") if origin is not F32 else x
        raw, made = np.empty(self._encoding.size(values.size), "u1"), np.empty(values.size, "<f4")
        with np.errstate(all="ignore"):
            fine = runner(self._encoding, weights)(np.ascontiguousarray(values).ravel(), raw)
        if not fine:
            made[:] = np.nan
        else:
            dequantise(raw, self._encoding, made)
        return made.reshape(x.shape)

    def _add(self, pair: Pair, x: NDArray[Any], found: NDArray[Any], ours: NDArray[Any]) -> None:
        size = self._encoding.block
        fits = (ours == found).reshape(-1, size).all(axis=1)
        with np.errstate(all="ignore"):
            lost = np.square((found - x).reshape(-1, size).astype("<f8")).sum(axis=1)
            mine = np.square((ours - x).reshape(-1, size).astype("<f8")).sum(axis=1)
            # A block that we keep nearly whole must not make a small error look large.
            least = max(float(mine.mean()) * 1e-2, 1e-60)
            ratios = np.sqrt(lost / np.maximum(mine, least))
        ratios[fits] = 1.0
        ratios[~np.isfinite(ratios)] = np.inf
        changed = ~fits & (ratios > _CHANGED)
        worst = int(ratios.argmax())
        unfit = np.flatnonzero(~fits)
        unfit = unfit[:: -(-len(unfit) // _LOOKED) or 1]
        far = self._far(x.reshape(-1, size)[unfit], found.reshape(-1, size)[unfit]) if self.result.searched else {}
        with self._lock:
            result = self.result
            result.blocks += len(fits)
            result.fit += int(np.count_nonzero(fits))
            result.looked += unfit.size * size
            for origin, count in far.items():
                result.far[origin] = result.far.get(origin, 0) + count
            result.lost.append(float(lost.sum()))
            result.ours.append(float(mine.sum()))
            if result.at is None or ratios[worst] > result.worst:
                result.worst, result.at = float(ratios[worst]), self._index(pair, x.shape, worst)
            if not fits.all():
                at = self._index(pair, x.shape, int(fits.argmin()))
                if result.first_unlike is None or at < result.first_unlike:
                    result.first_unlike = at
            if changed.any():
                result.changed += int(np.count_nonzero(changed))
                at = self._index(pair, x.shape, int(changed.argmax()))
                if result.first_changed is None or at < result.first_changed:
                    result.first_changed = at

    def _far(self, x: NDArray[Any], found: NDArray[Any]) -> dict[str, int]:
        """How many elements of blocks are nearer to another level, if the blocks were made from each of the dtypes and types."""
        group = _GROUPS[self._encoding.name]
        far = {each.name: _farther(floats(rounded(x, each), each), found, group) for each in _FROM}
        # To start from a quantised copy is not good, but it is honest.
        for name in QUANTISED:
            far[name] = _farther(_through(x, name), found, group) if min(far.values()) else 0
        return far

    def _index(self, pair: Pair, shape: tuple[int, ...], block: int) -> int:
        mask = np.zeros(shape, "?")
        mask.reshape(-1)[block * self._encoding.block] = True
        return int(pair.where(mask)[0])

    def finish(self) -> Derived:
        """The result, when all steps are taken."""
        if self.result.fit >= _MOSTLY * self.result.blocks:
            self.result.origin = self._origin.name
        return self.result


def _through(x: NDArray[Any], name: str) -> NDArray[Any]:
    """The elements as blocks of a type have them."""
    encoding, made = BY_NAME[name], np.full(x.size, np.nan, "<f4")
    raw = np.empty(encoding.size(x.size), "u1")
    with np.errstate(all="ignore"):
        if runner(encoding, None)(np.ascontiguousarray(x, "<f4").ravel(), raw):
            dequantise(raw, encoding, made)
    return made.reshape(x.shape)


def _farther(x: NDArray[Any], found: NDArray[Any], group: int) -> int:
    """How many elements are nearer to another level than to the one that they are at, in groups with one scale.

    Two levels that are in use are taken for neighbours if none is between them, and the outermost ones for the ends. So the count
    may be too small, and never too large.
    """
    x, found = x.reshape(-1, group), found.reshape(-1, group)
    levels = np.sort(found, axis=1)
    with np.errstate(all="ignore"):
        gaps = np.diff(levels, axis=1)
        gaps[gaps <= 0] = np.inf
        step = gaps.min(axis=1, keepdims=True)
        within = (x > levels[:, :1]) & (x < levels[:, -1:])
        near = np.abs(x - found) <= step * np.float32(_HALF) + np.abs(x) * np.float32(2.0**-20)
    return int(np.count_nonzero(within & ~near))


def derivation(expected: Tensor, found: Tensor, importance: NDArray[Any] | None) -> Derivation | None:
    """What quantises a tensor again; None for a type that is not written here, and for one that the source has, too."""
    encoding = found.storage.encoding
    if encoding not in QUANTISED or expected.storage.encoding == encoding or not found.size or len(found.shape) != 2:
        return None
    if expected.dtype not in (F64, F32, F16, BF16):
        return None
    if encoding not in K_KERNELS and importance is not None:
        return None  # these weigh whole rows, and a step may hold parts of them
    return Derivation(expected, found, importance)
