"""What a hostile file can do to the disk and the terminal through our output. Numbers: README.md."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from converter.errors import OutputError
from converter.formats.parameters import properties as parameters
from converter.io.parts import Buffers, Part
from converter.io.publish import Piece, Plan, PlannedFile, check_target, literal, publish
from converter.opening import open_checkpoint
from converter.text import safe_text
from tests.attacks.commands import TENSORS, WEIGHTS, assert_refused, assert_sentence, everything, run
from tests.build.checkpoints import Call, Global, Raw, floats, view, write_checkpoint, zip_bytes
from tests.build.checkpoints import Entry as Record
from tests.build.children import interruptible

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "x.bin", TENSORS, WEIGHTS)


def file_plan(content: bytes) -> Plan:
    return Plan((PlannedFile("", (literal("0", content),)),), folder=False)


# ---- O01: a run that does not reach its end ---------------------------------------------------------------------------

SLOWLY = """
import os, sys, time
from converter.io.parts import Portions, portioned
write = os.pwrite
def slowly(*arguments):
    write(*arguments)
    print("writing\\n", end="", flush=True)  # in one call, as two threads may be here
    time.sleep(60)
os.pwrite = slowly
from converter.cli.app import app
with portioned(Portions(together=8, run=8)):
    app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Control-C"]
)
@pytest.mark.parametrize(
    "command", [["extract", "deep/out"], ["convert", "deep/out.safetensors"]], ids=["extract", "convert"]
)
def test_o01_a_signal_leaves_nothing(number: int, code: int, command: list[str], source: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    words = [sys.executable, "-c", SLOWLY, command[0], str(source), str(tmp_path / command[1])]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=interruptible
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"writing\n"
        assert everything(tmp_path) != before
        running.send_signal(number)
        assert running.wait(20) in (code, 1)  # typer says 1 for Control-C in some versions

    assert everything(tmp_path) == before


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_o01_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(
    error: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"old")
    before = everything(tmp_path)

    def full(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pwrite", full)
    for target, options in (("out", []), ("a/b/out", []), ("old.safetensors", ["--force"])):
        ended = run("convert", source, tmp_path / target, *([] if "." in target else ["--to", "safetensors"]), *options)
        assert ended.code == 2
        assert_sentence(ended.err)
        assert os.strerror(error).lower() in ended.err
    assert everything(tmp_path) == before


def test_o01_a_source_that_turns_out_damaged_leaves_nothing_not_even_folders(tmp_path: Path) -> None:
    data = write_checkpoint(tmp_path / "x.bin", TENSORS, WEIGHTS).read_bytes()
    (tmp_path / "x.bin").write_bytes(data.replace(WEIGHTS["0"], floats(1, 3)))
    before = everything(tmp_path)

    for command in (("extract", "a/b/out"), ("convert", "a/b/out.safetensors")):
        ended = run(command[0], tmp_path / "x.bin", tmp_path / command[1])
        assert (ended.code, "is damaged" in ended.err) == (2, True)
    assert everything(tmp_path) == before


def test_o01_of_several_files_none_is_written_where_one_may_not_be(tiny: Path, tmp_path: Path) -> None:
    split = ["--max-shard-size", "200kB"]
    assert run("convert", tiny, tmp_path / "x.gguf", *split).code == 0
    first, *others = sorted(tmp_path.glob("*.gguf"))
    assert others
    first.unlink()
    before = everything(tmp_path)

    ended = run("convert", tiny, tmp_path / "x.gguf", *split)
    assert (ended.code, "give --force" in ended.err) == (2, True)
    assert everything(tmp_path) == before


# ---- O02: names that become paths ------------------------------------------------------------------------------------

NAMES = [
    "../../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "", ".", "..", "...", "-rf", "~", "$HOME", "`id`", "a;b", "*", "a\nb", "nul\x1b[31m",
    "é", "\u202e", "x" * 300, "é" * 300, "%2e%2e", "manifest.json", "model.properties", "README.md", ".gitignore", "CON", "a.", " ",
]  # fmt: skip


@pytest.mark.parametrize("form", ["storages", "named"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_o02_no_name_of_a_tensor_becomes_a_path_unchecked(tmp_path: Path, form: str, name: str) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {name: view("0", (1,))}, {"0": floats(1.0)})

    assert run("extract", path, tmp_path / "out", "--form", form).code == 0

    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*"))
    assert len(made) == 2
    assert all(len(file) < 220 and file.isascii() and file.isprintable() and file[0] not in ".-" for file in made)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "x.bin"]
    assert {n: t.bits().tolist() for n, t in open_checkpoint(tmp_path / "out").items()} == {name: [1]}


@pytest.mark.parametrize(
    "key", ["a/b", "-rf", "~", "a b", "C:", "é", "x" * 300, "README.md", ".gitignore", "%2e%2e"], ids=ascii
)
def test_o02_no_key_of_a_storage_becomes_a_path_unchecked(tmp_path: Path, key: str) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view(key, (1,))}, {key: floats(1.0)})

    assert run("extract", path, tmp_path / "out").code == 0

    (made,) = [p.name for p in (tmp_path / "out").rglob("*") if p.name != "manifest.json"]
    assert made.isascii()
    assert made.isprintable()
    assert made[0] not in ".-"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "x.bin"]
    assert {n: t.bits().tolist() for n, t in open_checkpoint(tmp_path / "out").items()} == {"w": [1]}


