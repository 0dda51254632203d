"""Tensors made of another: times a number, below rows that another place has, or rounded to another dtype."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.errors import UnsupportedError
from converter.io.source import Derived
from converter.tensors.casting import converted
from converter.tensors.losses import Loss
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.words import option

if TYPE_CHECKING:
    from converter.dtypes import Dtype


def scaled(tensor: Tensor, factor: float, rows: int | None = None) -> Tensor:
    """The tensor with its first `rows` rows, or all of them, times a power of two.

    Multiplying by the inverse gives the tensor again. An element that is too large or too small for that raises
    UnsupportedError when it is read. So does a factor that is no power of two, at once: its products are rounded, and no
    way leads back from them.
    """
    if not 0 < factor < math.inf or math.frexp(factor)[0] != 0.5:
        raise UnsupportedError(
            f"a tensor times {factor:.6g} is rounded, and would not come back, so it is neither written as GGUF nor computed: "
            f"choose safetensors, and compare it with {option('level', 'tensors')}"
        )
    held = tensor.storage.source
    if factor == 1 or not tensor.size:
        return tensor
    if isinstance(held, _Scaled) and held.factor * factor == 1 and held.rows == rows and _is_whole(tensor):
        return held.tensor
    return _over(tensor, tensor.shape, _Scaled(tensor, factor, rows))


def below(first: list[float], tensor: Tensor) -> Tensor:
    """The tensor with rows before its own, whose elements are `first`. Raises UnsupportedError if they are not whole rows."""
    width = math.prod(tensor.shape[1:])
    if not width or len(first) % width:
        raise UnsupportedError(f"{len(first):,} elements are not whole rows of {width:,}")
    if not first:
        return tensor
    shape = (len(first) // width + tensor.shape[0], *tensor.shape[1:])
    return _over(tensor, shape, _Below(first, tensor))


def rounded(tensor: Tensor, dtype: Dtype) -> Tensor:
    """The tensor in another dtype."""
    return _over(tensor, tensor.shape, _Rounded(tensor, dtype), dtype)


def _over(tensor: Tensor, shape: tuple[int, ...], source: _Rows, dtype: Dtype | None = None) -> Tensor:
    storage = tensor.storage
    made = Storage(source, 0, source.size, storage.key, storage.shard, encoding=storage.encoding)
    return replace(tensor, dtype=dtype or tensor.dtype, shape=shape, stride=row_major(shape), offset=0, storage=made)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.contiguous and tensor.nbytes == tensor.storage.nbytes


class _Rows(Derived):
    """Bytes that are made from a tensor's rows."""

    def __init__(self, tensor: Tensor, size: int) -> None:
        super().__init__(tensor.storage.source, tensor.storage.source.name, size)
        self.tensor = tensor

    def release(self, offset: int, size: int) -> None:
        """Keep the base: a tensor that is made from it may be read again."""

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        tensor = self.tensor
        last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True) if length)
        itemsize = tensor.dtype.itemsize
        return tensor.storage.offset + tensor.offset * itemsize, (last + 1) * itemsize


class _Scaled(_Rows):
    """The bytes of the products."""

    def __init__(self, tensor: Tensor, factor: float, rows: int | None) -> None:
        super().__init__(tensor, tensor.nbytes)
        self.factor, self.rows = factor, rows

    def _fill(self, offset: int, buffer: memoryview) -> None:
        from converter.tensors.products import fill  # this imports numpy, which listing a checkpoint does without

        fill(self.tensor, self.factor, self.rows, offset, buffer)


class _Below(_Rows):
    """The bytes of the rows before the tensor's own, and of these."""

    def __init__(self, first: list[float], tensor: Tensor) -> None:
        super().__init__(tensor, len(first) * tensor.dtype.itemsize + tensor.nbytes)
        self.first = first

    def _fill(self, offset: int, buffer: memoryview) -> None:
        from converter.tensors.products import fill, packed

        head = packed(self.first, self.tensor.dtype)
        taken = head[offset : offset + len(buffer)]
        buffer[: len(taken)] = taken
        if len(buffer) > len(taken):
            fill(self.tensor, 1.0, None, max(0, offset - len(head)), buffer[len(taken) :])


class _Rounded(_Rows):
    """The bytes of the elements in another dtype."""

    def __init__(self, tensor: Tensor, dtype: Dtype) -> None:
        super().__init__(tensor, tensor.size * dtype.itemsize)
        self._dtype = dtype

    def _fill(self, offset: int, buffer: memoryview) -> None:
        from converter.tensors.products import fill

        ours, theirs = self.tensor.dtype, self._dtype
        held = memoryview(bytearray(len(buffer) // theirs.itemsize * ours.itemsize))
        fill(self.tensor, 1.0, None, offset // theirs.itemsize * ours.itemsize, held)
        place = 0
        for tile in converted(iter([held]), ours, theirs, Loss()):
            buffer[place : place + len(tile)] = tile
            place += len(tile)


def elements(tensor: Tensor) -> list[float]:
    """All elements of a small tensor."""
    from converter.tensors.products import floats

    return floats(tensor)
