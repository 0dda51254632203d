"""The simulation of large jobs, on examples that can be counted by hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from converter.fleet import plan
from converter.fleet.disk_journal import DiskJournal
from converter.fleet.drive import drive
from converter.fleet.local import Local
from tests.bench.fleet import cost, job_in, journal_of, simulated, sizes


@pytest.mark.parametrize(
    ("costs", "slots", "seconds"),
    [([1, 1, 1, 1], 1, 4), ([1, 1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([2, 2, 3], 2, 4), ([5, 1], 9, 5)],
)
def test_tasks_go_to_the_slot_that_is_free_the_longest_first(costs: list[float], slots: int, seconds: float) -> None:
    assert simulated(costs, slots) == seconds


def test_a_checkpoint_takes_a_fixed_time_and_that_of_its_bytes() -> None:
    assert cost(200e6, 0.5, 100e6) == 2.5


def test_sizes_have_the_sum_that_was_asked_for() -> None:
    found = sizes(1000, 5e12)

    assert len(found) == 1000
    assert sum(found) == pytest.approx(5e12)
    assert max(found) > 10 * sum(found) / len(found)


def test_a_real_run_takes_about_as_long_as_the_simulation_says(tmp_path: Path) -> None:
    job = job_in(tmp_path, 60, 50_000, "out")
    ended: list[tuple[float, float]] = []  # when, and after how many seconds of work
    with DiskJournal(journal_of(job)) as journal, Local(2) as engine:
        journal.begin(job.digest, plan.tasks(job))
        drive(job, journal, engine, lambda row, result: ended.append((time.monotonic(), result.seconds)))

    # The first two also import what they need; their processes are started before.
    took = ended[-1][0] - ended[1][0]
    told = simulated([seconds for _, seconds in ended[2:]], 2)
    assert 0.5 * told < took < 4 * told, (told, took)