@pytest.mark.parametrize("key", ["manifest.json", "Manifest.JSON", "model.properties"])
def test_o02_a_storage_that_would_take_the_manifest_s_place_is_refused(tmp_path: Path, key: str) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view(key, (1,))}, {key: floats(1.0)})
    before = everything(tmp_path)

    ended = run("extract", path, tmp_path / "out")
    assert (ended.code, "would be the same file" in ended.err) == (2, True)
    assert everything(tmp_path) == before


def test_o02_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    tensors = {"w": view("0", (1,)), "W": view("1", (1,))}
    path = write_checkpoint(tmp_path / "x.bin", tensors, {"0": floats(1.0), "1": floats(2.0)})

    ended = run("extract", path, tmp_path / "out", "--form", "named")
    assert (ended.code, "on a disk that ignores case" in ended.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_o02_a_plan_with_a_path_that_leads_out_is_our_mistake_and_writes_nothing(tmp_path: Path) -> None:
    for path in ("../x", "a/../../x", "/tmp/x"):
        with pytest.raises(AssertionError):
            publish(Plan((PlannedFile(path, (literal("0", b"x"),)),), folder=True), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# False statements of a manifest: (entry, field, value); the entry is `files`, `tensors` or the document itself.
MANIFESTS: dict[str, tuple[str, str, Any]] = {
    "another schema": ("", "schema", "other/v1"),
    "no files": ("", "files", None),
    "files that are text": ("", "files", "x"),
    "tensors that are numbers": ("", "tensors", [1]),
    "a form that is none": ("", "form", "other"),
    "a configuration that is text": ("", "config", "x"),
    "a configuration that is a list": ("", "config", ["ab"]),
    "a path that leads out": ("files", "path", "../x.bin"),
    "a path with a zero byte": ("files", "path", "0\0"),
    "a path from the root": ("files", "path", "/etc/passwd"),
    "a path that is hidden": ("files", "path", ".ssh"),
    "a path of another type": ("files", "path", ["0"]),
    "a file that is missing": ("files", "path", "absent"),
    "a file that is a folder": ("files", "path", "folder"),
    "a file that is a link": ("files", "path", "link"),
    "a file behind a link": ("files", "path", "outside/x.bin"),
    "another size": ("files", "nbytes", 3),
    "a size of text": ("files", "nbytes", "4"),
    "a size that is a float": ("files", "nbytes", 4.0),
    "a size that is negative": ("files", "nbytes", -4),
    "a CRC of words": ("files", "crc32", "zz"),
    "a CRC that is a number": ("files", "crc32", 7),
    "a key of another type": ("files", "key", ["0"]),
    # `extract` writes a folder for each shard: this one would lie outside of the output.
    "a shard that leads out": ("files", "shard", "../../../evil"),
    "a shard from the root": ("files", "shard", "/tmp/evil"),
    "a shard of another type": ("files", "shard", [1]),
    "a shard that is true": ("files", "shard", True),
    "a shard of 0": ("files", "shard", 0),
    "a name that is a number": ("tensors", "name", 5),
    "a name that is a list": ("tensors", "name", []),
    "an unknown dtype": ("tensors", "dtype", "F33"),
    "a dtype of another type": ("tensors", "dtype", None),
    "a shape of text": ("tensors", "shape", ["x"]),
    "a shape of floats": ("tensors", "shape", [1.0]),
    "a shape past the file": ("tensors", "shape", [2]),
    "a negative stride": ("tensors", "stride", [-1]),
    "an offset past the file": ("tensors", "offset", 1),
    "no parts": ("tensors", "parts", []),
    "parts that are not listed": ("tensors", "parts", ["1"]),
    "parts of another type": ("tensors", "parts", [["0"]]),
    "a byte order that is none": ("tensors", "byte_order", "middle"),
    "a byte order of another type": ("tensors", "byte_order", ["little"]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_o02_a_manifest_that_lies_is_refused_and_leads_nowhere(tmp_path: Path, name: str) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (1,))}, {"0": floats(1.0)})
    folder = tmp_path / "params"
    assert run("extract", path, folder).code == 0
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("0")
    (folder / "outside").symlink_to(tmp_path)
    where, field, value = MANIFESTS[name]
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest[where][0] if where else manifest
    entry[field] = value
    if name in ("a file that is a link", "a file behind a link"):
        entry["nbytes"] = (folder / value).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))

    assert_refused(folder)
    assert run("verify", path, folder).code == 1


