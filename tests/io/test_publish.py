"""An output is absent, old or complete; the parts that `--resume` keeps are whole."""

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from converter.errors import OutputError
from converter.io.parts import Buffers, Part, Portions, hole, portioned
from converter.io.publish import Piece, Plan, PlannedFile, add, literal, publish
from tests.build.depth import share


def file_plan(*contents: bytes, identity: str = "") -> Plan:
    pieces = tuple(literal(str(number), content) for number, content in enumerate(contents))
    return Plan((PlannedFile("", pieces),), folder=False, identity=identity)


def folder_plan(**contents: bytes) -> Plan:
    files = tuple(PlannedFile(name.replace("__", "/"), (literal(name, data),)) for name, data in contents.items())
    return Plan(files, folder=True)


def failing(error: BaseException, after: bytes = b"") -> Plan:
    def tiles() -> Iterator[memoryview]:
        if after:
            yield memoryview(after)
        raise error

    return Plan((PlannedFile("", (Piece("bad", (Part(10, lambda buffers: tiles()),)),)),), folder=False)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_writes_the_pieces_one_after_another(tmp_path: Path) -> None:
    publish(file_plan(b"ab", b"", b"cde"), tmp_path / "out")

    assert everything(tmp_path) == {"out": b"abcde"}


def test_writes_a_folder_with_folders_in_it(tmp_path: Path) -> None:
    publish(folder_plan(a=b"1", b__c=b"2", empty=b""), tmp_path / "deep" / "out")

    assert everything(tmp_path) == {"deep/out/a": b"1", "deep/out/b/c": b"2", "deep/out/empty": b""}


def test_an_empty_file_is_written_wherever_it_stands(tmp_path: Path) -> None:
    publish(folder_plan(first=b"", middle=b"1", last=b""), tmp_path / "out")

    assert everything(tmp_path / "out") == {"first": b"", "last": b"", "middle": b"1"}


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        publish(file_plan(b"a"), tmp_path / "file")
        publish(folder_plan(a=b"1"), tmp_path / "folder")
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "folder" / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out").write_bytes(b"old")

    with pytest.raises((type(error), OutputError)):
        publish(failing(error, b"abc"), tmp_path / "out", force=True)

    assert everything(tmp_path) == {"out": b"old"}


def test_a_check_that_fails_at_the_end_keeps_the_target_as_it_was(tmp_path: Path) -> None:
    def changed() -> None:
        raise OutputError("the source was changed")

    with pytest.raises(OutputError, match="changed"):
        publish(file_plan(b"a"), tmp_path / "out", check=changed)

    assert everything(tmp_path) == {}


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")

    with pytest.raises(OutputError, match="give --force"):
        publish(file_plan(b"new"), tmp_path / "out")
    publish(file_plan(b"new"), tmp_path / "out", force=True)

    assert everything(tmp_path) == {"out": b"new"}


def test_a_folder_with_only_a_readme_counts_as_empty_and_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    (out / ".gitignore").write_text("*")

    publish(folder_plan(a=b"1"), out)

    assert everything(tmp_path) == {"out/.gitignore": b"*", "out/README.md": b"mine", "out/a": b"1"}


def test_a_folder_that_is_not_empty_needs_force_and_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(folder_plan(a=b"1", b=b"2"), out)

    with pytest.raises(OutputError, match="not empty: give --force"):
        publish(folder_plan(c=b"3"), out)
    publish(folder_plan(c=b"3"), out, force=True)

    assert everything(tmp_path) == {"out/c": b"3"}


