"""Inputs that are not plain files, that change, or that are two things at once; and readers that go away. Numbers: README.md."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import SourceError
from converter.io.local import LocalFile
from converter.opening import open_checkpoint
from converter.scanning import scan as scanning
from converter.tensors.guards import check_portable
from tests.attacks.commands import (
    TENSORS,
    WEIGHTS,
    assert_malformed,
    assert_refused,
    assert_sentence,
    everything,
    names,
    run,
    scanned,
)
from tests.build.checkpoints import (
    Call,
    Global,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.gguf_files import Info, gguf

ROOT = Path(__file__).parent.parent.parent


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_pipe(path: Path) -> None:
    pipe(path.with_name("pipe"))
    path.symlink_to("pipe")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "I01 a pipe": (pipe, "not a regular file"),
    "I01 a link to a pipe": (
        link_to_pipe,
        "not a regular file",
    ),
    "I01 a socket": (listening, "can't be opened|not a regular file"),
    "I01 a link to a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "I01 a link to a terminal": (lambda path: path.symlink_to("/dev/tty"), "not a regular file|can't be opened"),
    "I01 a dangling link": (lambda path: path.symlink_to("absent"), "can't be opened"),
    "I01 a link to itself": (lambda path: path.symlink_to(path.name), "can't be opened|symbolic links"),
    "I01 a folder with nothing in it": (lambda path: path.mkdir(), "no weight file"),
    "I01 a folder of folders": (lambda path: (path / "x.bin").mkdir(parents=True), "no weight file"),
    "I01 an empty file": (lambda path: path.touch(), "an empty file"),
}


@pytest.mark.parametrize("name", ODD)
def test_i01_what_is_no_regular_file_is_refused_and_never_waited_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = ODD[name]
    make(tmp_path / "x.bin")

    assert_refused(tmp_path / "x.bin", words)
    ended = run("verify", tmp_path / "x.bin", tmp_path / "x.bin")
    assert ended.code == 2
    assert_sentence(ended.err)


@pytest.mark.parametrize(
    "beside", ["config.json", "pytorch_model.bin.index.json", "vocab.json", "merges.txt", "manifest.json"]
)
def test_i01_what_lies_beside_is_never_waited_for_either(beside: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "pytorch_model.bin", TENSORS, WEIGHTS)
    pipe(tmp_path / beside)

    for command in (
        ("inspect", tmp_path),
        ("convert", tmp_path, tmp_path / "out", "--to", "safetensors"),
        ("scan", tmp_path, "--no-fickling"),
    ):
        ended = run(*command)
        # scan reports the pipe as something that was not looked into.
        assert ended.code in ((1,) if command[0] == "scan" else (0, 2))
        if ended.code == 2:
            assert_sentence(ended.err)


@pytest.mark.parametrize(
    "name", ["absent", "x" * 300, "a\0b", "absent/absent", "x.bin/x", "\udcff", "\x1b[31m"], ids=ascii
)
def test_i01_a_path_that_is_none_is_a_sentence(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.bin", TENSORS, WEIGHTS)

    for command in ("inspect", "scan", "extract"):
        ended = run(command, str(tmp_path / name))
        assert ended.code == 2
        assert_sentence(ended.err)


def test_i01_a_link_that_is_named_is_followed_and_one_that_is_walked_over_is_not(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    write_checkpoint(tmp_path / "outside" / "x.bin", {"x": Call(Global("os", "system"), ("id",))}, {})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.bin").symlink_to(tmp_path / "outside" / "x.bin")
    (tmp_path / "folder" / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "folder" / "up").symlink_to("..")
    (tmp_path / "folder" / "y.pkl").write_bytes(dumps(1))

    report = scanning.scan([tmp_path / "folder"], fickling=False)

    assert {Path(file.location).name: file.verdict for file in report.files} == {
        "more": "malformed", "up": "malformed", "x.bin": "malformed", "y.pkl": "plain",
    }  # fmt: skip
    assert {finding.rule for file in report.files for finding in file.findings} == {"not-looked-into"}
    assert report.links == 3
    assert scanned(tmp_path / "folder" / "x.bin")["verdict"] == "dangerous"


# ---- I02: files that change ------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Path], Any]] = {
    "I02 it grows": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "I02 it shrinks to nothing": lambda path: path.write_bytes(b""),
    "I02 it loses its last byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "I02 its weights change": lambda path: path.write_bytes(path.read_bytes().replace(WEIGHTS["0"], floats(3, 4))),
    "I02 it is touched": lambda path: os.utime(path, (1, 1)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("form", ["zip", "safetensors", "gguf", "parameters"])
def test_i02_a_file_that_changes_while_it_is_read_is_a_sentence_and_no_output(
    form: str, name: str, tmp_path: Path
) -> None:
    from converter.conversion.convert import convert

    path = write_checkpoint(tmp_path / "x.bin", TENSORS, WEIGHTS)
    if form == "gguf":
        path = tmp_path / "x.gguf"
        path.write_bytes(gguf(infos=[Info("w", (2,))], data=WEIGHTS["0"]))
    elif form != "zip":
        target = tmp_path / ("x.safetensors" if form == "safetensors" else "params")
        assert run("convert", path, target, *([] if form == "safetensors" else ["--to", "parameters"])).code == 0
        path = target
    catalogue = open_checkpoint(path)
    changed = path / "0" if path.is_dir() else path
    CHANGES[name](changed)
    before = everything(tmp_path)

    with pytest.raises(Exception, match=r"was changed while|ended at byte|damaged|has another name|missing") as raised:
        convert(catalogue, tmp_path / "out.safetensors")
    assert type(raised.value).__module__ == "converter.errors"
    assert everything(tmp_path) == before


def test_i02_a_file_that_is_replaced_under_its_name_is_read_as_it_was(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", TENSORS, WEIGHTS)
    catalogue = open_checkpoint(path)
    other = write_checkpoint(tmp_path / "y.bin", TENSORS, {"0": floats(3, 4)})
    other.replace(path)

    assert catalogue["w"].bits().tolist() == [1, 2]


def test_i02_a_file_that_is_cut_off_under_a_reader_is_no_signal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1 << 20))
    source = LocalFile(path)
    os.truncate(path, 1000)

    with pytest.raises(SourceError, match="ended at byte 1,000 while it was read, but it had 1,048,576 bytes"):
        source.read(0, 1 << 20)


# ---- I03: two things at once -----------------------------------------------------------------------------------------

HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + WEIGHTS["0"]
GGUF = gguf(infos=[Info("w", (2,))], data=WEIGHTS["0"])
LEGACY = legacy_bytes(TENSORS, WEIGHTS)
ZIP = zip_bytes(checkpoint_entries({"x": Call(Global("os", "system"), ("id",))}, {}))
PICKLE = dumps(Call(Global("os", "system"), ("id",)))


@pytest.mark.parametrize(
    "data", [SAFETENSORS + ZIP, LEGACY + ZIP, ZIP + SAFETENSORS, ZIP + PICKLE, SAFETENSORS + PICKLE, LEGACY + PICKLE],
    ids=["I03 safetensors and zip", "I03 legacy stream and zip", "I03 zip and safetensors", "I03 zip and pickle",
         "I03 safetensors and pickle", "I03 legacy stream and pickle"],
)  # fmt: skip
def test_i03_a_file_that_is_two_things_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(data)

    assert_malformed(tmp_path / "x.bin")


def test_i03_two_zips_in_one_file_are_refused_and_both_are_looked_into(tmp_path: Path) -> None:
    """A shard of torch.distributed.checkpoint is such a file, so `scan` gives the verdict of its parts."""
    (tmp_path / "x.bin").write_bytes(ZIP + ZIP)

    assert_refused(tmp_path / "x.bin", "")
    found = scanned(tmp_path / "x.bin")
    assert found["verdict"] == "dangerous"
    assert len(found["pickles"]) == 2


@pytest.mark.parametrize("start", [SAFETENSORS, GGUF, LEGACY], ids=["I03 safetensors", "I03 GGUF", "I03 legacy stream"])
def test_i03_scan_looks_into_a_zip_behind_weights(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(start + ZIP)
    found = scanned(tmp_path / "x.bin")

    assert found["verdict"] == "malformed"
    assert "os.system" in names(found)


def test_i03_bytes_behind_a_gguf_are_told_and_not_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(GGUF + bytes(24) + b"hidden" * 200)

    assert "has 1,200 bytes after its last tensor" in run("inspect", path).out
    assert run("convert", path, tmp_path / "y.safetensors").code == 0
    assert b"hidden" not in (tmp_path / "y.safetensors").read_bytes()


def test_i03_a_zip_behind_a_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(GGUF + bytes(24) + ZIP)

    for command in (["inspect", path], ["convert", path, tmp_path / "y.safetensors"]):
        ended = run(*command)
        assert ended.code == 2
        assert "two files in one: as GGUF, and as a zip archive" in ended.err


# ---- I04: readers that go away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["inspect", "--all"], ["inspect", "--json"], ["scan", "--no-fickling", "--explain"]]
)
def test_i04_a_reader_that_goes_away_does_not_change_the_exit_code(command: list[str], tmp_path: Path) -> None:
    value = {f"{n:04}": view("0", (2,)) for n in range(2000)}
    path = write_checkpoint(tmp_path / "x.bin", value, WEIGHTS)
    words = " ".join([sys.executable, "-m", "converter", *command, str(path)])

    done = subprocess.run(
        ["sh", "-c", f"({words}; echo $? >&2) | head -c 1"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stderr == "0\n"


# ---- I05: nothing is run ---------------------------------------------------------------------------------------------

WATCHED = """
import re, sys
from converter.cli.app import app
from typer.testing import CliRunner