def test_o02_a_file_twice_in_a_manifest_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (1,))}, {"0": floats(1.0)})
    assert run("extract", path, tmp_path / "params").code == 0
    manifest = json.loads((tmp_path / "params" / "manifest.json").read_text())
    (tmp_path / "params" / "manifest.json").write_text(json.dumps(manifest | {"files": 2 * manifest["files"]}))

    assert_refused(tmp_path / "params", "occurs twice")


# ---- O03 to O06: the place that is written to -------------------------------------------------------------------------


def test_o03_an_input_is_never_written_over_however_it_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").hardlink_to(source)
    (tmp_path / "folder" / "deeper").mkdir()
    status = source.stat()
    inputs = [(status.st_dev, status.st_ino)]
    folder = Plan((PlannedFile("a", (literal("a", b"x"),)),), folder=True)

    for target in ("x.bin", "hard", "folder/../x.bin"):
        with pytest.raises(OutputError, match="is the input itself"):
            publish(file_plan(b"x"), tmp_path / target, force=True, inputs=inputs)
    for place in (tmp_path / "folder", tmp_path):
        with pytest.raises(OutputError, match="holds the input"):
            publish(folder, place, force=True, inputs=inputs)
    assert source.read_bytes() == (tmp_path / "hard").read_bytes()


def test_o03_no_command_writes_over_what_it_reads(tiny: Path, source: Path, tmp_path: Path) -> None:
    assert run("convert", source, tmp_path / "x.safetensors").code == 0
    assert run("extract", source, tmp_path / "params").code == 0
    assert run("extract", tiny, tmp_path / "tiny-params").code == 0
    before, model = everything(tmp_path), everything(tiny)
    copy, folder = tmp_path / "x.safetensors", tmp_path / "params"

    for command in (
        ("extract", source, tmp_path, "--force"),
        ("extract", folder, folder, "--force"),
        ("convert", copy, copy, "--force"),
        ("convert", folder, folder, "--to", "safetensors", "--force"),
        ("convert", tiny, tiny, "--to", "safetensors", "--force"),
        ("extract", tiny, tmp_path / "out", "--properties", tiny / "pytorch_model.bin", "--force"),
        ("scan", source, "--no-fickling", "--sarif", source),
        ("scan", tiny, "--no-fickling", "--sarif", tiny / "vocab.json"),
        ("verify", source, copy, "--junit", source),
        ("verify", source, copy, "--junit", copy),
        ("verify", source, copy, "--write-manifest", source),
        ("verify", tiny, tmp_path / "tiny-params", "--write-manifest", tiny / "pytorch_model.bin"),
        ("verify", tiny, tmp_path / "tiny-params", "--write-manifest", tiny / "config.json"),
    ):
        ended = run(*command)
        assert ended.code == 2, command
        assert_sentence(ended.err)
    assert (everything(tmp_path), everything(tiny)) == (before, model)