@pytest.fixture
def one_by_one() -> Iterator[None]:
    """Let a thread take one part at a time, and the journal note each."""
    with portioned(Portions(together=1, synced=1)):
        yield


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.usefixtures("one_by_one")
def test_what_sees_a_part_sees_it_also_if_an_earlier_run_wrote_it(threads: int, tmp_path: Path) -> None:
    """A digest of the output needs every byte, also those that are not written again."""
    made: list[int] = []
    seen = dict.fromkeys(range(6), b"")

    def plan(*, fails: bool) -> Plan:
        def part(number: int) -> Part:
            def tiles() -> Iterator[memoryview]:
                if fails and number == 5:
                    raise KeyboardInterrupt
                made.append(number)
                yield memoryview(bytes([number]) * 1000)

            def look(tile: memoryview) -> None:
                seen[number] += bytes(tile)

            return Part(1000, lambda buffers: tiles(), look)

        return Plan(
            (PlannedFile("", tuple(Piece(str(n), (part(n),)) for n in range(6))),), folder=False, identity="same"
        )

    with pytest.raises(KeyboardInterrupt):
        publish(plan(fails=True), tmp_path / "out", resume=True, threads=1)
    assert made == [0, 1, 2, 3, 4]
    seen.update(dict.fromkeys(seen, b""))

    publish(plan(fails=False), tmp_path / "out", resume=True, threads=threads)

    assert seen == {number: bytes([number]) * 1000 for number in range(6)}
    assert everything(tmp_path) == {"out": b"".join(seen.values())}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.usefixtures("one_by_one")
def test_a_part_that_depends_on_the_others_is_made_after_them(threads: int, tmp_path: Path) -> None:
    made: list[int] = []

    def part(number: int, *, late: bool = False) -> Part:
        def tiles() -> Iterator[memoryview]:
            made.append(number)
            yield memoryview(bytes([sum(made) if late else number]))

        return Part(1, lambda buffers: tiles(), late=late)

    parts = (part(100, late=True), *(part(number) for number in range(1, 9)))
    publish(Plan((PlannedFile("", (Piece("all", parts),)),), folder=False), tmp_path / "out", threads=threads)

    assert everything(tmp_path) == {"out": bytes([136, 1, 2, 3, 4, 5, 6, 7, 8])}


@pytest.mark.parametrize(
    ("number", "ends"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EOPNOTSUPP, False), (errno.EINVAL, False)]
)
def test_a_full_disk_shows_before_the_work(
    number: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that can't reserve room is written as it is."""

    def reserve(descriptor: int, offset: int, nbytes: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)
    monkeypatch.setattr(os, "major", lambda device: 8)
    if not ends:
        publish(file_plan(b"abc"), tmp_path / "out")
        assert everything(tmp_path) == {"out": b"abc"}
        return
    with pytest.raises(OutputError):
        publish(file_plan(b"abc"), tmp_path / "out")
    assert everything(tmp_path) == {}


def test_a_second_run_waits_for_nobody(tmp_path: Path) -> None:
    with (tmp_path / ".out.partial.journal").open("w") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)

        with pytest.raises(OutputError, match="another run"):
            publish(file_plan(b"a"), tmp_path / "out")


SCRIPT = """
import sys, os, time
from pathlib import Path
from converter.io import publish as p
from converter.io.parts import Part, Portions, portioned
def part(number):
    def made(buffers):
        for _ in range(10):
            time.sleep(0.002)
            yield memoryview(bytes([number]) * 100)
    return Part(1000, made)
files = [p.PlannedFile(f"f{n}", tuple(p.Piece(f"{n}.{i}", (part(10 * n + i),)) for i in range(4))) for n in range(5)]
plan = p.Plan(tuple(files), folder=True, identity=sys.argv[2])
with portioned(Portions(synced=1000, together=500)):
    p.publish(plan, Path(sys.argv[1]), resume=sys.argv[3] == "resume", force=True, threads=int(sys.argv[4]))
"""
WHOLE = {f"f{n}": b"".join(bytes([10 * n + i]) * 1000 for i in range(4)) for n in range(5)}


def start(target: Path, how: str, identity: str = "same", threads: int = 1) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(target), identity, how, str(threads)],
        cwd=Path(__file__).parent.parent.parent,
    )


def await_entries(out: Path, count: int) -> None:
    """Wait until the journal has this many lines after the first."""
    journal = out.with_name(f".{out.name}.partial.journal")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if journal.exists() and journal.read_bytes().count(b"\n") > count:
            return
        time.sleep(0.001)
    raise AssertionError("the journal did not grow")


