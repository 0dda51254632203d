"""A storage (bytes) and a tensor (elements): the views that a checkpoint is made of.

`offset`, `shape` and `stride` count elements, as PyTorch's do; only Storage counts bytes. numpy is imported when the
first array is asked for, because listing a checkpoint does not need it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import Dtype
from converter.errors import LayoutError
from converter.io.source import STEP, Extent, Source
from converter.limits import limits
from converter.text import nbytes_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE: Final = 16 << 20  # bytes of a gathered tile: the more columns of a matrix it holds, the longer the reads are
_SHARED: Final = 4  # fetch the whole storage if it is at most this many times as large as the view
_LARGEST: Final = 1 << 63  # bytes or elements that a 64-bit reader can count


@cache
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{count}q").pack


@cache
def _signs(count: int) -> int:
    return int.from_bytes(b"\0\0\0\0\0\0\0\x80" * count, "little")


def _countable(numbers: tuple[int, ...]) -> bool:
    """Whether all are from 0 to 2^63 - 1. All signs are tested at once, because a pickle can ask for many such tests."""
    try:
        packed = _packer(len(numbers))(*numbers)
    except struct.error:
        return False
    return not int.from_bytes(packed, "little") & _signs(len(numbers))


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes that tensors are views of. `offset` and `nbytes` are bytes of `source`.

    `encoding` is the name of the encoding in the file, if `source` decodes the elements as they are read (GGUF's
    `Q8_0`).
    """

    source: Source
    offset: int
    nbytes: int
    key: str
    shard: int | None = None
    crc32: int | None = None
    byteorder: str = "little"
    encoding: str | None = None

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of the storage."""
        self.source.readinto(self.offset + offset, buffer)

    def spans(self) -> Iterator[Extent]:
        """Yield the parts of files that it lies in, with their headers. Nothing is read."""
        return self.source.spans(self.offset, self.nbytes)

    def tiles(self, offset: int, nbytes: int, buffer: memoryview) -> Iterator[memoryview]:
        """Yield `nbytes` bytes from `offset` on, in pieces that use `buffer`: each is valid until the next is asked for."""
        for done in range(0, nbytes, len(buffer) or 1):
            piece = buffer[: min(len(buffer), nbytes - done)]
            self.readinto(offset + done, piece)
            yield piece

    def release(self, offset: int = 0, nbytes: int | None = None) -> None:
        """Announce that a range, or the whole storage, was read for the last time."""
        self.source.release(self.offset + offset, self.nbytes if nbytes is None else nbytes)

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read in any order and more than once, so that a remote source fetches it first."""
        self.source.prefetch(self.offset + offset, nbytes)


# What the rest of this package calls. A person who completes a name does not look for these, so `dir` leaves them out.
_INNER: Final = frozenset(("streams", "tiles"))


