"""A job from its beginning to its end: which engine runs it, and the report of all tasks. `batch` is for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import JobError
from converter.fleet import plan, status
from converter.fleet.drive import drive
from converter.fleet.job import Job
from converter.fleet.journal import ENDED
from converter.hub.stores import StorePath
from converter.words import FLEETS, check, check_count, from_python, option

if TYPE_CHECKING:
    from converter.fleet.drive import Told
    from converter.fleet.engine import Engine
    from converter.fleet.journal import Journal
    from converter.reports.batch import BatchReport
    from converter.words import Fleet


@from_python
def batch(
    job: str | PathLike[str],
    *,
    engine: Fleet = "local",
    address: str | None = None,
    processes: int | None = None,
    again: bool = False,
    progress: Callable[[int], None] | None = None,
) -> BatchReport:
    """Run a job file, or go on where it was stopped. The report's `counts` say how its checkpoints ended.

    `engine` is `local` for processes of this machine, or `ray` for the cluster at `address` or one that is started here;
    `processes` is how many checkpoints are worked on at a time. `again` works once more on those that ended in any
    state but done. `progress` hears of each that ends, as 1.
    """
    check("engine", engine, FLEETS)
    check_count("processes", processes)
    loaded = Job.load(Path(job))
    return run_job(
        replace(loaded, processes=processes or loaded.processes),
        engine=engine,
        address=address,
        again=again,
        told=lambda row, result: progress(1) if progress is not None else None,
    )


def run_job(
    job: Job,
    *,
    engine: str,
    address: str | None = None,
    again: bool = False,
    begun: Callable[[int, int], None] = lambda ended, total: None,
    told: Told = lambda row, result: None,
) -> BatchReport:
    """Run the tasks of a job that have not ended; with `again`, also those that ended in any state but done.

    `begun` hears how many have ended already, and how many there are; `told` hears of each that ends.
    """
    with opened(job) as journal, _engine(engine, address, job.processes) as running:
        journal.begin(job.digest, plan.tasks(job))
        if again:
            journal.anew()
        counts = journal.counts()
        begun(sum(counts[state][0] for state in ENDED), sum(count for count, _ in counts.values()))
        drive(job, journal, running, told)
        return status.report(job, journal)


def as_it_stands(job: Job) -> BatchReport:
    """The state of a job by its journal, without working on it. Raises JobError if the job has not begun."""
    place = job.journal
    if isinstance(place, StorePath) or place.exists():  # opening it would make the file
        with opened(job) as journal:
            if journal.has_begun():
                return status.report(job, journal)
    where = f"`{place.name}` beside it" if place.parent == job.base else f"journal `{place}`"
    raise JobError(f"`{job.path}` has not begun, as there is no {where}: run `cerebras-tool batch {job.path}`")


def opened(job: Job) -> Journal:
    """The journal of a job: on the disk, or in a store."""
    place = job.journal
    if isinstance(place, StorePath):
        from converter.fleet.store_journal import StoreJournal

        return StoreJournal(place.url)
    from converter.fleet.disk_journal import DiskJournal

    return DiskJournal(place)


def _engine(name: str, address: str | None, processes: int | None) -> Engine:
    if name != FLEETS[0]:
        from converter.fleet.cluster import Cluster

        return Cluster(address, processes)
    from converter.fleet.local import Local
    from converter.io.writer import cores

    if address is not None:
        raise JobError(f"{option('address')} names a Ray cluster: it needs {option('engine', FLEETS[1])}")
    return Local(processes or cores())
