"""The block quantisation that is done here: Q8_0, Q5_1, Q5_0, Q4_1, Q4_0.

A block is 32 neighbouring elements of a row, stored as small integers and one scale in half precision; `_1` types also
have a minimum. The bytes are those of ggml's reference quantiser, which gguf-py follows. Sources: ggml-common.h
`block_q8_0` …; ggml-quants.c `quantize_row_q8_0_ref` …
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from converter.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.formats.gguf.encodings import Encoding

BLOCK: Final = 32  # elements of a block, in all five
# Blocks that are worked on together: they and two arrays of their size stay in the second-level cache.
_TOGETHER: Final = 2048


def quantised(tiles: Iterator[memoryview], encoding: Encoding, name: str) -> Iterator[memoryview]:
    """Turn tiles of F32 elements, each of whole blocks, into blocks. A piece is valid until the next is asked for.

    Raises UnsupportedError, which names `name`, if a block holds NaN, infinity, or a value that its scale can't reach.
    """
    import numpy as np

    buffer, work = np.empty(0, "u1"), _work()
    for tile in tiles:
        values = np.frombuffer(tile, "<f4")
        nbytes = encoding.size(values.size)
        if len(buffer) < nbytes:
            buffer = np.empty(nbytes, "u1")
        if not _quantise(values, encoding, buffer[:nbytes], work):
            raise UnsupportedError(
                f"`{name}` holds NaN, infinity or a value too large for {encoding.name}: choose f32 or bf16"
            )
        yield buffer[:nbytes].data


def _quantise(values: NDArray[Any], encoding: Encoding, out: NDArray[Any], work: NDArray[Any]) -> bool:
    """Write the blocks of `values` (flat F32, whole blocks) into `out` (flat bytes). False if one can't be expressed."""
    import numpy as np

    kernel = _QUANTISE[encoding.name]
    blocks, encoded = values.reshape(-1, BLOCK), out.reshape(-1, encoding.nbytes)
    with np.errstate(all="ignore"):  # overflow shows in the scales
        for start in range(0, len(blocks), _TOGETHER):
            some = blocks[start : start + _TOGETHER]
            if not kernel(some, encoded[start : start + _TOGETHER], work[:, : len(some)]):
                return False
    return True


def _work() -> NDArray[Any]:
    """Two arrays for the kernels. They are made once, because memory of this size goes back to the system when it is freed."""
    import numpy as np

    return np.empty((2, _TOGETHER, BLOCK), "<f4")


# ---- values [blocks, 32] → encoded [blocks, bytes]; work [2, blocks, 32] --------------------------------------------


def _q8_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    import numpy as np

    low, high = _ends(values, work[0])
    scale = np.abs(np.maximum(high, -low)) / np.float32(127)
    scaled = np.multiply(values, _inverse(scale), out=work[0])
    # Round half away from zero: add a half of the same sign and cut. The largest float below ½ gives the right result
    # for every float; ½ itself would take 0.49999997 to 1.
    halves = np.bitwise_and(scaled.view("<u4"), np.uint32(0x80000000), out=work[1].view("<u4"))
    halves |= np.uint32(0x3EFFFFFF)
    scaled += halves.view("<f4")
    out[:, 2:] = scaled.astype("i1").view("u1")
    return _put_half(out, 0, scale)


def _q4_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, 8, work)
    out[:, 2:] = _nibbles(levels)
    return _put_half(out, 0, scale)


def _q4_1(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, low, levels = _affine(values, 15, work)
    out[:, 4:] = _nibbles(levels)
    return _put_half(out, 0, scale) and _put_half(out, 2, low)


def _q5_0(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, levels = _symmetric(values, 16, work)
    out[:, 2:6] = _fifth_bits(levels)
    out[:, 6:] = _nibbles(levels)
    return _put_half(out, 0, scale)


def _q5_1(values: NDArray[Any], out: NDArray[Any], work: NDArray[Any]) -> bool:
    scale, low, levels = _affine(values, 31, work)
    out[:, 4:8] = _fifth_bits(levels)
    out[:, 8:] = _nibbles(levels)
    return _put_half(out, 0, scale) and _put_half(out, 2, low)


def _symmetric(values: NDArray[Any], half: int, work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scales, and levels 0 … 2·half - 1. The value furthest from zero becomes level 0; of two such values the first."""
    import numpy as np

    low, high = _ends(values, work[0])
    furthest = np.where(high > -low, high, low)
    ties = np.flatnonzero(high == -low)
    furthest[ties] = values[ties, np.abs(values[ties]).argmax(axis=1)]
    scale = furthest / np.float32(-half)
    levels = np.multiply(values, _inverse(scale), out=work[0])
    levels += np.float32(half + 0.5)
    np.minimum(levels, np.float32(2 * half - 1), out=levels)
    return scale, levels.astype("u1")


def _affine(values: NDArray[Any], top: int, work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Scales, minima, and levels 0 … top. Of two zeros the first is the minimum, whatever its sign."""
    import numpy as np

    low, high = _ends(values, work[0])
    zeros = np.flatnonzero(low == 0)
    low[zeros] = values[zeros, values[zeros].argmin(axis=1)]
    scale = (high - low) / np.float32(top) + np.float32(0)  # + 0: never -0
    levels = np.subtract(values, low[:, None], out=work[0])
    levels *= _inverse(scale)
    levels += np.float32(0.5)
    np.minimum(levels, np.float32(top), out=levels)
    return scale, low, levels.astype("u1")


def _ends(values: NDArray[Any], work: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The smallest and the largest value of every row.

    numpy is only fast along long axes. So the rows are first laid side by side, four elements (16 bytes) at a time.
    """
    import numpy as np

    fours = work.reshape(-1).view("c16").reshape(8, -1)  # [8, blocks]
    np.copyto(fours, values.view("c16").T)
    fours = fours.view("<f4")  # [8, blocks · 4]
    low, high = fours.min(axis=0).reshape(-1, 4).T.copy(), fours.max(axis=0).reshape(-1, 4).T.copy()
    return np.minimum.reduce(low, axis=0), np.maximum.reduce(high, axis=0)


def _inverse(scale: NDArray[Any]) -> NDArray[Any]:
    """1/scale as a column; 0 for scales so small that they are 0 in half precision."""
    import numpy as np

    inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse[:, None]


def _put_half(out: NDArray[Any], position: int, values: NDArray[Any]) -> bool:
    import numpy as np

    halves = values.astype("<f2")
    out[:, position : position + 2].view("<f2")[:, 0] = halves
    return bool(np.isfinite(halves).all())


def _nibbles(levels: NDArray[Any]) -> NDArray[Any]:
    """Pack the low four bits: element i below element i + 16. Returns the first 16 columns of [blocks, 32]."""
    import numpy as np

    eight = levels.reshape(-1).view("<u8") & np.uint64(0x0F0F0F0F0F0F0F0F)
    # Process all rows in one run, which is faster than row by row; every second result is unused.
    eight[:-2] |= eight[2:] << np.uint64(4)
    return eight.view("u1").reshape(-1, BLOCK)[:, :16]


def _fifth_bits(levels: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.packbits(levels.reshape(-1) & np.uint8(16), bitorder="little").reshape(-1, 4)


_QUANTISE: Final[dict[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], bool]]] = {
    "Q8_0": _q8_0,
    "Q5_1": _q5_1,
    "Q5_0": _q5_0,
    "Q4_1": _q4_1,
    "Q4_0": _q4_0,
}
QUANTISED: Final = tuple(_QUANTISE)
