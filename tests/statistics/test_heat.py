"""Pictures of matrices, against numpy on whole arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from converter.dtypes import BF16, F16, F32, F64, I32, Dtype
from converter.errors import ConverterError
from converter.io.source import Memory
from converter.reports.details import HeatReport
from converter.statistics.measuring import measured
from converter.tensors.tensor import Storage, Tensor, row_major


def matrix(data: bytes, *shape: int, dtype: Dtype = F32) -> Tensor:
    return Tensor(dtype, shape, row_major(shape), 0, Storage(Memory(data), 0, len(data), "0"))


def heat(tensor: Tensor, *, sha256: bool = False, threads: int = 1) -> HeatReport | None:
    (found,) = measured([tensor], heat=True, sha256=sha256, threads=threads)
    assert not isinstance(found, ConverterError)
    return found.heat


def expected(array: np.ndarray) -> tuple[int, int, float, list[int]]:
    """By whole slices: cell i of n begins at i * length // n."""
    rows, columns = (min(24, length) for length in array.shape)
    tops = [i * array.shape[0] // rows for i in range(rows)] + [array.shape[0]]
    lefts = [i * array.shape[1] // columns for i in range(columns)] + [array.shape[1]]
    cells = [
        [np.sqrt(np.mean(np.square(array[a:b, c:d].astype("f8")))) for c, d in pairwise(lefts)]
        for a, b in pairwise(tops)
    ]
    largest = float(np.max(cells))
    return rows, columns, largest, np.rint(np.array(cells) / largest * 255).astype(int).reshape(-1).tolist()


@pytest.mark.parametrize("shape", [(2, 300), (24, 24), (25, 47), (1000, 30), (3, 200_001), (1500, 1600), (70_000, 40)])
@pytest.mark.parametrize("sha256", [False, True])
def test_cells_are_the_roots_of_mean_squares(shape: tuple[int, int], sha256: bool) -> None:
    array = np.random.default_rng(3).standard_normal(shape).astype("<f4") * np.arange(1, shape[1] + 1, dtype="<f4")

    for tensor, values in ((matrix(array.tobytes(), *shape), array), (matrix(array.tobytes(), *shape).t(), array.T)):
        for threads in (1, 2):
            found = heat(tensor, sha256=sha256, threads=threads)

            rows, columns, largest, levels = expected(values)
            assert found is not None
            assert (found.rows, found.columns) == (rows, columns)
            assert found.largest == pytest.approx(largest, rel=1e-6)
            assert list(found.cells) == levels


def quarters(*values: float) -> np.ndarray:
    """A matrix of 48 by 48 whose quarters are of one value each."""
    return np.kron(np.array(values, "<f4").reshape(2, 2), np.ones((24, 24), "<f4"))


def cells(found: HeatReport | None) -> tuple[float, set[int], set[int], set[int], set[int]]:
    """The largest, and the cells of each quarter."""
    assert found is not None
    assert (found.rows, found.columns) == (24, 24)
    grid = np.array(found.cells).reshape(24, 24)
    parts = (grid[:12, :12], grid[:12, 12:], grid[12:, :12], grid[12:, 12:])
    one, two, three, four = ({*part.reshape(-1).tolist()} for part in parts)
    return found.largest, one, two, three, four


@pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=lambda dtype: dtype.name)
def test_every_width_of_elements(dtype: Dtype) -> None:
    data = quarters(1, 2, 4, 8)
    stored = data.view("<u4") >> 16 if dtype == BF16 else data
    array = stored.astype("<u2" if dtype == BF16 else dtype.numpy)

    found = heat(matrix(array.tobytes(), 48, 48, dtype=dtype))

    assert cells(found) == (8.0, {32}, {64}, {128}, {255})


def test_infinities_and_nan_are_left_out() -> None:
    found = heat(matrix(quarters(1, np.nan, np.inf, 2).tobytes(), 48, 48))

    assert cells(found) == (2.0, {128}, {0}, {0}, {255})


def test_zeros_are_dark() -> None:
    assert cells(heat(matrix(bytes(4 * 48 * 48), 48, 48))) == (0.0, {0}, {0}, {0}, {0})


def test_what_is_no_large_matrix_of_floats_has_no_picture() -> None:
    assert heat(matrix(bytes(2304), 24, 24)) is not None
    assert heat(matrix(bytes(2300), 23, 25)) is None
    assert heat(matrix(bytes(2304), 576)) is None
    assert heat(matrix(bytes(2304), 1, 576)) is None
    assert heat(matrix(bytes(2304), 1, 24, 24)) is None
    assert heat(matrix(bytes(2304), 24, 24, dtype=I32)) is None


def test_without_being_asked_for_there_is_none() -> None:
    (found,) = measured([matrix(bytes(2304), 24, 24)])

    assert not isinstance(found, ConverterError)
    assert found.heat is None
