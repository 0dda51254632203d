"""How much of a file `scan` may still read: the last amount that is allowed, and the first that is not."""

from __future__ import annotations

import pytest

from converter.errors import LimitError
from converter.limits import Limits, limits, using
from converter.scanning.budget import Budget

MIB = 1 << 20


@pytest.mark.parametrize(("size", "most"), [(0, 16 * MIB), (100, 16 * MIB + 800), (MIB, 24 * MIB), (3 * MIB, 40 * MIB)])
def test_a_broken_archive_is_read_eight_times_and_a_little_more(size: int, most: int) -> None:
    assert Budget(salvage_nbytes=most).may_salvage(size)
    assert not Budget(salvage_nbytes=most + 1).may_salvage(size)


def test_a_large_broken_archive_is_read_up_to_the_limit_of_pickles() -> None:
    most = limits().pickle_bytes

    assert Budget(salvage_nbytes=most).may_salvage(most)
    assert not Budget(salvage_nbytes=most + 1).may_salvage(most)


@pytest.mark.parametrize(("size", "most"), [(0, 64 * MIB), (7, 64 * MIB + 700), (MIB, 164 * MIB)])
def test_compressed_bytes_may_inflate_to_a_hundred_times_as_many_and_a_little_more(size: int, most: int) -> None:
    budget = Budget()
    budget.inflate(most - 1, size)
    budget.inflate(1, size)

    with pytest.raises(LimitError, match=f"more than {most:,}"):
        budget.inflate(1, size)


@pytest.mark.parametrize(("run", "most"), [(0, 1000), (63, 1000), (64, 1001), (6_400, 1100)])
def test_each_pickle_after_the_first_thousand_needs_64_bytes_that_were_run(run: int, most: int) -> None:
    assert Budget(run_nbytes=run).most_pickles == most
    assert Budget(run_nbytes=run, pickles=3, texts=4).pickles_left == most - 7


@pytest.mark.parametrize(("run", "left"), [(0, 1000), (1, 999), (1000, 0), (1001, -1)])
def test_pickles_that_were_run_leave_fewer_bytes_to_the_next_ones(run: int, left: int) -> None:
    with using(Limits(pickle_bytes=1000)):
        assert Budget(run_nbytes=run).pickle_nbytes == left
