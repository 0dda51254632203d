"""Quantises F32 elements into blocks of GGUF: by which kernel, and in which portions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.errors import UnsupportedError
from converter.formats.gguf import blocks as simple
from converter.formats.gguf import k_blocks, kernel
from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import ALONE, BY_NAME, WEIGHED_ONLY
from converter.formats.gguf.weighed_blocks import WEIGHED, weights_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.formats.gguf.encodings import Encoding

QUANTISED: Final = (*simple.KERNELS, *k_blocks.K_KERNELS)
_TOGETHER: Final = 65536  # elements: longer arrays take fewer calls of numpy, but leave the processor's cache
_NUMPY: Final = "numpy"
_NEAR: Final = 0.7  # share of a sample's root mean square: types of one bit miss it by about a half
# Quantises flat F32 elements (whole blocks; with importance whole rows) into flat bytes. False if one can't be expressed.
_Run = Callable[["NDArray[Any]", "NDArray[Any]"], bool]


def quantised(
    tiles: Iterator[memoryview], encoding: Encoding, name: str, importance: NDArray[Any] | None = None
) -> Iterator[memoryview]:
    """Turn tiles of F32 elements, each of whole blocks, into blocks. A piece is valid until the next is asked for.

    `importance` has an F32 for each column; the elements are then whole rows. Raises UnsupportedError, which names `name`, if a
    block holds NaN, infinity, or a value that its scale can't reach.
    """
    buffer, run = np.empty(0, "u1"), runner(encoding, importance)
    for tile in tiles if importance is None else _by_rows(tiles, importance.nbytes):
        values = np.frombuffer(tile, "<f4")
        nbytes = encoding.size(values.size)
        if len(buffer) < nbytes:
            buffer = np.empty(nbytes, "u1")
        with np.errstate(all="ignore"):  # overflow shows in the scales
            fine = run(values, buffer[:nbytes])
        if not fine:
            found = f"a value too large for {encoding.name}" if np.isfinite(values).all() else "NaN or infinity"
            raise UnsupportedError(f"`{name}` holds {found}: choose f32 or bf16")
        yield buffer[:nbytes].data


def _by_rows(tiles: Iterator[memoryview], row: int) -> Iterator[memoryview]:
    """Cut tiles anew, so that each has whole rows of `row` bytes."""
    left = bytearray()
    for tile in tiles:
        first = min(row - len(left), len(tile)) if left else 0
        left += tile[:first]
        if len(left) == row:
            yield memoryview(bytes(left))
            left.clear()
        whole = first + (len(tile) - first) // row * row
        if whole > first:
            yield tile[first:whole]
        left += tile[whole:]
    if left:
        raise AssertionError("a part does not hold whole rows")


def quantiser(encodings: Iterable[str]) -> str:
    """Which program quantises to these types, for a report."""
    found = {kernel.title() if agrees(name) else _NUMPY for name in encodings}
    return " and ".join(sorted(found))


@cache
def agrees(name: str) -> bool:
    """Whether there is a library whose blocks of a type are ours, with importance and without.

    Of a type that only the library makes, they must be near the elements.
    """
    encoding, columns = BY_NAME[name], 1024
    numbers = np.arange(4 * columns, dtype=np.int64) * 2654435761 % 2**32
    spread = (numbers / 2**31 - 1).astype("<f4")
    values = (spread**3 * np.exp2(spread[::-1] * 4)).astype("<f4")
    alone = name in ALONE
    for importance in (None, np.exp2(spread[:columns] * 4).astype("<f4")):
        if importance is None and name in WEIGHED_ONLY:
            continue
        run = kernel.kernel(encoding, importance)
        if run is None:
            return False
        theirs = np.zeros(encoding.size(values.size), "u1")
        with np.errstate(all="ignore"):
            if not (run(values, theirs) and (_near if alone else _same)(values, theirs, encoding, importance)):
                return False
    return True


def _same(values: NDArray[Any], theirs: NDArray[Any], encoding: Encoding, importance: NDArray[Any] | None) -> bool:
    ours = np.zeros_like(theirs)
    return by_numpy(encoding, importance)(values, ours) and np.array_equal(ours, theirs)


def _near(values: NDArray[Any], theirs: NDArray[Any], encoding: Encoding, importance: NDArray[Any] | None) -> bool:
    weights = np.ones(1, "<f4") if importance is None else np.tile(importance, values.size // importance.size)
    elements = np.empty_like(values)
    dequantise(theirs, encoding, elements)
    return bool((weights * (elements - values) ** 2).sum() < _NEAR**2 * (weights * values**2).sum())


def missing(name: str) -> bool:
    """Whether a type needs a library that is not installed, or that does not make it as it should."""
    return name in ALONE and not agrees(name)


def runner(encoding: Encoding, importance: NDArray[Any] | None) -> _Run:
    """The quantiser for a type, with the importance of each column: the library's if there is one, or numpy's."""
    own = _unable if encoding.name in ALONE else by_numpy(encoding, importance)
    library = kernel.kernel(encoding, importance) if agrees(encoding.name) else None
    if library is None:
        return own

    def run(values: NDArray[Any], out: NDArray[Any]) -> bool:
        found = library(values, out)
        return own(values, out) if found is None else found

    return run


def _unable(values: NDArray[Any], out: NDArray[Any]) -> bool:
    return False


def by_numpy(encoding: Encoding, importance: NDArray[Any] | None) -> _Run:
    """The quantiser that is always there. It takes whole blocks, or with importance whole rows, and may be called again."""
    if encoding.name in k_blocks.K_KERNELS:
        return _k_runner(encoding, importance)
    if importance is not None and encoding.name in WEIGHED:
        return _weighed_runner(encoding, importance)
    kernel, together = simple.KERNELS[encoding.name], _TOGETHER // encoding.block
    work = np.empty((2, together, encoding.block), "<f4")

    def run(values: NDArray[Any], out: NDArray[Any]) -> bool:
        blocks, encoded = values.reshape(-1, encoding.block), out.reshape(-1, encoding.nbytes)
        starts = range(0, len(blocks), together)
        return all(
            kernel(some := blocks[start : start + together], encoded[start : start + together], work[:, : len(some)])
            for start in starts
        )

    return run


def _k_runner(encoding: Encoding, importance: NDArray[Any] | None) -> _Run:
    kernel, together = k_blocks.K_KERNELS[encoding.name], _TOGETHER // encoding.block
    work = np.empty((4, _TOGETHER), "<f4")
    weights = None if importance is None else importance.reshape(-1, encoding.block)

    def run(values: NDArray[Any], out: NDArray[Any]) -> bool:
        blocks, encoded = values.reshape(-1, encoding.block), out.reshape(-1, encoding.nbytes)
        for start in range(0, len(blocks), together):
            some = blocks[start : start + together]
            some_weights = None
            if weights is not None:
                some_weights = weights[np.arange(start, start + len(some)) % len(weights)]
            if not np.isfinite(some).all():
                return False
            if not kernel(some, some_weights, encoded[start : start + together], work):
                return False
        return True

    return run


def _weighed_runner(encoding: Encoding, importance: NDArray[Any]) -> _Run:
    kernel, columns = WEIGHED[encoding.name], len(importance)
    together = max(1, _TOGETHER // columns)

    def run(values: NDArray[Any], out: NDArray[Any]) -> bool:
        rows, encoded = values.reshape(-1, columns), out.reshape(-1, encoding.size(columns))
        for start in range(0, len(rows), together):
            some, blocks = rows[start : start + together], encoded[start : start + together]
            weights = weights_of(some, importance)
            into = blocks.reshape(-1, encoding.nbytes)
            if not (
                np.isfinite(some).all()
                and kernel(some.reshape(-1, encoding.block), weights.reshape(-1, encoding.block), into)
            ):
                return False
        return True

    return run
