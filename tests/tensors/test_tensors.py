"""Views of storages: every layout gives numpy's bytes, and no layout reaches outside of its storage."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.dtypes import BF16, BOOL, BY_NAME, C32, C64, C128, DTYPES, F4, F8_E4M3, F16, F32, F64, I64, U8, Dtype
from converter.errors import SourceError
from converter.io.source import NOWHERE, Source
from converter.tensors.catalogue import Catalogue, Origin
from converter.tensors.tensor import Storage, Tensor
from tests.build.checkpoints import floats, row_major
from tests.build.depth import some


class Memory(Source):
    """A source that knows how much was asked for at once, and how often."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.name, self.size, self._data = "memory", len(data), data
        self.largest = self.reads = 0

    def _fill(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]
        self.largest, self.reads = max(self.largest, len(buffer)), self.reads + 1


def storage(data: bytes, byteorder: str = "little", before: int = 0) -> Storage:
    return Storage(Memory(bytes(before) + data), before, len(data), "0", byteorder=byteorder)


def canonical(tensor: Tensor, nbytes: int = 1 << 20) -> bytes:
    pieces = [bytes(piece) for piece in tensor.tiles(nbytes)]
    assert all(0 < len(piece) <= max(nbytes, tensor.dtype.itemsize) for piece in pieces)
    return b"".join(pieces)


ARANGE = np.arange(210, dtype="<f4")


def over_arange(shape: tuple[int, ...], stride: tuple[int, ...] | None = None, offset: int = 0) -> Tensor:
    return Tensor(
        F32, shape, row_major(shape) if stride is None else stride, offset, storage(ARANGE.tobytes(), before=7)
    )


LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "0-d": ((), (), 5),
    "one element": ((1,), (1,), 209),
    "row-major": ((2, 3, 5), (15, 5, 1), 0),
    "with an offset": ((4, 5), (5, 1), 100),
    "transposed": ((5, 4), (1, 5), 3),
    "permuted": ((3, 5, 2), (5, 1, 15), 0),
    "channels last": ((2, 3, 4, 5), (60, 1, 15, 3), 0),
    "every second": ((10,), (2,), 1),
    "columns cut out": ((10, 3), (10, 1), 4),
    "expanded": ((7, 3), (0, 1), 2),
    "expanded last": ((7, 3), (1, 0), 2),
    "one number expanded": ((6, 7), (0, 0), 9),
    "overlapping windows": ((10, 4), (1, 1), 0),
    "overlapping with a step": ((10, 4), (2, 3), 0),
    "size 1 with any stride": ((1, 5, 1), (12345, 1, 999), 0),
    "size 1 amid a transposed": ((5, 1, 4), (1, 7, 5), 0),
    "diagonal": ((14,), (15,), 0),
}


@pytest.mark.parametrize("nbytes", [1, 4, 5, 12, 20, 64, 1000, 1 << 20])
@pytest.mark.parametrize("name", LAYOUTS)
def test_tiles_are_numpys_bytes(name: str, nbytes: int) -> None:
    shape, stride, offset = LAYOUTS[name]
    expected = np.lib.stride_tricks.as_strided(ARANGE[offset:], shape, [4 * step for step in stride])

    tensor = over_arange(shape, stride, offset)

    assert canonical(tensor, nbytes) == expected.tobytes()
    assert tensor.bits().tobytes() == expected.tobytes()
    assert tensor.bits().shape == shape
    assert canonical(tensor.t(), nbytes) == expected.T.tobytes()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5)])
def test_empty_tensors_have_no_tiles(shape: tuple[int, ...]) -> None:
    tensor = over_arange(shape, tuple(7 for _ in shape), 10**9)

    assert list(tensor.tiles()) == []
    assert (tensor.bits().shape, tensor.nbytes, tensor.contiguous) == (shape, 0, True)


layouts = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12)), max_size=5)


@settings(max_examples=some(400, 100))
@given(
    layouts,
    st.integers(0, 9),
    st.integers(1, 200),
    st.sampled_from(["F32", "U8", "BF16", "F64", "C64", "C128"]),
    st.booleans(),
)
def test_any_view_gives_numpys_bytes(
    dimensions: list[tuple[int, int]], offset: int, nbytes: int, name: str, big: bool
) -> None:
    shape, stride = tuple(n for n, _ in dimensions), tuple(s for _, s in dimensions)
    dtype = BY_NAME[name]
    data = np.random.default_rng(0).bytes((offset + 1 + sum((n - 1) * s for n, s in dimensions)) * dtype.itemsize)
    elements = np.frombuffer(data, dtype.numpy)
    if big:
        elements = np.frombuffer(swapped(data, dtype), dtype.numpy)
    strides = [step * dtype.itemsize for step in stride]
    expected = np.lib.stride_tricks.as_strided(elements[offset:], shape, strides).tobytes()

    tensor = Tensor(dtype, shape, stride, offset, storage(data, "big" if big else "little"))

    assert canonical(tensor, nbytes) == expected
    assert tensor.bits().tobytes() == expected


