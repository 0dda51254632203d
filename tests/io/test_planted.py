"""Whatever others put under the names that a run uses, before or during it, is not followed, opened or removed."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converter.errors import OutputError
from converter.io.folder import Folder, identity
from converter.io.parts import Part
from converter.io.publish import Piece, Plan, PlannedFile, add, literal, publish
from converter.io.report_files import write_report
from tests.attacks.commands import assert_sentence, everything, run
from tests.build.checkpoints import floats, view, write_checkpoint

NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")

Plant = Callable[[Path, Path], None]  # the place of the output, and the precious folder beside it


def other_owner(place: Path, precious: Path) -> None:
    place.write_bytes(b"theirs")
    place.chmod(0o666)
    os.chown(place, NOBODY, NOBODY)


KINDS: dict[str, Plant] = {
    "a link to a file": lambda place, precious: place.symlink_to(precious / "file"),
    "a link to a folder": lambda place, precious: place.symlink_to(precious),
    "a link to nothing": lambda place, precious: place.symlink_to(precious / "absent"),
    "a link to itself": lambda place, precious: place.symlink_to(place.name),
    "a hard link": lambda place, precious: place.hardlink_to(precious / "file"),
    "a pipe": lambda place, precious: os.mkfifo(place),
    "a folder": lambda place, precious: print(shutil.copytree(precious, place)),
}
FILE = Plan((PlannedFile("", (literal("0", b"abc"),)),), folder=False)
FOLDER = Plan((PlannedFile("a", (literal("0", b"abc"),)), PlannedFile("b/c", (literal("1", b"d"),))), folder=True)


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing may change."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_bytes(b"precious")
    (folder / "file").chmod(0o600)
    before = everything(folder)
    yield folder
    assert everything(folder) == before
    assert stat.S_IMODE((folder / "file").stat().st_mode) == 0o600


def attempted(what: Callable[[], None]) -> str:
    """Return the error message; nothing if the run succeeds."""
    try:
        what()
    except OutputError as error:
        return str(error)
    return ""


def planting(plan: Plan, plant: Callable[[], None]) -> Plan:
    """The plan, at whose first byte something is planted."""

    def tiles() -> Iterator[memoryview]:
        plant()
        yield memoryview(b"x")

    first = PlannedFile(plan.files[0].path, (*plan.files[0].pieces, Piece("x", (Part(1, lambda buffers: tiles()),))))
    return Plan((first, *plan.files[1:]), plan.folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_under_the_name_of_the_partial_output(
    kind: str, folder: bool, resume: bool, precious: Path, tmp_path: Path
) -> None:
    KINDS[kind](tmp_path / ".out.partial", precious)

    said = attempted(lambda: publish(FOLDER if folder else FILE, tmp_path / "out", resume=resume))

    if kind == "a folder":
        assert "no run of this program left it: remove it" in said
        assert everything(tmp_path / ".out.partial") == everything(precious)
    else:
        assert said == ""
        assert not (tmp_path / "out").is_symlink()
        assert (tmp_path / "out" / "a" if folder else tmp_path / "out").read_bytes() == b"abc"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [False, True])
def test_under_the_name_of_the_journal(kind: str, folder: bool, precious: Path, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / ".out.partial.journal", precious)

    said = attempted(lambda: publish(FOLDER if folder else FILE, tmp_path / "out"))

    assert said.startswith("`")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_under_the_name_of_the_output(kind: str, folder: bool, force: bool, precious: Path, tmp_path: Path) -> None:
    plan = FOLDER if folder else FILE
    if (kind, folder) == ("a folder", True) or kind == "a hard link":
        force = False  # these are plain folders and files, and may be replaced
    KINDS[kind](tmp_path / "out", precious)
    before = everything(tmp_path)

    assert attempted(lambda: publish(plan, tmp_path / "out", force=force))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["README.md", ".gitignore"])
def test_under_the_name_of_what_a_folder_keeps(kind: str, name: str, precious: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    KINDS[kind](tmp_path / "out" / name, precious)

    assert "is not empty" in attempted(lambda: publish(FOLDER, tmp_path / "out"))
    publish(FOLDER, tmp_path / "out", force=True)

    assert everything(tmp_path / "out") == {"a": b"abc", "b": None, "b/c": b"d"}


def test_what_a_folder_keeps_comes_with_its_mode_and_time(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "README.md"
    kept.write_text("mine")
    kept.chmod(0o640)
    os.utime(kept, ns=(1_000, 2_000))

    publish(FOLDER, tmp_path / "out")

    assert kept.read_text() == "mine"
    assert (stat.S_IMODE(kept.stat().st_mode), kept.stat().st_mtime_ns) == (0o640, 2_000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "b", "b/c"])
def test_within_the_partial_output_while_it_is_written(kind: str, name: str, precious: Path, tmp_path: Path) -> None:
    plan = Plan(
        (PlannedFile("0", (literal("0", b"0"),)), *FOLDER.files),
        folder=True,
        finish=lambda: [PlannedFile("late/manifest.json", (literal("2", b"{}"),))],
    )
    place = tmp_path / ".out.partial" / name

    def plant() -> None:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        KINDS[kind](place, precious)

    said = attempted(lambda: publish(planting(plan, plant), tmp_path / "out", threads=1))

    # A file in the place of a folder, or with another name, is refused when it is opened again.
    assert said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_under_the_name_of_a_manifest_while_the_tensors_are_written(kind: str, precious: Path, tmp_path: Path) -> None:
    finish = Plan(FOLDER.files, True, finish=lambda: [PlannedFile("manifest.json", (literal("2", b"{}"),))])
    plan = planting(finish, lambda: KINDS[kind](tmp_path / ".out.partial" / "manifest.json", precious))
    plan = Plan(plan.files, True, finish=finish.finish)

    assert attempted(lambda: publish(plan, tmp_path / "out", threads=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_under_the_name_of_the_output_while_it_is_written(
    kind: str, folder: bool, force: bool, precious: Path, tmp_path: Path
) -> None:
    plan = planting(FOLDER if folder else FILE, lambda: KINDS[kind](tmp_path / "out", precious))

    said = attempted(lambda: publish(plan, tmp_path / "out", force=force))

    assert "was changed by another program while it was written: start again" in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("folder", [False, True])
def test_another_partial_output_in_the_place_of_ours_is_not_taken(folder: bool, precious: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"

    def plant() -> None:
        partial.rename(tmp_path / "moved")
        shutil.copytree(precious, partial) if folder else partial.write_bytes(b"theirs")

    said = attempted(lambda: publish(planting(FOLDER if folder else FILE, plant), tmp_path / "out", threads=1))

    assert said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", [False, True])
def test_a_parent_that_becomes_a_link_midway_leads_nowhere(folder: bool, precious: Path, tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()

    def plant() -> None:
        (tmp_path / "parent").rename(tmp_path / "moved")
        (tmp_path / "parent").symlink_to(precious)

    publish(planting(FOLDER if folder else FILE, plant), tmp_path / "parent" / "out", threads=1)

    # The output lies in the folder in which it was started.
    assert (tmp_path / "moved" / "out").exists()
    assert [path.name for path in precious.iterdir()] == ["file"]


def test_a_folder_that_is_made_for_the_output_is_no_link(
    precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def faster(name: str, *rest: int, dir_fd: int | None = None) -> None:
        if name == "deep":
            os.symlink(precious, "deep", dir_fd=dir_fd)
        real(name, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", faster)
    assert attempted(lambda: publish(FILE, tmp_path / "deep" / "out"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_interrupted_run_left_is_continued_only_if_it_is_that(
    kind: str, precious: Path, tmp_path: Path
) -> None:
    def end() -> None:
        raise OutputError("ended")

    interrupted = planting(FOLDER, end)
    assert attempted(lambda: publish(interrupted, tmp_path / "out", resume=True)) == "ended"
    partial = tmp_path / ".out.partial"
    journal = tmp_path / ".out.partial.journal"
    assert journal.read_text().startswith(f"{interrupted.digest()} {partial.stat().st_dev}:{partial.stat().st_ino}\n")
    partial.rename(tmp_path / "moved")
    KINDS[kind](partial, precious)

    said = attempted(lambda: publish(FOLDER, tmp_path / "out", resume=True))

    assert ("no run of this program left it" in said) == (kind == "a folder")
    assert kind == "a folder" or everything(tmp_path / "out") == {"a": b"abc", "b": None, "b/c": b"d"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [".a.partial", ".partial.journal", "a"])
def test_beside_files_that_are_added(kind: str, name: str, precious: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    KINDS[kind](out / name, precious)
    plan = Plan((PlannedFile("a", (literal("0", b"abc"),)),), folder=True)

    said = attempted(lambda: add(plan, out, check=lambda: None))

    assert said or (out / "a").read_bytes() == b"abc"
    assert said or not (out / "a").is_symlink()
    assert bool(said) == (kind == "a folder" or name == ".partial.journal")


@pytest.mark.parametrize("kind", KINDS)
def test_under_the_name_of_a_report(kind: str, precious: Path, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "x.sarif", precious)

    assert attempted(lambda: write_report(tmp_path / "x.sarif", b"{}"))


@root
def test_what_is_another_users_is_not_used(precious: Path, tmp_path: Path) -> None:
    other_owner(tmp_path / ".out.partial.journal", precious)
    assert "was put there by another program: remove it" in attempted(lambda: publish(FILE, tmp_path / "out"))

    (tmp_path / ".out.partial.journal").unlink()
    other_owner(tmp_path / ".out.partial", precious)
    publish(FILE, tmp_path / "out", resume=True)
    assert (tmp_path / "out").stat().st_uid == 0


@root
@pytest.mark.parametrize("name", [".out.partial", ".out.partial.journal", "out"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a hard link"])
def test_in_a_sticky_folder_others_can_only_stop_a_run(name: str, kind: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        shared = Path(made)
        shared.chmod(0o1777)
        theirs = shared / "theirs"
        theirs.mkdir()
        (theirs / "file").write_bytes(b"theirs")
        KINDS[kind](shared / name, theirs)
        before = everything(shared)
        os.seteuid(NOBODY)
        try:
            said = attempted(lambda: publish(FILE, shared / "out", force=True))
        finally:
            os.seteuid(0)
        assert said
        after = everything(shared)
        after.pop(".out.partial.journal", None)
        before.pop(".out.partial.journal", None)
        assert after == before


def test_commands_say_it_in_a_sentence(precious: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (2,))}, {"0": floats(1, 2)})
    for number, plant in enumerate(KINDS.values()):
        for name in ("out{}", ".out{}.partial.journal"):
            plant(tmp_path / name.format(number), precious)
        for words in (
            ("convert", source, tmp_path / f"out{number}", "--to", "safetensors"),
            ("extract", source, tmp_path / f"out{number}"),
            ("scan", source, "--no-fickling", "--sarif", tmp_path / f"out{number}"),
        ):
            ended = run(*words)
            assert ended.code == 2, words
            assert_sentence(ended.err)


def test_a_folder_whose_path_is_long_gone_is_still_written(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with Folder.opened(tmp_path / "x") as folder:
        (tmp_path / "x").rename(tmp_path / "y")
        folder.make("a/b")
        with folder.writing("a/b") as descriptor:
            os.write(descriptor, b"1")

        assert folder.identity == identity((tmp_path / "y").stat())
    assert (tmp_path / "y" / "a" / "b").read_bytes() == b"1"


@pytest.mark.parametrize("folder", [False, True])
def test_where_the_kernel_swaps_nothing_the_old_output_is_never_lost(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    plan = FOLDER if folder else FILE
    publish(plan, tmp_path / "out")
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "mine").write_bytes(b"mine")

    publish(plan, tmp_path / "out", force=True)

    assert (tmp_path / ".out.old" / "mine").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.old", "out"]
