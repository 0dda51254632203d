"""A GGUF in several parts against ggml's own writer, and against the parts that gguf-py writes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import xllamacpp
from gguf import GGUFReader, GGUFWriter

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample
from converter.verification.verify import verify

MOST = 60_000


def ggml() -> ctypes.CDLL:
    [path] = Path(xllamacpp.__file__).parent.glob("*.so")
    library = ctypes.CDLL(str(path))
    for name in ("gguf_init_empty", "gguf_init_from_file"):
        getattr(library, name).restype = ctypes.c_void_p
    library.gguf_get_meta_size.restype = ctypes.c_size_t
    return library


class InitParams(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def keys_of_the_first_part(source: Path, count: int, tensors: int) -> bytes:
    """Header and keys of a part without tensors, set in the order in which llama-gguf-split sets them."""
    library = ggml()
    whole = ctypes.c_void_p(library.gguf_init_from_file(str(source).encode(), InitParams(True, None)))
    part = ctypes.c_void_p(library.gguf_init_empty())
    library.gguf_set_kv(part, whole)
    library.gguf_set_val_u16(part, b"split.no", ctypes.c_uint16(0))
    library.gguf_set_val_u16(part, b"split.count", ctypes.c_uint16(0))
    library.gguf_set_val_i32(part, b"split.tensors.count", ctypes.c_int32(tensors))
    library.gguf_set_val_u16(part, b"split.count", ctypes.c_uint16(count))
    data = ctypes.create_string_buffer(library.gguf_get_meta_size(part))
    library.gguf_get_meta_data(part, data)
    return data.raw


def test_the_keys_of_a_part_are_those_of_ggml(tmp_path: Path) -> None:
    write_sample(tmp_path / "s", "tiny")
    convert(open_checkpoint(tmp_path / "s"), tmp_path / "x.gguf", no_tokenizer=True)
    convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "out" / "x.gguf", max_shard_size=MOST, no_tokenizer=True)
    parts = sorted((tmp_path / "out").iterdir())

    expected = keys_of_the_first_part(tmp_path / "x.gguf", len(parts), len(open_checkpoint(tmp_path / "x.gguf")))

    written = parts[0].read_bytes()
    end = len(expected.rstrip(b"\0"))
    assert len(parts) > 2
    assert (written[:8], written[16:end]) == (
        expected[:8],
        expected[16:end],
    )  # between them: how many tensors there are
    for part in parts:
        sizes = [tensor.n_bytes + -tensor.n_bytes % 32 for tensor in GGUFReader(part).tensors]
        assert sum(sizes) <= MOST or len(sizes) == 1


def test_parts_of_gguf_py_are_read_and_joined(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_name("Mine")
    writer.add_array("words", ["a", "b"])
    values = {f"blk.{at}.attn_q.weight": np.full((4, 32), at, "<f4") for at in range(5)}
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = tmp_path / "m-00001-of-00003.gguf"

    convert(open_checkpoint(first), tmp_path / "one.gguf", no_tokenizer=True)

    found = GGUFReader(tmp_path / "one.gguf")
    assert {tensor.name: tensor.data.tolist() for tensor in found.tensors} == {n: v.tolist() for n, v in values.items()}
    assert found.fields["general.name"].contents() == "Mine"
    assert found.fields["words"].contents() == ["a", "b"]
    assert not [name for name in found.fields if name.startswith("split.")]
    assert verify(open_checkpoint(first), [tmp_path / "one.gguf"]).ok


def test_gguf_new_metadata_works_on_a_copy(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("f", 0.1)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 32), "<f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(open_checkpoint(tmp_path / "m.gguf"), tmp_path / "q.gguf", dtype="q8_0", no_tokenizer=True)

    command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--general-name", "New"]
    subprocess.run([*command, tmp_path / "q.gguf", tmp_path / "n.gguf"], check=True, capture_output=True)

    found = open_checkpoint(tmp_path / "n.gguf").metadata
    assert (found["general.name"], list(found["numbers"]), found["general.file_type"]) == ("New", [1, 2, 3], 7)
