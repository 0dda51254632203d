"""Wherever docs/security/threats.md calls us stricter or laxer than PyTorch, both load harmless files of ours."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.errors import ConverterError
from converter.opening import open_checkpoint
from converter.tensors.crc_checked import checked
from converter.tensors.guards import check_portable
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    Persistent,
    Raw,
    checkpoint_entries,
    dumps,
    floats,
    view,
    zip_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own

TWO = {"0": floats(1, 2)}
SOUND = dumps({"w": view("0", (2,))}, {"0": 8})
FLOATS = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 2))
HOOKS = Call(Global("collections", "OrderedDict"))


def entries(value: Any = None, **options: Any) -> list[Entry]:
    return checkpoint_entries({"w": view("0", (2,))} if value is None else value, TWO, **options)


def changed(name: str, **changes: Any) -> bytes:
    return zip_bytes([Entry(e.name, e.data, **changes) if e.name == f"archive/{name}" else e for e in entries()])


def twice() -> Raw:
    key, tensors = b"X\1\0\0\0a", [dumps(view("0", (1,), offset=offset), {"0": 8})[2:-1] for offset in (0, 1)]
    return Raw(b"}(" + key + tensors[0] + key + tensors[1] + b"u")


def wrong_crc() -> bytes:
    return changed("data/0", central={"crc32": 7}, descriptor=struct.pack("<4s3L", b"PK\7\x08", 7, 8, 8))


def other(*values: float) -> list[Entry]:
    return checkpoint_entries({"w": view("0", (2,))}, {"0": floats(*values)})


# Refused here. The last part is what torch makes of the file, if that says something.
STRICTER: dict[str, tuple[Callable[[], bytes], Any]] = {
    "a dotted name": (
        lambda: zip_bytes(entries({"w": Call(Global("torch", "_utils._rebuild_tensor_v2"), (FLOATS, 0, (2,), (1,), False, HOOKS))})),
        [1, 2],
    ),
    "bytes behind the pickle": (lambda: zip_bytes(entries(pickle=SOUND + b"more")), [1, 2]),
    "a key twice": (lambda: zip_bytes(entries(twice())), [2]),
    "a wrong CRC": (wrong_crc, [1, 2]),
    "another local name": (lambda: changed("data/0", local={"name": b"archive/data/9"}), [1, 2]),
    "a record twice": (lambda: zip_bytes([*entries(), Entry("archive/data/0", floats(3, 4))]), [1, 2]),
    "a second archive behind": (lambda: zip_bytes(entries()) + zip_bytes(other(3, 4)), [1, 2]),
    "a name that leads out": (lambda: zip_bytes([*entries(), Entry("archive/../../evil", b"x")]), [1, 2]),
    "another count at the second mention": (
        lambda: zip_bytes(entries({"w": view("0", (2,)), "x": view("0", (1,), numel=1)})), [1, 2],
    ),
    "200 dimensions": (lambda: zip_bytes(entries({"w": view("0", (1,) * 199 + (2,))})), None),
    "2^62 beside a 0": (lambda: zip_bytes(entries({"w": view("0", (1 << 62, 0))})), None),
}  # fmt: skip


@pytest.mark.parametrize("name", STRICTER)
def test_we_refuse_what_torch_reads(name: str, tmp_path: Path) -> None:
    make, expected = STRICTER[name]
    path = tmp_path / "x.bin"
    path.write_bytes(make())

    found = torch.load(path, weights_only=True)

    if expected is not None:
        assert next(iter(found.values())).tolist() == expected
    with pytest.raises(ConverterError):
        carried_over(path)


def carried_over(path: Path) -> None:
    catalogue, finish = checked(open_checkpoint(path))
    check_portable(catalogue, ignore_globals=False, no_crc=False)
    for tensor in catalogue.values():
        tensor.bits()
    finish()


# Read here, refused by torch.
LAXER: dict[str, Callable[[], bytes]] = {
    "opcodes of protocol 4": lambda: zip_bytes(entries(pickle=b"\x80\4" + SOUND[2:-1] + b"\x8c\1x\x94Ns.")),
    "text numbers of protocol 0": lambda: zip_bytes(entries(pickle=SOUND[:-1] + b"I1\nI2\ns.")),
    "a name that nobody knows": lambda: zip_bytes(
        entries({"w": view("0", (2,)), "x": Call(Global("nobody", "knows"))})
    ),
    "deep nesting beside": lambda: zip_bytes(
        entries({"w": view("0", (2,)), "x": Raw(b"cnobody\nknows\n" + b")R" * 5000)})
    ),
}


@pytest.mark.parametrize("name", LAXER)
def test_we_read_what_torch_refuses(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(LAXER[name]())

    with pytest.raises(Exception, match=r"."):
        torch.load(path, weights_only=True)
    assert open_checkpoint(path)["w"].bits().tolist() == [1, 2]


def test_a_tensor_of_terabytes_is_made_by_torch_and_only_shown_here(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(zip_bytes(entries({"w": view("0", (1 << 40,), (0,))})))

    assert torch.load(path, weights_only=True)["w"].numel() == 1 << 40
    assert open_checkpoint(path)["w"].nbytes == 1 << 42


def test_torchs_mmap_reads_past_a_record_and_takes_deflated_bytes_for_weights(tmp_path: Path) -> None:
    short, deflated = tmp_path / "short.bin", tmp_path / "deflated.bin"
    short.write_bytes(zip_bytes(checkpoint_entries({"w": view("0", (4,), numel=4)}, TWO)))
    deflated.write_bytes(zip_bytes([Entry(e.name, e.data, deflated=e.name.endswith("/0")) for e in entries()]))

    assert torch.load(short, weights_only=True, mmap=True)["w"].tolist()[:2] == [1, 2]
    assert torch.load(deflated, weights_only=True, mmap=True)["w"].tolist() != [1, 2]
    assert torch.load(deflated, weights_only=True)["w"].tolist() == [1, 2]
    with pytest.raises(ConverterError):
        open_checkpoint(short)
    assert open_checkpoint(deflated)["w"].bits().tolist() == [1, 2]
