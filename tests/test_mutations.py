"""Sound files, changed: each is refused, or gives the tensors of the file it was made from.

A torch zip has checksums, so that is the whole rule there. The other formats have none: a bit in a name makes another name.
There a changed byte of a tensor's data changes that byte of that tensor and nothing else, and a changed header is refused or
read as another reader reads it.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import pytest

from converter.errors import ConverterError
from converter.formats import open_source
from converter.formats.gguf import reader as gguf
from converter.formats.torch import legacy
from converter.tensors.crc_checked import checked
from tests.build import seeds
from tests.build.depth import DEEP, some
from tests.build.gguf_files import Bytes
from tests.build.layouts import Field, gguf_fields, legacy_fields, pickle_fields, sealed, zip_fields
from tests.fuzz.parsers import accepts, parameters_folder

MANY, FEW = some(1000, 200), some(350, 100)  # mutations of a file; of a pickle, or of a file from outside
READ = re.compile(r"/(data\.pkl|version|\.data/version|byteorder|data/.*|tensors/.*)$")

ZIPS, LEGACIES, SAFETENSORS, GGUFS = seeds.torch_zips(), seeds.legacies(), seeds.safetensors(), seeds.ggufs()
PICKLES, INDEXES = seeds.pickles(), seeds.indexes()


class Content(NamedTuple):
    """A tensor: what it is, where it lies, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    place: tuple[object, ...]
    data: bytes


def contents(data: bytes) -> dict[str, Content]:
    """Read all tensors, every byte compared with the archive's checksums if it has any."""
    catalogue, finish = checked(open_source(Bytes(data)))
    found = {}
    for name, tensor in catalogue.items():
        storage = tensor.storage
        read = b"".join(bytes(tile) for tile in tensor.tiles()) if tensor.nbytes < 1 << 20 else b""
        place = (tensor.stride, tensor.offset, storage.key, storage.offset, storage.nbytes, storage.byteorder)
        found[name] = Content(tensor.dtype.name, tensor.shape, place, read)
    finish()
    return found


def attempt(data: bytes) -> dict[str, Content] | None:
    """The tensors, or None if the file is refused."""
    try:
        return contents(data)
    except ConverterError as error:
        assert 10 < len(str(error)) < 1500
        return None


def as_told(found: dict[str, Content] | None) -> list[tuple[str, str, tuple[int, ...], bytes]] | None:
    return None if found is None else [(name, one.dtype, one.shape, one.data) for name, one in found.items()]


# ---- mutations --------------------------------------------------------------------------------------------------------


def in_fields(data: bytes, fields: list[Field]) -> Iterator[bytes]:
    """Put the numbers that break readers into every field."""
    for field in fields:
        old = field.read(data)
        most = (1 << 8 * field.width) - 1
        for value in dict.fromkeys((0, 1, old - 1, old + 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)):
            if value & most != old:
                changed = bytearray(data)
                field.write(changed, value)
                yield bytes(changed)


def in_bits(data: bytes, draw: random.Random) -> Iterator[bytes]:
    while True:
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def in_order(data: bytes, other: bytes, draw: random.Random) -> Iterator[bytes]:
    """Cut out, repeat, put in from another file, swap."""
    while True:
        one, two = sorted(draw.sample(range(len(data) + 1), 2))
        width = min(draw.choice((1, 2, 4, 8, 30, 46, 64)), len(data) - one, two - one)
        yield data[:one] + data[two:]
        yield data[:two] + data[one:two] + data[two:]
        at = draw.randrange(len(other))
        yield data[:one] + other[at : at + two - one] + data[two:]
        yield (
            data[:one]
            + data[two : two + width]
            + data[one + width : two]
            + data[one : one + width]
            + data[two + width :]
        )


