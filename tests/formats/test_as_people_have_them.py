"""Files that people have and that are not sound checkpoints: one sentence says what each is and what to do."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.errors import ConverterError, UnsupportedError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    checkpoint_entries,
    floats,
    legacy_bytes,
    view,
    write_checkpoint,
    zip_bytes,
)

STORAGES = {"0": floats(1, 2)}
VALUE = {"a.w": view("0", (2,))}
NUMPY = Call(
    Global("numpy._core.multiarray", "_reconstruct"),
    (Global("numpy", "ndarray"), (0,), b"b"),
    (1, (2,), Call(Global("numpy", "dtype"), ("f4", False, True), (3, "<", None, None, None, -1, -1, 0)), False, floats(3, 4)),
)  # fmt: skip


def entries(root: str = "archive") -> list[Entry]:
    return checkpoint_entries(VALUE, STORAGES, root=root)


def safetensors(header: bytes, data: bytes = floats(1, 2)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def header(**more: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} | more).encode()


def renamed(old: str, new: str) -> list[Entry]:
    return [Entry(str(entry.name).replace(old, new), entry.data) for entry in entries()]


ONE = zip_bytes(entries())
OLD = legacy_bytes(VALUE, STORAGES)
SENTENCES: dict[str, tuple[bytes, str]] = {
    "two saves": (2 * ONE, f"two archives, one after the other, .* cut it at byte {len(ONE):,}, and open"),
    "two saves of other sizes": (zip_bytes(entries("a long name of it")) + ONE, "two archives, one after the other"),
    "two saves of old": (2 * OLD, f"two saves, one after the other, .* cut it at byte {len(OLD):,}, and open"),
    "an old save and a note": (OLD + b"hello", f"goes on for 5 bytes after its last storage: .* cut it at byte {len(OLD):,}"),
    "zeros after it": (ONE + bytes(512), f"512 zero bytes follow the end of its zip archive: cut it at byte {len(ONE):,}"),
    "a note after it": (ONE + b"hello", f" 5 bytes follow the end of its zip archive: .* cut it at byte {len(ONE):,}"),
    "many zeros after it": (ONE + bytes(1 << 18), "ends in zero bytes, where the directory of a zip archive should be"),
    "macOS": (zip_bytes([*entries(), Entry("__MACOSX/archive/._data.pkl", b"\0\5")]), r"in `archive/` and .*zip -d"),
    "a note beside": (zip_bytes([*entries(), Entry("README.txt", b"hello")]), "was packed again: .* in `archive/`"),
    "backslashes": (zip_bytes(renamed("/", "\\")), "has a backslash where a zip has `/`"),
    "a server's text": (b"Entry not found", "text and not a checkpoint, perhaps what a server answered .*'Entry not found'"),
    "a longer text": (b"Access denied for this user.\r\nAsk somebody.\n", "'Access denied for this user.'"),
    "padded header": (safetensors(header() + bytes(5)), "padded with 5 zero bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENTENCES)
def test_one_sentence_says_what_it_is(kind: str, tmp_path: Path) -> None:
    data, said = SENTENCES[kind]
    (tmp_path / "x.bin").write_bytes(data)

    with pytest.raises(ConverterError, match=said):
        open_checkpoint(tmp_path / "x.bin")


@pytest.mark.parametrize("data", [b"\1\2\3\4" * 9, b"word", "kein Prüfpunkt hier".encode("utf-16")])
def test_other_bytes_are_no_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(data.ljust(16, b"\1"))

    with pytest.raises(ConverterError, match="its first bytes are"):
        open_checkpoint(tmp_path / "x.bin")


def test_an_archive_whose_offset_is_merely_wrong_is_not_two(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(zip_bytes(entries(), locator={"offset": 100}))

    with pytest.raises(ConverterError, match="the zip64 locator points to byte 100"):
        open_checkpoint(tmp_path / "x.bin")


def test_a_tensor_without_a_dtype_is_listed_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(header(head={"dtype": "", "shape": [], "data_offsets": [8, 8]})))
    catalogue = open_checkpoint(path)

    assert [(other.name, other.kind) for other in inspect(catalogue).others] == [("head", "typeless tensor")]
    with pytest.raises(UnsupportedError, match=r"`head` is a typeless tensor, .* --exclude"):
        convert(catalogue, tmp_path / "y.safetensors")


def test_a_numpy_array_below_a_name_is_a_tensor(tmp_path: Path) -> None:
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", VALUE | {"mean": NUMPY}, STORAGES))

    convert(catalogue, tmp_path / "y.safetensors")

    read = open_checkpoint(tmp_path / "y.safetensors")
    assert {name: b"".join(tensor.tiles()) for name, tensor in read.items()} == {
        "a.w": floats(1, 2), "mean": floats(3, 4),
    }  # fmt: skip


def test_keys_of_any_type_and_bare_values_are_named(tmp_path: Path) -> None:
    value = {("a", 1): view("0", (2,)), 7: view("0", (1,)), "type": Global("torch", "float16")}
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", value, STORAGES))

    assert list(catalogue) == ["('a', 1)", "7"]
    assert [(other.name, other.kind) for other in catalogue.others] == [("type", "dtype")]


def test_nanogpt_is_converted_to_safetensors_and_refused_as_gguf(tmp_path: Path) -> None:
    """torch.nn.Linear keeps [out, in] where GPT-2's Conv1D has [in, out], and has no biases: by its shapes this is not a GPT-2."""
    names = ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "lm_head.weight")
    model = {f"_orig_mod.{name}": view("0", (3, 1)) for name in names}
    value = {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {"n_layer": 1},
        "iter_num": 5,
    }
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "ckpt.pt", value, {"0": floats(1, 2, 3)}))

    report = convert(catalogue, tmp_path / "m.safetensors")

    assert set(open_checkpoint(tmp_path / "m.safetensors")) == set(names)
    assert "`_orig_mod.` was left out of every name" in report.notes
    assert [left.name for left in report.dropped] == ["optimizer", "model_args", "iter_num"]
    with pytest.raises(
        ConverterError, match=r"choose safetensors|not part of|another shape|has the shape|GGUF needs every"
    ):
        convert(catalogue, tmp_path / "m.gguf")