def swapped(data: bytes, dtype: Dtype) -> bytes:
    width = {"C64": 4, "C128": 8, "C32": 2}.get(dtype.name, dtype.itemsize)
    return b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))


@pytest.mark.parametrize("nbytes", [1 << 12, 1 << 16, 1 << 20])
@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((300, 700), (1, 300)),
        ((700, 3), (300, 1)),
        ((30, 40, 175), (1, 30, 1200)),
        ((2, 9), (100_000, 11_000)),
        ((100, 2, 3), (1000, 1, 50_000)),
    ],
)
def test_large_views_give_numpys_bytes(shape: tuple[int, ...], stride: tuple[int, ...], nbytes: int) -> None:
    elements = np.arange(210_000, dtype="<f4")
    expected = np.lib.stride_tricks.as_strided(elements, shape, [4 * step for step in stride]).tobytes()

    assert canonical(Tensor(F32, shape, stride, 0, storage(elements.tobytes())), nbytes) == expected


def test_a_contiguous_tensor_is_read_in_tiles() -> None:
    whole = storage(bytes(1 << 20))
    tensor = Tensor(U8, (1 << 20,), (1,), 0, whole)

    assert [len(piece) for piece in tensor.tiles(300_000)] == [300_000, 300_000, 300_000, 148_576]
    assert whole.source.largest == 300_000  # type: ignore[attr-defined]


def test_far_apart_elements_are_not_read_with_what_lies_between() -> None:
    far = Storage(Sparse(), 0, 1 << 40, "0")

    assert canonical(Tensor(U8, (4, 2), (1 << 38, 1), 0, far)) == bytes(8)


class Sparse(Memory):
    """A terabyte of zeros that must not be read."""

    def __init__(self) -> None:
        self.name, self.size, self.largest, self.reads = "sparse", 1 << 40, 0, 0

    def _fill(self, offset: int, buffer: memoryview) -> None:
        assert len(buffer) < 1 << 20
        buffer[:] = bytes(len(buffer))


def test_an_expanded_terabyte_comes_in_tiles() -> None:
    tensor = Tensor(F32, (1 << 20, 1 << 18), (0, 1), 0, storage(bytes(1 << 20)))

    assert tensor.nbytes == 1 << 40
    pieces = tensor.tiles(1 << 20)
    assert len(next(pieces)) == 1 << 20
    pieces.close()  # type: ignore[attr-defined]


def test_tiles_that_are_gathered_ahead_are_numpys_bytes_in_order() -> None:
    elements = np.arange(1_500_000, dtype="<u4")

    pieces = list(map(bytes, Tensor(F32, (1500, 1000), (1, 1500), 0, storage(elements.tobytes())).tiles(1 << 20)))

    assert len(pieces) == 6
    assert b"".join(pieces) == elements.reshape(1000, 1500).T.tobytes()


def test_a_failure_ahead_comes_when_its_tile_is_due() -> None:
    cut = storage(bytes(6_000_000))
    tensor = Tensor(F32, (1500, 1000), (1, 1500), 0, cut)
    cut.source.size = 0

    with pytest.raises(SourceError):
        list(tensor.tiles(1 << 20))


@pytest.mark.parametrize("shape", [(1,) * 64, (1 << 60, 0), (0, 1 << 60)])
def test_reads_at_the_edge(shape: tuple[int, ...]) -> None:
    tensor = over_arange(shape)

    assert tensor.bits().shape == shape
    assert tensor.bits().tobytes() == canonical(tensor)


@pytest.mark.parametrize(
    ("shape", "stride", "contiguous"),
    [
        ((), (), True), ((5,), (1,), True), ((5,), (2,), False), ((1,), (7,), True), ((1, 5), (1, 1), True),
        ((5, 1), (1, 9), True), ((2, 3), (3, 1), True), ((2, 3), (1, 2), False), ((2, 3), (4, 1), False),
        ((0, 3), (1, 7), True), ((3, 0), (9, 9), True), ((3, 2), (0, 1), False),
    ],
)  # fmt: skip
def test_contiguous_is_pytorchs(shape: tuple[int, ...], stride: tuple[int, ...], contiguous: bool) -> None:
    assert over_arange(shape, stride).contiguous is contiguous


