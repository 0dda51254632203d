"""Whether a tensor holds the elements that it held before in another order, and in which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converter.difference.orders import as_matrix, castable, lines, order, said
from converter.difference.pairing import is_transposed
from converter.verification.comparison import equal

if TYPE_CHECKING:
    from converter.difference.measures import Apart
    from converter.tensors.tensor import Tensor

_BITS: Final = 1 << 32  # only the lower 32 bits of sums of bits are known
_NEAR: Final = 100  # rounding changes a sum of squares by less than one part in this many
_UNLIKE: Final = 0.999  # tensors with a larger cosine were changed a little, not put in another order


def within(found: Apart, ours: Tensor, theirs: Tensor, head: int | None) -> str | None:
    """How the elements of a tensor changed places, in words; None if that is not all that happened.

    `found` is how far both are apart, and `head` how long a head is. Both are read again only if the sums in `found` leave
    a chance.
    """
    if found.differing < 2 or not _telling(ours, theirs) or not _balanced(found):
        return None
    if len(ours.shape) == 2 and ours.shape == theirs.shape[::-1] and _transposed(ours, theirs):
        return "transposed"
    return _reordered(ours, theirs, head)


def turned(ours: Tensor, theirs: Tensor, head: int | None) -> str | None:
    """The same for two matrices, of which one has as many rows as the other has columns."""
    if len(ours.shape) != 2 or ours.shape[::-1] != theirs.shape:
        return None
    if _transposed(ours, theirs):
        return "transposed"
    return _reordered(ours, theirs, head) if _telling(ours, theirs) else None


def _telling(ours: Tensor, theirs: Tensor) -> bool:
    """Whether elements after can be told from those before by their bits. Other blocks round in other ways."""
    return ours.storage.encoding == theirs.storage.encoding and castable(ours.dtype, theirs.dtype)


def _transposed(ours: Tensor, theirs: Tensor) -> bool:
    if ours.dtype == theirs.dtype and ours.storage.encoding == theirs.storage.encoding:
        return is_transposed(ours, theirs)
    return equal(ours.t(), theirs)


def _balanced(found: Apart) -> bool:
    """Whether sums that do not depend on the order are the same on both sides."""
    if found.balance is not None:
        return found.balance % _BITS == 0
    squares, cosine = found.squares, found.cosine
    if squares is None or cosine is None or cosine > _UNLIKE:
        return False
    return abs(squares[0] - squares[1]) * _NEAR <= max(squares[:2])


def _reordered(ours: Tensor, theirs: Tensor, head: int | None) -> str | None:
    before, after = as_matrix(ours), as_matrix(theirs)
    if before is None or after is None or before.size < 2:
        return None
    found = order(before, after, lines(before, after.dtype), lines(after, after.dtype))
    return None if found is None else said(found, theirs.shape, head)
