"""The pickles that the sample's writer makes are read by Python's own unpickler, whose opcodes differ with the size of a number."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from converter.dtypes import U8
from converter.formats.torch.writer import Entry, lay_out
from converter.io.parts import known

SIZES = (1, 255, 256, 257, 65_535, 65_536, 65_537)


class Plain(pickle.Unpickler):
    """Rebuilds no tensor: what a tensor is made from comes back as a tuple."""

    def find_class(self, module: str, name: str) -> Any:
        return {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: parts,
            ("torch", "ByteStorage"): "ByteStorage",
            ("collections", "OrderedDict"): OrderedDict,
        }[module, name]

    def persistent_load(self, told: Any) -> Any:
        return told


def unpickled(path: Path, entries: list[Entry], **options: Any) -> Any:
    with path.open("wb") as file:
        for piece in lay_out("archive", entries, **options).pieces(lambda entry: known(bytes(entry.nbytes))):
            file.writelines(piece.tiles())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return Plain(io.BytesIO(archive.read("archive/data.pkl"))).load()


@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_of_any_size_is_what_python_reads(size: int, tmp_path: Path) -> None:
    found = unpickled(tmp_path / "x.bin", [Entry("w", U8, (size, 1), (1, size))])

    storage = ("storage", "ByteStorage", "0", "cpu", size)
    assert found == {"w": (storage, 0, (size, 1), (1, size), False, OrderedDict())}


@pytest.mark.parametrize("number", [0, *SIZES, (1 << 31) - 1])
def test_a_number_of_any_size_is_what_python_reads(number: int, tmp_path: Path) -> None:
    beside: dict[str, Any] = {"step": number, "rate": 0.1, "best": True, "last": False, "name": "é", "none": None}
    beside["more"] = {"step": number}

    found = unpickled(tmp_path / "x.bin", [Entry("w", U8, (1,), (1,))], below="model", beside=beside)

    assert {name: value for name, value in found.items() if name != "model"} == beside
    assert list(found["model"]) == ["w"]
