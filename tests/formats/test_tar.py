"""The tar of torch before 0.1.10. The expected values are those that torch.load gives for the same files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.errors import AmbiguousError, ConverterError, ForeignFileError
from converter.inspection.report import inspect
from converter.io.local import LocalFile
from converter.opening import open_checkpoint
from converter.scanning.scan import scan_file
from converter.verification.verify import verify
from tests.build.checkpoints import Call, Entry, Global, Persistent, dumps, floats, zip_bytes
from tests.build.containers import TarStorage, TarTensor, tar, torch_tar

NUMBERS = floats(*range(12))
STORAGES = {1: TarStorage(NUMBERS), 2: TarStorage(struct.pack("<3q", 1, -2, 3), "I64"), 3: TarStorage(b"\0<\0@", "F16")}
TENSORS = {
    11: TarTensor(1, (3, 4), (4, 1)),
    12: TarTensor(1, (4, 3), (1, 4)),
    13: TarTensor(4, (2, 2), (3, 1), 1),
    14: TarTensor(2, (3,), (1,)),
    15: TarTensor(3, (2,), (1,)),
}
ZIP = zip_bytes([Entry("a/data.pkl", dumps({}))])
PART = (4, 1, 4, 8)  # the last eight of storage 1
VALUE: dict[str, Any] = {
    "epoch": 3,
    "state_dict": {
        "w": Persistent("11"), "t": Persistent("12"), "v": Persistent("13"), "tied": Persistent("11"),
        "i": Persistent("14"), "h": Persistent("15"),
    },
    "rest": Persistent("2"),
}  # fmt: skip


def write(path: Path, data: bytes | None = None) -> Path:
    path.write_bytes(torch_tar(VALUE, STORAGES, TENSORS, [PART]) if data is None else data)
    return path


def test_a_member_of_thousands_of_pickles_is_read_to_its_end(tmp_path: Path) -> None:
    """The member with the tensors is read in pieces, and some pickle lies across the end of a piece."""
    tensors = {key: TarTensor(1, (1,), (1,), key % 12) for key in range(100, 3100)}
    value = {f"w.{key}": Persistent(str(key)) for key in tensors}

    catalogue = open_checkpoint(write(tmp_path / "x.tar", torch_tar(value, STORAGES, tensors, [])))

    assert [tensor.bits().item() for tensor in catalogue.values()] == [key % 12 for key in tensors]


def test_tensors_are_those_of_torch(tmp_path: Path) -> None:
    catalogue = open_checkpoint(write(tmp_path / "x.tar"))

    assert {name: (tensor.dtype.name, tensor.bits().tolist()) for name, tensor in catalogue.items()} == {
        "w": ("F32", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        "t": ("F32", [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]),
        "v": ("F32", [[5, 6], [8, 9]]),
        "tied": ("F32", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        "i": ("I64", [1, -2, 3]),
        "h": ("F16", [1, 2]),
    }
    assert catalogue.tied() == [["w", "tied"]]
    assert {tensor.storage.key for tensor in catalogue.values()} == {"0", "1", "2"}


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    report = inspect(open_checkpoint(write(tmp_path / "x.tar")))

    assert (report.source.format, report.weights.root, report.safety.verdict) == ("torch-tar", "state_dict", "plain")
    assert [(other.name, other.kind, other.value) for other in report.others] == [
        ("epoch", "int", "3"), ("rest", "storage", "storage I64 of 3"),
    ]  # fmt: skip


def test_a_copy_is_identical(tmp_path: Path) -> None:
    source = open_checkpoint(write(tmp_path / "x.tar"))
    report = convert(source, tmp_path / "x.safetensors")

    assert [left.name for left in report.dropped] == ["epoch", "rest"]
    assert [one.verdict for one in verify(source, [tmp_path / "x.safetensors"]).outputs] == ["identical"]


def test_a_class_with_its_source_is_named_and_not_read(tmp_path: Path) -> None:
    """torch pickled the class of a container with its file and its text, to warn when they change."""
    layer = Persistent((Global("torch.nn.modules.container", "Sequential"), "/x.py", "class Sequential: …"))
    module = Call(layer, (), {"_parameters": {"w": Persistent("11")}, "_buffers": {}, "_modules": {}})
    data = torch_tar({"model": module}, {1: STORAGES[1]}, {11: TENSORS[11]})
    catalogue = open_checkpoint(write(tmp_path / "x.tar", data))

    assert list(catalogue) == ["w"]
    assert catalogue.facts["module"] == "torch.nn.modules.container.Sequential"


def test_other_members_and_unused_storages_are_problems(tmp_path: Path) -> None:
    data = torch_tar({"w": Persistent("15")}, STORAGES, TENSORS, [PART], others={"readme": b"text"})
    path = write(tmp_path / "x.tar", data)

    assert open_checkpoint(path).problems == (
        f"`{path}` holds 2 storages that no tensor refers to (72 bytes): `0`, `1`",
        f"`{path}` holds 1 member that torch.save does not write (4 bytes): `readme`",
    )
    assert "hidden-data" in {finding.rule for finding in scan_file(LocalFile(path), fickling=False).findings}


def test_a_pickle_in_the_numbers_is_found(tmp_path: Path) -> None:
    payload = dumps(Call(Global("posix", "system"), ("echo",))).ljust(48, b".")
    path = write(tmp_path / "x.tar", torch_tar({"w": Persistent("11")}, {1: TarStorage(payload)}, {11: TENSORS[11]}))
    found = scan_file(LocalFile(path), fickling=False)

    assert {finding.rule for finding in found.findings} == {"nested-pickle", "dangerous-global"}


def of(tensor: TarTensor, views: Any = ()) -> bytes:
    return torch_tar({"w": Persistent("11")}, {1: STORAGES[1]}, {11: tensor}, views)


WHOLE = TENSORS[11]
WRONG: dict[str, tuple[bytes, str]] = {
    "a tensor that reaches too far": (of(TarTensor(1, (3, 5), (4, 1))), "ends at element 12 of a storage of 12"),
    "a tensor of a part that reaches past its end": (of(TarTensor(4, (9,), (1,)), [PART]), "ends at element 8 of a storage of 8"),
    "a part that reaches past the end": (of(WHOLE, [(4, 1, 8, 8)]), "reaches past the end of storage `0`"),
    "a part before the start": (of(WHOLE, [(4, 1, -1, 2)]), "reaches past the end of storage `0`"),
    "a part of nothing": (of(WHOLE, [(4, 9, 0, 1)]), "a storage that the file does not hold"),
    "a part with the key of a storage": (of(WHOLE, [(1, 1, 0, 1)]), "two entries have the same key"),
    "a part that is no part": (of(WHOLE, [(1, 1, 0)]), "view of a storage is not"),
    "a tensor on nothing": (of(TarTensor(9, (1,), (1,))), "tensor 0 lies on a storage that the file does not hold"),
    "a size below zero": (of(TarTensor(1, (-1,), (1,))), "negative"),
    "a key that is not there": (torch_tar({"w": Persistent("12")}, {1: STORAGES[1]}, {11: WHOLE}), "mentions 12"),
    "a key in other digits": (torch_tar({"w": Persistent("١١")}, {1: STORAGES[1]}, {11: WHOLE}), "number in digits"),
    "a key that is a list": (torch_tar({"w": Persistent([])}, {1: STORAGES[1]}, {11: WHOLE}), "number in digits"),
    "a tensor with the key of a storage": (
        torch_tar({"w": Persistent("1")}, {1: STORAGES[1]}, {1: WHOLE}), "tensor 0 has the key of a storage",
    ),
    "numbers that are too few": (
        torch_tar({"w": Persistent("11")}, {1: TarStorage(NUMBERS, count=200)}, {11: WHOLE}), "need",
    ),
    "a count below zero": (
        torch_tar({"w": Persistent("11")}, {1: TarStorage(NUMBERS, count=-1)}, {11: WHOLE}), "has -1 elements: a number from 0",
    ),
    "something behind the object": (
        torch_tar({"w": Persistent("11")}, {1: STORAGES[1]}, {11: WHOLE}, after={"pickle": b"N."}), "goes on for 2 bytes",
    ),
    "something behind the tensors": (
        torch_tar({"w": Persistent("11")}, {1: STORAGES[1]}, {11: WHOLE}, after={"tensors": b"N."}), "goes on for 2 bytes",
    ),
    "no tensors": (tar({"pickle": b"N.", "storages": dumps(0) + dumps([])}), "and not all of `storages`, `tensors`, `pickle`"),
    "no end": (of(WHOLE)[:-512], "two empty blocks"),
    "a count that is none": (tar({"pickle": b"N.", "tensors": dumps(0), "storages": dumps("x")}), "count of its entries"),
    "an entry that is none": (tar({"pickle": b"N.", "tensors": dumps(0), "storages": dumps(1) + dumps(7)}), "tuple of three"),
    "a storage of no class": (
        tar({"pickle": b"N.", "tensors": dumps(0), "storages": dumps(1) + dumps((1, "cpu", 7)) + bytes(8)}), "storage class",
    ),
    "a storage without data": (
        tar({"pickle": b"N.", "tensors": dumps(0), "storages": dumps(1) + dumps((1, "meta", 7)) + bytes(8)}), "meta",
    ),
    "a persistent id among the storages": (
        tar({"pickle": b"N.", "tensors": dumps(0), "storages": dumps(Persistent("1"))}), "outside of the member `pickle`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_contradicts_itself_is_one_sentence(name: str, tmp_path: Path) -> None:
    data, said = WRONG[name]
    with pytest.raises(ConverterError, match=said) as raised:
        open_checkpoint(write(tmp_path / "x.tar", data))

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.pt", "a.npz"])
def test_a_tar_that_packs_a_zip_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", tar({name: ZIP}))

    with pytest.raises(ForeignFileError, match=f"is a tar archive, .* it holds `{name}`, .*; unpack it first$"):
        open_checkpoint(path)


def test_a_checkpoint_that_packs_a_zip_is_two_files_in_one(tmp_path: Path) -> None:
    data = torch_tar(VALUE, STORAGES, TENSORS, [PART], others={"more.zip": ZIP})

    with pytest.raises(
        AmbiguousError, match=r"is two files in one: as PyTorch checkpoint \(tar\), and as a zip archive"
    ):
        open_checkpoint(write(tmp_path / "x.tar", data))
