"""Two tensors, element by element: equal bits, or what a change of dtype allows and no more.

This shares no code with the writers: it reads the bytes of the storages itself and puts them in place by strides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.errors import ReadError
from converter.verification.derivation import Derivation, Derived, derivation
from converter.verification.losses import Errors
from converter.verification.roundings import Rule, comparable, floats, lossy_share, rounded, rule, weighed
from converter.verification.walk import Pair, Walk, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.dtypes import Dtype
    from converter.tensors.tensor import Tensor

_SAMPLE: Final = 1 << 20  # elements that are compared to see whether two tensors resemble each other
# A tensor that has lost more than this share of the energy is another one, unless its encoding may lose more. Q4_0 loses
# 0.012 of noise; the difference between two unrelated tensors has 1 or 2 times the energy.
_RESEMBLING: Final = 0.05


@dataclass(slots=True)
class Outcome:
    """What differs between two tensors. `first` is the row-major index of the first element that differs.

    `expected` and `found` are its values and bits. `nan` and `zeroed` count differing elements that became NaN or zero.
    `largest` is the largest difference between finite elements. `exact` is False if a change of dtype was allowed for:
    then `errors` covers all elements, if they are floating-point numbers. `derived` says how blocks relate to the source.
    """

    exact: bool = True
    differing: int = 0
    first: int | None = None
    expected: float | int | None = None
    found: float | int | None = None
    flipped: int = 0  # bits that differ in the first element; 0 if the dtypes differ
    nan: int = 0
    zeroed: int = 0
    largest: float | None = None
    errors: Errors | None = None
    derived: Derived | None = None


def compare(
    expected: Tensor,
    found: Tensor,
    workspace: Workspace | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    importance: NDArray[Any] | None = None,
) -> Outcome:
    """Compare a tensor with the expected one, which has the same shape. `importance` has a number for each column of blocks.

    Raises ReadError if `found` can't be read. If `expected` can't be read, the error is that of its reader.
    """
    workspace = workspace or Workspace()
    derived = derivation(expected, found, importance)
    outcome = _compared(expected, found, rule(expected, found, bounded=False), workspace, progress, derived)
    if derived is not None:
        outcome.derived = derived.finish()
        if outcome.derived.whole:
            # All blocks are what a copy in half precision gives, which may lie out of the bounds for the source itself.
            return Outcome(exact=False, errors=outcome.errors, derived=outcome.derived)
    if outcome.differing and found.storage.encoding is not None and outcome.exact:
        outcome = _compared(expected, found, rule(expected, found, bounded=True), workspace)
    allowed = weighed(expected, found, outcome.differing)
    if allowed is not None:
        other = _compared(expected, found, allowed, workspace)
        return outcome if other.differing else replace(other, derived=outcome.derived)
    return outcome


def equal(expected: Tensor, found: Tensor, workspace: Workspace | None = None) -> bool:
    """Whether every element has the same bits, or is what the change of dtype makes of it. Stops at the first that isn't."""
    if expected.shape != found.shape or not comparable(expected.dtype, found.dtype):
        return False
    same = rule(expected, found, bounded=False)
    walk = Walk(expected, found, workspace or Workspace(), in_blocks=same.in_blocks)
    return not any(same.unequal(pair.expected, pair.found).any() for pair in walk.pairs())


def same(expected: Tensor, found: Tensor) -> bool:
    """Whether a tensor can be read and is equal to another."""
    try:
        return equal(expected, found)
    except ReadError:
        return False


def constant(tensor: Tensor) -> bool:
    """Whether a tensor can be read and all its elements have the same bits."""
    width, first = tensor.dtype.itemsize, b""
    try:
        for tile in tensor.tiles():
            elements = np.frombuffer(tile, "u1")
            first = first or bytes(tile[:width])
            if bytes(tile[:width]) != first or not np.array_equal(elements[width:], elements[:-width]):
                return False
    except ReadError:
        return False
    return True


