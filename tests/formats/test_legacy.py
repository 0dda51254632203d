"""The stream from before torch 1.6: five pickles, then the storages."""

from __future__ import annotations

import pickle  # used only to write
import struct
from pathlib import Path
from typing import Any

import pytest

from converter.api import scan
from converter.errors import LayoutError, LimitError, PickleError
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import (
    LEGACY_MAGIC,
    Call,
    Global,
    Persistent,
    checkpoint_entries,
    dumps,
    floats,
    legacy_bytes,
    view,
    zip_bytes,
)

VALUE = {"w": view("10", (2, 3)), "t": view("10", (3, 2), (1, 3)), "b": view("9", (2,))}
STORAGES = {"10": floats(0, 1, 2, 3, 4, 5), "9": floats(7, 8)}
FLOAT = Global("torch", "FloatStorage")
SYSTEM = dumps({"protocol_version": 1001, "little_endian": True})


def opened(path: Path, data: bytes, **options: Any) -> Catalogue:
    path = path / "a.bin"
    path.write_bytes(data)
    return open_checkpoint(path, **options)


def test_reads_names_layouts_and_bytes(tmp_path: Path) -> None:
    catalogue = opened(tmp_path, legacy_bytes(VALUE, STORAGES))

    assert {name: (t.shape, t.stride, t.bits().tolist()) for name, t in catalogue.items()} == {
        "w": ((2, 3), (3, 1), [[0, 1, 2], [3, 4, 5]]),
        "t": ((3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        "b": ((2,), (1,), [7, 8]),
    }
    assert catalogue.format == "torch-legacy"
    assert [(s.key, s.nbytes, s.crc32) for s in catalogue.storages] == [("0", 24, None), ("1", 8, None)]


@pytest.mark.parametrize("zeros", [1, 512, 1 << 20])
def test_zeros_after_the_last_storage_fill_a_block_and_are_nothing(zeros: int, tmp_path: Path) -> None:
    catalogue = opened(tmp_path, legacy_bytes(VALUE, STORAGES) + bytes(zeros))

    assert catalogue["b"].bits().tolist() == [7, 8]
    assert scan(tmp_path / "a.bin", fickling=False).verdict == "plain"


@pytest.mark.parametrize("after", [bytes(511) + b"x", bytes((1 << 20) + 1), b"x" + bytes(511)])
def test_other_bytes_after_it_are_refused(after: bytes, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=f"goes on for {len(after):,} bytes"):
        opened(tmp_path, legacy_bytes(VALUE, STORAGES) + after)


@pytest.mark.parametrize("protocol", range(6))
def test_knows_the_magic_number_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    data = legacy_bytes(VALUE, STORAGES).replace(LEGACY_MAGIC, pickle.dumps(0x1950A86A20F9469CFC6C, protocol))

    assert list(opened(tmp_path, data)) == ["w", "t", "b"]


def test_counts_elements_of_the_storages_class(tmp_path: Path) -> None:
    value = {"d": view("0", (2,), dtype="F64"), "c": view("1", (3,), dtype="U8"), "z": view("2", (0,))}
    storages = {"0": struct.pack("<2d", 1.5, 2.5), "1": b"abc", "2": b""}
    catalogue = opened(tmp_path, legacy_bytes(value, storages, itemsizes={"0": 8, "1": 1}))

    assert [t.bits().tolist() for t in catalogue.values()] == [[1.5, 2.5], [97, 98, 99], []]


def test_f8_lies_in_bytes(tmp_path: Path) -> None:
    catalogue = opened(
        tmp_path, legacy_bytes({"f": view("0", (3,), dtype="F8_E4M3")}, {"0": b"abc"}, itemsizes={"0": 1})
    )

    assert (catalogue["f"].dtype.name, catalogue["f"].bits().tolist()) == ("F8_E4M3", [97, 98, 99])


def storage(key: str, numel: Any, part: Any = None, name: str = "FloatStorage") -> Persistent:
    return Persistent(("storage", Global("torch", name), key, "cpu", numel, part))


def tensor(where: Persistent, size: int, offset: int = 0) -> Call:
    return Call(Global("torch._utils", "_rebuild_tensor"), (where, offset, (size,), (1,)))


def test_parts_of_storages_as_torch_0_3_wrote_them(tmp_path: Path) -> None:
    value = {"a": tensor(storage("10", 6, ("part", 2, 3)), 2, 1), "b": tensor(storage("10", 6), 6)}
    catalogue = opened(tmp_path, legacy_bytes(value, {"10": STORAGES["10"]}))

    assert [t.bits().tolist() for t in catalogue.values()] == [[3, 4], [0, 1, 2, 3, 4, 5]]


def test_classes_of_modules_are_inert(tmp_path: Path) -> None:
    kind = Persistent(("module", Global("mine", "Net"), "net.py", "class Net: ..."))
    value = Call(kind, (), {"weight": tensor(storage("10", 6), 6)})
    catalogue = opened(tmp_path, legacy_bytes(value, {"10": STORAGES["10"]}))

    assert (list(catalogue), catalogue.unknown_globals()) == (["weight"], ["mine.Net"])


def test_a_root_is_left_out(tmp_path: Path) -> None:
    data = legacy_bytes({"state_dict": VALUE, "epoch": 1}, STORAGES)

    assert list(opened(tmp_path, data)) == ["w", "t", "b"]
    assert list(opened(tmp_path, data, root="state_dict")) == ["w", "t", "b"]


def test_pickles_longer_than_the_first_read(tmp_path: Path) -> None:
    value = {**VALUE, "text": "x" * (2 << 20)}

    assert list(opened(tmp_path, legacy_bytes(value, STORAGES))) == ["w", "t", "b"]


def test_pickles_without_an_end_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.write(LEGACY_MAGIC + dumps(1001) + SYSTEM + b"\x80\2\x8d" + struct.pack("<Q", 1 << 36))
        file.truncate(1 << 37)

    with pytest.raises(LimitError, match="bytes of pickles"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("storage",),
        ("storage", FLOAT, "0", "cpu"),
        ("storage", FLOAT, "0", "cpu", 1, None, 1),
        ("other", FLOAT, "0", "cpu", 1, None),
    ],
)
def test_a_persistent_id_of_another_length_or_kind_is_refused(words: tuple[Any, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(legacy_bytes({"a": tensor(Persistent(words), 1)}, {"0": b"abcd"}))

    with pytest.raises(PickleError, match="a persistent id is not"):
        open_checkpoint(path)


LONG = (1 << 8000) - 1
FAR = tuple([(1 << 62) - 1] * 64)


@pytest.mark.parametrize(
    "value",
    [
        tensor(storage("k" * 4000, 1), 2),
        Call(Global("torch._utils", "_rebuild_tensor"), (storage("0", 1), 0, FAR, FAR)),
        tensor(storage("0", LONG), 1),
    ],
    ids=["a long key", "large sizes", "a large count"],
)
def test_a_refusal_does_not_repeat_the_whole_value(value: Any, tmp_path: Path) -> None:
    for name, data in (
        ("legacy", legacy_bytes({"a": value}, {"0": b"abcd"})),
        ("zip", zip_bytes(checkpoint_entries(value, {"0": b"abcd"}))),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises((LayoutError, PickleError)) as caught:
            open_checkpoint(tmp_path / name)
        assert len(str(caught.value)) < 1000


def test_storages_are_numbered_and_not_named_by_addresses(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    value = {"b": view("94371840", (1,)), "a": view("94371712", (2,)), "c": view("94371840", (1,))}
    path.write_bytes(legacy_bytes(value, {"94371712": floats(1, 2), "94371840": floats(3)}))

    catalogue = open_checkpoint(path)

    assert {name: tensor.storage.key for name, tensor in catalogue.items()} == {"b": "1", "a": "0", "c": "1"}
    assert [storage.key for storage in catalogue.storages] == ["0", "1"]
    assert b"".join(catalogue["b"].tiles()) == floats(3)
