"""Hostile safetensors: each is refused with one sentence, before any size that it claims is allocated."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st

from converter.errors import (
    ConverterError,
    CutOffError,
    FormatError,
    LayoutError,
    LimitError,
    ManifestError,
    SourceError,
)
from converter.formats import identify, open_file
from converter.formats.safetensors.reader import read
from converter.io.source import Source
from converter.opening import open_checkpoint
from tests.attacks.commands import assert_malformed, assert_refused, everything, run


class Memory(Source):
    """Bytes as a source; reads past the end fail the test, and so do long ones."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.name, self.size, self._data = "memory", len(data) if size is None else size, data

    def _fill(self, offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(self._data)
        buffer[:] = self._data[offset : offset + len(buffer)]


def file(header: bytes | str, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def files(**entries: Any) -> bytes:
    return file(json.dumps(entries), bytes(8))


ONE = '"dtype":"U8","shape":[4],"data_offsets":[0,4]'

HOSTILE: dict[str, tuple[type[ConverterError], str, bytes]] = {
    "S01 empty": (CutOffError, "too few", b""),
    "S01 seven bytes": (CutOffError, "too few", b"\0" * 7),
    "S01 no header": (FormatError, "not valid JSON", file("")),
    "S01 a header longer than the file": (CutOffError, "1,000 bytes; 2 follow", struct.pack("<Q", 1000) + b"{}"),
    "S01 a header one byte longer": (CutOffError, "3 bytes; 2 follow", struct.pack("<Q", 3) + b"{}"),
    "S01 a header of 2^63 bytes": (CutOffError, "follow", struct.pack("<Q", 1 << 63) + b"{}"),
    "S01 a header of 2^64 - 1 bytes": (CutOffError, "follow", b"\xff" * 8 + b"{}"),
    "S02 a name twice": (FormatError, "twice", file(f'{{"a":{{{ONE}}},"a":{{{ONE}}}}}', bytes(4))),
    "S02 a name twice, once escaped": (FormatError, "twice", file(f'{{"a":{{{ONE}}},"\\u0061":{{{ONE}}}}}', bytes(4))),
    "S02 a field twice": (FormatError, "twice", file(f'{{"a":{{{ONE},"dtype":"I8"}}}}', bytes(4))),
    "S02 a metadata key twice": (FormatError, "twice", file('{"__metadata__":{"a":"1","a":"2"}}')),
    "S02 metadata twice": (FormatError, "twice", file('{"__metadata__":{},"__metadata__":{}}')),
    "S03 a hole at the start": (LayoutError, "leaves a hole", files(a=entry(offsets=(4, 8)))),
    "S03 a hole between": (LayoutError, "leaves a hole", files(a=entry(shape=[2], offsets=(0, 2)), b=entry(offsets=(4, 8)))),
    "S03 an overlap": (LayoutError, "overlaps", files(a=entry(), b=entry(shape=[6], offsets=(2, 8)))),
    "S03 the same bytes": (LayoutError, "overlaps", files(a=entry(shape=[8], offsets=(0, 8)), b=entry(shape=[8], offsets=(0, 8)))),
    "S03 an empty tensor inside another": (
        LayoutError, "overlaps", files(a=entry(shape=[8], offsets=(0, 8)), b=entry(shape=[0], offsets=(4, 4))),
    ),
    "S03 bytes behind the last": (LayoutError, "8 bytes of data; its tensors take 4", files(a=entry())),
    "S03 bytes and no tensors": (LayoutError, "1 byte of data; its tensors take 0", file("{}", b"\0")),
    "S03 past the end": (CutOffError, "8 bytes of data; its tensors take 16", files(a=entry(shape=[16], offsets=(0, 16)))),
    "S03 ends before it begins": (LayoutError, "ends before it begins", files(a=entry("X1", [], (4, 0)))),
    "S03 more bytes than elements": (LayoutError, "does not take the 8 bytes", files(a=entry(offsets=(0, 8)))),
    "S04 a float offset": (FormatError, "data_offsets", file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4.0]}}', bytes(4))),
    "S04 an exponent": (FormatError, "data_offsets", file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4e0]}}', bytes(4))),
    "S04 an offset of -0": (FormatError, "data_offsets", file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}', bytes(4))),
    "S04 a size of -0": (FormatError, "shape", file('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}')),
    "S04 a bool offset": (FormatError, "data_offsets", files(a=entry(offsets=(False, 4)))),
    "S04 a negative offset": (FormatError, "data_offsets", files(a=entry(offsets=(-4, 0)))),
    "S04 an offset of 2^63": (FormatError, "data_offsets", files(a=entry(offsets=(0, 1 << 63)))),
    "S04 three offsets": (FormatError, "data_offsets", files(a=entry(offsets=(0, 4, 8)))),
    "S04 no offsets": (FormatError, "data_offsets", files(a=entry(offsets=None))),
    "S04 an offset as text": (FormatError, "data_offsets", files(a=entry(offsets=("0", "4")))),
    "S04 a float size": (FormatError, "shape", files(a=entry(shape=[4.0]))),
    "S04 a bool size": (FormatError, "shape", files(a=entry(shape=[True, 4]))),
    "S04 a negative size": (FormatError, "shape", files(a=entry(shape=[-2, -2]))),
    "S04 a shape that is a number": (FormatError, "shape", files(a=entry(shape=4))),
    "S05 NaN": (FormatError, "NaN is not a JSON number", file('{"a":NaN}')),
    "S05 Infinity": (FormatError, "-Infinity is not a JSON number", file('{"a":-Infinity}')),
    "S05 1e999": (FormatError, "not an object of `dtype`", file('{"a":1e999}')),
    "S05 half of a surrogate pair as name": (FormatError, "not valid JSON", file('{"\\ud800":{}}')),
    "S05 half of a surrogate pair as field": (FormatError, "not valid JSON", file('{"a":{"\\udc00":0}}')),
    "S05 half of a surrogate pair in metadata": (FormatError, "surrogate", file('{"__metadata__":{"a":"\\ud83d"}}')),
    "S05 a number of 5000 digits": (FormatError, "not valid JSON", file('{"a":' + "9" * 5000 + "}")),
    "S05 100,000 brackets": (FormatError, "not valid JSON", file('{"a":' + "[" * 100_000)),
    "S05 100,000 objects": (FormatError, "not valid JSON", file('{"a":' * 100_000)),
    "S05 no UTF-8": (FormatError, "not valid JSON", file(b'{"\xff":0}')),
    "S05 a byte order mark": (FormatError, "not valid JSON", file(b"\xef\xbb\xbf{}")),
    "S05 a NUL behind": (FormatError, "zero bytes", file(b"{}\0")),
    "S05 something behind": (FormatError, "not valid JSON", file(b"{}{}")),
    "S05 a list": (FormatError, "not a JSON object", file("[]")),
    "S05 null": (FormatError, "not a JSON object", file("null")),
    "S06 a dtype that is a number": (FormatError, "dtype", files(a=entry(7))),
    "S06 a dtype of a thousand letters": (FormatError, "dtype", files(a=entry("F" * 1000))),
    "S06 F6 that ends within a byte": (LayoutError, "does not take", files(a=entry("F6_E2M3", [3], (0, 2)))),
    "S06 F4 that ends within a byte": (LayoutError, "does not take", files(a=entry("F4", [3], (0, 2)))),
    "S07 too many elements": (LayoutError, "does not take the 4 bytes", files(a=entry(shape=[5]))),
    "S07 a product past 64 bits": (LayoutError, "does not take", files(a=entry(shape=[1 << 62, 4, 4], offsets=(0, 8)))),
    "S07 a product past 64 bits beside a zero": (
        LayoutError, "63 bits", file(json.dumps({"a": entry(shape=[0, 1 << 62, 2], offsets=(0, 0))})),
    ),
    "S07 65 dimensions": (LayoutError, "65 dimensions", file(json.dumps({"a": entry(shape=[1] * 65, offsets=(0, 1))}), bytes(1))),
    "S07 100,000 dimensions": (LayoutError, "100,000 dimensions", files(a=entry(shape=[(1 << 63) - 1] * 100_000))),
    "S09 an unknown field": (FormatError, "not an object of", files(a=entry(shape=[8], offsets=(0, 8)) | {"more": 1})),
    "S09 a field that is missing": (FormatError, "not an object of", files(a={"dtype": "U8", "shape": [4]})),
    "S09 a list as entry": (FormatError, "not an object of", files(a=["U8", [8], [0, 8]])),
    "S09 metadata that are null": (FormatError, "not an object of strings", file('{"__metadata__":null}')),
    "S09 metadata that are a tensor": (FormatError, "not an object of strings", files(__metadata__=entry())),
    "S09 a number in the metadata": (FormatError, "not an object of strings", file('{"__metadata__":{"a":1}}')),
}  # fmt: skip

