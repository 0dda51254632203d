"""What every journal promises, on the disk and in a store; and what only the one in a store does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converter.errors import JobError
from converter.fleet import plan, status
from converter.fleet.disk_journal import DiskJournal
from converter.fleet.drive import drive
from converter.fleet.engines import as_it_stands
from converter.fleet.job import Job
from converter.fleet.journal import Journal, Row, here
from converter.fleet.local import Local
from converter.fleet.plan import Task
from converter.fleet.store_journal import StoreJournal
from converter.hub.conditional import Objects
from converter.hub.patience import Patience, waiting
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.fake_store import Bucket, fake_s3

TASKS = [Task(f"{n}", f"o/{n}", n) for n in range(3)]
PLACE = "s3://b/job"
Open = Callable[..., Journal]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with fake_s3() as bucket, waiting(Patience(backoff=0.01)):
        yield bucket


@pytest.fixture(params=["disk", "store"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """What opens a driver's journal of the same job, with a lease of so many seconds, and begins it."""
    if request.param == "store":
        request.getfixturevalue("bucket")
    begun: list[Journal] = []

    def opened(lease: float = 60.0) -> Journal:
        one: Journal = (
            DiskJournal(tmp_path / "x.journal", lease=lease)
            if request.param == "disk"
            else StoreJournal(PLACE, lease=lease, fresh=0.0)
        )
        begun.append(one)
        one.begin("x", TASKS)
        return one

    yield opened
    for one in begun:
        one.close()


def ended(journal: Journal, row: Row, written: int = 0) -> bool:
    return journal.end(row.number, "done", step="", reason="", seconds=1.5, written=written)


def of_a_driver(journal: Journal, process: int) -> None:
    """Call a journal's driver another process of this machine."""
    journal.owner = f"{here()}:{process}:7"


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    return dead.pid


# ---- every journal -------------------------------------------------------------------------------------------------------


def test_two_drivers_share_a_job_and_do_nothing_twice(opened: Open) -> None:
    mine, theirs = opened(), opened()
    first, second = mine.take(2), theirs.take(2)

    assert [row.source for row in (*first, *second)] == ["0", "1", "2"]
    assert mine.take(3) == theirs.take(3) == []
    assert all(ended(mine, row) for row in first)
    assert ended(theirs, second[0])
    assert not ended(theirs, second[0])
    assert opened().counts()["done"] == (3, 3)
    assert {row.seconds for row in opened().rows("done")} == {1.5}


def test_a_lease_that_ends_gives_the_task_to_another_driver(opened: Open) -> None:
    mine, theirs = opened(0.2), opened(0.2)
    (row,) = mine.take(1)
    theirs.take(0)
    assert [other.source for other in theirs.take(3)] == ["1", "2"]
    time.sleep(0.3)  # the first driver gives no sign

    (again,) = theirs.take(3)
    assert (again.number, again.attempts, again.begun) == (row.number, 2, 2)
    assert not ended(mine, row, written=1)
    assert ended(theirs, again, written=2)
    assert [row.written for row in opened().rows("done")] == [2]


def test_a_lease_that_is_renewed_holds(opened: Open) -> None:
    mine, theirs = opened(0.5), opened(0.5)
    mine.take(3)
    for _ in range(4):
        assert theirs.take(3) == []
        time.sleep(0.2)
        mine.renew()


def test_a_driver_does_not_take_its_own_tasks_twice(opened: Open) -> None:
    """As after a machine has slept for longer than a lease."""
    mine = opened(0.1)
    mine.take(3)
    time.sleep(0.2)

    assert mine.take(3) == []


def test_the_tasks_of_a_driver_that_died_here_are_free_at_once_and_do_not_count(opened: Open) -> None:
    dead, mine = opened(), opened()
    of_a_driver(dead, gone())
    dead.renew()
    dead.take(3)
    mine.free()

    assert [(row.attempts, row.begun) for row in mine.take(3)] == [(1, 2)] * 3
    of_a_driver(dead, os.getpid())  # so that closing it does not trouble the other driver


def test_the_tasks_of_a_driver_that_lives_here_are_not_free(opened: Open) -> None:
    mine, theirs = opened(), opened()
    mine.take(3)
    theirs.free()

    assert theirs.take(3) == []


