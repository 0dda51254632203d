"""Compares two checkpoints of any forms: what was added, removed, renamed and changed, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from converter.difference import aside
from converter.difference.beside import beside, listed
from converter.difference.comparing import Comparison
from converter.difference.measures import SIZES
from converter.difference.pairing import chosen, sides, unnamed
from converter.formats import uncollected
from converter.reports.difference import DiffReport
from converter.verification.walk import Workspace

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue


@uncollected()
def diff(
    before: Catalogue,
    after: Catalogue,
    *,
    rank: bool = False,
    filter: str | Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    starting: Callable[[int], None] | None = None,
) -> DiffReport:
    """Compare two checkpoints. `rank` also finds how many directions each change of a matrix has.

    `filter` has globs on names, or names as they are printed, on either side; then nothing else is compared. RuleError says
    that no tensor fits one. `starting` is called with the bytes to compare, and `progress` with those compared since its last
    call.
    """
    ours, theirs = sides(before, after)
    globs = (filter,) if isinstance(filter, str) else tuple(filter)
    only = chosen((ours, theirs), globs) if globs else None
    if starting is not None:
        starting(ours.nbytes_of(only))
    found = Comparison(ours, theirs, Workspace(SIZES), progress or ignored)
    found.pair_all()
    if only is not None:
        only = {*found.partners(only)}
    found.compare_pairs(rank=rank, only=only)
    ours.finish()
    theirs.finish()
    around = [] if globs else aside.arounds((ours, theirs))
    different = tuple(one for part in (beside(*around) if around else {}).values() for one in listed(part.differences))
    return DiffReport(
        before=before.location,
        after=after.location,
        formats=(before.format, after.format),
        same=not found.changes and not different,
        compared=len(found.common),
        identical=found.identical,
        changes=tuple(found.ordered),
        layers=tuple(found.layers()),
        beside=different,
        left_out=tuple(found.left_out),
        not_compared=() if globs else not_compared(before, after),
        aside=tuple(aside.not_compared(dict(zip(("before", "after"), around, strict=False)))),
        filter=globs,
        filtered=unnamed((ours, theirs), only),
    )


def not_compared(*catalogues: Catalogue) -> tuple[str, ...]:
    """Names of tensors that this program does not decode."""
    return tuple(dict.fromkeys(other.name for one in catalogues for other in one.unsupported))


def ignored(nbytes: int) -> None:
    """Take the place of a progress that nobody wants to see."""