def mutations(data: bytes, fields: list[Field], other: bytes, count: int) -> Iterator[bytes]:
    """Return `count` different files, the same every time: half of them by their fields, the rest by bits and pieces."""
    draw = random.Random(len(data) * 1000 + len(other))
    every = list(in_fields(data, fields))
    draw.shuffle(every)
    seen = {data}
    for source, share in (
        (iter(every), count // 2),
        (in_bits(data, draw), count * 3 // 4),
        (in_order(data, other, draw), count),
    ):
        for changed in islice(source, 20 * count):
            if len(seen) > share:
                break
            if changed not in seen:
                seen.add(changed)
                yield changed


def counted(made: Iterator[bytes], check: Callable[[bytes], None]) -> int:
    number = 0
    for changed in made:
        check(changed)
        number += 1
    return number


def test_there_are_as_many_inputs_as_promised() -> None:
    assert 1000 * len(ZIPS) >= 26_000  # in a deep run
    assert sum(map(len, ZIPS.values())) >= 15_000


# ---- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZIPS)
def test_a_changed_zip_is_refused_or_gives_the_same_tensors(name: str) -> None:
    data = ZIPS[name]
    control = as_told(contents(data))

    def check(changed: bytes) -> None:
        assert as_told(attempt(changed)) in (None, control)

    other = ZIPS["2.7 trainer" if name != "2.7 trainer" else "1.4 two"]
    assert counted(mutations(data, zip_fields(data)[0], other, MANY), check) == MANY


@pytest.mark.parametrize(
    "name", ["1.4 views", "1.6 two", "2.7 trainer", "deflated", "big-endian", "sizes before the data"]
)
def test_every_flipped_bit_of_a_record_that_is_read_is_refused(name: str) -> None:
    data = ZIPS[name]
    control = contents(data)
    records = [record for record in zip_fields(data)[1] if READ.search(record.name)]
    assert len(records) >= 3

    for record in records:
        for position in range(record.start, record.end):
            for bit in range(8) if DEEP else (position % 8,):
                changed = bytearray(data)
                changed[position] ^= 1 << bit
                found = attempt(bytes(changed))
                # The same data can be deflated in more than one way.
                assert found is None or (name == "deflated" and found == control)


@pytest.mark.parametrize("name", [name for name in ZIPS if name.startswith("2.7")])
def test_a_changed_pickle_with_a_right_checksum_moves_no_bytes(name: str) -> None:
    data = ZIPS[name]
    control, (_, records) = contents(data), zip_fields(data)
    (record,) = [record for record in records if record.name.endswith("data.pkl")]
    start, end = record.start, record.end
    known = {one[:3]: one.data for one in control.values()}

    def check(changed: bytes) -> None:
        for one in (attempt(sealed(data[:start] + changed + data[end:], records)) or {}).values():
            assert known.get(one[:3], one.data) == one.data

    made = (
        c
        for c in mutations(data[start:end], pickle_fields(data[start:end]), ZIPS["1.4 two"], MANY)
        if len(c) == end - start
    )
    assert counted(made, check) > MANY // 2


@pytest.mark.parametrize("name", ["1.6 two", "2.7 views"])
def test_without_checksums_a_flipped_bit_changes_its_byte_alone(name: str) -> None:
    data = ZIPS[name]
    records = zip_fields(data)[1]
    unchecked = bytearray(data)
    for record in records:
        for field in record.crcs:
            field.write(unchecked, 0)
    control = contents(bytes(unchecked))
    storages = [record for record in records if re.search("/data/[0-9]", record.name)]

    check_data(bytes(unchecked), control, [at for record in storages for at in range(record.start, record.end)])


def check_data(data: bytes, control: dict[str, Content], positions: list[int]) -> None:
    """Every byte of data, changed: the tensors that hold it differ in that byte, by that bit."""
    hits = 0
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 0x10
        found = contents(bytes(changed))
        assert {name: one[:3] for name, one in found.items()} == {name: one[:3] for name, one in control.items()}
        for name, one in found.items():
            differing = [a ^ b for a, b in zip(one.data, control[name].data, strict=True) if a != b]
            assert differing in ([], [0x10]) or 0 in one.place[0], "only what is expanded holds a byte twice"  # type: ignore[operator]
            hits += bool(differing)
    assert hits >= len(positions) // 2


# ---- formats without checksums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEGACIES)
def test_a_changed_legacy_stream_moves_no_bytes(name: str) -> None:
    data = LEGACIES[name]
    control = contents(data)
    storages = legacy.read(Bytes(data)).storages
    known = {one[:3]: one.data for one in control.values()}
    first = min(storage.offset for storage in storages) - 8

    def check(changed: bytes) -> None:
        accepts("legacy", changed)
        for one in (attempt(changed) or {}).values():
            if changed[first:] == data[first:]:
                assert known.get(one[:3], one.data) == one.data

    fields = legacy_fields(data, [storage.offset - 8 for storage in storages])
    assert counted(mutations(data, fields, LEGACIES["trainer"], MANY), check) == MANY
    check_data(data, control, [at for s in storages for at in range(s.offset, s.offset + s.nbytes)])


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_changed_safetensors_file_is_what_the_library_reads(name: str) -> None:
    data = SAFETENSORS[name]
    (length,) = struct.unpack_from("<Q", data)

    def check(changed: bytes) -> None:
        accepts("safetensors", changed)

    counted(mutations(data, [Field(0, 8)], SAFETENSORS["metadata"], MANY), check)
    counted(
        _numbers(data[8 : 8 + length], lambda header: struct.pack("<Q", len(header)) + header + data[8 + length :]),
        check,
    )
    control = contents(data)
    check_data(data, control, list(range(8 + length, len(data))) if control else [])


@pytest.mark.parametrize("name", GGUFS)
def test_a_changed_gguf_file_is_what_another_walk_finds(name: str) -> None:
    data = GGUFS[name]

    def check(changed: bytes) -> None:
        accepts("gguf", changed)
        try:
            catalogue = gguf.read(Bytes(changed))
        except ConverterError:
            return
        _, infos = gguf_fields(changed)
        named = [(info.name.decode(), tuple(reversed(info.sizes))) for info in infos]
        read = {name: tensor.shape for name, tensor in catalogue.items()}
        listed = {other.name: other.shape for other in catalogue.unsupported}
        assert dict(named) == read | listed

    assert counted(mutations(data, gguf_fields(data)[0], GGUFS["values"], MANY), check) == MANY
    storages = [t.storage for t in gguf.read(Bytes(data)).values() if t.storage.encoding is None]
    check_data(data, contents(data), [at for s in storages for at in range(s.offset, s.offset + s.nbytes)])


@pytest.mark.parametrize("name", PICKLES)
def test_a_changed_pickle_is_what_pickletools_decodes(name: str) -> None:
    data = PICKLES[name]

    assert (
        counted(
            mutations(data, pickle_fields(data), PICKLES["tensors"], FEW),
            lambda changed: _(accepts("machine", changed)),
        )
        == FEW
    )


def _(accepted: bool) -> None:
    """Either is right."""


def _numbers(text: bytes, whole: Callable[[bytes], bytes] = bytes) -> Iterator[bytes]:
    """Documents with another number in place of each."""
    for match in re.finditer(rb"[0-9]+", text):
        old = int(match[0])
        for value in (
            0,
            1,
            old - 1,
            old + 1,
            2**31 - 1,
            2**32 - 1,
            2**53 + 1,
            2**63 - 1,
            2**63,
            2**64 - 1,
            -1,
            0.5,
            "1e400",
            "true",
        ):
            yield whole(text[: match.start()] + str(value).encode() + text[match.end() :])


@pytest.mark.parametrize("parser", ["index", "manifest"])
def test_a_changed_document_is_refused_or_names_what_is_there(parser: str) -> None:
    documents = INDEXES if parser == "index" else {"two": (parameters_folder() / "manifest.json").read_bytes()}
    for data in documents.values():
        small = json.dumps(json.loads(data)).encode()
        counted(mutations(data, [], small, MANY), lambda changed: _(accepts(parser, changed)))
        counted(_numbers(data), lambda changed: _(accepts(parser, changed)))


def some_of(ends: range) -> list[int]:
    """All ends in a deep run, otherwise a third of them, and all of the first and last 40."""
    return list(ends) if DEEP else sorted({*ends[:40], *ends[::3], *ends[-40:]})


# ---- truncation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parser", ["zip", "legacy", "safetensors", "gguf"])
def test_a_truncated_file_is_refused(parser: str) -> None:
    files = {"zip": ZIPS, "legacy": LEGACIES, "safetensors": SAFETENSORS, "gguf": GGUFS}[parser]
    for name, data in files.items():
        control = as_told(contents(data))
        for end in some_of(range(len(data))):
            found = as_told(attempt(data[:end]))
            # GGUF: no byte of a tensor is missing if only the last one's padding, or bytes that belong to no tensor, are cut off.
            assert found is None or (parser == "gguf" and found == control), (name, end)


@pytest.mark.parametrize("parser", ["machine", "index"])
def test_a_truncated_pickle_or_document_is_refused(parser: str) -> None:
    for name, data in (PICKLES if parser == "machine" else INDEXES).items():
        for end in some_of(range(len(data.rstrip()))):
            assert not accepts(parser, data[:end]), (name, end)
