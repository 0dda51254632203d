"""Statistics of tensors: small ones against literals, large ones against numpy's own functions in float64."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from converter.dtypes import BF16, BOOL, BY_NAME, C64, F4, F8_E4M3, F16, F32, F64, I8, I16, I32, I64, U8, U64, Dtype
from converter.errors import ConverterError, SourceError
from converter.io.parts import portions
from converter.io.source import Memory
from converter.reports.details import StatisticsReport
from converter.statistics.counting import FEW, PASS
from converter.statistics.measuring import measured
from converter.tensors.tensor import Storage, Tensor, row_major

NAN, INF = float("nan"), float("inf")
LARGE = 3 * PASS + 5  # more than a few, several passes, and a last one that is not full


def tensor(dtype: Dtype, data: bytes, *shape: int, stride: tuple[int, ...] = (), byteorder: str = "little") -> Tensor:
    shape = shape or (len(data) // dtype.itemsize,)
    return Tensor(
        dtype, shape, stride or row_major(shape), 0, Storage(Memory(data), 0, len(data), "0", byteorder=byteorder)
    )


def of(dtype: Dtype, data: bytes, *shape: int) -> StatisticsReport:
    (found,) = measured([tensor(dtype, data, *shape)])
    assert not isinstance(found, ConverterError)
    return found


# One, minus two, zero, a half; by torch, in each dtype. The sum is -0.5, and that of the squares 5.25.
FLOATS = {
    F64: struct.pack("<4d", 1, -2, 0, 0.5),
    F32: struct.pack("<4f", 1, -2, 0, 0.5),
    F16: struct.pack("<4e", 1, -2, 0, 0.5),
    BF16: bytes.fromhex("803f 00c0 0000 003f"),
    F8_E4M3: bytes.fromhex("38 c0 00 30"),
    BY_NAME["F8_E5M2"]: bytes.fromhex("3c c0 00 38"),
    BY_NAME["F8_E4M3FNUZ"]: bytes.fromhex("40 c8 00 38"),
    BY_NAME["F8_E5M2FNUZ"]: bytes.fromhex("40 c4 00 3c"),
    F4: bytes.fromhex("c2 10"),  # two in a byte, the lower half first
}


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_every_dtype_of_floats(dtype: Dtype) -> None:
    found = of(dtype, FLOATS[dtype])

    assert (found.min, found.max, found.mean, found.zeros, found.nan, found.inf) == (-2, 1, -0.125, 1, 0, 0)
    assert found.std == pytest.approx(1.1388041973930374, rel=1e-15)
    assert found.l2 == pytest.approx(2.29128784747792, rel=1e-15)
    assert (found.quantiles["0.25"], found.quantiles["0.5"], found.quantiles["0.75"]) == (-0.5, 0.25, 0.625)
    assert found.error == 0


INTEGERS = {
    I64: struct.pack("<3q", -3, 0, 9),
    I32: struct.pack("<3i", -3, 0, 9),
    I16: struct.pack("<3h", -3, 0, 9),
    I8: struct.pack("<3b", -3, 0, 9),
}


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.name)
def test_every_dtype_of_integers_with_a_sign(dtype: Dtype) -> None:
    found = of(dtype, INTEGERS[dtype])

    assert (found.min, found.max, found.mean, found.zeros) == (-3, 9, 2, 1)
    assert found.std == pytest.approx(5.0990195135927845, rel=1e-15)


@pytest.mark.parametrize(("dtype", "code"), [(U8, "B"), (BY_NAME["U16"], "H"), (BY_NAME["U32"], "I"), (U64, "Q")])
def test_every_dtype_of_integers_without_a_sign(dtype: Dtype, code: str) -> None:
    found = of(dtype, struct.pack(f"<4{code}", 200, 0, 0, 4))

    assert (found.min, found.max, found.mean, found.zeros) == (0, 200, 51, 2)
    assert found.l2 == pytest.approx(200.03999600079984, rel=1e-15)


def test_any_byte_but_zero_is_true() -> None:
    found = of(BOOL, bytes([0, 1, 2, 255, 0]))

    assert (found.min, found.max, found.mean, found.zeros) == (0, 1, 0.6, 2)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    for dtype, data in (
        (F32, struct.pack("<6f", NAN, INF, -INF, 2, 4, -0.0)),
        (F64, struct.pack("<6d", NAN, INF, -INF, 2, 4, -0.0)),
        (F16, struct.pack("<6e", NAN, INF, -INF, 2, 4, -0.0)),
        (BF16, bytes.fromhex("c07f 807f 80ff 0040 8040 0080")),
    ):
        found = of(dtype, data)

        assert (found.nan, found.inf, found.zeros) == (1, 2, 1)
        assert (found.min, found.max, found.mean) == (0, 4, 2)


@pytest.mark.parametrize("dtype", [F32, F64], ids=lambda dtype: dtype.name)
def test_what_is_not_finite_in_a_large_tensor(dtype: Dtype) -> None:
    numbers = np.ones(LARGE)
    numbers[[3, PASS + 1]] = NAN
    numbers[LARGE - 1] = -INF
    numbers[[7, PASS, PASS + 9]] = -0.0
    numbers[8] = 0.0

    found = of(dtype, numbers.astype(dtype.numpy).tobytes())

    assert (found.nan, found.inf, found.zeros) == (2, 1, 4)
    assert (found.min, found.max) == (0, 1)
    assert found.mean == pytest.approx(1 - 4 / (LARGE - 3), rel=1e-14)


def test_only_nan() -> None:
    for dtype, data in ((F32, struct.pack("<f", NAN)), (BF16, b"\xc0\x7f"), (F32, struct.pack("<f", NAN) * LARGE)):
        found = of(dtype, data)

        assert (found.min, found.max, found.mean, found.std, found.l2) == (None,) * 5
        assert found.nan == len(data) // dtype.itemsize
        assert found.histogram is None


def test_a_smallest_number_is_no_zero() -> None:
    few = of(F32, struct.pack("<2f", 1e-45, 0))
    many = of(F32, struct.pack("<2f", 1e-45, 0) * FEW)
    doubles = of(F64, struct.pack("<2d", 5e-324, 0) * FEW)

    assert (few.zeros, many.zeros, doubles.zeros) == (1, FEW, FEW)
    assert few.max == many.max == pytest.approx(1.401298464324817e-45, rel=1e-12)


@pytest.mark.parametrize("count", [2, 100, LARGE])
def test_numbers_too_large_to_add_have_no_mean(count: int) -> None:
    found = of(F64, (np.resize([1.5e308, -1.5e308, 1.6e308], count)).tobytes())

    assert (found.min, found.l2) == (-1.5e308, None)
    assert all(-1.6e308 <= value <= 1.61e308 for value in found.quantiles.values())
    if count > 16:
        assert found.histogram is not None
        assert sum(found.histogram.counts) + found.histogram.below + found.histogram.above == count


@pytest.mark.parametrize("count", [1, 2, 3, 10, 63, 64, 65, 500])
def test_a_handful_is_counted_as_numpy_counts_it(count: int) -> None:
    """Up to 64 elements Python counts."""
    numbers = np.random.default_rng(count).standard_normal(count).astype("<f4").astype(np.float64)

    found = of(F32, numbers.astype("<f4").tobytes())

    assert (found.min, found.max, found.zeros) == (numbers.min(), numbers.max(), 0)
    assert found.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert found.std == pytest.approx(numbers.std(), rel=1e-12, abs=1e-15)
    assert found.l2 == pytest.approx(np.linalg.norm(numbers), rel=1e-12)
    for share, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(numbers, float(share)), rel=1e-12)
    histogram = found.histogram
    assert (histogram is None) == (count <= 16)
    if histogram is not None:
        bars, _ = np.histogram(numbers, bins=32, range=(histogram.low, histogram.high))
        assert histogram.counts == tuple(bars)


def test_an_odd_number_of_bytes() -> None:
    found = of(I8, bytes([1, 2, 253]))

    assert (found.min, found.max, found.mean, found.zeros) == (-3, 2, 0, 0)
    assert sum(found.histogram.counts) + found.histogram.below + found.histogram.above == 3  # type: ignore[union-attr]


def test_complex_numbers_have_a_norm_and_no_order() -> None:
    found = of(C64, struct.pack("<8f", 3, 4, 0, 0, NAN, 1, INF, 1))

    assert (found.min, found.mean, found.zeros, found.nan, found.inf, found.l2) == (None, None, 1, 1, 1, 5)


def test_packed_integers_have_no_statistics() -> None:
    found = of(BY_NAME["QU4X2"], b"\x12\x34")

    assert (found.min, found.l2, found.quantiles) == (None, None, {})


def test_nothing_and_one_element() -> None:
    empty = of(F32, b"", 0)
    one = of(F32, struct.pack("<f", 0.1))

    assert (empty.min, empty.zeros, empty.l2) == (None, 0, None)
    assert (one.min, one.std, one.quantiles["0.001"]) == (0.10000000149011612, 0, 0.10000000149011612)


@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16, I16, I32, I64, U64], ids=lambda dtype: dtype.name)
def test_a_large_tensor_as_numpy_has_it(dtype: Dtype) -> None:
    rng = np.random.default_rng(3)
    numbers = rng.standard_normal(LARGE) * 1000 + 100
    if dtype == BF16:
        raw = (numbers.astype("<f4").view("<u4") >> 16).astype("<u2")
        expected = (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
    else:
        raw = np.abs(numbers).astype(dtype.numpy) if dtype == U64 else numbers.astype(dtype.numpy)
        expected = raw.astype(np.float64)

    found = of(dtype, raw.tobytes())

    assert (found.min, found.max, found.zeros) == (
        float(expected.min()),
        float(expected.max()),
        int(np.count_nonzero(expected == 0)),
    )
    assert found.mean == pytest.approx(expected.mean(), rel=1e-12)
    assert found.std == pytest.approx(expected.std(), rel=1e-12)
    assert found.l2 == pytest.approx(np.linalg.norm(expected), rel=1e-12)
    assert found.error == (0 if dtype.itemsize == 2 else 2**-8)
    for share, value in found.quantiles.items():
        exact = np.quantile(expected, float(share))
        assert value == pytest.approx(exact, rel=found.error or 1e-12)
    histogram = found.histogram
    assert histogram is not None
    assert histogram.below + histogram.above + sum(histogram.counts) == LARGE
    bars, _ = np.histogram(expected, bins=32, range=(histogram.low, histogram.high))
    assert np.abs(bars - histogram.counts).max() <= (0 if dtype.itemsize == 2 else LARGE // 200)


def test_a_small_spread_around_a_large_mean() -> None:
    """The difference of the mean square and the squared mean would have no right digit."""
    numbers = (1 + np.random.default_rng(4).integers(0, 3, LARGE) * 2.0**-23).astype("<f4")

    found = of(F32, numbers.tobytes())

    assert found.std == pytest.approx(numbers.astype(np.float64).std(), rel=1e-9)
    assert found.mean == pytest.approx(numbers.astype(np.float64).mean(), rel=1e-15)


def test_a_constant_is_constant_however_large() -> None:
    found = of(F32, struct.pack("<f", 0.1) * LARGE)

    assert found.std == pytest.approx(0, abs=1e-15)
    assert set(found.quantiles.values()) == {0.10000000149011612}
    assert found.histogram is not None
    assert found.histogram.counts == (LARGE,)


@pytest.mark.parametrize("dtype", [F32, I32, I64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("place", [0, 9, PASS - 1, PASS, PASS + 9, 2 * PASS + 1, LARGE - 1])
@pytest.mark.parametrize("extreme", [2.0**20 + 1, 2.0**20 + 9000, 2.0**30])
def test_an_extreme_is_found_wherever_it_is(dtype: Dtype, place: int, extreme: float) -> None:
    """Also one with the same key as the extreme that was known before: 2^20 and 2^20 + 1 differ after the counted bits."""
    numbers = np.random.default_rng(6).integers(-1000, 1000, LARGE).astype(dtype.numpy)
    numbers[[1, PASS + 1]] = 2**20, -(2**20)
    numbers[[2, PASS + 2]] = -(2**20), 2**20
    for sign in (1, -1):
        changed = numbers.copy()
        changed[place] = sign * extreme

        found = of(dtype, changed.tobytes())

        assert (found.min, found.max) == (int(changed.min()), int(changed.max()))


@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16, I16, I32], ids=lambda dtype: dtype.name)
def test_values_of_every_size_in_many_parts(dtype: Dtype) -> None:
    """Each of three parts has most of the keys there are, so they are added up in a table."""
    count = 3 * (portions().run // dtype.itemsize) - 7
    raw = np.random.default_rng(7).integers(0, 256, count * dtype.itemsize, np.uint8).tobytes()
    with np.errstate(invalid="ignore"):  # a NaN that signals becomes one that does not
        if dtype == BF16:
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        else:
            values = np.frombuffer(raw, dtype.numpy).astype(np.float64)
    finite = np.sort(values[np.isfinite(values)])

    found = of(dtype, raw)

    assert (found.min, found.max, found.zeros) == (finite[0], finite[-1], int(np.count_nonzero(finite == 0)))
    assert (found.nan, found.nan + found.inf) == (int(np.isnan(values).sum()), count - finite.size)
    assert set(found.quantiles) == {"0.001", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "0.999"}
    for share, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(finite, float(share)), rel=found.error or 1e-12)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    rng = np.random.default_rng(5)
    tensors = [tensor(F32, rng.standard_normal(count).astype("<f4").tobytes()) for count in (3, 5_000_000, 70_000, 1)]
    seen: list[int] = []

    found = measured(tensors, threads=threads, progress=seen.append)

    alone = [measured([one], threads=1)[0] for one in tensors]
    for one, other in zip(found, alone, strict=True):
        assert isinstance(one, StatisticsReport)
        assert isinstance(other, StatisticsReport)
        assert (one.min, one.quantiles, one.histogram) == (other.min, other.quantiles, other.histogram)
        assert one.mean == pytest.approx(other.mean, rel=1e-12)
    assert sum(seen) == sum(one.nbytes for one in tensors)


def test_equal_views_are_read_once() -> None:
    class Counting(Memory):
        reads = 0

        def _fill(self, offset: int, buffer: memoryview) -> None:
            Counting.reads += len(buffer)
            super()._fill(offset, buffer)

    one = Tensor(F32, (4,), (1,), 0, Storage(Counting(struct.pack("<4f", 1, 2, 3, 4)), 0, 16, "0"))
    seen: list[int] = []

    found = measured([one, replace(one)], progress=seen.append)

    assert found[0] == found[1]
    assert (Counting.reads, sum(seen)) == (16, 32)


def test_views_count_their_own_elements() -> None:
    data = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    transposed = tensor(F32, data, 3, 2, stride=(1, 3))
    first_row = tensor(F32, data, 2, stride=(3,))
    expanded = tensor(F32, data, 3, 2, stride=(0, 1))
    big = tensor(F32, struct.pack(">6f", 1, 2, 3, 4, 5, 6), byteorder="big")

    found = measured([transposed, first_row, expanded, big], sha256=True)

    means = [one.mean for one in found if isinstance(one, StatisticsReport)]
    assert means == [3.5, 2.5, 1.5, 3.5]
    # sha256sum of the floats 1 4 2 5 3 6 and of 1 2 3 4 5 6.
    digests = [one.sha256 for one in found if isinstance(one, StatisticsReport)]
    assert digests[0] == "b05183b256a48062521a4beb24c91079d1b94dfdef9ca4edcb76d28f69ee7fcd"
    assert digests[3] == "24ae2dfe8df57c1b80e54cef3d90ac3b417fd98973345a5f616bbc9a75dcc202"


def test_what_cannot_be_read_is_said_for_that_tensor_alone() -> None:
    class Broken(Memory):
        def _fill(self, offset: int, buffer: memoryview) -> None:
            raise SourceError("`x` can't be read: the disk is on fire")

    good = tensor(F32, struct.pack("<2f", 1, 3))
    bad = Tensor(F32, (2,), (1,), 0, Storage(Broken(bytes(8)), 0, 8, "0"))

    found = measured([bad, good])

    assert isinstance(found[0], SourceError)
    assert isinstance(found[1], StatisticsReport)
    assert found[1].mean == 2


def test_a_mistake_in_a_thread_is_raised() -> None:
    class Mistaken(Memory):
        def _fill(self, offset: int, buffer: memoryview) -> None:
            raise AssertionError("a mistake")

    bad = Tensor(F32, (1 << 20,), (1,), 0, Storage(Mistaken(bytes(4 << 20)), 0, 4 << 20, "0"))

    with pytest.raises(AssertionError, match="a mistake"):
        measured([bad], threads=2)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((0.5, 2.0), 0.5, 2.0),
        ((-0.5, -2.0), -2.0, -0.5),
        ((-3.0, 7.0), -3.0, 7.0),
        ((0.0, 1e-45), 0.0, 1e-45),
        ((-0.0, 0.25), 0.0, 0.25),
        ((-3.4e38, -1e-45), -3.4e38, -1e-45),
    ],
)
def test_the_range_of_many_singles_of_one_sign_and_of_both(
    values: tuple[float, float], low: float, high: float
) -> None:
    found = of(F32, struct.pack("<2f", *values) * FEW)

    assert (found.min, found.max) == struct.unpack("<2f", struct.pack("<2f", low, high))


def test_words_are_counted_as_they_are_sorted() -> None:
    rows = (np.random.default_rng(5).standard_normal(5000) * 3).astype(np.float16)
    few, many = of(F16, rows[:4000].tobytes()), of(F16, rows.tobytes())

    for found, part in ((few, rows[:4000]), (many, rows)):
        wide = part.astype(np.float64)
        assert (found.min, found.max, found.error) == (wide.min(), wide.max(), 0)
        assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
        assert found.std == pytest.approx(wide.std(), rel=1e-12)
        assert list(found.quantiles.values()) == pytest.approx(
            np.quantile(wide, [float(name) for name in found.quantiles]).tolist(), rel=1e-12
        )


def test_a_mean_of_which_nearly_all_cancels_out_is_exact() -> None:
    rows = np.array([1e8, -1e8] * 5000 + [2.0**-10], np.float64)

    assert of(F64, rows.tobytes()[:80000] + rows[-1:].tobytes()).mean == pytest.approx(2.0**-10 / 10001, rel=1e-6)