def test_a_machine_of_the_same_name_is_another_one(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes have numbers that are none here."""
    theirs, mine = opened(), opened()
    theirs.owner = f"{here()} 2:{gone()}:7"
    theirs.renew()
    theirs.take(3)
    mine.free()

    assert mine.take(3) == []


def test_a_task_that_is_put_back_waits_and_keeps_what_was_noted(opened: Open) -> None:
    mine, theirs = opened(), opened()
    row = mine.take(3)[0]
    mine.note_free(row.number)
    mine.again(row.number, 0.2, reason="it rained", seconds=2.0)

    assert theirs.take(3) == []
    time.sleep(0.3)
    (again,) = theirs.take(3)
    assert (again.free, again.reason, again.seconds, again.attempts) == (1, "it rained", 2.0, 2)


def test_what_has_ended_badly_waits_again_on_demand(opened: Open) -> None:
    mine = opened()
    for row, state in zip(mine.take(3), ("done", "failed", "refused"), strict=True):
        mine.end(row.number, state, step="scan", reason="so", seconds=0, written=0)
    assert mine.wait() is None
    mine.anew()

    assert (mine.wait(), [(row.source, row.attempts, row.begun) for row in mine.take(3)]) == (
        0.0,
        [("1", 1, 2), ("2", 1, 2)],
    )


def test_new_tasks_are_added_behind_the_others(opened: Open) -> None:
    mine, theirs = opened(), opened()
    mine.take(1)
    theirs.begin("x", [Task("new", "", 9), *TASKS])

    assert [row.source for row in theirs.take(9)] == ["1", "2", "new"]


def test_the_journal_of_another_job_is_refused(opened: Open) -> None:
    with pytest.raises(JobError, match="is the journal of this job with other sources, steps or outputs: remove it"):
        opened().begin("y", [])


def test_many_drivers_at_once_do_every_task_once(opened: Open) -> None:
    """Four drivers that take one task at a time, as fast as they can."""
    taken: list[int] = []
    ready = threading.Barrier(4)

    def driver() -> None:
        journal = opened_here()
        ready.wait()
        while journal.wait() is not None:
            for row in journal.take(1):
                taken.append(row.number)
                assert ended(journal, row)
        journal.close()

    many = [Task(f"{n}", "", 0) for n in range(20)]
    first = opened()
    first.begin("x", many)

    def opened_here() -> Journal:
        one: Journal = DiskJournal(first.path) if isinstance(first, DiskJournal) else StoreJournal(PLACE, fresh=0.0)
        one.begin("x", many)
        return one

    threads = [threading.Thread(target=driver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(taken) == sorted(row.number for row in opened().rows())


# ---- the one in a store --------------------------------------------------------------------------------------------------


def in_store(bucket: Bucket, **options: float) -> StoreJournal:
    journal = StoreJournal(PLACE, **{"fresh": 0.0, **options})
    journal.begin("x", TASKS)
    return journal


def test_a_driver_that_ends_leaves_its_tasks_to_others_at_once(bucket: Bucket) -> None:
    first, second = in_store(bucket), in_store(bucket)
    first.take(2)
    first.close()

    assert [(row.source, row.attempts) for row in second.take(3)] == [("0", 1), ("1", 1), ("2", 1)]


def test_a_lost_answer_is_no_lost_task(bucket: Bucket) -> None:
    """The store has written what it was sent, and the answer does not come; so the same is sent again, and refused."""
    journal = in_store(bucket)
    lost = ["b/job/tasks/00000000.json", "b/job/tasks/00000001.json"]

    def on_done(name: str) -> None:
        if name in lost:
            lost.remove(name)
            raise OSError("the connection is gone")

    bucket.on_done = on_done
    rows = journal.take(3)

    assert ([row.source for row in rows], lost) == (["0", "1", "2"], [])
    assert all(ended(journal, row) for row in rows)


def test_a_store_that_heeds_no_condition_is_refused(bucket: Bucket) -> None:
    bucket.heeds = False
    with pytest.raises(
        JobError, match="its store takes no notice of If-None-Match and If-Match when an object is written"
    ):
        in_store(bucket)
    assert [name for name in bucket.objects if "tasks" in name or "job.json" in name] == []


def test_a_store_without_conditions_is_refused() -> None:
    with pytest.raises(JobError, match="can't be shared: memory is not known to support conditional writes; S3 does"):
        StoreJournal("memory://job")


def test_a_store_that_fails_says_that_the_work_is_kept(bucket: Bucket) -> None:
    journal = in_store(bucket)

    def on_put(name: str) -> None:
        raise OSError("no more room")

    bucket.on_put = on_put
    said = "the journal `s3://b/job` can't be used: .* no more room .*; what was done is kept, and the same command goes on"
    with pytest.raises(JobError, match=said):
        journal.take(1)


STRANGE = {
    "job.json": [b"", b"[]", b"{", b'{"digest":"x","version":"1","tasks":[["a","b"]]}', b"[" * 100_000],
    "tasks/00000001.json": [b"", b"7", b"{}", b'{"number":1}', b"\xff"],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, list in STRANGE.items() for data in list])
def test_what_is_no_journal_is_refused(bucket: Bucket, name: str, data: bytes) -> None:
    in_store(bucket).take(3)
    bucket.objects[f"b/job/{name}"] = data
    with pytest.raises(JobError, match=re.escape(f"`s3://b/job/{name}` is not what a journal holds")):
        in_store(bucket)


@pytest.mark.parametrize(
    ("key", "value"), [("state", "gone"), ("source", "x"), ("attempts", "1"), ("number", 2), ("free", True)]
)
def test_a_task_of_something_else_is_refused(bucket: Bucket, key: str, value: object) -> None:
    in_store(bucket).take(3)
    name = "b/job/tasks/00000001.json"
    bucket.objects[name] = json.dumps(json.loads(bucket.objects[name]) | {key: value}).encode()
    with pytest.raises(JobError, match=r"tasks/00000001\.json` is not what a journal holds"):
        in_store(bucket)


def test_other_objects_in_the_folder_do_not_matter(bucket: Bucket) -> None:
    in_store(bucket)
    bucket.objects |= {"b/job/tasks/00000009.json": b"", "b/job/tasks/x.json": b"", "b/job/tasks/": b"", "b/job/x": b""}

    assert len(in_store(bucket).take(9)) == 3


def test_objects_are_written_only_as_they_were_read(bucket: Bucket) -> None:
    objects = Objects(PLACE)
    first = objects.write("x", b"1", None)
    second = objects.write("x", b"2", first)

    assert None not in (first, second)
    assert [objects.write("x", b"3", version) for version in (None, first)] == [None, None]
    assert objects.read("x") == (b"2", second)
    objects.remove("x")
    assert (objects.write("x", b"4", second), objects.read("x"), objects.names("")) == (None, None, {})


# ---- a job whose journal is in a store -----------------------------------------------------------------------------------

JOB = """
sources = ["in"]
steps = ["scan", "convert", "verify"]
journal = "s3://b/job/"
[convert]
output = "out/{path}.safetensors"
"""


def job_in(folder: Path, count: int) -> Job:
    for n in range(count):
        path = folder / f"in/x/{n}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, {"w": view("0", (2,))}, {"0": floats(n, 2.0)})
    (folder / "job.toml").write_text(JOB)
    return Job.load(folder / "job.toml")


def test_two_drivers_in_two_folders_share_a_job(bucket: Bucket, tmp_path: Path) -> None:
    """As on two machines, which have the job file each, and see the sources and outputs at the same addresses."""
    job = job_in(tmp_path, 6)
    told: list[str] = []

    def driven() -> None:
        with StoreJournal("s3://b/job", fresh=0.0) as journal, Local(1) as engine:
            journal.begin(job.digest, plan.tasks(job))
            drive(job, journal, engine, lambda row, result: told.append(row.source), backoff=0.01)

    threads = [threading.Thread(target=driven) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    report = as_it_stands(job)

    assert sorted(told) == [f"in/x/{n}.bin" for n in range(6)]
    assert {(task.state, task.reason, task.attempts) for task in report.tasks} == {("done", "", 1)}
    assert sorted(path.name for path in (tmp_path / "out/x").iterdir()) == [f"{n}.safetensors" for n in range(6)]
    assert [name for name in bucket.objects if "/drivers/" in name] == []


def test_a_job_that_was_never_begun_has_no_state(bucket: Bucket, tmp_path: Path) -> None:
    job = job_in(tmp_path, 1)
    with pytest.raises(JobError, match="has not begun, as there is no journal `s3://b/job`: run `cerebras-tool batch"):
        as_it_stands(job)
    assert bucket.objects == {}


def test_a_policy_is_the_same_in_every_folder(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "job.toml").write_text(JOB.replace("[convert]", '[scan]\npolicy = "p.toml"\n[convert]'))
        found.add(Job.load(folder / "job.toml").digest)

    assert len(found) == 1


def test_a_journal_may_lie_elsewhere_on_the_disk(tmp_path: Path) -> None:
    job = job_in(tmp_path, 1)
    (tmp_path / "job.toml").write_text(JOB.replace("s3://b/job/", "state.db"))
    job = Job.load(tmp_path / "job.toml")
    with DiskJournal(job.journal) as journal, Local(1) as engine:  # type: ignore[arg-type]
        journal.begin(job.digest, plan.tasks(job))
        drive(job, journal, engine, lambda row, result: None)
        assert status.exit_code(status.report(job, journal)) == 0

    assert job.journal == tmp_path / "state.db"
    assert (tmp_path / "state.db").exists()


def test_a_bucket_that_is_not_there_is_said(bucket: Bucket) -> None:
    def refuse(name: str) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    bucket.on_put = refuse
    with StoreJournal("s3://nowhere/job") as journal, pytest.raises(JobError, match="S3 has no such bucket"):
        journal.begin("x", [Task("a", "", 1)])


MANY = [Task(f"{n}", f"o/{n}", n) for n in range(150)]  # so many that there is a summary


def reads(bucket: Bucket) -> list[str]:
    """The tasks whose objects were read since the last call."""
    found = [path for path, *_ in bucket.ranges if "/tasks/" in path]
    bucket.ranges.clear()
    return found


@pytest.fixture
def many(bucket: Bucket) -> Iterator[StoreJournal]:
    """A journal in which the first 120 of many tasks have ended, by a driver that was stopped."""
    with StoreJournal(PLACE, fresh=0.0) as journal:
        journal.begin("x", MANY)
        for row in journal.take(120):
            journal.end(row.number, "done" if row.number % 3 else "failed", step="", reason="ä", seconds=1.5, written=7)
    with StoreJournal(PLACE, fresh=0.0) as journal:
        yield journal


def counted(journal: StoreJournal) -> dict[str, int]:
    return {state: count for state, (count, _) in journal.counts().items() if count}


def test_a_summary_saves_reading_each_task(bucket: Bucket, many: StoreJournal) -> None:
    reads(bucket)
    assert many.has_begun()

    assert reads(bucket) == []
    assert counted(many) == {"waiting": 30, "done": 80, "failed": 40}
    row = next(many.rows("failed"))
    assert (row.number, row.reason, row.seconds, row.written, row.attempts, row.begun) == (0, "ä", 1.5, 7, 1, 1)


def test_a_task_that_has_changed_since_the_summary_is_read(bucket: Bucket, many: StoreJournal) -> None:
    many.begin("x", MANY)
    many.anew()
    reads(bucket)

    with StoreJournal(PLACE, fresh=0.0) as other:
        other.begin("x", MANY)
        assert len(reads(bucket)) == 40
        assert counted(other) == {"waiting": 70, "done": 80}
        assert [row.number for row in other.take(2)] == [0, 3]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"[]",
        b"1",
        b'{"0": 1}',
        b'{"0": []}',
        b'{"x": ["v"]}',
        b'{"9999": ["v", "done", 1, 1, 1, "", "", 1.5, 7, ""]}',
        b'{"0": ["v", "done", 1, 1, 1, "", "", 1.5, 7]}',
        b'{"0": ["v", "odd", 1, 1, 1, "", "", 1.5, 7, ""]}',
        b'{"0": ["v", "done", "1", 1, 1, "", "", 1.5, 7, ""]}',
        None,
    ],
)
def test_a_summary_that_is_not_right_changes_nothing(bucket: Bucket, many: StoreJournal, data: bytes | None) -> None:
    assert bucket.objects.pop("b/job/summary.json")
    if data is not None:
        bucket.objects["b/job/summary.json"] = data

    assert many.has_begun()
    assert counted(many) == {"waiting": 30, "done": 80, "failed": 40}


def test_a_list_that_is_older_than_what_is_read_gives_no_task_twice(
    many: StoreJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    many.begin("x", MANY)
    many.anew()
    listed = many._objects.names("tasks")
    taken = {row.number for row in many.take(40)}
    with StoreJournal(PLACE, fresh=1e9) as late:
        names = Objects.names
        monkeypatch.setattr(
            Objects,
            "names",
            lambda self, folder, start="": listed if folder == "tasks" else names(self, folder, start),
        )
        late.begin("x", MANY)
        found = {row.number for row in late.take(70)}

    assert len(taken) == 40
    assert found.isdisjoint(taken)
    assert len(found) == 30


def test_more_tasks_than_a_list_has_are_found(bucket: Bucket) -> None:
    tasks = [Task(f"{n}", "", 1) for n in range(1005)]
    with StoreJournal(PLACE) as journal, StoreJournal(PLACE) as other:
        journal.begin("x", tasks)
        assert len(journal.take(1003)) == 1003
        assert other.has_begun()
        assert counted(other) == {"waiting": 2, "running": 1003}


def test_a_summary_that_cannot_be_written_spoils_nothing(bucket: Bucket) -> None:
    def refuse(name: str) -> None:
        if name.endswith("summary.json"):
            raise PermissionError("Access Denied")

    with StoreJournal(PLACE, fresh=0.0) as journal:
        journal.begin("x", MANY)
        for row in journal.take(2):
            journal.end(row.number, "done", step="", reason="", seconds=1.0, written=1)
        bucket.on_put = refuse
    assert not [name for name in bucket.objects if "/drivers/" in name or "summary" in name]
    with StoreJournal(PLACE, fresh=0.0) as journal:
        assert journal.has_begun()
        assert counted(journal) == {"waiting": 148, "done": 2}
