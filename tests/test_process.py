"""The package inside somebody else's program: it changes nothing there, and its commands leave nothing behind."""

from __future__ import annotations

import ast
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.dtypes import F32
from converter.errors import LimitError
from converter.hub.patience import Patience, waiting
from converter.hub.repository import open_remote
from converter.io.pool import Pool
from converter.io.source import Memory
from converter.limits import Limits, limits, using
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.tensors.tensor import Storage, Tensor
from converter.verification.comparison import compare
from converter.verification.walk import Sizes, Workspace
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.build.depth import share
from tests.build.hub_server import TINY, Hub, assert_no_secret

ROOT = Path(__file__).parent.parent
RUN = CliRunner()

# Each of our modules is imported between two checks; what third-party modules change on import does not count.
LOOK = """
import gc, importlib, json, locale, logging, os, pkgutil, signal, sys, threading, warnings
import fickling, huggingface_hub, isal, numpy, safetensors, typer, typer.core, typer.main
import concurrent.futures, huggingface_hub.file_download, huggingface_hub.utils, numpy.typing, safetensors.numpy
def look():
    return {
        "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
        "warnings": [str(entry) for entry in warnings.filters],
        "loggers": {name: [logger.level, str(logger.filters), str(logger.handlers), logger.propagate, logger.disabled]
                    for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)},
        "logging": [logging.root.level, str(logging.root.handlers), logging.root.manager.disable],
        "environment": dict(os.environ),
        "path": sys.path, "meta_path": str(sys.meta_path), "argv": sys.argv, "folder": os.getcwd(),
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
        "hooks": [str(sys.excepthook), str(sys.displayhook), str(sys.unraisablehook), str(threading.excepthook)],
        "numbers": [sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval()],
        "locale": locale.setlocale(locale.LC_ALL), "threads": threading.active_count(), "errors": str(numpy.geterr()),
    }
before = look()
import converter
names = [module.name for module in pkgutil.walk_packages(converter.__path__, "converter.")]
for name in names:
    importlib.import_module(name)
after = look()
print(json.dumps([len(names), {key: [before[key], after[key]] for key in before if before[key] != after[key]}]))
"""


def test_importing_every_module_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True)
    count, changed = json.loads(done.stdout)

    assert changed == {}
    assert count == len(list((ROOT / "converter").rglob("*.py"))) - 1
    assert done.stderr == ""


def ended(*words: str) -> Any:
    with pytest.raises(SystemExit) as raised:
        app(list(words))
    return raised.value.code


def test_commands_run_any_number_of_times_in_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "sample")

    assert ended("sample", folder) == 0
    assert ended("inspect", folder, "--json") == 0
    assert ended("inspect", f"{folder}/absent") == 2
    assert ended("inspct", folder) == 2
    assert ended("--help") == 0
    monkeypatch.setattr(sys, "argv", ["cerebras-tool", "scan", "--no-fickling", folder])
    with pytest.raises(SystemExit, match="0"):
        app()
    assert ended("verify", folder, folder) == 0
    assert RUN.invoke(app, ["inspect", folder]).exit_code == 0
    assert RUN.invoke(app, ["convert", folder, f"{folder}.gguf"]).exit_code == 0

    said = capsys.readouterr()
    assert "there is no command `inspct`; did you mean `cerebras-tool inspect " in said.err
    assert [name in said.out for name in ("  inspect ", "  convert ", "  demo ")] == [True] * 3


def test_commands_run_in_a_thread_that_is_not_the_main_one(tmp_path: Path) -> None:
    codes = []

    def commands() -> None:
        for words in (["sample", str(tmp_path / "s")], ["inspect", "absent/"], ["inspect", str(tmp_path / "s")]):
            try:
                app(words)
            except SystemExit as end:
                codes.append(end.code)

    thread = threading.Thread(target=commands)
    thread.start()
    thread.join()

    assert codes == [0, 2, 0]


