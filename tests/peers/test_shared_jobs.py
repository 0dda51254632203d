"""A job whose journal is in S3, as s3fs reaches it: two drivers share it, and one that is killed loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.fleet.plan import Task
from converter.fleet.store_journal import StoreJournal
from converter.hub.conditional import Objects
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.s3_server import S3, Fault, Request, s3_server

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 's3fs' 'moto[s3,server]'")
moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 's3fs' 'moto[s3,server]'")

JOB = """
sources = ["s3://bucket/in"]
steps = ["scan", "convert", "verify"]
journal = "s3://bucket/job"
[scan]
fickling = false
[convert]
output = "s3://bucket/out/{path}.safetensors"
[tasks]
processes = 1
"""
COUNT = 12


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(tmp_path / "s3") as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["ours", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder in a store: of the tests' own server, or of moto's."""
    if request.param == "ours":
        request.getfixturevalue("s3")
        yield "s3://bucket/folder"
        return
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**S3(tmp_path).environment(), "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(use_listings_cache=False).makedirs("journals", exist_ok=True)
    yield f"s3://journals/{time.time_ns()}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_store_writes_on_a_condition(store: str) -> None:
    objects = Objects(store)
    objects.try_conditions()
    first = objects.write("x", b"1", None)
    second = objects.write("x", b"2", first)

    assert None not in (first, second)
    assert [objects.write("x", b"3", version) for version in (None, first)] == [None, None]
    assert objects.read("x") == (b"2", second)
    assert objects.write("in/y", b"5", None) == objects.names("in")["in/y"]
    objects.remove("x")
    assert (objects.write("x", b"4", second), objects.read("x")) == (None, None)


def test_two_drivers_and_a_lease(store: str) -> None:
    tasks = [Task(f"{n}", "", n) for n in range(5)]
    first, second = (StoreJournal(store, lease=1.0, fresh=0.0) for _ in range(2))
    for journal in (first, second):
        journal.begin("x", tasks)
    mine, theirs = first.take(2), second.take(5)

    assert [row.source for row in (*mine, *theirs)] == ["0", "1", "2", "3", "4"]
    assert all(second.end(row.number, "done", step="", reason="", seconds=1, written=1) for row in theirs)
    deadline = time.monotonic() + 30
    while not (again := second.take(5)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [(row.source, row.attempts) for row in again] == [("0", 2), ("1", 2)]
    assert not first.end(mine[0].number, "done", step="", reason="", seconds=1, written=1)
    assert second.counts()["done"] == (3, 9)


def test_a_store_that_heeds_no_condition_is_refused(s3: S3, tmp_path: Path) -> None:
    s3.heeds = False
    checkpoints(s3, tmp_path, 1)
    done = subprocess.run(command(tmp_path / "a"), capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert "can't be shared, because its store takes no notice of If-None-Match and If-Match" in done.stderr
    assert done.stderr.count("\n") == 1


def test_busy_answers_and_lost_ones_lose_nothing(s3: S3) -> None:
    """Every third request of the journal fails: it is told to slow down, or written and not answered."""
    seen = [0]

    def fault(request: Request) -> Fault | None:
        seen[0] += 1
        if request.method != "PUT" or seen[0] % 3:
            return None
        return Fault(503, "SlowDown") if seen[0] % 2 else Fault(mute=True)

    with_faults = StoreJournal("s3://bucket/job", fresh=0.0)
    s3.fault = fault
    with_faults.begin("x", [Task(f"{n}", "", n) for n in range(6)])
    rows = with_faults.take(6)

    assert [row.source for row in rows] == [f"{n}" for n in range(6)]
    assert all(with_faults.end(row.number, "done", step="", reason="", seconds=1, written=1) for row in rows)


def checkpoints(s3: S3, folder: Path, count: int) -> None:
    """As many checkpoints in the store, and the job file in two folders."""
    for n in range(count):
        path = write_checkpoint(folder / "x.bin", {"w": view("0", (2,))}, {"0": floats(n, 2.0)})
        s3.put(f"bucket/in/x/{n}.bin", path.read_bytes())
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "job.toml").write_text(JOB)


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "converter", "batch", *options, str(folder / "job.toml")]


def test_a_driver_that_is_killed_leaves_its_tasks_to_the_other(s3: S3, tmp_path: Path) -> None:
    checkpoints(s3, tmp_path, COUNT)
    first, second = (subprocess.Popen([*command(tmp_path / name), "-q"]) for name in ("a", "b"))
    deadline = time.monotonic() + 200
    while len(s3.names("bucket/out")) < COUNT // 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.wait()
    code = second.wait(300)
    report = json.loads(
        subprocess.run([*command(tmp_path / "a", "status"), "--json"], stdout=subprocess.PIPE, check=True).stdout
    )

    assert code == 0
    assert report["counts"] == {"waiting": 0, "running": 0, "done": COUNT, "failed": 0, "refused": 0, "broken": 0}
    assert COUNT <= sum(task["attempts"] for task in report["tasks"]) <= COUNT + 1
    assert s3.names("bucket/out") == sorted(f"bucket/out/x/{n}.safetensors" for n in range(COUNT))
    assert s3.names("bucket/job/drivers") == []
    assert list(tmp_path.rglob("*.journal")) == []
