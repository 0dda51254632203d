"""Storage (bytes), Tensor (elements), Catalogue (the state dict, lazy).

`offset`, `shape` and `stride` count elements, as PyTorch's do; only Storage counts bytes. numpy is imported when the
first array is asked for: listing a checkpoint needs none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import Dtype
from converter.errors import LayoutError
from converter.limits import LIMITS
from converter.sources import Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE: Final = 16 << 20  # bytes of a tile: large enough for long writes, small enough for any machine
_LARGEST: Final = 1 << 63  # bytes or elements that a 64-bit reader can count

# What a read costs, to choose between one long read and many short ones: a system call and Python's share of it take
# about as long as copying this many bytes out of the page cache.
_CALL: Final = 6 << 10


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes that tensors are views of. `offset` and `nbytes` are bytes of `source`.

    `encoding` names how the file itself holds the elements where `source` decodes them on the way (GGUF's `Q8_0`).
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


@dataclass(frozen=True, slots=True)
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
        last, size = self.offset, 1
        if len(shape) != len(stride):
            raise LayoutError(f"{self._described()} has {len(shape)} dimensions and {len(stride)} strides")
        if len(shape) > LIMITS.rank:
            raise LayoutError(f"a tensor of {len(shape)} dimensions: at most {LIMITS.rank} are read")
        if last < 0:
            raise LayoutError(f"{self._described()} has a negative offset")
        for length, step in zip(shape, stride, strict=True):
            if length < 0 or step < 0:
                raise LayoutError(f"{self._described()} has a negative size or stride")
            size *= length
            last += (length - 1) * step
        if size * self.dtype.itemsize >= _LARGEST:
            raise LayoutError(f"{self._described()} has more elements than 64 bits can count")
        if size and (last + 1) * self.dtype.itemsize > self.storage.nbytes:
            raise LayoutError(
                f"{self._described()} ends at element {last} of a storage of "
                f"{self.storage.nbytes // self.dtype.itemsize} (key `{self.storage.key}`)"
            )

    def _described(self) -> str:
        return f"a {self.dtype.name} tensor of shape {self.shape}, stride {self.stride}, offset {self.offset}"

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the logical tensor, which a view expanded with stride 0 does not have in its storage."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie row by row without gaps. Dimensions of size 1 have no say, as in PyTorch."""
        expected = 1
        for length, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length == 0:
                return True
            if length != 1:
                if step != expected:
                    return False
                expected *= length
        return True

    @property
    def transposed(self) -> bool:
        """Whether it is a matrix that lies column by column: the transposed view of a row-major one."""
        return len(self.shape) == 2 and not self.contiguous and self.t().contiguous

    def t(self) -> Tensor:
        """Give the view with the dimensions in reverse order."""
        return replace(self, shape=self.shape[::-1], stride=self.stride[::-1])

    def rows(self, start: int, stop: int) -> Tensor:
        """Give the view of `[start:stop]` along the first dimension."""
        offset = self.offset + start * self.stride[0]
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=offset)

    def array(self) -> NDArray[Any]:
        """Read it: a read-only view, strided as the tensor is. BF16, F8 and the like as their raw bits."""
        import numpy as np

        dtype = np.dtype(self.dtype.numpy)
        if self.storage.byteorder == "big":
            dtype = dtype.newbyteorder(">")
        if self.size == 0:
            empty = np.empty(self.shape, dtype)
            empty.flags.writeable = False
            return empty
        strides = [step if length > 1 else 0 for length, step in zip(self.shape, self.stride, strict=True)]
        span = 1 + sum((length - 1) * step for length, step in zip(self.shape, strides, strict=True))
        buffer = bytearray(span * dtype.itemsize)
        self.storage.readinto(self.offset * dtype.itemsize, memoryview(buffer))
        array: NDArray[Any] = np.ndarray(self.shape, dtype, bytes_as(buffer), 0, [s * dtype.itemsize for s in strides])
        array.flags.writeable = False
        return array

    def tiles(self, nbytes: int = TILE) -> Iterator[memoryview]:
        """Give the canonical bytes (row-major, little-endian) in pieces of at most `nbytes`, in order.

        A piece is valid until the next is asked for: its buffer is used again.
        """
        if self.size == 0:
            return
        if self.contiguous and (self.storage.byteorder == "little" or self.dtype.swapped == 1):
            yield from self._runs(nbytes)
        else:
            yield from _gathered(self, nbytes)

    def _runs(self, nbytes: int) -> Iterator[memoryview]:
        total, start = self.nbytes, self.offset * self.dtype.itemsize
        buffer = memoryview(bytearray(min(nbytes, total)))
        for done in range(0, total, nbytes):
            piece = buffer[: min(nbytes, total - done)]
            self.storage.readinto(start + done, piece)
            yield piece