# What the library reads and we don't.
STRICTER = {
    "S02 a name twice", "S02 a name twice, once escaped", "S02 a metadata key twice",
    "S07 65 dimensions", "S07 a product past 64 bits beside a zero",
    "S09 an unknown field", "S09 a list as entry", "S09 metadata that are null",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(name: str) -> None:
    kind, message, data = HOSTILE[name]

    with pytest.raises(kind, match=message) as caught:
        read(Memory(data))

    assert type(caught.value) is kind
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_library_refuses_it_too_or_we_know(name: str) -> None:
    try:
        safetensors.deserialize(HOSTILE[name][2])
    except safetensors.SafetensorError:
        accepted = False
    else:
        accepted = True

    assert accepted == (name in STRICTER)


def test_a_header_past_the_limit_is_not_read() -> None:
    data = struct.pack("<Q", 100_000_001) + b"{}"

    with pytest.raises(LimitError, match="100,000,001 bytes: at most 100,000,000"):
        read(Memory(data, size=200_000_000))


NAMED = ["", "../../x", "/etc/passwd", "nul\0", "esc\x1b[31m", "bidi\u202e", "x" * 100_000]


@pytest.mark.parametrize("name", NAMED, ids=lambda name: ascii(name[:12]))
def test_s08_any_name_is_only_a_name(name: str) -> None:
    assert list(read(Memory(file(json.dumps({name: entry()}), bytes(4))))) == [name]


def test_white_space_around_the_header_is_allowed() -> None:
    assert list(read(Memory(file(" \n{} \t\r\n")))) == []


TIED: dict[str, tuple[type[ConverterError], str]] = {
    "no JSON": (ManifestError, "{"),
    "a list": (ManifestError, "[]"),
    "a name twice": (ManifestError, '{"b":"a","b":"a"}'),
    "a number": (ManifestError, '{"b":1}'),
    "a name that is not there": (ManifestError, '{"b":"c"}'),
    "a name that is there": (ManifestError, '{"a":"a"}'),
    "another tied name": (ManifestError, '{"b":"a","c":"b"}'),
    "half of a surrogate pair": (ManifestError, '{"\\ud800":"a"}'),
    "deep": (ManifestError, "[" * 100_000),
}


@pytest.mark.parametrize("name", TIED)
def test_tied_names_that_contradict_the_tensors_are_refused(name: str) -> None:
    kind, text = TIED[name]

    with pytest.raises(kind, match=r"`cerebras_tool\.tied`"):
        read(Memory(file(json.dumps({"__metadata__": {"cerebras_tool.tied": text}, "a": entry()}), bytes(4))))


def shards(folder: Path, weight_map: Any) -> Path:
    folder.joinpath("one.safetensors").write_bytes(file(json.dumps({"a": entry()}), bytes(4)))
    folder.joinpath("two.safetensors").write_bytes(file(json.dumps({"b": entry()}), bytes(4)))
    folder.joinpath("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_s10_a_right_index_is_read(tmp_path: Path) -> None:
    read = open_checkpoint(shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))

    assert (list(read), read.problems) == (["a", "b"], ())


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "/etc/passwd"}, "not a plain file name"),
        ({"a": "../one.safetensors"}, "not a plain file name"),
        ({"a": "sub/one.safetensors"}, "not a plain file name"),
        ({"a": ".hidden"}, "not a plain file name"),
        ({"a": 1}, "not a plain file name"),
        ({}, "no `weight_map`"),
        (["one.safetensors"], "no `weight_map`"),
    ],
)
def test_s10_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        open_checkpoint(shards(tmp_path, weight_map))


