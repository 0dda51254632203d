"""Hostile zips: an archive that two readers could understand differently is refused. Numbers: README.md."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.errors import ArchiveError, ConverterError, CutOffError, LimitError
from converter.opening import open_checkpoint
from tests.attacks.commands import (
    TENSORS,
    WEIGHTS,
    assert_malformed,
    assert_refused,
    assert_sentence,
    names,
    rules,
    run,
    scanned,
)
from tests.attacks.commands import everything as below
from tests.build.archives import CRC, DATA, archive, everything, stored, two
from tests.build.checkpoints import Call, Entry, Global, checkpoint_entries, dumps, floats, view, zip_bytes
from tests.build.depth import some
from tests.build.ends import ends
from tests.build.formats import npy

OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
ECHO = b"cposix\nsystem\n(S'echo harmless'\ntR."


def sound(**options: Any) -> list[Entry]:
    return checkpoint_entries(TENSORS, WEIGHTS, **options)


def written(folder: Path, data: bytes, name: str = "x.bin") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def flagged(flag: int) -> bytes:
    return zip_bytes([Entry("a/x", DATA, central={"flags": 0x0808 | flag}, local={"flags": 0x0808 | flag})])


def of_method(method: int) -> bytes:
    return zip_bytes([Entry("a/x", DATA, local={"method": method}, central={"method": method})])


def beside(name: bytes | str) -> bytes:
    return zip_bytes([Entry("a/x", DATA), Entry(name, DATA)])


# Tricks that a reader must not fall for: (bytes of the archive, part of the message).
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "Z01 a name twice": (lambda: zip_bytes([Entry("a/x", DATA), Entry("a/x", b"other")]), "twice"),
    "Z01 a name twice, an accent spelled in two ways": (lambda: zip_bytes([Entry("a/\u00e9", DATA), Entry("a/e\u0301", DATA)]), "twice"),
    "Z01 a name twice in another case": (lambda: zip_bytes([Entry("a/x", DATA), Entry("a/X", DATA)]), "twice"),
    "Z02 another local name": (lambda: zip_bytes([Entry("a/x", DATA, local={"name": b"a/y"})]), "another name"),
    "Z02 another local signature": (lambda: zip_bytes([Entry("a/x", DATA, local={"signature": b"PK\1\2"})]), "missing"),
    "Z02 another local method": (lambda: zip_bytes([Entry("a/x", DATA, local={"method": 8})]), "method 8"),
    "Z02 another local size": (lambda: zip_bytes([stored(nbytes=5, compressed=5)]), "other sizes"),
    "Z02 another local CRC": (lambda: zip_bytes([stored(crc32=5)]), "another CRC"),
    "Z02 a local CRC beside a descriptor": (lambda: zip_bytes([Entry("a/x", DATA, local={"crc32": 5})]), "another CRC"),
    "Z02 no local sizes and no descriptor": (lambda: zip_bytes([stored(crc32=0, compressed=0, nbytes=0)]), "other sizes"),
    "Z02 a descriptor with another CRC": (
        lambda: zip_bytes([Entry("a/x", DATA, descriptor=struct.pack("<4s3L", b"PK\7\x08", 1, 19, 19))]),
        "contradict",
    ),
    "Z02 a descriptor with another size": (
        lambda: zip_bytes([Entry("a/x", DATA, descriptor=struct.pack("<4s3L", b"PK\7\x08", CRC, 19, 20))]),
        "contradict",
    ),
    "Z02 no descriptor": (lambda: zip_bytes([Entry("a/x", DATA, descriptor=b"")]), "belong to no record"),
    "Z02 a local zip64 field that is too short": (
        lambda: zip_bytes([stored(compressed=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 19))]),
        "lacks the zip64 field",
    ),
    **{
        f"Z03 flag {flag:#x}": (
            partial(flagged, flag),
            "flags",
        )
        for flag in (0x1, 0x2, 0x4, 0x10, 0x20, 0x40, 0x1000, 0x2000, 0x8000)
    },
    "Z03 a flag in the local header alone": (lambda: zip_bytes([Entry("a/x", DATA, local={"flags": 0x0809})]), "flags"),
    "Z04 a wrong CRC": (lambda: two().replace(b"quick", b"Quick"), "damaged"),
    **{
        f"Z05 method {method}": (
            partial(of_method, method),
            f"method {method}",
        )
        for method in (1, 9, 12, 14, 93, 99)
    },
    "Z05 stored in fewer bytes": (lambda: zip_bytes([Entry("a/x", DATA, central={"compressed": 5})]), "stored"),
    "Z06 inflates to more": (
        lambda: zip_bytes([Entry("a/x", b"short", deflated=True, payload=zlib.compress(DATA, wbits=-15))]), "inflates to more",
    ),
    "Z06 promises more than can be": (
        lambda: zip_bytes([Entry("a/x", bytes(5000), deflated=True, payload=b"\3\0")]), "no more than 2,064",
    ),
    "Z06 inflates to less": (
        lambda: zip_bytes([Entry("a/x", DATA, deflated=True, payload=b"\3\0")]), "inflates to 0 bytes",
    ),
    "Z06 is no deflate stream": (lambda: zip_bytes([Entry("a/x", DATA, deflated=True, payload=b"\xff\xff")]), "inflated"),
    "Z06 bytes after the deflate stream": (
        lambda: zip_bytes([Entry("a/x", b"", deflated=True, payload=b"\3\0junk")]), "goes on for 4 bytes",
    ),
    "Z06 a deflate stream without its end": (
        lambda: zip_bytes([Entry("a/x", DATA, deflated=True, payload=zlib.compress(DATA, wbits=-15)[:-1])]), "inflate",
    ),
    "Z06 two records at one place": (
        lambda: zip_bytes([Entry("a/x", DATA), Entry("a/y", b"", central={"header": 0})]), "overlaps",
    ),
    "Z06 a record that reaches into the next": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"compressed": 200, "nbytes": 200}), Entry("a/y", DATA)]), "overlaps",
    ),
    "Z06 a record that reaches into the directory": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"compressed": 9999, "nbytes": 9999})]), "overlaps",
    ),
    "Z06 a header behind the end": (lambda: zip_bytes([Entry("a/x", DATA, central={"header": 1 << 30})]), "overlaps"),
    "Z07 the locator points elsewhere": (lambda: two(locator={"offset": 5}), "locator"),
    "Z07 several disks in the locator": (lambda: two(locator={"disks": 2}), "locator"),
    "Z07 an end record with data": (lambda: two(end64={"size": 52}), "zip64 end record"),
    "Z07 no end record at the locator's place": (lambda: two(end64={"signature": b"PK\6\5"}), "zip64 end record"),
    "Z07 end records that differ": (lambda: two(end64={"count": 1, "count_here": 1}), "contradict"),
    "Z07 end records that differ in the start": (lambda: two(end={"start": 5}), "contradict"),
    "Z07 a sentinel without a zip64 end record": (lambda: two(zip64=False, end={"start": 0xFFFFFFFF}), "zip64 end record"),
    "Z07 a sentinel without a zip64 field": (lambda: zip_bytes([Entry("a/x", DATA, central={"nbytes": 0xFFFFFFFF})]), "zip64"),
    "Z07 a zip64 field twice": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"nbytes": 0xFFFFFFFF, "extra": 2 * struct.pack("<HHQ", 1, 8, 19)})]),
        "extra field",
    ),
    "Z07 a zip64 field that is too long": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"nbytes": 0xFFFFFFFF, "extra": struct.pack("<HHQQ", 1, 16, 19, 19)})]),
        "zip64 field of 16",
    ),
    "Z07 a zip64 field nobody needs": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"extra": struct.pack("<HHQ", 1, 8, 19)})]), "zip64 field of 8",
    ),
    "Z07 an extra field that goes on past its end": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"extra": b"\1\0\x09\0abc"})]), "extra field",
    ),
    "Z07 another name in an extra field": (
        lambda: zip_bytes([Entry("a/x", DATA, central={"extra": b"up\x08\0\1" + struct.pack("<L", zlib.crc32(b"a/x")) + b"a/y"})]),
        "second name",
    ),
    "Z07 another name in a local extra field": (
        lambda: zip_bytes([Entry("a/x", DATA, local={"extra": b"up\x08\0\1" + struct.pack("<L", zlib.crc32(b"a/x")) + b"a/y"})]),
        "second name",
    ),
    "Z08 bytes before": (lambda: two(before=b"MZ"), "before its first record"),
    "Z08 bytes before that the directory does not count": (lambda: b"MZ" + two(), "locator"),
    "Z08 the same without zip64": (lambda: b"MZ" + two(zip64=False), "should end at"),
    "Z08 bytes after": (lambda: two(after=b"junk"), "4 bytes follow"),
    "Z08 a comment": (lambda: two(end={"comment": 4}, after=b"junk"), "bytes follow"),
    "Z08 a comment that is not there": (lambda: two(end={"comment": 4}), "comment"),
    "Z08 a comment that holds an end record": (
        lambda: two(end={"comment": 22}, after=b"PK\5\6" + bytes(18)), "empty|should end at|zip64",
    ),
    "Z08 two archives": (lambda: two() + two(), "two archives, one after the other"),
    "Z08 two archives without zip64": (lambda: two(zip64=False) + two(zip64=False), "should end at"),
    "Z08 bytes between records": (lambda: zip_bytes([Entry("a/x", DATA, gap=b"!"), Entry("a/y", DATA)]), "belong to no record"),
    "Z08 bytes behind a record without a descriptor": (
        lambda: zip_bytes([Entry("a/x", DATA, local=stored().local, central={"flags": 0}, descriptor=b"!" * 16)]), "no record",
    ),
    "Z08 a record that no directory lists": (
        lambda: zip_bytes([Entry("a/x", DATA, gap=zip_bytes([Entry("a/hidden", DATA)])), Entry("a/y", DATA)]), "no record",
    ),
    "Z08 bytes before the directory": (lambda: two(between=b"!" * 5), "belong to no record"),
    "Z09 a count too high": (lambda: two(end64={"count": 3, "count_here": 3}, end={"count": 3, "count_here": 3}), "ends inside"),
    "Z09 a count too low": (lambda: two(end64={"count": 1, "count_here": 1}, end={"count": 1, "count_here": 1}), "follow the last"),
    "Z09 a count of none": (lambda: two(end64={"count": 0, "count_here": 0}, end={"count": 0, "count_here": 0}), "follow the last"),
    "Z09 another count on this disk": (lambda: two(end64={"count_here": 1}, end={"count_here": 1}), "several disks"),
    "Z09 a name that goes on behind the directory": (
        lambda: zip_bytes([Entry("a/x", DATA)], zip64=False).replace(b"\3\0" + bytes(12) + b"\0\0\0\0a/x",
                                                                     b"\xff\0" + bytes(12) + b"\0\0\0\0a/x"),
        "ends inside",
    ),
    "Z09 a directory of nothing": (lambda: zip_bytes([]), "empty"),
    "Z09 a record without a signature": (lambda: zip_bytes([Entry("a/x", DATA, central={"signature": b"PK\1\3"})]), "signature"),
    **{
        f"Z10 the name {name!r}": (partial(beside, name), "record")
        for name in (b"/a/y", b"a/../y", b"..", b"a/./y", b"a\\y", b"a/\0y", b"a/\x1b[31m", b"a/\n", b"a//y", b"", b"a/\xff",
                     "a/\u202ey".encode(), b"a/\x7f")
    },
    "Z10 a name that is not ASCII and not marked as UTF-8": (
        lambda: zip_bytes([Entry("a/é", b"", central={"flags": 0}, local={"flags": 0})]), "UTF-8",
    ),
    "Z11 a folder that hides another record": (
        lambda: zip_bytes([Entry("a/x", DATA), Entry("a/b/", gap=zip_bytes([Entry("a/hidden", DATA)])), Entry("a/y", DATA)]), "no record",
    ),
    "Z11 a folder that is a record to others": (lambda: zip_bytes([Entry("a/x", DATA), Entry("a/b/", local={"name": b"a/bc"})]), "another name"),
    "Z11 a folder with data": (lambda: zip_bytes([Entry("a/x", DATA), Entry("a/b/", DATA)]), "folder"),
    "Z12 a part of several disks": (lambda: two(zip64=False, end={"disk": 1}), "several disks"),
    "Z12 a record on another disk": (lambda: zip_bytes([Entry("a/x", DATA, central={"disk": 1})]), "another disk"),
    "Z12 a record with a comment": (lambda: zip_bytes([Entry("a/x", DATA, central={"comment": b"hi"})]), "comment"),
    "not a zip at all": (lambda: b"x" * 100, "without a zip directory"),
    "nothing": (lambda: b"", "without a zip directory"),
    "a directory's end alone": (lambda: b"PK\5\6" + bytes(18), "empty"),
}  # fmt: skip


# The only ones that look as if a download broke off. All others are whole and wrong.
CUT_OFF = {"not a zip at all", "nothing"}

# `scan` reads whatever may be a pickle to its end, and only the start of everything else.
UNREAD = {
    "Z04 a wrong CRC", "Z06 a deflate stream without its end", "Z06 it inflates to less", "Z06 bytes behind what is deflated",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_readers_could_read_differently_is_refused(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[name]
    data = make()

    with pytest.raises((ArchiveError, CutOffError), match=sentence) as caught:
        everything(data)
    assert type(caught.value) is (CutOffError if name in CUT_OFF else ArchiveError)
    if data.startswith(b"PK\3\4") and name not in UNREAD:
        assert scanned(written(tmp_path, data))["verdict"] == "malformed"


# One record of a checkpoint, written so that another reader would see something else.
CHANGED: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "Z02 another local name": lambda data: {"local": {"name": b"archive/data/9"}},
    "Z02 another local method": lambda data: {"local": {"method": 8}},
    "Z02 another local CRC": lambda data: {"local": {"crc32": 5}},
    "Z02 another local size": lambda data: {"local": {"compressed": 3, "nbytes": 3, "crc32": zlib.crc32(data)}},
    "Z02 another size behind the data": lambda data: {"descriptor": struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(data), 1, 1)},
    "Z02 no descriptor": lambda data: {"descriptor": b""},
    "Z03 encrypted": lambda data: {"central": {"flags": 0x0809}, "local": {"flags": 0x0809}},
    "Z03 encrypted by its local header": lambda data: {"local": {"flags": 0x0809}},
    "Z03 patched": lambda data: {"central": {"flags": 0x0828}, "local": {"flags": 0x0828}},
    "Z03 strongly encrypted": lambda data: {"central": {"flags": 0x0848}, "local": {"flags": 0x0848}},
    "Z03 masked": lambda data: {"central": {"flags": 0x2808}, "local": {"flags": 0x2808}},
    "Z04 a wrong CRC": lambda data: {
        "central": {"crc32": 7}, "descriptor": struct.pack("<4s3L", b"PK\7\x08", 7, len(data), len(data))
    },
    "Z05 LZMA": lambda data: {"central": {"method": 14}, "local": {"method": 14}},
    "Z05 stored by the directory, deflated by its header": lambda data: {"local": {"method": 8}, "payload": zlib.compress(data, wbits=-15)},
    "Z05 deflated by the directory, stored by its header": lambda data: {"deflated": True, "local": {"method": 0}},
    "Z06 it inflates to more": lambda data: {"deflated": True, "payload": zlib.compress(data + b"!", wbits=-15)},
    "Z06 it inflates to less": lambda data: {"deflated": True, "payload": zlib.compress(data[:-1], wbits=-15)},
    "Z06 bytes behind what is deflated": lambda data: {"deflated": True, "payload": zlib.compress(data, wbits=-15) + b"more"},
    "Z08 bytes behind": lambda data: {"gap": b"!" * 7},
    "Z12 another disk": lambda data: {"central": {"disk": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_pickle_in_such_a_record_is_refused_by_every_command(name: str, tmp_path: Path) -> None:
    entries = sound()
    entries[0] = Entry(entries[0].name, entries[0].data, **CHANGED[name](entries[0].data))

    assert_malformed(written(tmp_path, zip_bytes(entries)), "data.pkl")


@pytest.mark.parametrize("name", CHANGED)
def test_a_storage_in_such_a_record_is_not_carried_over(name: str, tmp_path: Path) -> None:
    entries = [
        Entry(entry.name, entry.data, **CHANGED[name](entry.data)) if entry.name == "archive/data/0" else entry
        for entry in sound()
    ]
    path = written(tmp_path, zip_bytes(entries))
    before = below(tmp_path)

    for command in (("extract", tmp_path / "out"), ("convert", tmp_path / "out.safetensors")):
        refused = run(command[0], path, command[1])
        assert (refused.code, refused.out) == (2, "")
        assert_sentence(refused.err)
        assert "data/0" in refused.err or "storage `0`" in refused.err
    assert below(tmp_path) == before
    assert run("inspect", path).code in (0, 2)  # only the directory is read
    if name not in UNREAD:
        assert scanned(path)["verdict"] == "malformed"


def test_z04_a_file_saved_without_crcs_is_named_and_needs_a_word(tmp_path: Path) -> None:
    entries = [
        Entry(e.name, e.data, central={"crc32": 0}, descriptor=struct.pack("<4s3L", b"PK\7\x08", 0, *2 * [len(e.data)]))
        for e in sound()
    ]
    path = written(tmp_path, zip_bytes(entries))

    refused = run("convert", path, tmp_path / "x.safetensors")
    assert (refused.code, "--no-crc" in refused.err) == (2, True)
    assert "without CRCs" in run("inspect", path).out
    assert rules(scanned(path)) == ["unchecked"]
    assert run("convert", path, tmp_path / "x.safetensors", "--no-crc").code == 0
    assert open_checkpoint(tmp_path / "x.safetensors")["w"].bits().tolist() == [1, 2]


def test_z05_a_deflated_checkpoint_is_read_however_many_storages_it_has(tmp_path: Path) -> None:
    count = 200
    value = {f"t{n}": view(str(n), (2,)) for n in range(count)}
    entries = checkpoint_entries(value, {str(n): floats(n, -n) for n in range(count)})
    path = written(tmp_path, zip_bytes([Entry(entry.name, entry.data, deflated=True) for entry in entries]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sum(1 for _ in Path("/proc/self/fd").iterdir()) + 20, hard))
    try:
        assert run("convert", path, tmp_path / "x.safetensors").code == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    found = {name: tensor.bits().tolist() for name, tensor in open_checkpoint(tmp_path / "x.safetensors").items()}
    assert found == {f"t{n}": [n, -n] for n in range(count)}


def test_z05_without_a_place_for_temporary_files_it_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    path = written(tmp_path, zip_bytes([Entry(entry.name, entry.data, deflated=True) for entry in sound()]))
    before = below(tmp_path)

    for command in (("convert", path, tmp_path / "x.safetensors"), ("inspect", path, "--stats")):
        refused = run(*command)
        assert refused.code == 2
        assert_sentence(refused.err)
        assert "temporary file" in refused.err
    assert below(tmp_path) == before


def test_z06_a_storage_that_inflates_to_more_than_there_is_room_for_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64 << 20
    value = {"w": view("0", (size,), dtype="U8")}
    entries = checkpoint_entries(value, {"0": bytes(size)})
    path = written(tmp_path, zip_bytes([Entry(entry.name, entry.data, deflated=True) for entry in entries]))
    assert path.stat().st_size < size // 500
    full = os.statvfs_result((4096, 4096, 1 << 20, 1000, 1000, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda file: full)

    refused = run("convert", path, tmp_path / "x.safetensors")
    assert (refused.code, "has room" in refused.err) == (2, True)
    assert [found.name for found in tmp_path.iterdir()] == ["x.bin"]


ANOMALIES = {
    "Z01 a name twice": [Entry("a", b"x"), Entry("a", ECHO)],
    "Z02 another name in the local header": [Entry("a", ECHO, local={"name": b"b", "extra": b""})],
    "Z02 another method in the local header": [Entry("a", ECHO, deflated=True, local={"method": 0})],
    "Z02 another method in the directory": [Entry("a", ECHO, deflated=True, central={"method": 0})],
    "Z03 other flags": [Entry("a", ECHO, central={"flags": 1})],
    "Z04 a wrong CRC": [Entry("a", ECHO, central={"crc32": 7})],
    "Z06 a size that is too small": [Entry("a", ECHO, deflated=True, central={"nbytes": 3})],
    "Z10 a name that leads out": [Entry("../a", ECHO)],
    "Z11 hidden in a folder": [Entry("a/", gap=zip_bytes([Entry("a/b", ECHO)])), Entry("a/c", b"x")],
    "Z11 an array hidden in a folder": [
        Entry("a/", gap=zip_bytes([Entry("a/b.npy", npy(OBJECTS, ECHO))]).partition(b"PK\1\2")[0]),
        Entry("a/c", b"x"),
    ],
}


@pytest.mark.parametrize("entries", ANOMALIES.values(), ids=ANOMALIES)
def test_what_a_broken_archive_holds_is_seen_by_scan_all_the_same(entries: list[Entry], tmp_path: Path) -> None:
    found = scanned(written(tmp_path, zip_bytes(entries)))

    assert found["verdict"] == "malformed"
    assert rules(found)[0] == "malformed"
    assert "posix.system" in names(found)


@pytest.mark.parametrize(
    "before",
    [b"MZ" + bytes(100), b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"#!/bin/sh\n"],
    ids=["EXE", "PDF", "PNG", "script"],
)
def test_z08_a_zip_behind_something_else_is_no_checkpoint_and_scan_looks_into_it(before: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, before + zip_bytes([Entry("archive/data.pkl", ECHO)]))

    assert_refused(path)
    found = scanned(path)
    assert (found["verdict"], "posix.system" in names(found)) == ("malformed", True)


def test_z08_of_two_archives_in_a_row_scan_looks_into_both(tmp_path: Path) -> None:
    """torch reads the first, Python's zipfile the second."""
    other = checkpoint_entries({"x": Call(Global("os", "system"), ("id",))}, {})
    path = written(tmp_path, zip_bytes(sound()) + zip_bytes(other))

    assert_refused(path)
    found = scanned(path)
    assert found["verdict"] == "dangerous"
    assert {"os.system", "torch.FloatStorage"} <= names(found)


