"""What the safetensors library reads of a file that our own reader has read: the second witness, and its only importer.

The library maps a file and never gives mapped pages back while it is open, so it is opened anew every few megabytes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.comparison import ReadError, read
from converter.dtypes import BOOL, F16, F32, F64, I8, I16, I32, I64, U8
from converter.errors import ConverterError
from converter.tensors import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.tensors import Catalogue

# Those that numpy has: of BF16 and the 8-bit formats the library is asked for names, shapes and dtypes alone.
READ: Final = (F64, F32, F16, I64, I32, I16, I8, U8, BOOL)
_MAPPED: Final = 80 << 20  # bytes of a file that may be mapped at a time
_ENDS: Final = 1024  # elements of a tensor's first and last rows that both readers are asked for


class Library:
    """The library's view of a safetensors catalogue; a `comparison.Reader`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._file: Any = None
        self._path = ""
        self._mapped: dict[tuple[str, int], int] = {}  # bytes by tensor and first row
        self._total = 0

    def problems(self) -> list[str]:
        """Say what the library sees otherwise than our reader did: names, dtypes, shapes, or where tensors lie."""
        files: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for tensor in self._catalogue.values():
            files[tensor.storage.source.name][tensor.storage.key] = tensor
        listed = {other.name for other in self._catalogue.unsupported}
        found = []
        for path, tensors in files.items():
            try:
                names = set(self._opened(path).keys()) - listed
                found += [f"the safetensors library finds no `{name}` in `{path}`" for name in tensors.keys() - names]
                found += [f"the safetensors library finds `{name}` in `{path}`" for name in names - tensors.keys()]
                for name in tensors.keys() & names:
                    found += self._differences(path, tensors[name])
            except ConverterError as error:
                found.append(str(error))
        return found

    def __call__(self, tensor: Tensor, a: int, b: int, c: int, d: int) -> NDArray[Any]:
        """[b - a, d - c] as raw bits."""
        import numpy as np

        columns = tensor.shape[-1] if tensor.shape else 1
        if len(tensor.shape) > 2:
            columns = tensor.size // tensor.shape[0]
        pitch = columns * tensor.dtype.itemsize
        step = max(1, _MAPPED // pitch)
        parts = [self._part(tensor, start, min(b, start + step), c, d, pitch) for start in range(a, b, step)]
        whole: NDArray[Any] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole.view(f"<u{tensor.dtype.itemsize}")

    def _part(self, tensor: Tensor, a: int, b: int, c: int, d: int, pitch: int) -> NDArray[Any]:
        path, key = tensor.storage.source.name, tensor.storage.key
        # Parts of the same rows lie on the same pages, or beside: what is mapped once counts once.
        self._opened(
            path, key, a, min((b - a) * pitch, tensor.nbytes) if b - a > 1 else (d - c) * tensor.dtype.itemsize
        )
        try:
            if not tensor.shape:
                part = self._file.get_tensor(key).reshape(1, 1)
            elif len(tensor.shape) == 1:
                part = self._file.get_slice(key)[c:d].reshape(1, -1)
            elif len(tensor.shape) == 2:
                part = self._file.get_slice(key)[a:b, c:d]
            else:
                part = self._file.get_slice(key)[a:b].reshape(b - a, -1)[:, c:d]
        except Exception as error:  # the library raises nothing narrower
            raise ReadError(f"the safetensors library can't read `{key}` of `{path}`: {error}") from error
        whole: NDArray[Any] = part
        return whole

    def _differences(self, path: str, tensor: Tensor) -> list[str]:
        key = tensor.storage.key
        piece = self._opened(path).get_slice(key)
        dtype, shape = piece.get_dtype(), tuple(piece.get_shape())
        if tensor.dtype.packed > 1:
            shape = (*shape[:-1], shape[-1] // tensor.dtype.packed)
        if (dtype, shape) != (tensor.dtype.safetensors, tensor.shape):
            return [
                f"`{key}` is {dtype} {shape} to the safetensors library and {tensor.dtype.name} {tensor.shape} to us"
            ]
        if tensor.dtype not in READ or not tensor.size or len(tensor.shape) > 2:
            return []
        rows, columns = (1, *tensor.shape, *(1,) * (not tensor.shape))[-2:]
        matrix = replace(tensor, shape=(rows, columns), stride=(columns, 1))
        for row, column in ((0, 0), (rows - 1, max(0, columns - _ENDS))):
            area = (row, row + 1, column, min(columns, column + _ENDS))
            if self(tensor, *area).tobytes() != read(matrix, *area).tobytes():
                return [f"`{key}` in `{path}` has other bytes to the safetensors library than to us"]
        return []

    def _opened(self, path: str, key: str = "", row: int = 0, nbytes: int = 0) -> Any:
        """Give the file, opened anew if so many bytes more are too many."""
        from safetensors import safe_open

        more = max(0, nbytes - self._mapped.get((key, row), 0))
        if path != self._path or self._total + more > _MAPPED:
            self._file, self._path, self._mapped, self._total, more = None, path, {}, 0, nbytes
            try:
                self._file = safe_open(path, framework="np")
            except Exception as error:  # the library raises nothing narrower
                raise ReadError(f"the safetensors library can't read `{path}`: {error}") from error
        self._mapped[key, row] = max(nbytes, self._mapped.get((key, row), 0))
        self._total += more
        return self._file