def test_s10_an_index_that_contradicts_its_shards_says_so(tmp_path: Path) -> None:
    read = open_checkpoint(shards(tmp_path, {"a": "two.safetensors", "b": "two.safetensors", "c": "one.safetensors"}))

    assert [problem.partition(":")[0] for problem in read.problems] == [
        "1 tensor is in the index, but in no shard",
        "1 tensor is in another shard than the index says",
    ]
    assert read.missing == ("c",)


SEED = file(
    json.dumps({"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 1], [0, 8]), "b": entry("U8", [], [8, 9])}),
    bytes(range(9)),
)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in range(len(SEED)):
        path.write_bytes(SEED[:length])
        with pytest.raises((FormatError, LayoutError)):
            open_file(path)


def test_a_changed_file_is_read_as_the_library_reads_it() -> None:
    rng = random.Random(0)
    accepted = 0
    for _ in range(4000):
        data = bytearray(SEED)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(SEED))] = rng.choice((rng.randrange(256), 0, 0x22, 0x30, 0x7B, 0x2C))
        try:
            found = read(Memory(bytes(data)))
        except ConverterError:
            continue
        if found.unsupported:
            continue
        accepted += 1
        theirs = dict(safetensors.deserialize(bytes(data)))
        assert {
            name: (t.dtype.name, t.shape, bytes(t.storage.source.read(t.storage.offset, t.nbytes)))
            for name, t in found.items()
        } == {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in theirs.items()}
    assert accepted > 100


