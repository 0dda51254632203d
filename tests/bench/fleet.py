"""What `batch` costs, and how long a large job will take: `python -m tests.bench.fleet`, and `--simulate` for a job that is not here.

The simulation is the one that docs/fleet.md uses: checkpoints go, the largest first, to whichever slot is free. It is held against a
real run on this machine.
"""

from __future__ import annotations

import argparse
import heapq
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from converter.fleet import plan, status
from converter.fleet.disk_journal import DiskJournal
from converter.fleet.drive import drive
from converter.fleet.job import Job
from converter.fleet.local import Local
from converter.fleet.plan import Task
from converter.fleet.work import Order, run
from tests.build.checkpoints import view, write_checkpoint

JOB = """
sources = ["in"]
steps = ["scan", "convert", "verify"]
[scan]
fickling = false
[convert]
output = "OUT/{path}.safetensors"
"""


def simulated(costs: Sequence[float], slots: int) -> float:
    """The seconds until the last of these tasks is done, if each goes to the first slot that is free, the longest first."""
    free = [0.0] * slots
    for cost in sorted(costs, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def cost(nbytes: float, fixed: float, speed: float) -> float:
    """The seconds that a checkpoint of so many bytes takes in a slot."""
    return fixed + nbytes / speed


def sizes(count: int, total: float, seed: int = 7) -> list[float]:
    """Bytes of so many checkpoints, as registries have them: many small and few large ones, with this sum."""
    draw = random.Random(seed)
    found = [draw.lognormvariate(0, 1.5) for _ in range(count)]
    return [size * total / sum(found) for size in found]


def made(folder: Path, count: int, floats: int) -> list[Path]:
    """So many checkpoints of one tensor."""
    folder.mkdir(parents=True)
    data = random.Random(1).randbytes(4 * floats)
    value = {"w": view("0", (floats,))}
    return [write_checkpoint(folder / f"{n}.bin", value, {"0": data}) for n in range(count)]


def alone(job: Job, repeats: int = 1) -> list[float]:
    """The seconds of each task, called one after another in this process."""
    found = []
    for task in plan.tasks(job) * repeats:
        order = Order(0, str(job.base / task.source), str(job.base / task.output), job.work, force=True)
        start = time.perf_counter()
        result = run(order)
        found.append(time.perf_counter() - start)
        assert result.state == "done", result
    return found


def journal_of(job: Job) -> Path:
    """The file of a job's journal, where it is kept in one."""
    assert isinstance(job.journal, Path)
    return job.journal


def driven(job: Job, slots: int) -> float:
    """The seconds that the job takes with so many processes, from an empty journal."""
    journal_of(job).unlink(missing_ok=True)
    start = time.perf_counter()
    with DiskJournal(journal_of(job)) as journal, Local(slots) as engine:
        journal.begin(job.digest, plan.tasks(job))
        drive(job, journal, engine, lambda row, result: None)
        assert status.exit_code(status.report(job, journal)) == 0
    return time.perf_counter() - start


def job_in(folder: Path, count: int, floats: int, name: str) -> Job:
    """A job over so many checkpoints, whose outputs go below `name`."""
    made(folder / "in", count, floats)
    path = folder / "job.toml"
    path.write_text(JOB.replace("OUT", name) + "force = true\n")
    return Job.load(path)


def measure() -> None:
    """Measure this machine, print the figures, and hold the simulation against them."""
    with tempfile.TemporaryDirectory() as name:
        job = job_in(Path(name), 200, 1000, "out")
        loop = alone(job)[1:]  # the first imports
        one, two = driven(job, 1), driven(job, 2)
        each = sum(loop) / len(loop)
        print(
            f"tiny checkpoints: {1000 * each:.1f} ms each in a loop, {1000 * (one / 200 - each):.1f} ms more with one process"
        )
        print(f"two processes: {one / two:.2f} times one")
    with tempfile.TemporaryDirectory() as name:
        large = job_in(Path(name), 16, 16 << 20, "out")
        took = alone(large)
        fixed, speed = each + max(0.0, one / 200 - each), (64 << 20) / (sum(took) / len(took) - each)
        one, two = driven(large, 1), driven(large, 2)
        told = simulated([cost(64 << 20, fixed, speed)] * 16, 2)
        print(f"64 MB: {speed / 1e6:.0f} MB/s a process; two processes: {one / two:.2f} times one")
        print(f"simulated with two processes: {told:.1f} s; measured: {two:.1f} s, {two / told:.2f} times")
    with tempfile.TemporaryDirectory() as name, DiskJournal(Path(name, "x.journal")) as journal:
        journal.begin("x", (Task(f"bucket/folder/{n}", f"out/{n}", n) for n in range(100_000)))
        start = time.perf_counter()
        journal.counts()
        print(f"100,000 tasks: counted in {1000 * (time.perf_counter() - start):.0f} ms")


def main() -> None:
    """Measure, or simulate."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="a job that is not here, instead of measuring")
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--terabytes", type=float, default=100)
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--fixed", type=float, default=0.05, help="seconds that a checkpoint takes whatever its size")
    parser.add_argument("--speed", type=float, default=100, help="MB/s of a slot, all steps together")
    given = parser.parse_args()
    if not given.simulate:
        measure()
        return
    found = sizes(given.checkpoints, given.terabytes * 1e12)
    costs = [cost(size, given.fixed, given.speed * 1e6) for size in found]
    print(
        f"{given.checkpoints:,} checkpoints, {given.terabytes:g} TB, the largest {max(found) / 1e9:.0f} GB; {sum(costs) / 3600:,.0f} hours of a slot"
    )
    for slots in given.slots:
        took = simulated(costs, slots)
        print(f"{slots:>5} slots: {took / 3600:6.1f} h, {100 * sum(costs) / took / slots:.0f} % busy")


if __name__ == "__main__":
    main()
