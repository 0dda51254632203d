"""Every limit holds where its description says, and is raised by the one option that sets it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter import limits
from converter.cli.app import app
from converter.limits import Limits
from tests.attacks.commands import assert_sentence, everything, run
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    Raw,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.gguf_files import gguf, key
from tests.build.hub_server import Hub, serve

SOUND = dumps({"w": view("0", (2,))}, {"0": 8})
WEIGHTS = {"0": floats(1, 2)}


@dataclass(frozen=True)
class Case:
    """A file that needs exactly `most`: `make` writes it and returns the command that reads it; a lower limit gives the message `said`."""

    most: int
    make: Callable[[Path], list[Any]]
    said: str


def pickled(pickle: bytes) -> Callable[[Path], list[Any]]:
    return lambda folder: ["inspect", write_checkpoint(folder / "x.bin", None, WEIGHTS, pickle=pickle)]


def zipped(entries: list[Entry]) -> Callable[[Path], list[Any]]:
    return written(zip_bytes(entries))


def written(data: bytes, *command: str) -> Callable[[Path], list[Any]]:
    def make(folder: Path) -> list[Any]:
        (folder / "x").write_bytes(data)
        return [*(command or ("inspect",)), folder / "x"]

    return make


def with_index(folder: Path) -> list[Any]:
    write_checkpoint(folder / "x.bin", {"w": view("0", (1,))}, WEIGHTS)
    index = json.dumps({"weight_map": {"w": "x.bin"}, "metadata": {"a": ""}}).encode()
    index = index.replace(b'"a": "', b'"a": "' + b"b" * (1000 - len(index)))
    (folder / "pytorch_model.bin.index.json").write_bytes(index)
    return ["inspect", folder]


def expanded(folder: Path) -> list[Any]:
    size = (64 << 20) // 4 + 4 * len(WEIGHTS["0"]) // 4
    path = write_checkpoint(folder / "x.bin", {"w": view("0", (size,), (0,))}, WEIGHTS)
    return ["convert", path, folder / "x.safetensors", "--dry-run"]


def opcodes(pickle: bytes, *names: str) -> int:
    return sum(not names or opcode.name in names for opcode, _, _ in pickletools.genops(pickle))


def directory_nbytes(data: bytes) -> int:
    at = data.rindex(b"PK\6\6")
    nbytes: int = struct.unpack_from("<Q", data, at + 40)[0]
    return nbytes


ENTRIES = checkpoint_entries({"w": view("0", (2,))}, WEIGHTS)
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
KEYS = [key("a", "u32", 7), key("b", "u32", 8), key("c", "string", "x" * 500)]
NESTED_ZIP = zip_bytes([Entry("a", zip_bytes([Entry("b", zip_bytes([Entry("c", dumps(1))]))]))])

CASES: dict[str, Case] = {
    "pickle_bytes": Case(len(SOUND), pickled(SOUND), "at most"),
    "opcodes": Case(opcodes(SOUND), pickled(SOUND), "opcodes"),
    "memo": Case(opcodes(SOUND, "BINPUT"), pickled(SOUND), "memo entries"),
    # PROTO, MARK, and then 65,533 of the 65,535 opcodes after which it is looked at.
    "stack": Case(65_533, pickled(b"\x80\2(" + b"N" * 70_000 + b"t0" + SOUND[2:]), "values on the stack"),
    "marks": Case(5, pickled(b"\x80\2" + b"(" * 5 + b"0" * 5 + SOUND[2:]), "open MARKs"),
    "line": Case(100, pickled(b"\x80\2V" + b"a" * 100 + b"\n0" + SOUND[2:]), "a line of more than"),
    "integer": Case(50, pickled(b"\x80\2\x8a\x32" + b"\1" * 50 + b"0" + SOUND[2:]), "an integer of 50 bytes"),
    "depth": Case(4, pickled(dumps({"a": [{"b": (view("0", (2,)),)}]}, {"0": 8})), "nested deeper than 3"),
    "names": Case(7, pickled(dumps({"abc": view("0", (2,)), "de": [view("0", (1,))]}, {"0": 8})), "bytes"),
    "rank": Case(3, pickled(dumps({"w": view("0", (1, 2, 1))}, {"0": 8})), "at most 2 are read"),
    "entries": Case(len(ENTRIES), zipped(ENTRIES), "records in"),
    "directory_bytes": Case(directory_nbytes(zip_bytes(ENTRIES)), zipped(ENTRIES), "bytes of directory"),
    "name": Case(max(len(entry.name) for entry in ENTRIES), zipped(ENTRIES), "a record's name of"),
    "json_bytes": Case(1000, with_index, "has 1,000 bytes: at most 999"),
    "header_bytes": Case(len(HEADER), written(struct.pack("<Q", len(HEADER)) + HEADER + WEIGHTS["0"]), "a header of"),
    "gguf_keys": Case(3, written(gguf(KEYS)), "has 3 keys"),
    "gguf_bytes": Case(len(gguf(KEYS)), written(gguf(KEYS)), "bytes of metadata"),
    "gguf_string": Case(500, written(gguf(KEYS)), "a text of 500 bytes"),
    "gguf_alignment": Case(64, written(gguf([key("general.alignment", "u32", 64)])), "a power of two up to 63"),
    "expansion": Case(4, expanded, "3 times the bytes of the file"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_asks_for_as_much_as_the_limit_is_read_and_one_more_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    command = case.make(tmp_path)
    before = everything(tmp_path)

    at = run("--limit", f"{name}={case.most}", *command)
    past = run("--limit", f"{name}={case.most - 1}", *command)

    assert (at.code, at.err) == (0, "")
    assert (past.code, past.out) == (2, "")
    assert_sentence(past.err)
    assert re.search(case.said, past.err), past.err
    assert everything(tmp_path) == before


# `scan` never refuses a file: it reports what it did not look into.
SCANNED: dict[str, Case] = {
    "pickle_bytes": Case(70_007, written(b"\x80\2X" + struct.pack("<I", 69_999) + b"a" * 69_999 + b"."), "bytes"),
    "opcodes": Case(4, written(b"\x80\2N\x85."), "opcodes"),
    "marks": Case(3, written(b"\x80\2(((111N."), "open MARKs"),
    "line": Case(8, written(b"cabcdefg\nn\n)R."), "line|name"),
    "integer": Case(4, written(b"\x80\2\x8a\4abcd."), "integer of 4 bytes"),
    "entries": Case(2, written(zip_bytes([Entry("a", b"x"), Entry("b", dumps(1))])), "records"),
    "name": Case(5, written(zip_bytes([Entry("abcde", dumps(1))])), "name"),
    "scan_pickles": Case(3, written(dumps(1) * 3), "more than 2 pickles"),
    "scan_nesting": Case(2, written(NESTED_ZIP), "an archive inside 1 others"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCANNED)
def test_scan_looks_as_far_as_the_limit_and_says_so_where_it_stops(name: str, tmp_path: Path) -> None:
    case = SCANNED[name]
    path = case.make(tmp_path)[-1]

    at, past = (
        json.loads(run("--limit", f"{name}={most}", "scan", "--json", "--no-fickling", path).out)
        for most in (case.most, case.most - 1)
    )

    assert at["verdict"] in ("plain", "unknown-globals")
    assert past["verdict"] == "malformed"
    found = past["files"][0]["findings"][-1]
    assert (found["rule"], bool(re.search(case.said, found["message"]))) == ("not-looked-into", True)


def test_findings_past_the_limit_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(dumps([Call(Global("m", str(number))) for number in range(5)] + [Call(Global("os", "system"))]))

    at, past = (
        json.loads(run("--limit", f"scan_findings={most}", "scan", "--json", "--no-fickling", "--explain", path).out)[
            "files"
        ][0]
        for most in (6, 5)
    )

    assert [(len(f["findings"]), f["unlisted"], f["verdict"]) for f in (at, past)] == [
        (6, 0, "dangerous"),
        (5, 1, "dangerous"),
    ]
    assert [len(f["pickles"][0]["globals"]) for f in (at, past)] == [6, 5]
    assert [len(f["pickles"][0]["calls"]) for f in (at, past)] == [6, 5]


# fickling is asked about files whose globals are unknown.
UNKNOWN = Call(Global("nobody", "knows"), ())
ASKED = dumps({"w": view("0", (2,)), "x": UNKNOWN}, {"0": 8})
OPINIONS: dict[str, tuple[int, Callable[[Path], Path]]] = {
    "opinion_bytes": (len(ASKED), lambda folder: written(ASKED)(folder)[-1]),
    "opinion_tensors": (2, lambda folder: write_checkpoint(folder / "x.bin", {"a": view("0", (2,)), "b": view("0", (1,)), "c": UNKNOWN}, WEIGHTS)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPINIONS)
def test_fickling_is_asked_about_as_much_as_the_limit(name: str, tmp_path: Path) -> None:
    most, make = OPINIONS[name]
    path = make(tmp_path)

    at, past = (
        json.loads(run("--limit", f"{name}={limit}", "scan", "--json", path).out)["files"][0]["fickling"]
        for limit in (most, most - 1)
    )

    assert at["severity"] is not None
    assert past["severity"] is None
    assert past["note"].startswith("not asked: ")


def remote(hub: Hub, name: str, data: bytes, most: Callable[[dict[str, Any]], int]) -> None:
    """Try a limit on a remote file, set to exactly what opening the file takes."""
    hub.on_elsewhere = serve({"/x": data})
    url = f"{hub.url('elsewhere')}/x"
    took = most(json.loads(run("inspect", url, "--json").out)["source"])

    at = run("--limit", f"{name}={took}", "inspect", url)
    past = run("--limit", f"{name}={took - 1}", "inspect", url)

    assert (at.code, at.err) == (0, "")
    assert past.code == 2
    assert_sentence(past.err)
    assert f"{took - 1:,} {name.removeprefix('remote_')}" in past.err


def test_opening_a_remote_file_may_take_as_many_requests_as_the_limit_says(hub: Hub) -> None:
    # Each storage of a legacy stream comes after a count, and is longer than what is read ahead.
    views = {f"w{n}": view(str(n), (2 << 18,)) for n in range(4)}
    data = legacy_bytes(views, {str(n): bytes(2 << 20) for n in range(4)})

    remote(hub, "remote_requests", data, lambda source: source["requests"] - 2)  # the first, and config.json


def test_opening_a_remote_file_may_take_as_many_bytes_as_the_limit_says(hub: Hub) -> None:
    header = HEADER[:-1] + b" " * 300_000 + b"}"

    remote(
        hub, "remote_bytes", struct.pack("<Q", len(header)) + header + WEIGHTS["0"], lambda source: source["bytes_read"]
    )


def test_standard_input_may_be_as_long_as_the_limit_says() -> None:
    at, past = (
        CliRunner().invoke(app, ["--limit", f"stdin_bytes={most}", "scan", "--no-fickling", "-"], input=dumps(1))
        for most in (len(dumps(1)), len(dumps(1)) - 1)
    )

    assert (at.exit_code, past.exit_code) == (0, 2)
    assert_sentence(past.stderr)


TESTED_ABOVE = {"stdin_bytes", "scan_findings", "remote_requests", "remote_bytes"}


def test_every_limit_is_tested_here() -> None:
    assert {field.name for field in dataclasses.fields(Limits)} == {*CASES, *SCANNED, *OPINIONS, *TESTED_ABOVE}


def test_every_limit_has_its_reason_where_it_is_and_stands_in_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "security" / "limits.md").read_text()
    source = inspect.getsource(limits)

    for field in dataclasses.fields(Limits):
        value = getattr(Limits(), field.name)
        assert re.search(rf"^    {field.name}: int = .+  # .+", source, re.MULTILINE), field.name
        assert re.search(rf"^\| `{field.name}` \| {value:,} \| .{{10,}} \|$", page, re.MULTILINE), field.name
    assert len(re.findall(r"^\| `[a-z_]+` \| [\d,]+ \|", page, re.MULTILINE)) == len(dataclasses.fields(Limits))


@pytest.mark.parametrize("text", ["nothing=1", "rank", "rank=", "rank=-1", "rank=1e3", "rank=9999999999999999999", "rank=\u0661", "=", "__class__=1", "\x1b=1"])  # fmt: skip
def test_a_limit_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    ended = run("--limit", text, "scan", tmp_path)

    assert ended.code == 2
    assert "limit" in ended.err
    assert "\x1b[31m" not in ended.err
    assert limits.limits() == Limits()


def test_a_limit_of_nothing_refuses_and_does_not_hang(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (2,)), "x": Raw(b"(]K\1\x8a\1\1e0N")}, WEIGHTS)

    for field in dataclasses.fields(Limits):
        assert run("--limit", f"{field.name}=0", "inspect", path).code in (0, 2)
        assert run("--limit", f"{field.name}=0", "scan", "--no-fickling", path).code in (0, 1)
