"""Whether the safetensors library reads what our own reader does. Nothing else imports the library.

Neither allows a hole before or between tensors. So if both find the same tensors in the same order, with the same
dtypes and shapes, every tensor lies at the same bytes for both. To be sure, both read the ends of each tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BOOL, F16, F32, F64, I8, I16, I32, I64, U8
from converter.errors import ConverterError
from converter.formats.said import Finding
from converter.tensors.matrix import Area
from converter.text import plural

if TYPE_CHECKING:
    from pathlib import Path

    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Storage, Tensor

# The dtypes that numpy has. For BF16 and the 8-bit formats, only names, dtypes, shapes and order are compared.
_READ: Final = (F64, F32, F16, I64, I32, I16, I8, U8, BOOL)
_ENDS: Final = 1024  # elements of a tensor's first and last rows that both readers read
_TOUCHED: Final = 16 << 20  # bytes between openings of the file: the library keeps every page mapped that it has read
_AROUND: Final = 128 << 10  # bytes that the kernel maps when an end of a tensor is read


def disagreements(catalogue: Catalogue) -> Iterator[Finding]:
    """Say what the library reads differently from our reader in a safetensors catalogue's files, and what it can't open."""
    files: dict[str, list[Storage]] = defaultdict(list)
    for storage in catalogue.storages:
        files[storage.source.name].append(storage)
    remote = [name for name, storages in files.items() if storages[0].source.path is None]
    if remote:
        which = "this one" if len(files) == 1 else f"{len(remote)} of {plural(len(files), 'file')}"
        detail = f"the safetensors library opens local files only, so our reader alone read {which}"
        yield Finding(catalogue.location, "no second reader", detail, counts=False)
    ours = {(tensor.storage.source.name, tensor.storage.key): tensor for tensor in catalogue.values()}
    others = {other.name: other for other in catalogue.unsupported}
    for name, storages in files.items():
        path, found = storages[0].source.path, []
        if path is None:
            continue
        try:
            found += _order(path, name, storages)
            file, touched = _opened(path), 0
            for storage in storages:
                touched += min(storage.nbytes, 2 * _AROUND)
                if touched > _TOUCHED:
                    file, touched = _opened(path), 0
                tensor, other = ours.get((name, storage.key)), others.get(storage.key)
                if tensor is not None:
                    found += _differences(file, name, tensor)
                elif other is not None:
                    found += _described(file, name, storage.key, (other.kind, other.shape or ()))
        except Exception as error:  # the library has no narrower class
            found.append(f"the safetensors library can't read `{name}`: {error}")
        yield from (Finding(catalogue.location, "readers disagree", said) for said in found)


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="np")


def _order(path: Path, file: str, storages: list[Storage]) -> list[str]:
    """Compare names, and the order of tensors that have bytes."""
    theirs = list(_opened(path).offset_keys())
    ours = [storage.key for storage in sorted(storages, key=lambda storage: storage.offset)]
    seen, known = set(theirs), set(ours)
    found = [f"the safetensors library finds no `{name}` in `{file}`" for name in ours if name not in seen]
    found += [f"the safetensors library finds `{name}` in `{file}`" for name in theirs if name not in known]
    empty = {storage.key for storage in storages if not storage.nbytes}
    if not found and [name for name in ours if name not in empty] != [name for name in theirs if name not in empty]:
        found.append(f"the tensors of `{file}` have another order in the safetensors library than here")
    return found


def _described(file: Any, name: str, key: str, ours: tuple[str | None, tuple[int, ...]]) -> list[str]:
    """Compare a tensor's dtype and shape."""
    piece = file.get_slice(key)
    dtype, shape = piece.get_dtype(), tuple(piece.get_shape())
    if (dtype, shape) == ours:
        return []
    return [f"`{key}` in `{name}` is {dtype} {shape} for the safetensors library and {ours[0]} {ours[1]} for us"]


def _differences(file: Any, name: str, tensor: Tensor) -> list[str]:
    key, shape = tensor.storage.key, tensor.shape
    if tensor.dtype.packed > 1:
        shape = (*shape[:-1], shape[-1] * tensor.dtype.packed)
    found = _described(file, name, key, (tensor.dtype.safetensors, shape))
    if found or tensor.dtype not in _READ or not tensor.size or len(shape) > 2:
        return found
    rows, columns = (1, *shape, *(1,) * (not shape))[-2:]
    matrix = replace(tensor, shape=(rows, columns), stride=(columns, 1))
    for row, first in ((0, 0), (rows - 1, max(0, columns - _ENDS))):
        last = min(columns, first + _ENDS)
        area = (slice(row, row + 1), slice(first, last))[2 - len(shape) :]
        theirs = file.get_slice(key)[area] if shape else file.get_tensor(key)
        try:
            same = theirs.tobytes() == Area(matrix, row, row + 1, first, last).read().tobytes()
        except ConverterError as error:
            return [str(error)]
        if not same:
            return [f"`{key}` in `{name}` has other bytes for the safetensors library than for us"]
    return []
