"""A job: its file, its tasks, its journal, and what happens when checkpoints, workers and drivers fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

import converter
from converter import reports
from converter.cli.app import app
from converter.errors import JobError, LimitError, PolicyError, SourceError
from converter.fleet import plan, status
from converter.fleet.disk_journal import DiskJournal
from converter.fleet.drive import drive
from converter.fleet.engine import Engine
from converter.fleet.job import TEMPLATE, Job
from converter.fleet.journal import STATES, here
from converter.fleet.local import Local
from converter.fleet.plan import Task
from converter.fleet.work import AGAIN, Order, Result, run
from converter.reports.batch import BatchReport
from converter.resources import load_json
from converter.words import in_job, option, raising
from tests.bench.fleet import journal_of
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.ends import ends
from tests.build.fake_store import fake_s3
from tests.build.hub_server import TINY, Exchange, Hub
from tests.pages.reading import check

RUN = CliRunner()


def job_of(folder: Path, text: str) -> Job:
    path = folder / "job.toml"
    path.write_text(text)
    return Job.load(path)


ALL = """
sources = ["in"]
steps = ["scan", "check", "convert", "verify"]
[convert]
output = "out/{path}.safetensors"
"""


def small(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_checkpoint(path, {"w": view("0", (2,))}, {"0": floats(value, 2.0)})


def driven(job: Job, engine: Engine | None = None, **options: float) -> BatchReport:
    with DiskJournal(journal_of(job)) as journal, engine or Local(2) as running:
        journal.begin(job.digest, plan.tasks(job))
        drive(job, journal, running, lambda row, result: None, backoff=0.01)
        return status.report(job, journal)


def by_source(report: BatchReport) -> dict[str, tuple[str, str]]:
    return {task.source: (task.state, task.reason) for task in report.tasks}


class Fake(Engine):
    """An engine that ends orders as it is told: by source, one result after another. `done` is the result of all others."""

    def __init__(self, results: dict[str, list[Result]], slots: int = 2) -> None:
        self.slots, self._results = slots, results
        self.orders: list[Order] = []
        self._waiting: list[Order] = []
        self.given_up: list[int] = []

    def start(self, order: Order) -> None:
        self.orders.append(order)
        self._waiting.append(order)

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        ended = []
        for order in self._waiting:
            left = self._results.get(Path(order.source).name)
            if left is None or left:
                ended.append((order.number, left.pop(0) if left else Result("done")))
        self._waiting = [order for order in self._waiting if order.number not in dict(ended)]
        return ended

    def give_up(self, number: int) -> None:
        self.given_up.append(number)
        self._waiting = [order for order in self._waiting if order.number != number]

    def close(self) -> None:
        self._waiting = []


# ---- the job file --------------------------------------------------------------------------------------------------------


def test_the_template_is_a_job_and_fits_the_schema(tmp_path: Path) -> None:
    import tomllib

    job = job_of(tmp_path, TEMPLATE)

    assert (job.work.steps, job.output, job.attempts) == (("scan", "convert", "verify"), "converted/{path}", 3)
    jsonschema.validate(tomllib.loads(TEMPLATE), load_json("job.schema.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "`sources` must be a list of texts that is not empty"),
        ("sources = []", "`sources` must be a list of texts that is not empty"),
        ("sources = ['x']\nsteps = ['run']", "`run` is not a step: the steps are scan, check, convert, verify"),
        (
            "sources = ['x']\nother = 1",
            "the key `other` is not known: there are sources, search, steps, journal, scan, convert, tasks, limits",
        ),
        ("sources = ['x']\n[scan]\nx = 1", r"\[scan\]: the key `x` is not known"),
        ("sources = ['x']\nsteps = ['convert']", r"the step convert needs `output` in \[convert\]"),
        ("sources = ['x']\nsteps = ['verify']", "the step verify compares what convert wrote: add convert"),
        (
            "sources = ['x']\nsteps = ['convert']\n[convert]\noutput = '{x}.gguf'",
            r"a template has only \{path\}, \{name\}",
        ),
        ("sources = ['x']\nsteps = ['convert']\n[convert]\noutput = '{path.x}.gguf'", "a template has only"),
        *(
            (f"sources = ['x']\nsteps = ['convert']\n[convert]\noutput = '{output}'", "a template has only")
            for output in (
                "{path:>1000000000}.gguf",
                "{path!r}.gguf",
                "{}.gguf",
                "{0}.gguf",
                "{path.gguf",
                "{path[0]}.gguf",
            )
        ),
        (
            "sources = ['x']\nsteps = ['convert']\n[convert]\noutput = 'out/{path}'",
            r'`out/\{path\}` ends in neither .*: say to = "safetensors", "gguf"',
        ),
        (
            "sources = ['x']\nsteps = ['convert']\n[convert]\noutput = '{path}.safetensors'\ndtype = 'q8_0'",
            "safetensors has no dtype Q8_0: choose f32, f16 or bf16",
        ),
        *(
            (
                f"sources = ['x']\nsteps = ['convert']\n[convert]\noutput = '{scheme}://host/{{path}}.gguf'",
                f"{scheme}://host/.* is an address that nothing is written to: give a path, or an address with s3://",
            )
            for scheme in ("https", "hf", "ftp", "file", "S3")
        ),
        ("sources = ['x']\njournal = 'https://host/x'", "`https://host/x` is an address that nothing is written to"),
        ("sources = ['x']\n[tasks]\nseconds = 0", "`seconds` is 0: a whole number from 1 was expected"),
        ("sources = ['x']\n[tasks]\nmemory = '1'", "`memory` is '1': a whole number from 1 was expected"),
        ("sources = ['x']\n[limits]\nwidth = 1", "`width` is not a limit"),
        ("sources = ['x']\n[scan]\nfail_on = 'x'", "fail_on is 'x': choose dangerous, unknown"),
        ("sources =", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_job_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        job_of(tmp_path, text)


def test_a_job_in_a_store_is_refused() -> None:
    with pytest.raises(JobError, match=r"`s3://b/job\.toml` can't be used: a job file lies on this machine's disk"):
        Job.load(Path("s3://b/job.toml"))


# ---- tasks ---------------------------------------------------------------------------------------------------------------


def test_a_task_is_a_checkpoint_whatever_its_files(tmp_path: Path, sharded: Path, tiny: Path) -> None:
    shutil.copytree(sharded, tmp_path / "in/many")
    shutil.copytree(tiny, tmp_path / "in/sub/one")
    for name in ("a.bin", "b.v1.pt", "c.gguf", "notes.txt", "optimizer.bin"):
        small(tmp_path / "in/flat" / name)
    job = job_of(tmp_path, ALL)

    assert {task.source: task.output for task in plan.tasks(job)} == {
        "in/many": "out/many.safetensors",
        "in/sub/one": "out/sub/one.safetensors",
        "in/flat/a.bin": "out/flat/a.safetensors",
        "in/flat/b.v1.pt": "out/flat/b.v1.safetensors",
        "in/flat/c.gguf": "out/flat/c.safetensors",
    }
    sizes = [task.nbytes for task in plan.tasks(job)]
    assert sizes == sorted(sizes, reverse=True)


def test_shards_beside_another_checkpoint_are_one_task_with_or_without_an_index(tmp_path: Path, sharded: Path) -> None:
    shards = [path.name for path in sharded.glob("*.bin")]
    assert len(shards) > 1
    for folder in ("with", "without"):
        shutil.copytree(sharded, tmp_path / "in" / folder)
        small(tmp_path / "in" / folder / "other.gguf")
    (tmp_path / "in/without/pytorch_model.bin.index.json").unlink()
    job = job_of(tmp_path, ALL)

    assert {task.source for task in plan.tasks(job)} == {
        *("in/with/pytorch_model.bin.index.json", "in/with/other.gguf"),
        *("in/without", "in/without/other.gguf"),
    }


def test_globs_files_and_stores_are_sources(tmp_path: Path) -> None:
    for name in ("x/a.bin", "x/b.bin", "c.bin"):
        small(tmp_path / name)
    with fake_s3() as bucket:
        bucket.objects = {f"b/m/{name}/x.bin": (tmp_path / "c.bin").read_bytes() for name in "de"}
        job = job_of(tmp_path, ALL.replace('["in"]', '["x/*.bin", "c.bin", "s3://b/m"]'))
        found = {task.source: task.output for task in plan.tasks(job)}

    assert found == {
        "x/a.bin": "out/a.safetensors",
        "x/b.bin": "out/b.safetensors",
        "c.bin": "out/c.safetensors",
        "s3://b/m/d": "out/d.safetensors",
        "s3://b/m/e": "out/e.safetensors",
    }


def test_two_tasks_never_write_the_same_output(tmp_path: Path) -> None:
    small(tmp_path / "in/a/x.bin")
    small(tmp_path / "in/b/x.bin")
    job = job_of(tmp_path, ALL.replace("{path}", "same"))

    with pytest.raises(
        JobError, match=r"`in/a` and `in/b` would both be written to `out/same\.safetensors`: use \{path\}"
    ):
        plan.tasks(job)


def test_two_sources_with_the_same_path_get_advice_that_works(tmp_path: Path) -> None:
    small(tmp_path / "in/a/x.bin")
    small(tmp_path / "in/b/x.bin")
    job = job_of(tmp_path, ALL.replace('"in"', '"in/a/x.bin", "in/b/x.bin"'))

    with pytest.raises(JobError, match="give one source that has both in it, or make two jobs"):
        plan.tasks(job)

    one = job_of(tmp_path, ALL)
    assert [task.output for task in plan.tasks(one)] == ["out/a.safetensors", "out/b.safetensors"]


def test_a_checkpoint_is_one_task_however_it_is_spelled(tmp_path: Path) -> None:
    small(tmp_path / "in/a/x.bin")
    names = ["in", "./in", "in/", "in/a", "in/*", "in/../in", str(tmp_path / "in")]

    assert [task.source for task in plan.tasks(job_of(tmp_path, ALL.replace('["in"]', json.dumps(names))))] == ["in/a"]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in", "in/{path}.npz"),
        ("in", "./in/out/{path}.npz"),
        ("in", "x/../in/{path}.npz"),
        ("in", "in"),
        (".", "out/{path}.npz"),
        ("./in/", "in/{name}"),
        ("in/s*", "in/sub/x.npz"),
        ("s3://b/in", "s3://b/in/{path}.npz"),
        ("s3://b", "s3://b/out/{path}"),
        ("s3://b/i*", "s3://b/in/x/{path}.npz"),
    ],
)
def test_a_job_does_not_write_where_its_next_run_would_look(tmp_path: Path, source: str, output: str) -> None:
    small(tmp_path / "in/sub/b.bin")
    text = ALL.replace("in", source, 1).replace("out/{path}.safetensors", output) + 'to = "npz"\n'
    with fake_s3() as bucket:
        bucket.objects = {"b/in/sub/b.bin": b"x"}
        with pytest.raises(
            JobError, match=r"would be written into the source .*: choose an `output` elsewhere, or a source"
        ):
            plan.tasks(job_of(tmp_path, text))


def test_a_pattern_lets_outputs_lie_beside_their_sources(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        small(tmp_path / "in" / name)
    text = ALL.replace('"in"', '"in/*.bin"').replace("out/", "in/")

    assert [driven(job_of(tmp_path, text)).counts["done"] for _ in range(3)] == [2, 2, 2]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [
        "a.bin",
        "a.safetensors",
        "b.bin",
        "b.safetensors",
    ]


def test_an_output_that_would_replace_its_own_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        converter.convert(converter.open_checkpoint(small(tmp_path / "x.bin")), tmp_path / f"in/{name}.safetensors")
    text = ALL.replace('"in"', '"in/*"').replace("out/", "in/").replace('"scan", ', "")
    job = job_of(tmp_path, text + "force = true\n")

    found = by_source(driven(job))

    assert [(source, state) for source, (state, _) in found.items()] == [
        ("in/a.safetensors", "refused"),
        ("in/b.safetensors", "refused"),
    ]
    assert all("is the input itself" in reason for _, reason in found.values())


@pytest.mark.parametrize("name", ["a[1].bin", "b?.bin", "*.bin", "ä #%20.bin", "{path}.bin"])
def test_a_file_may_be_named_like_a_pattern(tmp_path: Path, name: str) -> None:
    small(tmp_path / name)
    assert [task.source for task in plan.tasks(job_of(tmp_path, ALL.replace("in", name, 1)))] == [name]


def test_patterns_in_a_store_are_sources(tmp_path: Path) -> None:
    data = small(tmp_path / "x.bin").read_bytes()
    with fake_s3() as bucket:
        bucket.objects = {f"b/m/{name}": data for name in ("one/x.bin", "two/x.bin", "two/deep/y.bin", "3.bin", "4.pt")}

        def found(source: str) -> list[str]:
            return [task.source for task in plan.tasks(job_of(tmp_path, ALL.replace("in", source, 1)))]

        assert found("s3://b/m/*.bin") == ["s3://b/m/3.bin"]
        assert found("s3://b/m/t*") == ["s3://b/m/two", "s3://b/m/two/deep"]
        assert found("s3://b/*/one") == ["s3://b/m/one"]
        assert found("s3://b/m/[0-9].*") == ["s3://b/m/3.bin", "s3://b/m/4.pt"]
        with pytest.raises(JobError, match=r"`s3://b/m/\*\.gguf` fits no object in S3"):
            found("s3://b/m/*.gguf")


def test_a_folder_that_cannot_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "in/a.bin")
    small(tmp_path / "in/locked/b.bin")
    scan = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(JobError, match="/in/locked` can't be read: permission denied"):
        plan.tasks(job_of(tmp_path, ALL))


def test_a_policy_that_is_not_there_is_said_before_anything_is_done(tmp_path: Path) -> None:
    small(tmp_path / "in/a.bin")
    with pytest.raises(PolicyError, match=r"policy\.toml` can't be read"):
        plan.tasks(job_of(tmp_path, ALL + "[scan]\npolicy = 'policy.toml'\n"))


@pytest.mark.parametrize(
    ("sources", "said"), [("none", "is not there"), ("*.bin", "fits no file"), ("empty", "there is no checkpoint")]
)
def test_a_source_without_checkpoints_is_refused(tmp_path: Path, sources: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match=said):
        plan.tasks(job_of(tmp_path, ALL.replace('"in"', f'"{sources}"')))


# ---- the journal ---------------------------------------------------------------------------------------------------------


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.journal").write_bytes(b"something else" * 100)
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("x.journal", "it is a file of something else; name another one with the key `journal`"),
        ("folder", "it is a folder; name a file"),
        ("none/x.journal", "there is no folder `.*none`; make it, or name another place"),
    ):
        with pytest.raises(JobError, match=f"{name}` can't be opened: {said}"):
            DiskJournal(tmp_path / name)


def test_a_driver_that_is_stopped_puts_its_tasks_back(tmp_path: Path) -> None:
    for n in range(3):
        small(tmp_path / f"in/{n}.bin")
    job = job_of(tmp_path, ALL)
    with DiskJournal(journal_of(job)) as journal:
        journal.begin(job.digest, plan.tasks(job))
        assert len(journal.take(2)) == 2
        assert status.report(job, journal).counts["running"] == 2
    with DiskJournal(journal_of(job)) as journal:
        assert status.report(job, journal).counts["waiting"] == 3
        assert [row.attempts for row in journal.rows()] == [0, 0, 0]


def test_a_task_of_a_driver_that_was_killed_is_shown_as_waiting(tmp_path: Path) -> None:
    small(tmp_path / "in/a.bin")
    job = job_of(tmp_path, ALL)
    with DiskJournal(journal_of(job)) as journal:
        journal.begin(job.digest, plan.tasks(job))
        ended = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
        )
        journal.owner = f"{here()}:{int(ended.stdout)}:1"
        journal.take(1)
        assert status.report(job, journal).counts == {state: int(state == "waiting") for state in STATES}


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    for n in range(4):
        small(tmp_path / f"in/{n}.bin")
    job = job_of(tmp_path, ALL)
    with DiskJournal(journal_of(job)) as journal:
        journal.begin(job.digest, plan.tasks(job))
    with DiskJournal(journal_of(job)) as journal:
        journal._base.execute(
            "CREATE TEMP TRIGGER full AFTER UPDATE ON main.task WHEN new.state = 'done' "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        said = "can't be written: database or disk is full; what was done is kept, and the same command goes on"
        with pytest.raises(JobError, match=said), Local(1) as engine:
            drive(job, journal, engine, lambda row, result: None)

    base = sqlite3.connect(job.journal)
    base.execute("UPDATE task SET until = 0")
    base.commit()
    base.close()
    assert {state for state, _ in by_source(driven(job)).values()} == {"done"}


def test_a_hundred_thousand_tasks_are_counted(tmp_path: Path) -> None:
    with DiskJournal(tmp_path / "x.journal") as journal:
        journal.begin("x", (Task(f"bucket/folder/{n}", f"out/{n}", n) for n in range(100_000)))
        with ends():
            counts = journal.counts()

    assert counts["waiting"] == (100_000, 4_999_950_000)


# ---- the driver ----------------------------------------------------------------------------------------------------------


def test_right_wrong_and_hostile_checkpoints_each_get_their_answer(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "in/model")
    small(tmp_path / "in/x/good.bin")
    value = {"w": view("0", (2,)), "x": Call(Global("os", "system"), ("touch /tmp/owned",))}
    write_checkpoint(tmp_path / "in/x/bad.bin", value, {"0": floats(1, 2)})
    (tmp_path / "in/x/cut.bin").write_bytes((tmp_path / "in/x/good.bin").read_bytes()[:-50])
    small(tmp_path / "in/x/there.bin")
    small(tmp_path / "in/x/nan.bin", float("nan"))
    (tmp_path / "out/x").mkdir(parents=True)
    (tmp_path / "out/x/there.safetensors").write_bytes(b"mine")
    job = job_of(tmp_path, ALL)

    report = driven(job)
    found = by_source(report)

    assert {source: state for source, (state, _) in found.items()} == {
        "in/model": "done",
        "in/x/good.bin": "done",
        "in/x/bad.bin": "failed",
        "in/x/cut.bin": "failed",
        "in/x/nan.bin": "failed",
        "in/x/there.bin": "refused",
    }
    assert "os.system runs programs" in found["in/x/bad.bin"][1]
    assert found["in/x/there.bin"][1] == (
        "`out/x/there.safetensors` was there before the job: set `force = true` in [convert] to replace it"
    )
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        *("good.safetensors", "model.safetensors", "there.safetensors")
    ]
    assert (tmp_path / "out/x/there.safetensors").read_bytes() == b"mine"
    assert status.exit_code(report) == 2
    assert (
        next(task.left for task in report.tasks if task.source == "in/model") == "config.json, merges.txt, vocab.json"
    )
    jsonschema.validate(json.loads(reports.to_json(report)), load_json("reports", "batch.json"))


def test_the_same_job_again_does_nothing(tmp_path: Path) -> None:
    small(tmp_path / "in/a.bin")
    job = job_of(tmp_path, ALL)
    driven(job)
    engine = Fake({})

    assert by_source(driven(job, engine)) == {"in": ("done", "")}
    assert engine.orders == []


def test_what_passes_is_tried_again_and_what_lasts_is_set_aside(tmp_path: Path) -> None:
    for name in ("once", "always", "never"):
        small(tmp_path / f"in/x/{name}.bin")
    job = job_of(tmp_path, ALL)
    lost = Result(AGAIN, "convert", "the connection was lost")
    engine = Fake({"once.bin": [lost, Result("done")], "always.bin": [lost] * 9})

    found = by_source(driven(job, engine))

    assert found == {
        "in/x/once.bin": ("done", ""),
        "in/x/never.bin": ("done", ""),
        "in/x/always.bin": ("broken", "3 attempts failed; the last one: the connection was lost"),
    }
    forced = [(Path(order.source).stem, order.force) for order in engine.orders]
    assert forced.count(("once", False)) == forced.count(("once", True)) == 1
    assert forced.count(("always", True)) == 2


def test_an_attempt_that_is_lost_early_does_not_overwrite_what_was_there(tmp_path: Path) -> None:
    small(tmp_path / "in/x/a.bin")
    job = job_of(tmp_path, ALL)
    with DiskJournal(journal_of(job)) as journal:
        journal.begin(job.digest, plan.tasks(job))
        journal.take(1)  # and the driver dies before it begins
        journal._base.execute("UPDATE task SET until = 0")
    (task,) = plan.tasks(job)
    Path(tmp_path / task.output).parent.mkdir(parents=True)
    Path(tmp_path / task.output).write_bytes(b"mine")

    assert {state for state, _ in by_source(driven(job)).values()} == {"refused"}
    assert Path(tmp_path / task.output).read_bytes() == b"mine"


def test_what_was_not_done_is_done_on_demand(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        small(tmp_path / f"in/x/{name}.bin")
    job = job_of(tmp_path, ALL)
    driven(job, Fake({"bad.bin": [Result("failed", "scan", "dangerous")]}))
    with DiskJournal(journal_of(job)) as journal:
        journal.anew()
    engine = Fake({})

    assert {state for state, _ in by_source(driven(job, engine)).values()} == {"done"}
    assert [Path(order.source).name for order in engine.orders] == ["bad.bin"]


def test_a_task_that_hangs_fails_alone(tmp_path: Path) -> None:
    for name in ("hangs", "works"):
        small(tmp_path / f"in/x/{name}.bin")
    job = job_of(tmp_path, ALL + "[tasks]\nseconds = 1\n")
    engine = Fake({"hangs.bin": []})

    assert by_source(driven(job, engine)) == {
        "in/x/hangs.bin": ("broken", "it took longer than 1 second, which `seconds` allows"),
        "in/x/works.bin": ("done", ""),
    }
    assert len(engine.given_up) == 1


def test_a_process_that_is_killed_is_replaced_and_its_task_is_done(tmp_path: Path) -> None:
    for n in range(4):
        small(tmp_path / f"in/x/{n}.bin")
    job = job_of(tmp_path, ALL)
    engine = Local(1)
    begin, killed = engine.start, list[int]()

    def start(order: Order) -> None:
        begin(order)
        if not killed:
            killed.append(order.number)
            os.kill(engine._busy[order.number]._process.pid, signal.SIGKILL)

    engine.start = start  # type: ignore[method-assign]
    report = driven(job, engine)

    assert {task.state for task in report.tasks} == {"done"}
    assert sorted(task.attempts for task in report.tasks) == [1, 1, 1, 2]


def test_a_process_that_dies_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "in/a.bin")
    monkeypatch.setattr("converter.fleet.local.START", "raise ImportError('no module \\x1b[31m of that name')")
    (found,) = by_source(driven(job_of(tmp_path, ALL))).values()

    assert found == (
        "broken",
        "3 attempts failed; the last one: the process that worked on it was ended with the code 1: "
        "ImportError: no module \\x1b[31m of that name",
    )


def test_a_hanging_process_is_killed(tmp_path: Path) -> None:
    with Local(1) as engine:
        small(tmp_path / "x.bin")
        job = job_of(tmp_path, ALL)
        engine.start(Order(1, str(tmp_path / "x.bin"), "", job.work, force=False))
        process = engine._busy[1]._process
        os.kill(process.pid, signal.SIGSTOP)
        assert engine.wait(0.1) == []
        engine.give_up(1)

        assert process.returncode == -signal.SIGKILL


def test_a_task_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    small(tmp_path / "in/x/a.bin")
    job = job_of(tmp_path, ALL.replace("[convert]", "[tasks]\nmemory = 1\n[convert]"))

    assert by_source(driven(job)) == {
        "in/x": ("broken", "it needs more memory than 1 B, which `memory` allows"),
    }


def test_what_is_more_memory_than_there_can_be_is_no_bound(tmp_path: Path) -> None:
    small(tmp_path / "in/a.bin")
    report = driven(job_of(tmp_path, ALL + f"[tasks]\nmemory = {10**23}\n"))
    assert by_source(report) == {"in": ("done", "")}


def test_what_had_ended_before_is_said_with_the_way_on(tmp_path: Path) -> None:
    small(tmp_path / "in/a.bin")
    (tmp_path / "in/b.bin").write_bytes(b"no checkpoint" * 9)
    (tmp_path / "job.toml").write_text(ALL)
    call = ["batch", str(tmp_path / "job.toml"), "--processes", "1"]

    first, second, again = RUN.invoke(app, call), RUN.invoke(app, call), RUN.invoke(app, [*call, "--again"])

    assert [result.exit_code for result in (first, second, again)] == [1, 1, 1]
    told = "1 checkpoint had ended before: --again works on them once more"
    assert [told in result.stdout for result in (first, second, again)] == [False, True, False]


def test_a_task_names_keys_of_the_job_and_options_of_other_commands(tmp_path: Path) -> None:
    with in_job():
        assert option("force", True) == "force = true"
        assert option("to", "gguf", "npz") == 'to = "gguf", "npz"'
        assert option("weights", "bin") == "--weights bin"
        assert raising("opcodes") == "set opcodes in [limits]"
    assert option("force", True) == "--force"


def test_a_limit_of_the_job_holds(tmp_path: Path) -> None:
    small(tmp_path / "in/x/a.bin")
    job = job_of(tmp_path, ALL + "[limits]\nopcodes = 3\n")

    state, reason = by_source(driven(job))["in/x"]
    assert state in {"failed", "refused"}
    assert "opcodes" in reason


def test_an_order_is_the_same_after_its_journey(tmp_path: Path) -> None:
    order = Order(7, "a", "b", job_of(tmp_path, ALL).work, force=True)

    assert Order.of(json.loads(json.dumps(order.as_json()))) == order


@pytest.mark.parametrize("turned", [False, True])
def test_a_task_works_in_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    rows, columns = 1500, 1000  # more than a thread takes at once
    value = {"w": view("0", (rows, columns), stride=(1, rows) if turned else (columns, 1))}
    (tmp_path / "in").mkdir()
    write_checkpoint(tmp_path / "in/x.bin", value, {"0": floats(*range(rows * columns))})
    job = job_of(tmp_path, ALL)
    (task,) = plan.tasks(job)
    started = list[threading.Thread]()
    begin = threading.Thread.start

    def noted(self: threading.Thread) -> None:
        started.append(self)
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", noted)

    result = run(Order(0, str(tmp_path / task.source), str(tmp_path / task.output), job.work, force=False))

    assert (result.state, result.reason, [thread.name for thread in started]) == ("done", "", [])


def test_from_a_store_into_a_store(tmp_path: Path) -> None:
    small(tmp_path / "x.bin")
    with fake_s3() as bucket:
        bucket.objects = {"b/m/x.bin": (tmp_path / "x.bin").read_bytes()}
        job = job_of(tmp_path, ALL.replace('"in"', '"s3://b/m"').replace("out/", "s3://o/"))
        (task,) = plan.tasks(job)
        result = run(Order(1, task.source, task.output, job.work, force=False))

        assert (task.source, task.output, result.state) == ("s3://b/m", "s3://o/m.safetensors", "done")
        assert "o/m.safetensors" in bucket.objects


def test_a_driver_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    for n in range(30):
        small(tmp_path / f"in/x/{n}.bin", n)
    job_of(tmp_path, ALL)
    command = [sys.executable, "-m", "converter", "batch", str(tmp_path / "job.toml"), "--processes", "1", "-q"]
    driver = subprocess.Popen(command)
    journal = tmp_path / "job.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "out/x").glob("[0-9]*"))) < 3:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert report["counts"] == {"waiting": 0, "running": 0, "done": 30, "failed": 0, "refused": 0, "broken": 0}
    assert 30 <= sum(task["attempts"] for task in report["tasks"]) <= 31
    assert sorted(path.name for path in (tmp_path / "out/x").iterdir()) == sorted(f"{n}.safetensors" for n in range(30))
    assert journal.exists()


# ---- the page and the function -------------------------------------------------------------------------------------------


def test_the_page_of_a_job_has_every_checkpoint_and_runs_nothing_of_a_name(tmp_path: Path) -> None:
    small(tmp_path / "in/x/good.bin")
    small(tmp_path / "in/x/<script>x.bin", float("nan"))
    job_of(tmp_path, ALL)
    page = tmp_path / "page.html"

    done = RUN.invoke(app, ["batch", str(tmp_path / "job.toml"), "--processes", "1", "-q", "--html", str(page)])

    found = check(page.read_bytes())
    assert done.exit_code == 1
    assert {row[0]: (row[2], row[4]) for row in found.data["tasks"]} == {
        "in/x/good.bin": ("done", ""),
        "in/x/<script>x.bin": ("failed", "check: w: 1 of 2 elements is NaN"),
    }
    assert "1 of 2 checkpoints done" in found.text
    page.unlink()
    again = RUN.invoke(app, ["batch", "report", str(tmp_path / "job.toml"), "--html", str(page)])
    assert (again.exit_code, check(page.read_bytes()).data) == (1, found.data)


def test_python_runs_a_job(tmp_path: Path) -> None:
    small(tmp_path / "in/x/a.bin")
    small(tmp_path / "in/x/b.bin")
    job_of(tmp_path, ALL)
    ended = list[int]()

    report = converter.batch(tmp_path / "job.toml", processes=2, progress=ended.append)

    assert [(task.state, task.step, task.reason) for task in report.tasks] == [("done", "", "")] * 2
    assert (report.counts["done"], ended) == (2, [1, 1])
    assert converter.verify(tmp_path / "in/x/a.bin", tmp_path / "out/x/a.safetensors").ok


def test_python_says_what_is_wrong_with_its_words(tmp_path: Path) -> None:
    small(tmp_path / "in/x/a.bin")
    job_of(tmp_path, ALL)
    with pytest.raises(JobError, match="address names a Ray cluster: it needs engine='ray'"):
        converter.batch(tmp_path / "job.toml", address="auto")
    with pytest.raises(ValueError, match="engine is 'spark': choose local, ray"):
        converter.batch(tmp_path / "job.toml", engine="spark")  # type: ignore[arg-type]


# ---- the Hub -------------------------------------------------------------------------------------------------------------


def test_the_models_of_an_owner_are_sources(tmp_path: Path, hub: Hub) -> None:
    hub.repositories |= {"someone/tiny-1.3B": hub.repositories[TINY], "other/tiny": hub.repositories[TINY]}
    job = job_of(tmp_path, ALL.replace('["in"]', "['hf://someone/tiny*']").replace('"check", ', ""))
    found = {task.source: task.output for task in plan.tasks(job)}

    assert found == {"hf://someone/tiny": "out/tiny.safetensors", "hf://someone/tiny-1.3B": "out/tiny-1.3B.safetensors"}
    result = run(Order(1, "hf://someone/tiny-1.3B", str(tmp_path / "x.safetensors"), job.work, force=False))
    assert (result.state, result.reason) == ("done", "")


def test_what_a_search_finds_is_a_source(tmp_path: Path, hub: Hub) -> None:
    hub.repositories |= {"someone/Tiny-1.3B": hub.repositories[TINY], "other/x": hub.repositories[TINY]}
    text = ALL.replace('sources = ["in"]', 'search = ["tiny", "tiny-1"]').replace('"check", ', "")
    job = job_of(tmp_path, text)
    jsonschema.validate(tomllib.loads(text), load_json("job.schema.json"))
    found = {task.source: task.output for task in plan.tasks(job)}

    assert found == {
        "hf://someone/tiny": "out/someone/tiny.safetensors",
        "hf://someone/Tiny-1.3B": "out/someone/Tiny-1.3B.safetensors",
    }
    other = job_of(tmp_path, text.replace('"tiny", ', ""))
    assert ([task.source for task in plan.tasks(other)], other.digest == job.digest) == (
        ["hf://someone/Tiny-1.3B"],
        False,
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "the search for `tiny` finds no model on 127"),
        ([f"someone/m{n}" for n in range(1000)], "the search for `tiny` finds more than 1,000 models: give more words"),
    ],
)
def test_a_search_that_finds_nothing_or_too_much_is_refused(
    tmp_path: Path, hub: Hub, names: list[str], said: str
) -> None:
    hub.on_api = answering(200, json.dumps([{"id": name} for name in names]).encode())
    with pytest.raises((SourceError, LimitError), match=said):
        plan.tasks(job_of(tmp_path, ALL.replace('sources = ["in"]', 'search = ["tiny"]')))


def test_one_model_of_the_hub_keeps_the_dots_of_its_name(tmp_path: Path) -> None:
    sources = (
        "['hf://a/GPT-1.3B', 'hf://a/GPT-1.5B@main', 'hf://a/x/sub/y.v1.bin', 'https://h.org/f/z.gguf?download=1']"
    )
    job = job_of(tmp_path, ALL.replace('["in"]', sources))

    assert sorted(task.output for task in plan.tasks(job)) == [
        *("out/GPT-1.3B.safetensors", "out/GPT-1.5B.safetensors", "out/y.v1.safetensors", "out/z.safetensors")
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf://someone/none*", r"`hf://someone/none\*` fits no model of `someone` on 127"),
        ("hf://some*/tiny", r"`hf://some\*/tiny` is not a glob on the models of an owner"),
        ("hf://someone/*/x", r"`hf://someone/\*/x` is not a glob on the models of an owner"),
    ],
)
def test_a_glob_on_the_hub_that_fits_nothing_is_refused(tmp_path: Path, hub: Hub, source: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        plan.tasks(job_of(tmp_path, ALL.replace('"in"', f'"{source}"')))


def answering(status: int, body: bytes) -> Callable[[Exchange], bool]:
    """What the Hub's API says to any question."""

    def answer(exchange: Exchange) -> bool:
        exchange.reply(status, body)
        return True

    return answer


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b"{}", r"the models of `someone` can't be listed: 127\.0\.0\.1:\d+ answered 403"),
        (200, b'{"a": 1}', "the answer of .* is not a list"),
        (200, json.dumps([{"id": f"someone/m{n}"} for n in range(1000)]).encode(), "fits more than 1,000 models"),
    ],
)
def test_a_list_of_models_that_is_not_whole_is_refused(
    tmp_path: Path, hub: Hub, status: int, body: bytes, said: str
) -> None:
    hub.on_api = answering(status, body)
    with pytest.raises((SourceError, LimitError), match=said):
        plan.tasks(job_of(tmp_path, ALL.replace('"in"', '"hf://someone/*"')))


def test_names_that_the_hub_should_not_have_are_no_tasks(tmp_path: Path, hub: Hub) -> None:
    names = ["someone/../x", "other/a", "someone/a b", "someone/\x1b[31m", 7, "someone/good", "someone/good"]
    hub.on_api = answering(200, json.dumps([{"id": name} for name in names]).encode())

    assert [task.source for task in plan.tasks(job_of(tmp_path, ALL.replace('"in"', '"hf://someone/*"')))] == [
        "hf://someone/good"
    ]