def test_o03_a_report_replaces_an_older_one(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x.safetensors"
    assert run("convert", source, copy).code == 0
    for _ in range(2):
        assert run("scan", source, "--no-fickling", "--sarif", tmp_path / "x.sarif").code == 0
        assert (
            run("verify", source, copy, "--junit", tmp_path / "x.xml", "--write-manifest", tmp_path / "x.json").code
            == 0
        )


def test_o04_what_exists_needs_a_word(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    (tmp_path / "out.safetensors").write_text("mine")
    before = everything(tmp_path)

    for command in (("extract", source, tmp_path / "out"), ("convert", source, tmp_path / "out.safetensors")):
        ended = run(*command)
        assert (ended.code, "give --force" in ended.err) == (2, True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "kind", ["a link", "a dangling link", "a link to a folder", "a pipe", "a file for a folder", "a folder for a file"]
)
def test_o04_only_plain_files_and_folders_are_replaced(kind: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "there").mkdir()
    file, folder = tmp_path / "out.safetensors", tmp_path / "out"
    for target in (file, folder):
        if kind == "a pipe":
            os.mkfifo(target)
        elif "link" in kind:
            target.symlink_to({"a link": "precious", "a dangling link": "absent", "a link to a folder": "there"}[kind])
    if kind == "a file for a folder":
        folder.write_text("mine")
    if kind == "a folder for a file":
        file.mkdir()
    before = everything(tmp_path)

    commands = [("extract", source, folder), ("convert", source, file)]
    for command in (
        commands[:1] if kind == "a file for a folder" else commands[1:] if kind == "a folder for a file" else commands
    ):
        ended = run(*command, "--force")
        assert ended.code == 2
        assert_sentence(ended.err)
    assert everything(tmp_path) == before


def test_o04_links_under_the_names_of_partial_outputs_are_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    for name in ("out.safetensors", "out"):
        (tmp_path / f".{name}.partial").symlink_to("precious/file" if "." in name else "precious")

    assert run("convert", source, tmp_path / "out.safetensors").code == 0
    assert run("extract", source, tmp_path / "out").code == 0
    (tmp_path / ".again.safetensors.partial.journal").symlink_to("precious/file")
    ended = run("convert", source, tmp_path / "again.safetensors")

    assert ended.code == 2
    assert_sentence(ended.err)
    assert everything(tmp_path / "precious") == {"file": b"precious"}
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("place", ["x.bin/out", "x.bin/out/deeper", "n" * 300, "n" * 300 + "/out"])
def test_o04_a_place_that_can_not_be_is_a_sentence(place: str, source: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)

    for command in (
        ("extract", source, tmp_path / place),
        ("convert", source, tmp_path / place, "--to", "safetensors"),
        ("extract", source, tmp_path / "out", "--properties", tmp_path / place),
        ("scan", source, "--no-fickling", "--sarif", tmp_path / place),
        ("sample", tmp_path / place),
    ):
        ended = run(*command)
        assert ended.code == 2, command
        assert_sentence(ended.err)
        assert everything(tmp_path) == before


@pytest.mark.parametrize("folder", [True, False])
def test_o04_a_file_is_no_folder_nor_the_reverse(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"") if folder else target.mkdir()

    with pytest.raises(OutputError, match="should be written"):
        check_target(target, folder=folder, force=True)


def test_o04_two_runs_do_not_write_one_output(source: Path, tmp_path: Path) -> None:
    with (tmp_path / ".out.safetensors.partial.journal").open("w") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)

        ended = run("convert", source, tmp_path / "out.safetensors")
        assert (ended.code, "another run" in ended.err) == (2, True)


def test_o05_modes_follow_the_umask_whatever_the_source_s_are(source: Path, tmp_path: Path) -> None:
    source.chmod(0o600)
    old = os.umask(0o027)
    try:
        assert run("extract", source, tmp_path / "out").code == 0
        assert run("convert", source, tmp_path / "out.safetensors").code == 0
    finally:
        os.umask(old)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path != source}
    assert modes == {"out": 0o750, "0": 0o640, "manifest.json": 0o640, "out.safetensors": 0o640}