@dataclass(frozen=True, slots=True)
class Other:
    """Something in a checkpoint that is no tensor, kept inert. `value` is a node of `converter.machine`."""

    name: str
    kind: str
    value: object


@dataclass(frozen=True, slots=True)
class File:
    """A file that a catalogue was read from; `nbytes` as it was when opened."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class GlobalUse:
    """A global that a pickle names: where first, how often, and whether the closed table holds it."""

    module: str
    name: str
    known: bool
    position: int  # byte in the pickle
    file: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Catalogue(Mapping[str, Tensor]):
    """A state dict whose tensors are read when they are asked for, in the order of the file.

    `others` is what is no tensor, inert; `unsupported` the tensors of kinds that can't be carried (quantised, sparse …);
    `storages` every storage of the files in order, referenced or not; `problems` sentences about what contradicts
    itself without making the rest unreadable; `globals` what the pickles name.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        location: str,
        format: str,
        files: Sequence[File],
        storages: Sequence[Storage] = (),
        others: Sequence[Other] = (),
        unsupported: Sequence[Other] = (),
        globals: Sequence[GlobalUse] = (),
        problems: Sequence[str] = (),
        missing: Sequence[str] = (),
        unchecked: bool = False,
        metadata: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        sources: Sequence[Source] = (),
    ) -> None:
        self._tensors = dict(tensors)
        self.location = location
        self.format = format
        self.files = tuple(files)
        self.storages = tuple(storages)
        self.others = tuple(others)
        self.unsupported = tuple(unsupported)
        self.globals = tuple(globals)
        self.problems = tuple(problems)
        self.missing = tuple(missing)  # names that an index promises and no shard holds
        self.unchecked = unchecked  # saved without CRCs
        self.metadata = dict(metadata or {})
        self.config = dict(config) if config is not None else None
        self.sources = tuple(sources)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Catalogue {self.location!r}: {len(self)} tensors, {self.format}>"

    def tied(self) -> list[list[str]]:
        """Give the groups of names that are one and the same view."""
        groups: dict[Tensor, list[str]] = {}
        for name, tensor in self._tensors.items():
            groups.setdefault(tensor, []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    def unknown_globals(self) -> list[str]:
        """Give what the pickles name outside the closed table, sorted."""
        return sorted({str(use) for use in self.globals if not use.known})

    def identities(self) -> list[tuple[int, int]]:
        """Give (device, inode) of the files that are read, so that none is written over."""
        return [source.identity for source in self.sources if hasattr(source, "identity")]

    def check_unchanged(self) -> None:
        """Raise SourceError if a file was written to since it was opened."""
        for source in self.sources:
            check = getattr(source, "check_unchanged", None)
            if check is not None:
                check()


def bytes_as(buffer: bytearray) -> memoryview:
    """Give the buffer as numpy's `ndarray` takes it."""
    return memoryview(buffer)


@dataclass(slots=True)
class _Dimensions:
    """The dimensions of a view that matter: none of size 1, neighbours joined where the order allows it."""

    shape: list[int] = field(default_factory=list)
    stride: list[int] = field(default_factory=list)


def _joined(tensor: Tensor) -> _Dimensions:
    joined = _Dimensions()
    for length, step in zip(tensor.shape, tensor.stride, strict=True):
        if length == 1:
            continue
        if joined.shape and joined.stride[-1] == step * length:
            joined.shape[-1] *= length
            joined.stride[-1] = step
        else:
            joined.shape.append(length)
            joined.stride.append(step)
    return joined


def _gathered(tensor: Tensor, nbytes: int) -> Iterator[memoryview]:
    """Give the row-major bytes of any view: a tile is a run of rows, gathered into one buffer."""
    import numpy as np

    view, dtype = _joined(tensor), np.dtype(tensor.dtype.numpy)
    shape, stride = view.shape or [1], view.stride or [1]
    room = max(1, nbytes // dtype.itemsize)
    # The tile runs along `axis`: the first whose inner dimensions fit into the buffer whole.
    axis, inner = len(shape) - 1, 1
    while axis > 0 and inner * shape[axis] <= room:
        inner *= shape[axis]
        axis -= 1
    rows = max(1, min(shape[axis], room // inner))
    tile = np.empty(rows * inner, dtype)
    raw = memoryview(tile).cast("B") if dtype.kind != "c" else memoryview(tile.view("<u1"))
    reader = _Reader(tensor, dtype)
    outer = shape[:axis]
    for index in np.ndindex(*outer):
        base = tensor.offset + sum(i * s for i, s in zip(index, stride[:axis], strict=True))
        for start in range(0, shape[axis], rows):
            count = min(rows, shape[axis] - start)
            piece_shape = [count, *shape[axis + 1 :]]
            out = tile[: count * inner].reshape(piece_shape)
            reader.gather(out, base + start * stride[axis], stride[axis:])
            if tensor.storage.byteorder == "big" and tensor.dtype.swapped > 1:
                out.reshape(-1).view(f"<u{tensor.dtype.swapped}").byteswap(inplace=True)
            yield raw[: count * inner * dtype.itemsize]


class _Reader:
    """Copies strided elements of a storage into an array, by few long reads or many short ones, whichever costs less."""

    def __init__(self, tensor: Tensor, dtype: Any) -> None:
        self._storage, self._dtype = tensor.storage, dtype
        self._buffer = bytearray()

    def gather(self, out: NDArray[Any], offset: int, stride: list[int]) -> None:
        """Fill `out` with the elements at `offset` + index · `stride` (elements)."""
        shape, itemsize = out.shape, self._dtype.itemsize
        span = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        if span * itemsize <= max(TILE, out.nbytes) and self._dense(out, stride, span):
            self._once(out, offset, stride, span)
            return
        # Too long for one read, or mostly not wanted: cut the dimension with the longest steps.
        axis = max(range(len(shape)), key=lambda d: stride[d] if shape[d] > 1 else -1)
        if shape[axis] == 1:
            self._once(out, offset, stride, span)
            return
        inner = 1 + sum((n - 1) * s for d, (n, s) in enumerate(zip(shape, stride, strict=True)) if d != axis)
        if inner * itemsize + _CALL <= stride[axis] * itemsize:
            self._strips(out, offset, stride, axis, inner)
            return
        half = shape[axis] // 2
        low: list[slice] = [slice(None)] * len(shape)
        high = list(low)
        low[axis], high[axis] = slice(0, half), slice(half, None)
        self.gather(out[tuple(low)], offset, stride)
        self.gather(out[tuple(high)], offset + half * stride[axis], stride)

    def _dense(self, out: NDArray[Any], stride: list[int], span: int) -> bool:
        """Whether one read of the whole span is cheaper than a read a step of the longest stride."""
        steps = max((n for n, s in zip(out.shape, stride, strict=True) if s), default=1)
        return span * self._dtype.itemsize <= 4 * out.nbytes or span * self._dtype.itemsize <= steps * _CALL

    def _once(self, out: NDArray[Any], offset: int, stride: list[int], span: int) -> None:
        import numpy as np

        itemsize = self._dtype.itemsize
        self._storage.readinto(offset * itemsize, self._room(span * itemsize))
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        copy_strided(out, np.ndarray(out.shape, self._dtype, self._buffer, 0, strides))

    def _strips(self, out: NDArray[Any], offset: int, stride: list[int], axis: int, inner: int) -> None:
        """Read `inner` elements a step along `axis`, and transpose what fits into the buffer at once."""
        import numpy as np

        itemsize = self._dtype.itemsize
        length = inner * itemsize
        together = max(1, min(out.shape[axis], TILE // length))
        room = self._room(together * length)
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        strides[axis] = length
        part: list[slice] = [slice(None)] * out.ndim
        for start in range(0, out.shape[axis], together):
            count = min(together, out.shape[axis] - start)
            position = (offset + start * stride[axis]) * itemsize
            for row in range(count):
                self._storage.readinto(position, room[row * length : (row + 1) * length])
                position += stride[axis] * itemsize
            part[axis] = slice(start, start + count)
            target = out[tuple(part)]
            copy_strided(target, np.ndarray(target.shape, self._dtype, self._buffer, 0, strides))

    def _room(self, nbytes: int) -> memoryview:
        if len(self._buffer) < nbytes:
            self._buffer = bytearray(nbytes)
        return memoryview(self._buffer)[:nbytes]


def copy_strided(out: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy `source` into `out` of the same shape; transposed matrices in strips of a cache line.

    numpy walks such a copy along one side only and misses the cache on the other at every element; strips of 16 columns
    run three times as fast.
    """
    import numpy as np

    if out.ndim == 2 and source.strides[0] < source.strides[1] and out.strides[0] > out.strides[1]:
        width = max(1, 64 // out.itemsize)
        for start in range(0, out.shape[1], width):
            np.copyto(out[:, start : start + width], source[:, start : start + width], casting="no")
    else:
        np.copyto(out, source, casting="no")
