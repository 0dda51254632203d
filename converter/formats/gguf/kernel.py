"""ggml's own quantiser, from the library of xllamacpp, if that is installed: faster than numpy, and the same bytes.

Its bytes are compared with ours before a type is left to it, because another version, or another processor's instructions, could
round in another way. Then numpy does the work. Types that numpy does not make are only decoded again, and the result must be near
the elements that they were made from. A call leaves Python's lock to other threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.formats.gguf.decoding import dequantise
from converter.formats.gguf.encodings import ALONE, WEIGHED_ONLY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.formats.gguf.encodings import Encoding

PACKAGE: Final = "xllamacpp"
# Numbers beyond this are left to numpy, which notices where C's sums overflow. No block can hold them.
_LARGEST: Final = np.float32(1e9)
# No scale and no minimum of numbers below this is too large for half precision, even if a search made it 60 times as large.
_HARMLESS: Final = np.float32(1e3)
# Where a block keeps its numbers in half precision, in bytes. A type without an entry is decoded to see whether it could be made.
_HALVES: Final = {
    "Q8_0": (0,),
    "Q5_1": (0, 2),
    "Q5_0": (0,),
    "Q4_1": (0, 2),
    "Q4_0": (0,),
    "Q6_K": (208,),
    "Q5_K": (0, 2),
    "Q4_K": (0, 2),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
}
# Quantises flat F32 elements into flat bytes. None if numpy should do it, False if a block can't be expressed.
Kernel = Callable[["NDArray[Any]", "NDArray[Any]"], bool | None]


@cache
def function_of_library() -> Any:
    """`ggml_quantize_chunk` of the installed library; None if there is none."""
    found = find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        for path in sorted(Path(folder).glob(f"{PACKAGE}*.so")):
            try:
                function = ctypes.CDLL(str(path)).ggml_quantize_chunk
            except (OSError, AttributeError):
                continue
            function.restype = ctypes.c_size_t
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            function.argtypes = (ctypes.c_int, pointer, pointer, count, count, count, pointer)
            return function
    return None


def title() -> str:
    """What to call the library."""
    try:
        return f"ggml of {PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return f"ggml of {PACKAGE}"


def kernel(encoding: Encoding, importance: NDArray[Any] | None) -> Kernel | None:
    """A quantiser for a type, with the importance of each column; None if there is no library, or it does not know the type."""
    function = function_of_library()
    if function is None or not (encoding.name in _HALVES or encoding.name in ALONE):
        return None
    if importance is None and encoding.name in WEIGHED_ONLY:
        return None
    columns = encoding.block if importance is None else len(importance)
    weights = None if importance is None else np.ascontiguousarray(importance, "<f4")

    def run(values: NDArray[Any], out: NDArray[Any]) -> bool | None:
        if not values.size:
            return None
        # One pass is enough for nearly all tensors: a small sum of squares shows that no number is large, NaN or infinite.
        harmless = bool(np.einsum("i,i", values, values) < _HARMLESS**2)
        if not harmless and not max(values.max(), -values.min()) < _LARGEST:  # NaN isn't, either
            return None
        pointer = None if weights is None else weights.ctypes.data
        # One row's result does not depend on the others, so the rows are passed as one run.
        rows = values.size // columns
        function(encoding.ggml, values.ctypes.data, out.ctypes.data, 0, rows, columns, pointer)
        return harmless or _finite(out, encoding)

    return run


def _finite(blocks: NDArray[Any], encoding: Encoding) -> bool:
    if encoding.name not in _HALVES:
        elements = np.empty(blocks.size // encoding.nbytes * encoding.block, "<f4")
        dequantise(blocks, encoding, elements)
        return bool(np.isfinite(elements).all())
    some = blocks.reshape(-1, encoding.nbytes)
    return all(
        bool(np.isfinite(np.ascontiguousarray(some[:, at : at + 2]).view("<f2")).all()) for at in _HALVES[encoding.name]
    )