@given(st.binary(max_size=300).map(file) | st.binary(max_size=300))
@example(SEED)
def test_any_bytes_give_a_catalogue_or_a_sentence(data: bytes) -> None:
    try:
        read(Memory(data))
    except ConverterError as error:
        assert str(error)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner)))  # fmt: skip
def test_any_json_gives_a_catalogue_or_a_sentence(value: Any) -> None:
    try:
        read(Memory(file(json.dumps(value))))
    except ConverterError as error:
        assert str(error)


def test_a_header_of_a_megabyte_takes_little_memory() -> None:
    count = 15_000
    header = json.dumps({f"t{number:05}": entry(offsets=(4 * number, 4 * number + 4)) for number in range(count)})
    source = Memory(file(header, bytes(4 * count)))
    tracemalloc.start()
    try:
        catalogue = read(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(catalogue) == count
    assert peak < 100 * len(header)


@pytest.mark.parametrize(
    "head", [b'{"a": {"b": 1}}', b"PK\3\4" + bytes(60), b"\x80\2}q\0.", bytes(64), b"<!doctype html>"]
)
def test_other_files_are_not_taken_for_safetensors(head: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert identify(head, "x").name != "safetensors"


def checkpoint(folder: Path, data: bytes) -> Path:
    (folder / "x.bin").write_bytes(data)
    return folder / "x.bin"


@pytest.mark.parametrize("name", HOSTILE)
def test_every_command_refuses_it(name: str, tmp_path: Path) -> None:
    _, message, data = HOSTILE[name]
    if data[6:8] == b"\0\0" and data[8:9] == b"{":  # otherwise it is not recognised as a safetensors file at all
        assert_malformed(checkpoint(tmp_path, data), message)
    else:
        assert_refused(checkpoint(tmp_path, data))


def test_s06_a_dtype_that_is_not_known_is_listed_and_not_carried_over(tmp_path: Path) -> None:
    for dtype in ("F6_E2M3", "Q17", "FLOAT", "F32 "):
        path = checkpoint(
            tmp_path, file(json.dumps({"a": entry(dtype, [4], (0, 3)), "b": entry("U8", [5], (3, 8))}), bytes(8))
        )
        before = everything(tmp_path)

        shown = run("inspect", path, "--json")
        assert (shown.code, dtype in shown.out) == (0, True)
        for command in (("extract", path, tmp_path / "out"), ("convert", path, tmp_path / "out.safetensors")):
            refused = run(*command)
            assert refused.code == 2
            assert f"`a` is a {dtype} tensor" in refused.err
        assert everything(tmp_path) == before


@pytest.mark.parametrize("name", NAMED, ids=lambda name: ascii(name[:12]))
def test_s08_no_name_leads_anywhere_when_it_is_written(name: str, tmp_path: Path) -> None:
    """A converter that joins a folder and a tensor's name would write wherever the file says."""
    path = checkpoint(tmp_path, file(json.dumps({name: entry()}), bytes(4)))

    assert run("extract", path, tmp_path / "named", "--form", "named").code == 0
    assert run("extract", path, tmp_path / "storages").code == 0
    assert run("convert", path, tmp_path / "y.safetensors").code == 0

    assert sorted(inner.name for inner in tmp_path.iterdir()) == ["named", "storages", "x.bin", "y.safetensors"]
    for copy in ("named", "storages", "y.safetensors"):
        assert list(open_checkpoint(tmp_path / copy)) == [name]


def test_s10_a_shard_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    shards(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    (folder / "two.safetensors").unlink()
    os.mkfifo(folder / "two.safetensors")

    assert_refused(folder, "not a regular file")


def test_s11_a_file_that_is_cut_off_while_it_is_read_is_a_sentence_and_no_signal(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, file(json.dumps({"a": entry("U8", [1 << 20], (0, 1 << 20))}), bytes(1 << 20)))
    tensor = open_checkpoint(path)["a"]
    os.truncate(path, 1000)

    with pytest.raises(SourceError, match="ended at byte 1,000 while it was read"):
        list(tensor.tiles())