@pytest.mark.parametrize(
    ("shape", "stride", "transposed"),
    [
        ((2, 3), (1, 2), True),
        ((2, 3), (3, 1), False),
        ((1, 3), (1, 1), False),
        ((2, 3), (1, 3), False),
        ((2, 2, 2), (1, 2, 4), False),
    ],
)
def test_transposed_is_a_matrix_column_by_column(
    shape: tuple[int, ...], stride: tuple[int, ...], transposed: bool
) -> None:
    assert over_arange(shape, stride).transposed is transposed


def test_rows_are_a_view() -> None:
    tensor = over_arange((4, 5), (1, 4), 2)

    assert tensor.rows(1, 3).bits().tolist() == tensor.bits()[1:3].tolist()
    assert tensor.rows(2, 2).size == 0


def test_arrays_are_read_only() -> None:
    for tensor in (over_arange((2, 3)), over_arange((0,))):
        with pytest.raises(ValueError, match="read-only"):
            tensor.bits()[...] = 1


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_every_dtype_reads_its_bytes(dtype: Dtype) -> None:
    data = bytes(range(1, 1 + 6 * dtype.itemsize))
    tensor = Tensor(dtype, (3, 2), (1, 3), 0, storage(data))
    elements = [data[i * dtype.itemsize : (i + 1) * dtype.itemsize] for i in (0, 3, 1, 4, 2, 5)]

    assert canonical(tensor) == b"".join(elements)
    assert tensor.bits().tobytes() == b"".join(elements)
    assert np.dtype(dtype.numpy).itemsize == dtype.itemsize
    assert dtype.itemsize % dtype.swapped == 0


@pytest.mark.parametrize(
    "dtype", [F32, F16, F64, I64, BF16, C32, C64, C128, U8, BOOL, F8_E4M3, F4], ids=lambda d: d.name
)
def test_big_endian_storages_give_little_endian_bytes(dtype: Dtype) -> None:
    data = bytes(range(1, 1 + 4 * dtype.itemsize))
    little = Tensor(dtype, (2, 2), (1, 2), 0, storage(data))
    big = Tensor(dtype, (2, 2), (1, 2), 0, storage(swapped(data, dtype), "big"))

    assert canonical(big) == canonical(little)
    assert canonical(big.t()) == canonical(little.t())
    assert big.bits().tobytes() == little.bits().tobytes()


def test_bf16_and_f8_are_their_raw_bits() -> None:
    assert Tensor(BF16, (2,), (1,), 0, storage(b"\x80\x3f\xc0\x7f")).bits().tolist() == [0x3F80, 0x7FC0]
    assert Tensor(F8_E4M3, (2,), (1,), 0, storage(b"\x38\x7f")).bits().tolist() == [0x38, 0x7F]


class TestCatalogue:
    def test_equal_views_are_tied(self) -> None:
        one, other = storage(floats(*range(6))), storage(floats(*range(6)))
        catalogue = Catalogue(
            {
                "a": Tensor(F32, (2, 3), (3, 1), 0, one),
                "b": Tensor(F32, (2, 3), (3, 1), 0, one),
                "transposed": Tensor(F32, (2, 3), (1, 2), 0, one),
                "a part": Tensor(F32, (3,), (1,), 0, one),
                "a copy": Tensor(F32, (2, 3), (3, 1), 0, other),
            },
            Origin("x", "y"),
        )  # fmt: skip

        assert catalogue.tied() == [["a", "b"]]

    def test_is_a_mapping_in_order(self) -> None:
        tensor = over_arange((2,))
        catalogue = Catalogue({"b": tensor, "a": tensor}, Origin("x", "y"))

        assert (list(catalogue), len(catalogue), catalogue["a"], "c" in catalogue) == (["b", "a"], 2, tensor, False)


def test_listing_needs_no_numpy() -> None:
    import subprocess

    program = (
        "import sys; from converter.tensors.tensor import Storage, Tensor; from converter.dtypes import F32;"
        "Tensor(F32, (1,), (1,), 0, Storage(None, 0, 4, '0')).contiguous; assert 'numpy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_sizes_count_elements_and_bytes() -> None:
    tensor: Any = over_arange((2, 3, 5))

    assert (tensor.size, tensor.nbytes, math.prod(tensor.shape)) == (30, 120, 30)


def test_strides_that_collide_as_numbers_do_not_as_tensors() -> None:
    """2^61 - 1 hashes like 0: a thousand such tensors would otherwise be compared each with each."""
    modulus = sys.hash_info.modulus
    strides = list(itertools.product((1, 1 + modulus, 1 + 2 * modulus), repeat=6))
    assert len({hash(stride) for stride in strides}) == 1
    storage = Storage(NOWHERE, 0, 4, "0")

    hashes = {hash(Tensor(F32, (1,) * 6, stride, 0, storage)) for stride in strides}

    assert len(hashes) == len(strides)
