"""The journal of an output that is being written, byte for byte as it is on the disk."""

import os
import stat
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from converter.errors import OutputError
from converter.io.folder import Folder
from converter.io.journal import Journal, locked
from converter.io.publish import Plan, PlannedFile, literal, publish

DIGEST = "5d41402abc4b2a76b9719d911017c592"


def journal_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial.journal")


def held(target: Path) -> AbstractContextManager[Journal]:
    return locked(target, Folder.opened(target.parent), journal_of(target).name)


WRITTEN = {
    "nothing": ("", set()),
    "only a digest": (f"{DIGEST}\n", set()),
    "a range": (f"{DIGEST}\n3-17\n", set(range(3, 18))),
    "one part": (f"{DIGEST}\n0-0\n", {0}),
    "several": (f"{DIGEST}\n0-1\n4-4\n2-2\n", {0, 1, 2, 4}),
    "half a line at the end": (f"{DIGEST}\n0-1\n4-1", {0, 1}),
    "a line without end": (f"{DIGEST}\n0-1\n4-12", {0, 1}),
    "a line that is none": (f"{DIGEST}\n0-1\nx\n-3\n5-\n 7-8\n9-9\n", {0, 1, 9}),
    "backwards": (f"{DIGEST}\n5-3\n", set()),
    "numbers of ten digits": (f"{DIGEST}\n1234567890-1234567891\n7-7\n", {7}),
    "another plan's": (f"{DIGEST[::-1]}\n0-9\n", set()),
    "a digest that is cut off": (f"{DIGEST[:-1]}\n0-9\n", set()),
    "bytes that are no text": (f"{DIGEST}\n1-1\n\xff\xfe\n2-2\n", {1, 2}),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_a_journal_says_is_whole(kind: str, tmp_path: Path) -> None:
    text, whole = WRITTEN[kind]
    journal_of(tmp_path / "x").write_bytes(text.encode("latin-1"))

    with held(tmp_path / "x") as journal:
        assert journal.whole(DIGEST) == whole


def test_what_is_noted_stands_in_lines_of_ranges(tmp_path: Path) -> None:
    with held(tmp_path / "x") as journal:
        journal.begin(DIGEST, [])
        assert journal_of(tmp_path / "x").read_text() == f"{DIGEST}\n"
        journal.note([4, 2, 3])
        journal.note([])
        journal.note([9, 0, 7, 8])

    assert journal_of(tmp_path / "x").read_text() == f"{DIGEST}\n2-4\n0-0\n7-9\n"


def test_a_journal_that_begins_anew_forgets_what_it_said(tmp_path: Path) -> None:
    journal_of(tmp_path / "x").write_text(f"another\n{'0-100' * 50}\n")

    with held(tmp_path / "x") as journal:
        journal.begin(DIGEST, {0, 1, 5})

        assert journal_of(tmp_path / "x").read_text() == f"{DIGEST}\n0-1\n5-5\n"
        assert journal.whole(DIGEST) == {0, 1, 5}


def test_only_one_run_has_it(tmp_path: Path) -> None:
    inner = "import sys\nfrom pathlib import Path\nfrom converter.io.folder import Folder\nfrom converter.io.journal import locked\nwith locked(Path(sys.argv[1]), Folder.opened(Path(sys.argv[2]).parent), Path(sys.argv[2]).name): print('mine')"
    words = [sys.executable, "-c", inner, str(tmp_path / "x"), str(journal_of(tmp_path / "x"))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}

    with held(tmp_path / "x") as journal:
        journal.begin(DIGEST, [])
        with (
            pytest.raises(OutputError, match="is being written by another run: wait for it to end"),
            held(tmp_path / "x"),
        ):
            pass
        second = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert journal_of(tmp_path / "x").read_text() == f"{DIGEST}\n"
    third = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert second.returncode != 0
    assert (third.returncode, third.stdout) == (0, "mine\n")


def test_it_stays_where_there_is_something_to_resume_and_goes_where_there_is_not(tmp_path: Path) -> None:
    with suppress(KeyError), held(tmp_path / "empty"):
        raise KeyError
    with suppress(KeyError), held(tmp_path / "begun") as journal:
        journal.begin(DIGEST, [0])
        raise KeyError
    with held(tmp_path / "done") as journal:
        journal.begin(DIGEST, [0])
        journal.forget()
        journal.forget()

    assert [path.name for path in tmp_path.iterdir()] == [".begun.partial.journal"]


def test_a_link_under_its_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    journal_of(tmp_path / "x").symlink_to("precious")

    with pytest.raises(OSError, match="symbolic links"), held(tmp_path / "x") as journal:
        journal.begin(DIGEST, [])
    assert (tmp_path / "precious").read_text() == "precious"


def test_others_may_do_with_it_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with held(tmp_path / "x") as journal:
            journal.begin(DIGEST, [])
    finally:
        os.umask(before)

    assert stat.S_IMODE(journal_of(tmp_path / "x").stat().st_mode) == 0o640


def test_every_folder_above_an_output_is_made(tmp_path: Path) -> None:
    file = Plan((PlannedFile("", (literal("0", b"abc"),)),), folder=False)
    folder = Plan((PlannedFile("deep/deeper/deepest", (literal("0", b"def"),)),), folder=True)

    publish(file, tmp_path / "one" / "two" / "three" / "x")
    publish(folder, tmp_path / "four" / "five" / "six")

    assert (tmp_path / "one" / "two" / "three" / "x").read_bytes() == b"abc"
    assert (tmp_path / "four" / "five" / "six" / "deep" / "deeper" / "deepest").read_bytes() == b"def"