@pytest.mark.parametrize("words", [["inspect", "sample"], ["inspect", "absent"], ["convert"], ["--help"], ["nonsense"]])
def test_a_command_leaves_handlers_hooks_and_the_collector_as_they_were(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended("sample", str(tmp_path / "sample")) == 0
    monkeypatch.chdir(tmp_path)

    def look() -> list[object]:
        handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
        return [*handlers, sys.excepthook, sys.stdout, sys.stderr, gc.get_threshold(), gc.isenabled(), limits()]

    def own(number: int, frame: object) -> None:
        pass

    first = signal.signal(signal.SIGTERM, own)
    try:
        before = look()
        ended(*words)

        assert look() == before
    finally:
        signal.signal(signal.SIGTERM, first)


# ---- limits -----------------------------------------------------------------------------------------------------------


def test_limits_of_a_command_end_with_it(tiny: Path) -> None:
    assert RUN.invoke(app, ["--limit", "entries=10", "models"]).exit_code == 0
    assert RUN.invoke(app, ["--limit", "entries=10", "inspect", str(tiny)]).exit_code == 2
    assert RUN.invoke(app, ["--limit", "entries=10", "--limit", "none=1", "models"]).exit_code == 2
    assert ended("--limit", "entries=10", "inspect", str(tiny)) == 2

    assert limits() == Limits()
    assert RUN.invoke(app, ["inspect", str(tiny)]).exit_code == 0
    assert len(open_checkpoint(tiny)) == 60


def test_a_command_starts_from_the_limits_around_it(tiny: Path) -> None:
    with using(Limits(entries=10)):
        assert RUN.invoke(app, ["inspect", str(tiny)]).exit_code == 2
        assert RUN.invoke(app, ["--limit", "rank=3", "inspect", str(tiny)]).exit_code == 2
        assert RUN.invoke(app, ["--limit", "entries=100", "inspect", str(tiny)]).exit_code == 0


def test_limits_are_handed_to_one_call(tiny: Path) -> None:
    with pytest.raises(LimitError, match="at most 10 "):
        open_checkpoint(tiny, limits=Limits(entries=10))

    assert limits() == Limits()
    assert len(open_checkpoint(tiny)) == 60


def test_two_threads_work_under_different_limits_at_once(tiny: Path) -> None:
    both = threading.Barrier(2, timeout=20)
    found: dict[int, list[object]] = {10: [], 100: []}

    def work(most: int) -> None:
        with using(Limits(entries=most)):
            for _ in range(20):
                both.wait()
                try:
                    found[most].append(len(open_checkpoint(tiny)))
                except LimitError as error:
                    found[most].append("at most 10 " in str(error))

    threads = [threading.Thread(target=work, args=(most,)) for most in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {10: [True] * 20, 100: [60] * 20}


class Asked(Memory):
    """Bytes that note under which limits, and by which thread, they are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.found: set[tuple[Limits, bool]] = set()

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.found.add((limits(), threading.current_thread() is threading.main_thread()))
        super()._fill(offset, buffer)


def test_what_a_pool_is_given_works_under_the_limits_of_who_gave_it() -> None:
    pool = Pool(1)  # one thread for all three

    with using(Limits(rank=3)):
        first = pool.submit(limits)
    with using(Limits(rank=4)):
        second = pool.submit(limits)

    assert [future.result(10).rank for future in (first, second, pool.submit(limits))] == [3, 4, 64]


def test_tensors_are_gathered_ahead_under_the_limits_of_who_reads_them() -> None:
    source = Asked(bytes(4 << 20))
    tensor = Tensor(F32, (1024, 1024), (1, 1024), 0, Storage(source, 0, source.size, "0"))

    with using(Limits(rank=3)):
        assert sum(len(tile) for tile in tensor.tiles(1 << 20)) == source.size

    assert (Limits(rank=3), False) in source.found
    assert {found.rank for found, _ in source.found} == {3}


def test_threads_that_compare_work_under_the_limits_of_who_compares() -> None:
    sources = [Asked(bytes(1 << 20)) for _ in range(2)]
    one, other = (Tensor(F32, (512, 512), (512, 1), 0, Storage(s, 0, s.size, "0")) for s in sources)

    with using(Limits(rank=3)):
        compare(one, other, Workspace(Sizes(step=4096)))

    assert {found for source in sources for found in source.found} == {(Limits(rank=3), False)}


# ---- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [lambda folder: convert(open_remote(TINY), folder / "x.safetensors"), lambda folder: ended("download", TINY)],
    ids=["ranges", "download"],
)
def test_our_requests_are_not_logged_and_those_of_the_host_program_are(
    work: Callable[[Path], object], hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from converter.hub.client import httpx

    logger = logging.getLogger(httpx.__name__)
    before = (logger.level, logger.propagate, logger.disabled, logger.handlers)
    caplog.set_level("DEBUG")

    with waiting(Patience()):
        work(tmp_path)
    ours = caplog.text
    with httpx.Client(trust_env=False) as client:
        client.get(f"{hub.url('elsewhere')}/of-the-host")

    assert len(hub.seen) > 3
    assert "/resolve/" not in ours
    assert_no_secret(hub, ours)
    assert "/of-the-host" in caplog.text
    assert (logger.level, logger.propagate, logger.disabled, logger.handlers) == before


# ---- a reader that goes away -------------------------------------------------------------------------------------------

HOST = """
import os, stat, sys
from converter.cli.app import app
for words in (["inspect", sys.argv[1]], ["scan", "--no-fickling", sys.argv[1]], ["inspect", "--json", sys.argv[1]]):
    try:
        app(words)
    except SystemExit as end:
        print(end.code, stat.S_ISFIFO(os.fstat(1).st_mode), file=sys.stderr)
try:
    sys.stdout.flush()
except BrokenPipeError:
    os._exit(0)
"""


def unread(command: list[str]) -> tuple[int, str]:
    """Run a command whose output nobody reads."""
    end, start = os.pipe()
    os.close(end)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=start, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(start)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["scan", "--no-fickling"], ["verify", "."]])
def test_the_program_ends_without_a_word_when_nobody_reads_it(words: list[str], tiny: Path) -> None:
    words = [str(tiny) if word == "." else word for word in words]

    assert unread([sys.executable, "-m", "converter", *words, str(tiny)]) == (0, "")


def test_a_host_program_keeps_its_own_stdout_when_nobody_reads_it(tiny: Path) -> None:
    assert unread([sys.executable, "-c", HOST, str(tiny)]) == (0, "0 True\n" * 3)


PROGRAM = "from converter.__main__ import main\nmain()\n"


@pytest.mark.parametrize(
    "line",
    share(
        [
            "batch job.toml",
            "batch job.toml --processes 2",
            "demo shown",
            "scan unknown.bin",
            "verify odd odd --level inference --prompt abc",
            "inspect odd --stats",
        ],
        1,
        2,
    ),
)
def test_nothing_that_lies_in_the_current_folder_is_imported(line: str, tmp_path: Path) -> None:
    """Checkpoints come with files of Python. A program that Python starts with `-c` or `-m` would import them."""
    folder = tmp_path / "folder"
    (folder / "converter").mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    write_sample(folder / "odd", "tiny")
    write_checkpoint(
        folder / "unknown.bin", {"w": view("0", (2,)), "x": Call(Global("somewhere", "Thing"), ())}, {"0": floats(1, 2)}
    )
    (folder / "job.toml").write_text("sources = ['odd']\nsteps = ['check', 'scan']\n")
    for module in ("converter/__init__", "converter/__main__", "json", "numpy", "tokenizers", "fickling", "secrets", "encodings"):  # fmt: skip
        (folder / f"{module}.py").write_text(f"open({str(tmp_path / 'obeyed')!r}, 'w').close()\n")

    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *line.split()],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert not (tmp_path / "obeyed").exists()
    assert done.returncode in (0, 1) or "tokenizers" in done.stderr, done.stderr


def test_every_python_that_is_started_leaves_out_the_current_folder() -> None:
    commands = [
        ast.unparse(node.elts[1])
        for path in (ROOT / "converter").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
    ]

    assert len(commands) >= 5
    assert {*commands} <= {"'-P'", "'-I'"}