@dataclass(frozen=True, slots=True, repr=False)
class Tensor:
    """A view of a storage, checked when it is built.

    Raises LayoutError unless every element lies within the storage, every dimension and stride is ≥ 0, and sizes can be
    counted with 63 bits.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage

    def __post_init__(self) -> None:
        shape, stride = self.shape, self.stride
        if len(shape) > limits().rank or len(shape) != len(stride):
            raise LayoutError(
                f"a tensor has {len(shape)} dimensions and {len(stride)} strides: equal numbers of both, and at most "
                f"{limits().rank}, are read"
            )
        if not 0 <= self.offset < _LARGEST:
            raise LayoutError("a tensor's offset is negative or does not fit into 63 bits")
        if not _countable((*shape, *stride)):
            raise LayoutError("a tensor has a size or stride that is negative or does not fit into 63 bits")
        room = self.dtype.itemsize * math.prod(filter(None, shape))  # numpy ignores zeros here as well
        last = self.offset + sum(map(mul, shape, stride)) - sum(stride)
        if room >= _LARGEST:
            raise LayoutError(f"{self._described()} has more bytes than 63 bits can count")
        if (last + 1) * self.dtype.itemsize > self.storage.nbytes and 0 not in shape:
            raise LayoutError(
                f"{self._described()} ends at element {last} of a storage of "
                f"{self.storage.nbytes // self.dtype.itemsize} (key `{self.storage.key:.80}`)"
            )

    def __hash__(self) -> int:
        # Hash bytes (salted per process), so that a file cannot choose strides whose hashes collide.
        numbers = (*self.shape, *self.stride, self.offset)
        return hash((_packer(len(numbers))(*numbers), self.storage.key))

    def __dir__(self) -> list[str]:
        return [name for name in object.__dir__(self) if name not in _INNER]

    def __repr__(self) -> str:
        lies = "" if self.contiguous else ", transposed" if self.transposed else f", stride {list(self.stride)}"
        return f"<Tensor {self.dtype.name} {list(self.shape)}{lies}, {nbytes_text(self.nbytes)}>"

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None, which is its text, where nothing can make pages."""
        from converter.tensors.notebook import drawn

        return drawn("tensor", self)

    def _described(self) -> str:
        return f"a {self.dtype.name} tensor of shape {self.shape!s:.300}, stride {self.stride!s:.300}, offset {self.offset}"

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the logical tensor. A view that is expanded with stride 0 has more of them than its storage."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie row by row without gaps. Dimensions of size 1 are ignored, as in PyTorch."""
        if 0 in self.shape:
            return True
        expected, shape, stride = 1, self.shape, self.stride
        for axis in range(len(shape) - 1, -1, -1):
            if shape[axis] != 1:
                if stride[axis] != expected:
                    return False
                expected *= shape[axis]
        return True

    @property
    def transposed(self) -> bool:
        """Whether it is a matrix that lies column by column: the transposed view of a row-major one."""
        return len(self.shape) == 2 and not self.contiguous and self.t().contiguous

    def t(self) -> Tensor:
        """The view with the dimensions in reverse order."""
        return replace(self, shape=self.shape[::-1], stride=self.stride[::-1])

    def rows(self, start: int, stop: int) -> Tensor:
        """The view of `[start:stop]` along the first dimension."""
        offset = self.offset + start * self.stride[0]
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=offset)

    def numpy(self, *, writable: bool = False) -> NDArray[Any]:
        """Read it as numbers. BF16, the 8-bit floats and C32, which numpy lacks, are widened exactly to float32 or complex64.

        The array is read-only unless a `writable` copy is asked for. Raises UnsupportedError for packed dtypes, whose
        elements are parts of a byte; `bits` reads those.
        """
        from converter.tensors.arrays import numbers

        found = numbers(self)
        return found.copy() if writable else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers, for `numpy.asarray(tensor)`. Raises ValueError if numpy wants them without a copy."""
        if copy is False:
            raise ValueError("a tensor is read from its file, which makes a copy: leave copy=False out")
        found = self.numpy(writable=copy is True)
        return found if dtype is None else found.astype(dtype, copy=False)

    def bits(self, buffer: bytearray | None = None) -> NDArray[Any]:
        """Read the elements as they are stored: a read-only array, of unsigned integers if numpy lacks the dtype.

        It has the tensor's strides. If `buffer` is large enough, the array uses it, and is valid until it is used again;
        that saves the cost of new memory.
        """
        import numpy as np

        dtype = np.dtype(self.dtype.numpy)
        if self.size == 0:
            empty = np.empty(self.shape, dtype)
            empty.flags.writeable = False
            return empty
        strides = [step if length > 1 else 0 for length, step in zip(self.shape, self.stride, strict=True)]
        span = 1 + sum((length - 1) * step for length, step in zip(self.shape, strides, strict=True))
        nbytes = span * dtype.itemsize
        if buffer is None or len(buffer) < nbytes:
            buffer = bytearray(nbytes)
        self.storage.readinto(self.offset * dtype.itemsize, memoryview(buffer)[:nbytes])
        if self.storage.byteorder == "big":
            np.frombuffer(buffer, f"<u{self.dtype.swapped}", nbytes // self.dtype.swapped).byteswap(inplace=True)
        array: NDArray[Any] = np.ndarray(self.shape, dtype, bytes_as(buffer), 0, [s * dtype.itemsize for s in strides])
        array.flags.writeable = False
        return array

    @property
    def streams(self) -> bool:
        """Whether its canonical bytes are one range of the storage."""
        return self.contiguous and (self.storage.byteorder == "little" or self.dtype.swapped == 1)

    def tiles(self, nbytes: int | None = None) -> Iterator[memoryview]:
        """Yield the canonical bytes (row-major, little-endian) in order, in pieces of at most `nbytes` bytes.

        Without `nbytes`, pieces are as long as suits the view, up to TILE. A piece is valid until the next is asked
        for, because its buffer is used again.
        """
        if self.size == 0:
            return
        if self.streams:
            start, size = self.offset * self.dtype.itemsize, self.nbytes
            yield from self.storage.tiles(start, size, memoryview(bytearray(min(nbytes or STEP, size))))
        else:
            self.prefetch()
            from converter.tensors.gather import gathered_ahead

            yield from gathered_ahead(self, nbytes or TILE)
        self.storage.release()

    def prefetch(self) -> None:
        """Announce that its elements will be read in any order and more than once."""
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        span = (1 + last) * self.dtype.itemsize
        # Views that are parts of one storage are usually read one after the other, so the storage is fetched once for
        # all.
        whole = self.storage.nbytes <= _SHARED * span
        start, size = (0, self.storage.nbytes) if whole else (self.offset * self.dtype.itemsize, span)
        self.storage.prefetch(start, size)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor that lies row by row."""
    return tuple(accumulate(shape[:0:-1], mul, initial=1))[::-1] if shape else ()


def bytes_as(buffer: bytearray) -> memoryview:
    """The buffer in the form that numpy's `ndarray` takes."""
    return memoryview(buffer)