def resembling(expected: Tensor, found: Tensor) -> bool:
    """Whether the first million elements are approximately equal."""
    if expected.shape != found.shape or not (expected.dtype.floating and found.dtype.floating):
        return False
    walk = Walk(expected, found, Workspace(), in_blocks=rule(expected, found, bounded=True).in_blocks)
    share = max(_RESEMBLING, lossy_share(found.storage.encoding))
    lost = energy = 0.0
    seen = 0
    with np.errstate(all="ignore"):
        for pair in walk.pairs():
            x, y = floats(pair.expected, expected.dtype), floats(pair.found, found.dtype)
            lost += float(np.square(x - y).sum())
            energy += float(np.square(x).sum())
            seen += x.size
            if seen >= _SAMPLE or not lost <= share * energy + 1e-30:
                break
    return lost <= share * energy


def _compared(
    expected: Tensor,
    found: Tensor,
    allowed: Rule,
    workspace: Workspace,
    progress: Callable[[int], None] | None = None,
    derived: Derivation | None = None,
) -> Outcome:
    walk = Walk(expected, found, workspace, in_blocks=allowed.in_blocks)

    def share(pairs: Generator[Pair]) -> Outcome:
        outcome = Outcome(exact=allowed.exact)
        if not allowed.exact and expected.dtype.floating and found.dtype.floating:
            outcome.errors = Errors()
        for pair in pairs:
            mask = allowed.unequal(pair.expected, pair.found)
            if mask.any():
                _count(outcome, pair, mask, expected.dtype, found.dtype, allowed)
            if outcome.errors is not None:
                outcome.errors.add(floats(pair.expected, expected.dtype), floats(pair.found, found.dtype))
            if derived is not None:
                derived.take(pair)
            if progress is not None:
                progress(pair.expected.nbytes)
        return outcome

    shares = walk.shared(share)
    return shares[0] if len(shares) == 1 else _together(shares)


def _together(shares: Sequence[Outcome]) -> Outcome:
    """The outcome of a tensor, from the outcomes of the threads."""
    first = min(shares, key=lambda share: math.inf if share.first is None else share.first)
    errors = None
    if any(share.errors is not None for share in shares):
        errors = Errors()
        for share in shares:
            errors.extend(share.errors or Errors())
    return replace(
        first,
        errors=errors,
        differing=sum(share.differing for share in shares),
        nan=sum(share.nan for share in shares),
        zeroed=sum(share.zeroed for share in shares),
        largest=max((share.largest for share in shares if share.largest is not None), default=None),
    )


def _count(outcome: Outcome, pair: Pair, mask: NDArray[Any], source: Dtype, target: Dtype, allowed: Rule) -> None:
    """Add the differing elements, which a mask selects, to an outcome."""
    where = pair.where(mask)
    x, y = pair.expected[mask], pair.found[mask]
    outcome.differing += len(where)
    if not allowed.exact and not allowed.in_blocks:
        source, x = target, rounded(floats(x, source), target)
    if source.name in ("C64", "C128", "C32") or source.packed > 1:
        wanted, got = x, y
    else:
        wanted, got = floats(x, source), floats(y, target)
        with np.errstate(all="ignore"):
            if target.floating:
                outcome.nan += int(np.count_nonzero(np.isnan(got) & ~np.isnan(wanted)))
            apart = np.abs(wanted.astype("<f8") - got.astype("<f8"))
        apart = apart[np.isfinite(apart)]
        if len(apart):
            outcome.largest = max(outcome.largest or 0.0, float(apart.max()))
    outcome.zeroed += int(np.count_nonzero(y == 0)) if y.dtype.names is None else 0
    at = int(where.argmin())
    if outcome.first is None or where[at] < outcome.first:
        outcome.first = int(where[at])
        outcome.expected, outcome.found = _plain(wanted[at]), _plain(got[at])
        outcome.flipped = _flipped(x[at], y[at]) if source == target and not allowed.in_blocks else 0


def _flipped(x: Any, y: Any) -> int:
    """The number of bits that differ between two elements."""
    return (int.from_bytes(x.tobytes(), "little") ^ int.from_bytes(y.tobytes(), "little")).bit_count()


def _plain(value: Any) -> float | int | None:
    plain = value.item()
    return plain if isinstance(plain, float | int) else None


def index_of(flat: int | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The index along each axis of an element whose position in the order of rows is known."""
    if flat is None:
        return None
    index = []
    for length in reversed(shape):
        flat, at = divmod(flat, length)
        index.append(at)
    return tuple(reversed(index))


def finite(value: float | int | None) -> float | int | None:
    """A number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