def test_o06_too_little_room_is_said_before_a_byte_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(tmp_path)
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("a byte was written"))
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100, 10, 10, 0, 0, 0, 0, 255)))

    for command in (("extract", source, tmp_path / "a" / "out"), ("convert", source, tmp_path / "out.safetensors")):
        ended = run(*command)
        assert (ended.code, "there is room for 40,960" in ended.err) == (2, True)
    assert everything(tmp_path) == before


def test_o06_a_plan_that_no_disk_holds_writes_nothing(tmp_path: Path) -> None:
    def tiles(buffers: Buffers) -> Iterator[memoryview]:
        raise AssertionError

    huge = Plan((PlannedFile("", (Piece("huge", (Part(1 << 60, tiles),)),)),), folder=False)
    with pytest.raises(OutputError, match="there is room for"):
        publish(huge, tmp_path / "out")
    assert everything(tmp_path) == {}


# ---- O07 to O10: what people and programs read -------------------------------------------------------------------------

# Colours, a title, the clipboard, a link, C1, overwriting, reordering, hiding, separators, private and unassigned ones.
HOSTILE = (
    "\x1b[31m\x1b[2J\x1b]0;owned\x07\x1b]52;c;aGk=\x07\x1b]8;;file:///\x1b\\\x9b1m\x85\r\b\t\n\u202e\u2066\u200b\u200f\ufeff\u2028\u2029\xa0"
    "\u3000\ue000\U000e0041\U0010ffff[/red][link=x]:smile:"
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    evil = Raw(_text(HOSTILE) + _text(f"name{HOSTILE}") + b"\x93" + _text(HOSTILE) + b"\x85R")
    tensors = {HOSTILE: view("0", (1,)), f"h.0.{HOSTILE}": view("0", (2,)), f"h.1.{HOSTILE}": view("0", (2,))}
    return write_checkpoint(tmp_path / "x.bin", tensors | {"note": HOSTILE, f"x{HOSTILE}": evil}, WEIGHTS)


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def test_o07_nothing_from_a_file_reaches_the_terminal_raw(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bytes([Record("a[red]", hostile.read_bytes())]))
    assert run("convert", hostile, tmp_path / "x.safetensors", "--ignore-globals").code == 0
    assert run("extract", hostile, tmp_path / "params", "--form", "named", "--ignore-globals").code == 0

    for command in (
        ("inspect", hostile),
        ("inspect", hostile, "--all", "--stats"),
        ("inspect", hostile, "--root", HOSTILE),
        ("inspect", tmp_path / "params"),
        ("inspect", tmp_path / f"absent{HOSTILE.replace('/', '')[:40]}"),
        ("extract", hostile, tmp_path / "out"),
        ("convert", hostile, tmp_path / "out.safetensors"),
        ("convert", hostile, tmp_path / "out.gguf", "--ignore-globals"),
        ("convert", hostile, tmp_path / "dry.safetensors", "--ignore-globals", "--dry-run"),
        ("verify", hostile, tmp_path / "x.safetensors"),
        ("verify", tmp_path / "x.safetensors", tmp_path / "params"),
        ("scan", hostile, "--explain", "--no-fickling"),
        ("scan", tmp_path / "x.zip", "--explain", "--no-fickling"),
        ("--limit", f"{HOSTILE}=1", "inspect", hostile),
    ):
        ended = run(*command)
        raw = {character for character in ended.out + ended.err if not (character.isprintable() or character == "\n")}
        assert not raw & set(HOSTILE), command
        assert raw <= {"\u2500"}, command
    shown = run("inspect", hostile, "--all").out
    assert safe_text(HOSTILE)[:20] in shown
    assert "[/red]" in shown


def test_o07_reports_for_programs_are_ascii_and_say_what_is_there(hostile: Path, tmp_path: Path) -> None:
    inspected = run("inspect", hostile, "--json").out
    scanned = run("scan", hostile, "--explain", "--no-fickling", "--json", "--sarif", tmp_path / "x.sarif").out

    assert inspected.isascii()
    assert scanned.isascii()
    assert (tmp_path / "x.sarif").read_bytes().isascii()
    assert HOSTILE in [tensor["name"] for tensor in json.loads(inspected)["tensors"]]
    assert f"name{HOSTILE}" in [one["name"] for one in json.loads(scanned)["files"][0]["pickles"][0]["globals"]]


@pytest.mark.parametrize(
    "name", ["[/red]", "[red]", "[bold", "[[]]", "[link=file:///etc]x[/link]", ":smile:", "\\[x]", "[/]", "[@click=x]y"]
)
def test_o08_markup_is_text(name: str, tmp_path: Path) -> None:
    value = {name: view("0", (2,)), "x": name, f"k{name}": Call(Global(name, name), (name,))}
    path = write_checkpoint(tmp_path / "x.bin", value, WEIGHTS)

    for command in (("inspect", path, "--all"), ("scan", path, "--explain", "--no-fickling")):
        ended = run(*command)
        assert ended.code in (0, 1)
        assert name in ended.out


def test_o09_names_mean_nothing_in_the_documents_we_write(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "|a|`b`\n## c\n<script>]]></failure><img src=x>&amp;=HYPERLINK(1)\x00\x1b"
    source = write_checkpoint(tmp_path / "s.bin", {evil: view("0", (2,)), "b": view("0", (1,))}, WEIGHTS)
    other = write_checkpoint(
        tmp_path / "o.bin", {evil: view("0", (2,)), f"{evil}2": view("0", (1,))}, {"0": floats(1, 3)}
    )
    assert run("convert", other, tmp_path / "o.safetensors").code == 0
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))

    assert run("verify", source, tmp_path / "o.safetensors", "--junit", tmp_path / "x.xml").code == 1

    suites = ElementTree.fromstring((tmp_path / "x.xml").read_bytes())
    assert {element.tag for element in suites.iter()} == {
        *("testsuites", "testsuite", "properties", "property", "testcase", "failure", "skipped"),
    }
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert [line.count("|") for line in lines if line.startswith("|")] == [7, 7, 7]
    assert [line for line in lines if line.startswith("##")] == [
        line for line in lines if line.startswith(("### ", "#### `"))
    ]
    code = re.compile(
        r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)"
    )  # as Markdown has it: as many backticks at the end as at the start
    for line in lines:
        assert not {"<", "`"} & set(code.sub("", line))