folder, events, seen = sys.argv[1], {}, []

def commands(name):
    path = f"{folder}/{name}.bin"
    yield ["inspect", path]
    yield ["inspect", path, "--json", "--stats"]
    yield ["scan", path, "--explain", "--json", "--no-fickling"]
    yield ["extract", path, f"{folder}/{name}-out", "--ignore-globals"]
    yield ["extract", path, f"{folder}/{name}-named", "--form", "named", "--ignore-globals"]
    yield ["convert", path, f"{folder}/{name}.safetensors", "--ignore-globals"]
    yield ["verify", path, f"{folder}/{name}.safetensors"]

def hook(event, arguments):
    if event.partition(".")[0] in WATCHED_FOR:
        said = repr(arguments).replace(f"{folder}/{name}", "").replace(name, "")
        seen.append(f"{event} " + re.sub("0x[0-9a-f]+|[0-9]+", "", said))

name = ""
sys.addaudithook(hook)
for name in ("warm", "good", "evil"):
    seen.clear()
    for command in commands(name):
        CliRunner().invoke(app, command)
    events[name] = set(seen)
print(*sorted(events["evil"] - events["good"]), sep="\\n")
"""
WATCHED_FOR = {"import", "exec", "compile", "open", "pickle", "marshal", "subprocess", "socket", "os", "shutil", "ctypes", "urllib", "code", "sqlite3"}  # fmt: skip


def test_i05_the_names_in_a_pickle_do_not_change_what_the_process_does(tmp_path: Path) -> None:
    """No import, no compilation, no program, no connection, and no file that depends on the name."""
    for name in ("warm", "good"):
        inert = {f"x{n}": Call(Global("nobody", f"knows_{n}"), (f"… {n}",)) for n in range(6)}
        write_checkpoint(tmp_path / f"{name}.bin", TENSORS | inert, WEIGHTS)
    calls = [
        Call(Global("posix", "system"), (f"touch {tmp_path / 'ran'}",)),
        Call(Global("builtins", "exec"), (f"open({str(tmp_path / 'ran')!r}, 'w')",)),
        Call(Global("colorsys", "rgb_to_hsv"), (1, 2, 3)),
        Call(Global("socket", "create_connection"), (("127.0.0.1", 9),)),
        Call(Global("importlib", "import_module"), ("antigravity",)),
        Call(Global("pickle", "loads"), (dumps(Call(Global("os", "abort"))),)),
    ]
    write_checkpoint(tmp_path / "evil.bin", TENSORS | {f"x{n}": call for n, call in enumerate(calls)}, WEIGHTS)

    program = WATCHED.replace("WATCHED_FOR", repr(WATCHED_FOR))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "\n"
    assert (tmp_path / "evil.safetensors").exists()
    assert not (tmp_path / "ran").exists()


def test_i05_opening_a_checkpoint_imports_no_unpickler(tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "x.bin", TENSORS | {"x": Call(Global("colorsys", "rgb_to_hsv"), (1, 2, 3))}, WEIGHTS
    )
    program = (
        "import sys; from converter.opening import open_checkpoint; open_checkpoint(sys.argv[1]);"
        "print([name for name in ('numpy', 'pickle', '_pickle', 'torch', 'huggingface_hub', 'fickling', 'rich', 'colorsys')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"


def test_i05_ignoring_globals_calls_nothing_either(tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "x.bin", TENSORS | {"x": Call(Global("posix", "system"), (f"touch {tmp_path / 'ran'}",))}, WEIGHTS
    )

    check_portable(open_checkpoint(path), ignore_globals=True, no_crc=False)
    assert run("convert", path, tmp_path / "x.safetensors", "--ignore-globals").code == 0
    assert json.loads(run("inspect", tmp_path / "x.safetensors", "--json").out)["totals"]["tensors"] == 1
    assert not (tmp_path / "ran").exists()
