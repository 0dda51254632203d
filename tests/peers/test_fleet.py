"""A job on Ray, with a cluster that the test starts on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import converter
from converter.fleet import plan, status
from converter.fleet.disk_journal import DiskJournal
from converter.fleet.drive import drive
from converter.fleet.job import Job
from converter.fleet.journal import ENDED
from converter.fleet.local import Local
from converter.reports.batch import BatchReport
from tests.build.checkpoints import Call, Global, floats, legacy_bytes, view, write_checkpoint

ray = pytest.importorskip("ray", reason="ray is not installed: pip install ray")

JOB = """
sources = ["in"]
steps = ["scan", "convert", "verify"]
[scan]
fickling = false
[convert]
output = "OUT/{path}.safetensors"
[tasks]
processes = 2
"""


def checkpoints(folder: Path, count: int) -> dict[str, str]:
    """As many checkpoints, of which each tenth is cut off and another tenth malicious; and how each has to end."""
    folder.mkdir(parents=True)
    expected = {}
    for n in range(count):
        path = folder / f"{n}.bin"
        value = {"w": view("0", (2,))}
        if n % 10 == 1:
            write_checkpoint(path, value | {"x": Call(Global("os", "system"), ("true",))}, {"0": floats(n, 2)})
        else:
            write_checkpoint(path, value, {"0": floats(n, 2)})
        if n % 10 == 2:
            path.write_bytes(path.read_bytes()[:-40])
        expected[f"in/{n}.bin"] = "failed" if n % 10 in (1, 2) else "done"
    return expected


def driven(folder: Path, name: str, engine: str) -> BatchReport:
    path = folder / f"{name}.toml"
    path.write_text(JOB.replace("OUT", name))
    return driven_by(path, engine)


def driven_by(path: Path, engine: str = "local") -> BatchReport:
    from converter.fleet.cluster import Cluster

    job = Job.load(path)
    with DiskJournal(job.journal) as journal, Cluster(None, 2) if engine == "ray" else Local(2) as running:
        journal.begin(job.digest, plan.tasks(job))
        drive(job, journal, running, lambda row, result: None, backoff=0.1)
        return status.report(job, journal)


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ray_does_what_processes_do(tmp_path: Path) -> None:
    expected = checkpoints(tmp_path / "in", 50)

    local, cluster = (driven(tmp_path, name, name) for name in ("local", "ray"))

    assert {task.source: task.state for task in cluster.tasks} == expected
    assert [(task.source, task.state, task.reason) for task in cluster.tasks] == [
        (task.source, task.state, task.reason) for task in local.tasks
    ]
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "local")
    assert {task.attempts for task in cluster.tasks} == {1}


def test_a_worker_of_ray_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    expected = checkpoints(tmp_path / "in", 60)
    path = tmp_path / "out.toml"
    path.write_text(JOB.replace("OUT", "out"))
    command = [sys.executable, "-m", "converter", "batch", str(path), "--engine", "ray", "-q"]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list((tmp_path / "out").glob("[0-9]*"))) < 2:
        time.sleep(0.05)
    found = any(killed(driver) or time.sleep(0.05) for _ in range(600))
    code = driver.wait(240)
    job = Job.load(path)
    with DiskJournal(job.journal) as journal:
        report = status.report(job, journal)

    assert found
    assert code == 1, [task for task in report.tasks if task.state in ("broken", "waiting")]
    assert {task.source: task.state for task in report.tasks} == expected
    assert set(outputs(tmp_path / "out")) == {
        f"{Path(source).stem}.safetensors" for source, state in expected.items() if state == "done"
    }


def kinds(folder: Path, count: int) -> dict[str, str]:
    """As many checkpoints of eight kinds; of each fifty one is malicious, one cut off, and one past a limit."""
    folder.mkdir()
    expected = {}
    value, data = {"w": view("0", (2,))}, {"0": floats(1, 2)}
    first = write_checkpoint(
        folder / "first.bin", {"w": view("0", (2,)), "v": view("1", (3,))}, data | {"1": floats(1, 2, 3)}
    )
    made: list[tuple[str, Callable[[Path], object]]] = [
        (".bin", lambda path: write_checkpoint(path, value, data)),
        (".pt", lambda path: path.write_bytes(legacy_bytes(value, data))),
        (".ckpt", lambda path: write_checkpoint(path, {"state_dict": value, "epoch": 3}, data)),
        (".safetensors", lambda path: converter.convert(first, path)),
        (".npz", lambda path: converter.convert(first, path)),
        (".pth", lambda path: write_checkpoint(path, {"h": view("0", (4,), dtype="F16")}, data)),
        ("", lambda path: converter.convert(first, path, to="safetensors", max_shard_size=80)),
        (".bin", lambda path: write_checkpoint(path, {f"{n}": view("0", (1,)) for n in range(20)}, data)),
    ]
    for n in range(count):
        ending, make = made[n % 8]
        path = folder / f"{n % 50}" / f"x{n}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        state = "done"
        if n % 50 == 7:
            path, state = path.with_suffix(".bin"), "failed"
            write_checkpoint(path, value | {"x": Call(Global("os", "system"), ("true",))}, data)
        elif n % 50 == 17:
            path, state = path.with_suffix(".bin"), "failed"
            write_checkpoint(path, value, data)
            path.write_bytes(path.read_bytes()[:-40])
        elif n % 50 == 27:
            path, state = path.with_suffix(".bin"), "failed"
            write_checkpoint(path, {f"{n}": view("0", (1,)) for n in range(100)}, data)
        else:
            make(path)
        expected[str(path.relative_to(folder.parent))] = state
    first.unlink()
    return expected


class Hanging(BaseHTTPRequestHandler):
    """Answers the question whether a file is there, and then never says any more."""

    def do_GET(self) -> None:
        threading.Event().wait(600)

    do_HEAD = do_GET  # noqa: N815 (http.server calls it so)

    def log_message(self, *said: object) -> None:
        pass


@contextmanager
def hanging() -> Iterator[str]:
    """The address of a server that hangs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def killed(driver: subprocess.Popen[bytes]) -> bool:
    """Kill a worker of this driver's cluster that has a task; such a process is called after the task's path."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, parents = (process / "cmdline").read_bytes(), ancestors(int(process.name))
        except OSError:
            continue
        if name.startswith(b"ray::/") and driver.pid in parents:
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False


def ended(path: Path) -> int:
    """How many tasks of a job have ended."""
    job = Job.load(path)
    if not job.journal.exists():
        return 0
    with DiskJournal(job.journal) as journal:
        return sum(count for state, (count, _) in journal.counts().items() if state in ENDED)


def until(count: int, path: Path, driver: subprocess.Popen[bytes]) -> None:
    """Wait until so many tasks have ended."""
    while ended(path) < count:
        assert driver.poll() is None, f"the driver ended with {ended(path)} tasks"
        time.sleep(0.5)


@pytest.mark.large
def test_a_thousand_checkpoints_of_eight_kinds(tmp_path: Path) -> None:
    """Malicious, cut and hanging ones among them; a worker is killed, then the driver, and then all is as with processes."""
    expected = kinds(tmp_path / "in", 1000)
    with hanging() as address:
        sources = [f"{address}/{n}.bin" for n in range(4)]
        expected |= dict.fromkeys(sources, "broken")
        text = (
            JOB.replace('["in"]', json.dumps(["in", *sources]))
            + "seconds = 30\nattempts = 2\n[limits]\nopcodes = 2000\n"
        )
        for name in ("ray", "local"):
            (tmp_path / f"{name}.toml").write_text(text.replace("OUT", name))
        path = tmp_path / "ray.toml"
        command = [sys.executable, "-m", "converter", "batch", str(path), "--engine", "ray", "-q"]
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(100, path, driver)
        assert any(killed(driver) or time.sleep(0.1) for _ in range(600))
        until(300, path, driver)
        driver.kill()
        driver.wait()
        before = ended(path)
        again = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        assert (again.returncode, before < 1000) == (2, True), again.stderr
        local = driven_by(tmp_path / "local.toml")
    with DiskJournal(Job.load(path).journal) as journal:
        cluster = status.report(Job.load(path), journal)

    assert {task.source: task.state for task in cluster.tasks} == expected
    assert [(task.source, task.state, task.reason) for task in cluster.tasks] == [
        (task.source, task.state, task.reason.replace("local/", "ray/")) for task in local.tasks
    ]
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "local")
    # Attempts that were lost with the worker and the driver, two at a time, and the second ones at the server that hangs.
    assert sum(task.attempts - 1 for task in cluster.tasks if "://" not in task.source) <= 4


def ancestors(process: int) -> set[int]:
    """The processes that a process descends from."""
    found = set()
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(process)
    return found
