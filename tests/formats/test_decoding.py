"""Blocks of GGUF become F32. The expected numbers are ggml's; tests/peers compares many more blocks with it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.conversion.convert import convert
from converter.conversion.surgery import Surgery
from converter.dtypes import F32
from converter.errors import UnsupportedError
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import BY_NAME, ENCODINGS, LARGEST_BLOCK
from converter.formats.gguf.grids import grid
from converter.formats.gguf.reader import read
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from tests.build.damage import model, write_gguf
from tests.build.depth import share
from tests.build.gguf_files import Bytes, Info, gguf
from tests.build.quants import HALVES, block

BLOCKS = tuple(encoding.name for encoding in ENCODINGS if encoding.block > 1)
# ggml's decoding of `block(name)`: the first four elements, and the start of the SHA-256 of all elements.
EXPECTED: dict[str, tuple[list[float], str]] = {
    "Q4_0": ([-0.037109375, 0.111328125, 0.1484375, -0.1484375], "d1b1ccc89dfb98f46f59cd52fdc91f19"),
    "Q4_1": ([0.011474609375, 0.159912109375, -0.062744140625, 0.085693359375], "f8588d69aa89515963490a206b589b9d"),
    "Q5_0": ([-0.408203125, -0.259765625, 0.0, -0.408203125], "6a869b46887adb5e4651e5fba7e221ee"),
    "Q5_1": ([0.976318359375, 0.048583984375, 0.568115234375, 0.085693359375], "5fd1ba6bc8e166d9e61aa8f3c0485295"),
    "Q8_0": ([-1.484375, 3.673828125, -2.89453125, -2.041015625], "f93165dea7cbc795e404fc448922d86c"),
    "Q2_K": ([2.425537109375, 2.054443359375, 2.054443359375, 2.054443359375], "18bbde46e8f7758fb3c3fd5fb21d7cc2"),
    "Q3_K": ([-0.59375, -0.296875, -0.890625, 0.890625], "6f5f85e8ed7e6f748020797010507899"),
    "Q4_K": ([1.780517578125, 12.690673828125, 1.780517578125, 10.352783203125], "fbdab4ae96a3185019c1a35fcc52073a"),
    "Q5_K": ([18.974853515625, 18.084228515625, 16.302978515625, 18.974853515625], "5db020d708542a9233f051cfd91f8d69"),
    "Q6_K": ([27.83203125, -12.98828125, -7.421875, -12.060546875], "99516d5a90522298b15a48bb46a9af68"),
    "Q8_K": (
        [4.266499996185303, 2.9308998584747314, 0.9274999499320984, 1.1871999502182007],
        "533910674cd4bdb674a73fd8ee55f6c2",
    ),
    "IQ2_XXS": ([-1.043701171875, 0.333984375, 0.333984375, 0.333984375], "892b3923f64812be5cd5a162960b4acf"),
    "IQ2_XS": ([-0.927734375, 2.899169921875, -0.927734375, 2.899169921875], "f4e583ddc0af2eae5087e20be6775559"),
    "IQ3_XXS": ([-1.001953125, -0.333984375, -1.001953125, 1.669921875], "d0215dc815c2d9074b2aa4dbd3f8cc8d"),
    "IQ1_S": ([0.060302734375, -0.422119140625, 0.060302734375, 0.060302734375], "27e0d29c341d3668b9cefa08abc27784"),
    "IQ4_NL": ([-3.859375, 4.193359375, 1.41015625, 0.482421875], "249e5a3288fd79a65c6d612f00ea67f8"),
    "IQ3_S": ([-0.556640625, -0.185546875, 0.927734375, -0.185546875], "0c2ce023f7f4965c586fe902ef3cbe1f"),
    "IQ2_S": ([0.259765625, -1.396240234375, 1.396240234375, 0.259765625], "84d5b016d3d545911690a5794b855900"),
    "IQ4_XS": ([8.98046875, -46.126953125, -28.166015625, 8.98046875], "04f0ac7a300fad11ac5dd7c9b2134293"),
    "IQ1_M": (
        [0.09108352661132812, -0.11710739135742188, -0.11710739135742188, -0.11710739135742188],
        "185668fd96713384be007d11e156ea7b",
    ),
    "TQ1_0": ([-0.037109375, 0.0, 0.0, -0.037109375], "6a48681b4f0c656984c0f3e9770f3c36"),
    "TQ2_0": ([0.0, -0.037109375, -0.037109375, 0.037109375], "94d497f0ba77d09d0d14f7546ff68a57"),
    "MXFP4": ([0.046875, 0.01171875, 0.01171875, -0.0234375], "f3c3f862269e0b80e0d34e8d171f610e"),
    "NVFP4": ([64.0, 128.0, -32.0, -192.0], "45e887aac7c27c12d7aef7f57d4779ed"),
    "Q1_0": ([-0.037109375, 0.037109375, 0.037109375, -0.037109375], "a5b52ec1b198ebc53c42128660cf3015"),
    "Q2_0": ([0.0, 0.0, 0.07421875, 0.0], "db111ae4928150d44d2ce1ef08680902"),
}


def decoded(name: str, raw: bytes) -> np.ndarray:
    encoding = BY_NAME[name]
    values = np.empty(len(raw) // encoding.nbytes * encoding.block, "<f4")
    dequantise(np.frombuffer(raw, "u1"), encoding, values)
    return values


@pytest.mark.parametrize("name", EXPECTED)
def test_a_block_has_the_bits_that_ggml_gives_it(name: str) -> None:
    first, digest = EXPECTED[name]

    values = decoded(name, block(name))

    assert values[:4].tolist() == first
    assert hashlib.sha256(values.tobytes()).hexdigest().startswith(digest)


def test_activations_are_level_times_scale() -> None:
    assert decoded("Q8_1", struct.pack("<ee32b", 0.5, 9, *range(-16, 16))).tolist() == [i / 2 for i in range(-16, 16)]


def test_every_type_in_blocks_has_an_expected_block() -> None:
    assert {*EXPECTED, "Q8_1"} == set(BLOCKS)


@pytest.mark.parametrize("name", share([*BLOCKS], 0, 2))
@given(data=st.data())
def test_many_blocks_are_decoded_like_each_of_them(name: str, data: Any) -> None:
    nbytes = BY_NAME[name].nbytes
    one, other = (data.draw(st.binary(min_size=nbytes, max_size=nbytes)) for _ in range(2))

    many = decoded(name, (one + other) * 40)

    assert many.tobytes() == (decoded(name, one).tobytes() + decoded(name, other).tobytes()) * 40


@pytest.mark.parametrize("name", BLOCKS)
def test_a_long_tensor_is_decoded_like_its_parts(name: str) -> None:
    encoding = BY_NAME[name]
    raw = hashlib.shake_256(b"long").digest(encoding.nbytes * (70000 // encoding.block))

    assert decoded(name, raw).tobytes() == b"".join(
        decoded(name, raw[start : start + encoding.nbytes]).tobytes() for start in range(0, len(raw), encoding.nbytes)
    )


@pytest.mark.parametrize("scale", [0x7C00, 0xFC00, 0x7E01, 0x7D01, 0xFEAA, 0x0001, 0x8001, 0x8000])
@pytest.mark.parametrize("name", HALVES)
def test_any_scale_is_a_factor(name: str, scale: int) -> None:
    raw = bytearray(block(name))
    for position in HALVES[name]:
        struct.pack_into("<H", raw, position, scale)

    values = decoded(name, bytes(raw))

    number = struct.unpack("<e", struct.pack("<H", scale))[0]
    if np.isnan(number):
        assert np.isnan(values).all()
    elif np.isinf(number):
        assert not np.isfinite(values).any()
    else:
        assert np.abs(values).max() <= abs(number) * 127 * 63


def test_the_table_is_that_of_ggml() -> None:
    assert [(e.name, e.ggml, e.block, e.nbytes, e.file_type) for e in ENCODINGS] == [
        ("F32", 0, 1, 4, 0), ("F16", 1, 1, 2, 1), ("Q4_0", 2, 32, 18, 2), ("Q4_1", 3, 32, 20, 3),
        ("Q5_0", 6, 32, 22, 8), ("Q5_1", 7, 32, 24, 9), ("Q8_0", 8, 32, 34, 7), ("Q8_1", 9, 32, 36, None),
        ("Q2_K", 10, 256, 84, 10), ("Q3_K", 11, 256, 110, 12), ("Q4_K", 12, 256, 144, 15), ("Q5_K", 13, 256, 176, 17),
        ("Q6_K", 14, 256, 210, 18), ("Q8_K", 15, 256, 292, None), ("IQ2_XXS", 16, 256, 66, 19),
        ("IQ2_XS", 17, 256, 74, 20), ("IQ3_XXS", 18, 256, 98, 23), ("IQ1_S", 19, 256, 50, 24),
        ("IQ4_NL", 20, 32, 18, 25), ("IQ3_S", 21, 256, 110, 26), ("IQ2_S", 22, 256, 82, 28),
        ("IQ4_XS", 23, 256, 136, 30), ("I8", 24, 1, 1, None), ("I16", 25, 1, 2, None), ("I32", 26, 1, 4, None),
        ("I64", 27, 1, 8, None), ("F64", 28, 1, 8, None), ("IQ1_M", 29, 256, 56, 31), ("BF16", 30, 1, 2, 32),
        ("TQ1_0", 34, 256, 54, 36), ("TQ2_0", 35, 256, 66, 37), ("MXFP4", 39, 32, 17, 38), ("NVFP4", 40, 64, 36, 39),
        ("Q1_0", 41, 128, 18, 40), ("Q2_0", 42, 64, 18, 41),
    ]  # fmt: skip
    assert all(LARGEST_BLOCK % encoding.block == 0 for encoding in ENCODINGS)


@pytest.mark.parametrize(
    ("name", "last", "digest"),
    [
        ("IQ1_S", [1, 1, 1, 1, 1, 1, 1, 1], "4ca82266881c8a7729a16cea56a9bf6d"),
        ("IQ2_XXS", [8, 25, 8, 8, 25, 43, 43, 43], "0050706e48cc73b811d15fa6494e3527"),
        ("IQ2_XS", [43, 43, 43, 43, 43, 43, 43, 43], "989f82d20f8b93e2fff6d7d8a4b13ddd"),
        ("IQ2_S", [43, 43, 43, 43, 43, 43, 43, 43], "a3749175cb085e510fd32743e2dc79c5"),
        ("IQ3_XXS", [4, 28, 52, 62], "d9af899c2c1c57d5b3281b5231864c23"),
        ("IQ3_S", [1, 1, 15, 15], "b703ee82ef0f3d9043b4cf176511d5a6"),
    ],
)
def test_a_grid_has_the_points_of_ggml(name: str, last: list[int], digest: str) -> None:
    points = grid(name)

    assert points[-1].tolist() == last
    assert hashlib.sha256(points.tobytes()).hexdigest().startswith(digest)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_a_file_with_the_type_is_read(name: str) -> None:
    encoding, raw = BY_NAME[name], b"".join(block(name) for _ in range(6))

    found = read(Bytes(gguf(infos=[Info("w", (2 * encoding.block, 3), encoding.ggml)], data=raw)))["w"]

    assert (found.dtype, found.shape, found.storage.encoding) == (F32, (3, 2 * encoding.block), name)
    assert found.bits().tobytes() == decoded(name, raw).tobytes()
    assert found.t().bits().tobytes() == found.bits().T.tobytes()


@given(st.integers(0, 2048), st.integers(0, 2048))
def test_any_bytes_of_a_large_block_can_be_asked_for(one: int, other: int) -> None:
    start, stop = sorted((one, other))
    raw = block("Q4_K") * 2
    source = read(Bytes(gguf(infos=[Info("w", (512,), 12)], data=raw)))["w"].storage.source

    assert bytes(source.read(start, stop - start)) == decoded("Q4_K", raw).tobytes()[start:stop]


def test_types_without_a_row_are_named_and_sized_by_their_places() -> None:
    infos = [Info("a", (256,), 12), Info("b", (7,), 77, 160), Info("c", offset=256), Info("d", (32, 3), 31, 288)]

    catalogue = read(Bytes(gguf(infos=infos, data=bytes(342))))

    assert list(catalogue) == ["a", "c"]
    assert [(other.name, other.dtype, other.shape, other.nbytes) for other in catalogue.unsupported] == [
        ("b", "ggml type 77", (7,), 96),
        ("d", "Q4_0_4_4", (3, 32), 54),
    ]
    assert "ggml type 77 is newer than this program" in catalogue.unsupported[0].way_out
    assert "ggml no longer has Q4_0_4_4" in catalogue.unsupported[1].way_out
    assert catalogue.problems == ()


def newer(folder: Path, number: int) -> Path:
    """A GPT-2 as GGUF, one of whose matrices has a type of that number."""
    path = write_gguf(model(), folder)
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16  # behind the rank and two sizes
    struct.pack_into("<I", data, at, number)
    path.write_bytes(data)
    return path


def test_a_type_newer_than_this_program_takes_nothing_from_the_rest(tmp_path: Path) -> None:
    whole = inspect(open_checkpoint(write_gguf(model(), tmp_path / "whole")))
    path = newer(tmp_path, 77)

    found = inspect(open_checkpoint(path), stats=True)

    assert found.model is not None
    assert whole.model is not None
    assert (found.model.complete, found.model.sizes) == (True, whole.model.sizes)
    assert found.totals == whole.totals
    assert [(other.name, other.value, other.nbytes) for other in found.others] == [
        ("blk.1.ffn_up.weight", "ggml type 77 128×32", 128 * 32 * 4)
    ]


def test_a_type_newer_than_this_program_is_refused_by_name_and_can_be_left_out(tmp_path: Path) -> None:
    path, target = newer(tmp_path, 77), tmp_path / "x.safetensors"

    with pytest.raises(UnsupportedError, match=r"`transformer\.h\.1\.mlp\.c_fc\.weight` .* ggml type 77 is newer"):
        convert(open_checkpoint(path), target)
    assert not target.exists()
    convert(open_checkpoint(path), target, surgery=Surgery(exclude=("blk.1.ffn_up.weight",)))

    left = set(open_checkpoint(target))
    assert len(left) == len(open_checkpoint(path))
    assert "transformer.h.1.mlp.c_fc.weight" not in left