@pytest.mark.parametrize(("parts", "threads"), share([(parts, n) for n in (1, 4) for parts in (0, 1, 2, 5, 10)], 0, 3))
def test_killed_at_any_moment_the_target_is_old_and_resume_completes_it(
    tmp_path: Path, parts: int, threads: int
) -> None:
    out = tmp_path / "out"
    publish(folder_plan(old=b"old"), out)

    killed = start(out, "resume", threads=threads)
    await_entries(out, parts)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = everything(out)
    assert start(out, "resume", threads=threads).wait() == 0

    assert before in ({"old": b"old"}, WHOLE)
    assert everything(tmp_path) == {f"out/{name}": data for name, data in WHOLE.items()}


def test_what_was_left_by_another_source_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = start(out, "resume", "one source")
    await_entries(out, 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for path in (tmp_path / ".out.partial").rglob("f*"):
        path.write_bytes(b"\xff" * path.stat().st_size)

    assert start(out, "resume", "another source").wait() == 0

    assert everything(out) == WHOLE


def test_a_file_size_limit_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), "x", "anew", "1"],
        cwd=Path(__file__).parent.parent.parent,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "can't be written: file too large" in done.stderr
    assert everything(tmp_path) == {}


def sparse_plan(nbytes: int) -> Plan:
    pieces = (literal("start", b"ab"), Piece("zeros", (hole(nbytes),)), literal("end", b"c"))
    return Plan((PlannedFile("", pieces),), folder=False)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_hole_reads_as_zeros_takes_no_disk_and_counts_as_progress(threads: int, tmp_path: Path) -> None:
    told: list[int] = []

    publish(sparse_plan(64 << 20), tmp_path / "out", progress=told.append, threads=threads)

    written = (tmp_path / "out").stat()
    assert written.st_size == (64 << 20) + 3
    assert written.st_blocks * 512 < 1 << 20
    assert (tmp_path / "out").read_bytes() == b"ab" + bytes(64 << 20) + b"c"
    assert sum(told) == (64 << 20) + 3


def test_a_hole_may_stand_at_the_end_and_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan((PlannedFile("", (literal("start", b"ab"), Piece("zeros", (hole(8 << 30),)))),), folder=False)
    room = os.statvfs_result((4096, 4096, 1000, 512, 512, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: room)

    publish(plan, tmp_path / "out")

    assert (tmp_path / "out").stat().st_size == (8 << 30) + 2


@pytest.mark.parametrize("nbytes", [0, 1, 1 << 20, (1 << 20) + 1])
def test_the_tiles_of_a_hole_are_zeros(nbytes: int) -> None:
    assert b"".join(hole(nbytes).tiles(Buffers(1))) == bytes(nbytes)


def test_files_are_added_to_a_folder_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".b.partial").symlink_to("mine")

    add(folder_plan(a=b"1", b=b"2"), tmp_path, check=lambda: None)

    assert everything(tmp_path) == {"a": b"1", "b": b"2", "mine": b"mine"}


def test_where_not_all_files_can_be_added_none_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    plan = folder_plan(a=b"1")
    bad = failing(OSError(errno.EIO, "Input/output error")).files[0].pieces
    plan = Plan((*plan.files, PlannedFile("b", bad)), folder=True)

    with pytest.raises(OutputError, match="can't be written: input/output error"):
        add(plan, tmp_path, check=lambda: None)
    with pytest.raises(OutputError, match="input/output error"):
        add(plan, tmp_path / "new" / "folder", check=lambda: None)

    assert everything(tmp_path) == {"a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_are_added_when_a_check_has_passed_that_no_other_run_can_upset(tmp_path: Path) -> None:
    def check() -> None:
        with pytest.raises(OutputError, match="is being written by another run"):
            add(folder_plan(a=b"2"), tmp_path, check=lambda: None)
        raise OutputError("no")

    with pytest.raises(OutputError, match="no"):
        add(folder_plan(a=b"1"), tmp_path, check=check)

    assert everything(tmp_path) == {}
