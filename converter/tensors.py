"""Storage (bytes), Tensor (elements), Catalogue (the state dict, lazy).

`offset`, `shape` and `stride` count elements, as PyTorch's do; only Storage counts bytes. numpy is imported when the
first array is asked for: listing a checkpoint needs none.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from operator import mul
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import Dtype
from converter.errors import LayoutError
from converter.limits import LIMITS
from converter.sources import STEP, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.remote import Traffic

TILE: Final = 16 << 20  # bytes of a gathered tile: the more columns of a matrix it holds, the longer the reads
_STAGE: Final = 1 << 20  # bytes read before they are put in their places: what the cache holds
_SHARED: Final = 4  # times a view that its storage may be, to be fetched whole
_LARGEST: Final = 1 << 63  # bytes or elements that a 64-bit reader can count

# What a read costs, to choose between one long read and many short ones: a system call and Python's share of it take
# about as long as copying this many bytes out of the page cache.
_CALL: Final = 16 << 10


@cache
def _packer(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{count}q").pack


@cache
def _signs(count: int) -> int:
    return int.from_bytes(b"\0\0\0\0\0\0\0\x80" * count, "little")


def _countable(numbers: tuple[int, ...]) -> bool:
    """Whether all are from 0 to 2^63 - 1: one look at the signs of all, as a pickle can have many looked at."""
    try:
        packed = _packer(len(numbers))(*numbers)
    except struct.error:
        return False
    return not int.from_bytes(packed, "little") & _signs(len(numbers))


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

    def span(self) -> tuple[Source, int, int]:
        """Give the file that it lies in and where it starts and ends there, headers included, without reading any."""
        span = getattr(self.source, "span", None)
        found: tuple[Source, int, int] = span() if span else (self.source, self.offset, self.offset + self.nbytes)
        return found

    def release(self) -> None:
        """Tell the file that all of it was read."""
        source, start, end = self.span()
        if hasattr(source, "release"):
            source.release(start, end)

    def hold(self, offset: int, nbytes: int) -> None:
        """Tell the source that a range will be read in any order, more than once: a remote one then fetches it first."""
        hold = getattr(self.source, "hold", None)
        if hold is not None:
            hold(self.offset + offset, nbytes)


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
        if len(shape) > LIMITS.rank or len(shape) != len(stride):
            raise LayoutError(
                f"a tensor has {len(shape)} dimensions and {len(stride)} strides: as many as each other and at most "
                f"{LIMITS.rank} are read"
            )
        if not 0 <= self.offset < _LARGEST:
            raise LayoutError("a tensor's offset is negative or does not fit into 63 bits")
        if not _countable((*shape, *stride)):
            raise LayoutError("a tensor has a size or stride that is negative or does not fit into 63 bits")
        room = self.dtype.itemsize * math.prod(filter(None, shape))  # numpy leaves zeros out, too
        last = self.offset + sum(map(mul, shape, stride)) - sum(stride)
        if room >= _LARGEST:
            raise LayoutError(f"{self._described()} has more bytes than 63 bits can count")
        if (last + 1) * self.dtype.itemsize > self.storage.nbytes and 0 not in shape:
            raise LayoutError(
                f"{self._described()} ends at element {last} of a storage of "
                f"{self.storage.nbytes // self.dtype.itemsize} (key `{self.storage.key:.80}`)"
            )

    def __hash__(self) -> int:
        # Of bytes, whose hash nobody outside the process can foresee: strides can be chosen to collide as numbers.
        numbers = (*self.shape, *self.stride, self.offset)
        return hash((_packer(len(numbers))(*numbers), self.storage.key))

    def _described(self) -> str:
        return f"a {self.dtype.name} tensor of shape {self.shape!s:.300}, stride {self.stride!s:.300}, offset {self.offset}"

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
        """Give the view with the dimensions in reverse order."""
        return replace(self, shape=self.shape[::-1], stride=self.stride[::-1])

    def rows(self, start: int, stop: int) -> Tensor:
        """Give the view of `[start:stop]` along the first dimension."""
        offset = self.offset + start * self.stride[0]
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=offset)

    def array(self, buffer: bytearray | None = None) -> NDArray[Any]:
        """Read it: a read-only view, strided as the tensor is. BF16, F8 and the like as their raw bits.

        In `buffer` if it is large enough: until it is used again, and without the cost of new memory.
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

    def tiles(self, nbytes: int | None = None) -> Iterator[memoryview]:
        """Give the canonical bytes (row-major, little-endian) in pieces of at most `nbytes`, in order.

        Without it, pieces are as long as suits the view, up to TILE. A piece is valid until the next is asked for: its
        buffer is used again.
        """
        if self.size == 0:
            return
        if self.contiguous and (self.storage.byteorder == "little" or self.dtype.swapped == 1):
            yield from self._runs(nbytes or STEP)
        else:
            span = (
                1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
            ) * self.dtype.itemsize
            # Views that are parts of one storage are usually read one after the other: then it is fetched once.
            whole = self.storage.nbytes <= _SHARED * span
            start, size = (0, self.storage.nbytes) if whole else (self.offset * self.dtype.itemsize, span)
            self.storage.hold(start, size)
            yield from _gathered(self, nbytes or TILE)
        self.storage.release()

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
        self.traffic: Traffic | None = None  # of a remote checkpoint: what it has taken so far

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Catalogue {self.location!r}: {len(self)} tensors, {self.format}>"

    def with_tensors(self, tensors: Mapping[str, Tensor], storages: Sequence[Storage] = ()) -> Catalogue:
        """Give a catalogue of other tensors that keeps everything else."""
        copy = object.__new__(Catalogue)
        copy.__dict__.update(self.__dict__)
        copy._tensors = dict(tensors)
        copy.storages = tuple(storages)
        return copy

    def fingerprint(self) -> str:
        """Give what tells whether the files are still the same: names, sizes and times of change."""
        return repr(
            [(s.name, s.size, getattr(s, "mtime_ns", None) or getattr(s, "etag", None)) for s in self.sources]
            or self.files
        )

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

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Be told in which order tensors will be read: remote files are fetched ahead in that order."""
        if self.traffic is None:
            return
        spans: dict[int, tuple[Any, list[tuple[int, int]]]] = {}
        for tensor in tensors:
            source, start, end = tensor.storage.span()
            spans.setdefault(id(source), (source, []))[1].append((start, end))
        for source, found in spans.values():
            if hasattr(source, "expect"):
                source.expect(found)

    def pass_by(self) -> None:
        """Keep nothing that is read from now on in the page cache."""
        for source in self.sources:
            if hasattr(source, "passing"):
                source.passing = True

    def check_unchanged(self) -> None:
        """Raise SourceError if a file was written to since it was opened."""
        for source in self.sources:
            check = getattr(source, "check_unchanged", None)
            if check is not None:
                check()


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Give the strides of a tensor that lies row by row."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


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
    """Give the row-major bytes of any view: a tile is a run of rows, gathered into one of two buffers."""
    from concurrent.futures import ThreadPoolExecutor

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
    places = (
        (tensor.offset + sum(i * s for i, s in zip(index, stride[:axis], strict=True)) + start * stride[axis],
         min(rows, shape[axis] - start))
        for index in np.ndindex(*shape[:axis])
        for start in range(0, shape[axis], rows)
    )  # fmt: skip
    reader, swapped = _Reader(tensor, dtype), tensor.dtype.swapped if tensor.storage.byteorder == "big" else 1

    def fill(tile: NDArray[Any], offset: int, count: int) -> memoryview:
        out = tile[: count * inner]
        reader.gather(out.reshape(count, *shape[axis + 1 :]), offset, stride[axis:])
        if swapped > 1:
            out.view(f"<u{swapped}").byteswap(inplace=True)
        return out.view("|u1").data

    if tensor.nbytes <= nbytes or nbytes < _STAGE:
        with _lent(1, rows * inner, dtype) as (tile,):
            for place in places:
                yield fill(tile, *place)
        return
    # While one tile is being used, the next is gathered.
    with _lent(2, rows * inner, dtype) as both, ThreadPoolExecutor(1) as pool:
        tiles = itertools.cycle(both)
        ahead = pool.submit(fill, next(tiles), *next(places))
        for place in places:
            done = ahead.result()
            ahead = pool.submit(fill, next(tiles), *place)
            yield done
        yield ahead.result()


@contextmanager
def _lent(count: int, size: int, dtype: Any) -> Iterator[NDArray[Any]]:
    """Lend [count, size]. What is lent comes back: new pages for every tensor would take as long as filling them."""
    import numpy as np

    nbytes = count * size * dtype.itemsize
    try:
        whole = _SPARE.pop()
    except IndexError:
        whole = np.empty(2 * TILE, "u1")  # of which only what is used becomes resident
    if len(whole) < nbytes:  # someone asked for larger tiles
        whole = np.empty(nbytes, "u1")
    try:
        yield whole[:nbytes].view(dtype).reshape(count, size)
    finally:
        if not _SPARE and len(whole) == 2 * TILE:
            _SPARE.append(whole)


_SPARE: Final[list[NDArray[Any]]] = []


class _Reader:
    """Copies strided elements of a storage into an array by way of a small buffer, by whichever reads cost least."""

    def __init__(self, tensor: Tensor, dtype: Any) -> None:
        self._storage, self._dtype = tensor.storage, dtype
        self._buffer = bytearray()

    def gather(self, out: NDArray[Any], offset: int, stride: list[int]) -> None:
        """Fill `out` with the elements at `offset` + index · `stride` (elements)."""
        shape, itemsize = out.shape, self._dtype.itemsize
        reach = [(n - 1) * s for n, s in zip(shape, stride, strict=True)]
        span = (1 + sum(reach)) * itemsize
        axis = max(range(len(shape)), key=lambda d: stride[d] if shape[d] > 1 else -1)
        inner, step = span - reach[axis] * itemsize, stride[axis] * itemsize
        if span <= _STAGE and (span <= 4 * out.nbytes or span <= shape[axis] * _CALL):
            self._once(out, offset, stride, span)
        elif inner > _STAGE // 16:
            # So that no less than 16 steps go into the buffer: a cache line of a transposed matrix's rows.
            del reach[axis]
            widest = reach.index(max(reach))
            widest += widest >= axis
            half = shape[widest] // 2
            low: list[slice] = [slice(None)] * len(shape)
            high = list(low)
            low[widest], high[widest] = slice(0, half), slice(half, None)
            self.gather(out[tuple(low)], offset, stride)
            self.gather(out[tuple(high)], offset + half * stride[widest], stride)
        else:
            self._strips(out, offset, stride, axis, inner, together=inner + _CALL > step)

    def _once(self, out: NDArray[Any], offset: int, stride: list[int], span: int) -> None:
        import numpy as np

        itemsize = self._dtype.itemsize
        self._storage.readinto(offset * itemsize, self._room(span))
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        copy_strided(out, np.ndarray(out.shape, self._dtype, self._buffer, 0, strides))

    def _strips(
        self, out: NDArray[Any], offset: int, stride: list[int], axis: int, inner: int, *, together: bool
    ) -> None:
        """Read `inner` bytes a step along `axis`, `together` with what lies between or by themselves."""
        import numpy as np

        itemsize = self._dtype.itemsize
        step = stride[axis] * itemsize
        apart = step if together else inner  # bytes from one step to the next in the buffer
        count = max(1, (_STAGE - inner) // apart + 1)
        room = self._room(_STAGE)
        strides = [s * itemsize if n > 1 else 0 for n, s in zip(out.shape, stride, strict=True)]
        strides[axis] = apart
        part: list[slice] = [slice(None)] * out.ndim
        position, readinto = offset * itemsize, self._storage.readinto
        for start in range(0, out.shape[axis], count):
            steps = min(count, out.shape[axis] - start)
            if together:
                readinto(position, room[: (steps - 1) * step + inner])
            else:
                for at in range(steps):
                    readinto(position + at * step, room[at * inner : (at + 1) * inner])
            position += steps * step
            part[axis] = slice(start, start + steps)
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