def test_o09_one_line_of_model_properties_stays_one(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evil\nname = x=y # é"
    folder.mkdir()
    name = "a\nfile.wte = 9=9.bin"
    (folder / name).write_bytes((tiny / "pytorch_model.bin").read_bytes())
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())

    assert run("extract", folder / name, tmp_path / "out").code == 0

    lines = (tmp_path / "out" / parameters.PROPERTIES).read_text("ascii").splitlines()
    assert all(line.startswith("#") or line.count("=") == 1 for line in lines)
    assert sum(line.startswith("file.") for line in lines) == 52
    assert not [line for line in lines if line.startswith("file.wte")]


def test_o10_what_we_write_names_the_source_and_not_the_place_it_lay_in(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "secret-customer" / "small"  # the folder's own name is the model's
    source.mkdir(parents=True)
    for file in tiny.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    assert run("extract", source, tmp_path / "out").code == 0
    for name in ("x.safetensors", "x.gguf"):
        assert run("convert", source, tmp_path / name).code == 0
    assert run("verify", source, tmp_path / "x.gguf", "--write-manifest", tmp_path / "golden.json").code == 0

    written = [path for path in tmp_path.rglob("*") if path.is_file() and source not in path.parents]
    assert len(written) > 60
    assert not [
        path
        for path in written
        if b"secret-customer" in path.read_bytes() or os.fsencode(tmp_path) in path.read_bytes()
    ]