def test_z10_names_are_keys_and_never_paths(tmp_path: Path) -> None:
    keys = ("C:", "a b", "~")
    value = {**TENSORS, **{f"on {key}": view(key, (1,)) for key in keys}}
    path = written(tmp_path, zip_bytes(checkpoint_entries(value, WEIGHTS | {key: floats(1) for key in keys})))

    assert run("extract", path, tmp_path / "out").code == 0

    found = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert found == ["%7E", "0", "C%3A", "a%20b", "manifest.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "x.bin"]


def test_z11_folders_of_zip_r_and_attributes_of_links_mean_nothing(tmp_path: Path) -> None:
    link = {"made": 0x0314, "external": 0o120777 << 16}
    entries = [Entry("archive/"), Entry("archive/data/"), *(Entry(e.name, e.data, central=link) for e in sound())]
    path = written(tmp_path, zip_bytes(entries))

    assert run("extract", path, tmp_path / "out").code == 0
    assert not any(file.is_symlink() for file in (tmp_path / "out").rglob("*"))
    assert open_checkpoint(tmp_path / "out")["w"].bits().tolist() == [1, 2]


def test_z06_a_record_is_read_up_to_the_limit_of_its_reader() -> None:
    with pytest.raises(LimitError):
        archive(two()).read("x", 18)


def test_z06_a_forged_size_allocates_nothing() -> None:
    huge = struct.pack("<HHQQ", 1, 16, 1 << 60, 40)
    entry = Entry("a/x", DATA, deflated=True, central={"compressed": 0xFFFFFFFF, "nbytes": 0xFFFFFFFF, "extra": huge})

    with pytest.raises(ConverterError):
        archive(zip_bytes([entry])).open("x").read(0, 1 << 60)


def test_z06_bytes_after_a_deflate_stream_cost_no_more_than_reading_them() -> None:
    payload = zlib.compress(DATA, wbits=-15) + bytes(16 << 20)
    data = zip_bytes([Entry("a/x", DATA, deflated=True, payload=payload)])
    with ends(), pytest.raises(ArchiveError):
        everything(data)


def test_z09_every_truncation_is_refused() -> None:
    data = zip_bytes([Entry("a/x", DATA), Entry("a/y", b"more", deflated=True), Entry("a/z")])

    for end in range(len(data)):
        with pytest.raises(ConverterError):
            everything(data[:end])


def test_z02_every_flipped_bit_is_refused_or_changes_nothing() -> None:
    data = zip_bytes([Entry("a/x", DATA), Entry("a/y", b"more" * 9, deflated=True)], alignment=1)
    expected = {"x": DATA, "y": b"more" * 9}
    silent = 0

    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            try:
                found = everything(bytes(changed))
            except ConverterError:
                continue
            silent += 1
            # A name may change in one place only: then the root is another.
            assert sorted(found.values()) == sorted(expected.values())
            assert found == expected
    assert silent > 0  # dates, versions and attributes


@settings(max_examples=some(300, 100))
@given(st.data())
def test_z02_overwritten_fields_are_refused_or_change_nothing(draw: st.DataObject) -> None:
    data = bytearray(zip_bytes([Entry("a/x", DATA), Entry("a/y", b"more" * 9, deflated=True)]))
    width = draw.draw(st.sampled_from([1, 2, 4, 8]))
    value = draw.draw(
        st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1])
    )
    position = draw.draw(st.integers(0, len(data) - width))
    data[position : position + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")

    try:
        found = everything(bytes(data))
    except ConverterError:
        return
    assert found == {"x": DATA, "y": b"more" * 9}


ZIPS: dict[str, tuple[Callable[[], list[Entry]], str]] = {
    "TorchScript": (lambda: [*sound(), Entry("archive/constants.pkl", b"x")], "TorchScript"),
    "TorchScript of 1.0": (
        lambda: [Entry("archive/model.json", b"{}"), Entry("archive/tensors/0", b"x")],
        "TorchScript",
    ),
    "torch.package": (lambda: [*sound(), Entry("archive/.data/extern_modules", b"sys")], "torch.package"),
    "torch.export": (lambda: [Entry("model/archive_format", b"pt2")], "torch.export"),
    "npz": (lambda: [Entry("a.npy", b"x"), Entry("b.npy", b"x")], "not a numpy array"),
    "any zip": (lambda: [Entry("a/x.txt", b"x")], "not a PyTorch checkpoint"),
    "no root": (lambda: [Entry("data.pkl", b"N."), Entry("version", b"3")], "outside of a folder"),
    "two roots": (lambda: [Entry("a/data.pkl", b"N."), Entry("b/version", b"3")], "other folders beside it"),
    "no version": (lambda: sound(version=None), "version"),
    "version 0": (lambda: sound(version=b"0"), "version"),
    "version 11": (lambda: sound(version=b"11"), "version"),
    "version of words": (lambda: sound(version=b"three"), "version"),
    "version of a long text": (lambda: sound(version=b"3" * 100), "64"),
    "byte order of words": (lambda: sound(byteorder=b"middle"), "byte order"),
    "byte order with a newline": (lambda: sound(byteorder=b"little\n"), "byte order"),
}


@pytest.mark.parametrize("name", [name for name in ZIPS if name != "TorchScript"])  # whose weights are read
def test_z13_a_zip_that_is_no_checkpoint_is_refused_by_what_it_is(name: str, tmp_path: Path) -> None:
    make, what = ZIPS[name]

    assert_refused(written(tmp_path, zip_bytes(make())), what)


@pytest.mark.parametrize("name", ["TorchScript", "torch.package"])
def test_z13_scan_calls_a_program_a_program(name: str, tmp_path: Path) -> None:
    found = scanned(written(tmp_path, zip_bytes([*sound(), *ZIPS[name][0]()[-1:]])))

    assert "program" in rules(found)


def test_z13_a_checkpoint_without_its_pickle_or_with_two_is_refused(tmp_path: Path) -> None:
    assert_refused(written(tmp_path, zip_bytes(sound()[1:])), "no `data.pkl`")
    assert_refused(written(tmp_path, zip_bytes([*sound(), Entry("archive/data.pkl", dumps({}))])), "twice")


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "one byte of a pickle": (b"\x80", "not a checkpoint"),
    "zeros": (bytes(1000), "zeros"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "HTML page"),
    "HTML without a doctype": (b"<HTML><head>", "HTML page"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "xz"),
    "Zstandard": (b"\x28\xb5\x2f\xfd" + bytes(20), "Zstandard"),
    "npy": (b"\x93NUMPY\1\0" + bytes(20), "numpy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "GGML": (b"lmgg" + bytes(20), "GGML"),
    "tar": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "tar archive"),
    "a bare pickle": (dumps({"a": 1}), "bare pickle"),
    "JSON": (b' {"a": 1}', "JSON"),
    "an empty zip": (b"PK\5\6" + bytes(18), "empty zip"),
    "a split zip": (b"PK\7\x08PK\3\4" + bytes(20), "split"),
    "text": (b"hello, world", "not a checkpoint"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("ending", [".bin", ".pt", ".safetensors", ".gguf", ""])
def test_z14_what_a_file_is_is_told_by_its_bytes_and_never_by_its_name(name: str, ending: str, tmp_path: Path) -> None:
    data, what = FOREIGN[name]

    assert_refused(written(tmp_path, data, f"x{ending}"), what)


SEALED = (b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"a" * 257 + b"ustar")


@pytest.mark.parametrize("start", SEALED)
@pytest.mark.parametrize("inside", [False, True], ids=["", "in a zip"])
def test_z14_what_scan_can_not_open_is_never_plain(start: bytes, inside: bool, tmp_path: Path) -> None:
    data = start + bytes(60)
    path = written(tmp_path, zip_bytes([Entry("readme", data)]) if inside else data)

    assert scanned(path)["verdict"] == "malformed"
    assert set(rules(scanned(path))) <= {"not-looked-into", "malformed"}


@given(st.binary(max_size=300))
def test_z08_any_bytes_are_an_archive_or_a_refusal(data: bytes) -> None:
    for prefix in (b"", b"PK\3\4"):
        with pytest.raises(ConverterError):
            everything(prefix + data)


def test_an_array_that_only_its_local_header_shows_is_looked_into_behind_its_own_header(tmp_path: Path) -> None:
    alone = zip_bytes([Entry("a/b.npy", npy(OBJECTS, ECHO))]).partition(b"PK\1\2")[0]

    found = scanned(written(tmp_path, zip_bytes([Entry("a/", gap=alone), Entry("a/c", b"x")])))

    assert ("dangerous-global", "a/b.npy") in {(one["rule"], one["place"]) for one in found["findings"]}
